// p[t,s] = exp(SCALE · q[t] · k[s] − logSumExp[t]), the attention weights; 0 for keys that a query does not see.
//
// qkv: [B,T,(NH+2·KH)·HS]; logSumExp: [B,NH,T] of the scaled scores; p: [B,NH,T,T]
//
// Only the inspection of a model needs them: training and generation do not store them. An invocation computes one
// weight.
enable f16;

alias real4 = vec4<f16>; // four elements of qkv
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const HS: u32 = 32;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const WORKGROUP_SIZE: u32 = 64;

struct Sizes {
  T: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(2) var<storage, read_write> p: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const QUADS: u32 = HS / 4; // vectors of four in a row
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv, in vectors of four

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let T = sizes.T;
  let s = group.x * WORKGROUP_SIZE + local.x;
  if (s >= sizes.T) { return; }
  let t = group.y;
  let row = group.z * T + t; // of [B·NH,T]
  let h = group.z % NH;
  let sequence = group.z / NH * T * ROW;
  let q = sequence + t * ROW + h * QUADS;
  let k = sequence + s * ROW + (NH + h / (NH / KH)) * QUADS;
  var weight = 0.0;
  if (t - s < WINDOW) { // wraps if s > t
    var score = 0.0;
    for (var i = 0u; i < QUADS; i++) {
      score += dot(vec4f(qkv[q + i]), vec4f(qkv[k + i]));
    }
    weight = exp(SCALE * score - logSumExp[row]);
  }
  p[row * T + s] = weight;
}
