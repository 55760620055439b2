// Random numbers from counters, for shaders that bind seed, counter and dropout themselves. Functions only.

// A permutation of 32 bits with well-mixed output: pcg_hash of Jarzynski and Olano 2020, "Hash
// Functions for GPU Rendering", https://jcgt.org/published/0009/03/02/
fn pcgHash(v: u32) -> u32 {
  let state = v * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}

// Where the draws of a site begin.   dropout: site, rate · 2³², bits of 1 / (1 - rate)
fn dropoutPlace(seed: u32, counter: u32, dropout: vec4u) -> u32 {
  return pcgHash(dropout.x + pcgHash(counter + pcgHash(seed)));
}

// Where the draws of one row begin, in a matrix that may have more than 2³² elements.
fn rowDropoutPlace(seed: u32, counter: u32, dropout: vec4u, row: u32) -> u32 {
  return pcgHash(row + dropoutPlace(seed, counter, dropout));
}

// Dropout's factor for the element `index` after a place: 0 with probability rate, else 1 / (1 - rate).
fn dropoutFactor(place: u32, dropout: vec4u, index: u32) -> f32 {
  return select(bitcast<f32>(dropout.z), 0.0, pcgHash(index + place) < dropout.y);
}

// The same for the elements index … index + 3 of a site.
fn fourDropoutFactors(seed: u32, counter: u32, dropout: vec4u, index: u32) -> vec4f {
  let place = dropoutPlace(seed, counter, dropout);
  let draws = vec4u(
    pcgHash(index + place),
    pcgHash(index + 1 + place),
    pcgHash(index + 2 + place),
    pcgHash(index + 3 + place),
  );
  return select(vec4f(bitcast<f32>(dropout.z)), vec4f(), draws < vec4u(dropout.y));
}
