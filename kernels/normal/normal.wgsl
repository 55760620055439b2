// y = mean + deviation · z, with z drawn from counters, standard normal or uniform.   y: [N]
enable f16;

alias real = f16;
const UNIFORM: bool = false; // z in (-√3, √3), which also has mean 0 and deviation 1
const WORKGROUP_SIZE: u32 = 256;

struct Sizes {
  N: u32,
  first: u32, // index of y's first element in the whole tensor
}

struct Distribution {
  seed: u32,
  stream: u32,
  mean: f32,
  deviation: f32,
}

@group(0) @binding(0) var<storage, read_write> y: array<real>;
@group(0) @binding(1) var<uniform> sizes: Sizes;
@group(0) @binding(2) var<uniform> distribution: Distribution;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

// A permutation of 96 bits: pcg3d of Jarzynski and Olano 2020, "Hash Functions for GPU Rendering",
// https://jcgt.org/published/0009/03/02/. A hash of one word has 2³² outputs in all, so the streams of two large
// tensors would overlap.
fn pcg3d(counter: vec3u) -> vec3u {
  var v = counter * 1664525u + 1013904223u;
  v.x += v.y * v.z;
  v.y += v.z * v.x;
  v.z += v.x * v.y;
  v ^= v >> vec3u(16);
  v.x += v.y * v.z;
  v.y += v.z * v.x;
  v.z += v.x * v.y;
  return v;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.N) { return; }
  let draw = pcg3d(vec3u(distribution.seed, distribution.stream, sizes.first + i));
  // Box and Muller 1958. u is in (0, 1] and exact near 0, which gives the tail of the distribution
  let u = f32(draw.x) * 0x1p-32 + 0x1p-33;
  let angle = f32(bitcast<i32>(draw.y)) * (6.283185307179586 * 0x1p-32); // in [-π, π], where cos is exact
  var z = sqrt(-2.0 * log(u)) * cos(angle);
  if (UNIFORM) { z = 1.7320508 * (2.0 * u - 1.0); }
  y[i] = real(distribution.mean + distribution.deviation * z);
}
