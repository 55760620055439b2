// Random numbers from counters. Functions only: withRandom() adds them to a shader that draws.

// A permutation of 32 bits with well-mixed output: pcg_hash of Jarzynski and Olano 2020, "Hash
// Functions for GPU Rendering", https://jcgt.org/published/0009/03/02/
fn pcgHash(v: u32) -> u32 {
  let state = v * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}

// What dropout multiplies element `index` with: 0 with probability rate, else 1 / (1 - rate).
// dropout: site, rate · 2³², bits of 1 / (1 - rate)
fn dropoutFactor(seed: u32, counter: u32, dropout: vec4u, index: u32) -> f32 {
  let draw = pcgHash(index + pcgHash(dropout.x + pcgHash(counter + pcgHash(seed))));
  return select(bitcast<f32>(dropout.z), 0.0, draw < dropout.y);
}
