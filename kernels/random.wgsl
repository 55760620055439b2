// Random numbers from counters, and the factors of dropout: 0 with probability rate, else 1 / (1 − rate).
const DROPOUT: bool = true;

struct Dropout {
  site: u32, // number of a place in the model
  threshold: u32, // rate · 2³²
  scale: f32, // 1 / (1 − rate)
}

// binding numbers that no other file uses
// only if DROPOUT
@group(0) @binding(20) var<storage, read> random: array<u32>; // seed, counter
// only if DROPOUT
@group(0) @binding(21) var<uniform> dropout: Dropout;

// A permutation of 32 bits with well-mixed output: pcg_hash of Jarzynski and Olano 2020, "Hash
// Functions for GPU Rendering", https://jcgt.org/published/0009/03/02/
fn pcgHash(v: u32) -> u32 {
  let state = v * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}

// The counter at which the random numbers of this site begin.
// only if DROPOUT
fn dropoutPlace() -> u32 {
  return pcgHash(dropout.site + pcgHash(random[1] + pcgHash(random[0])));
}

// The counter at which those of one row begin, for matrices that may have more than 2³² elements.
// only if DROPOUT
fn rowDropoutPlace(row: u32) -> u32 {
  return pcgHash(row + dropoutPlace());
}

// The factor of element `index`, counted from a place.
// only if DROPOUT
fn dropoutFactor(place: u32, index: u32) -> f32 {
  return select(dropout.scale, 0.0, pcgHash(index + place) < dropout.threshold);
}

// The factors of elements index … index + 3 of this site.
// only if DROPOUT
fn fourDropoutFactors(index: u32) -> vec4f {
  let place = dropoutPlace();
  let draws = vec4u(
    pcgHash(index + place),
    pcgHash(index + 1 + place),
    pcgHash(index + 2 + place),
    pcgHash(index + 3 + place),
  );
  return select(vec4f(dropout.scale), vec4f(), draws < vec4u(dropout.threshold));
}
