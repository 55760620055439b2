// delta[t] = dy[t] · y[t] over the components of a head.   y, dy: [B,T,C], C = NH · HS; delta: [B,NH,T]
//
// LANES neighbouring invocations share the head of a token, so that a warp reads neighbouring vectors.
enable f16;

alias real4 = vec4<f16>; // four elements of y and dy
const NH: u32 = 1;
const HS: u32 = 32;
const ROWS: u32 = 64; // heads of tokens per workgroup

struct Sizes {
  T: u32,
  rows: u32, // B · T · NH
}

@group(0) @binding(0) var<storage, read> y: array<real4>;
@group(0) @binding(1) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read_write> delta: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const QUADS: u32 = HS / 4;
const LANES: u32 = QUADS / 2; // with two vectors each
const WORKGROUP_SIZE: u32 = ROWS * LANES;
var<workgroup> sums: array<array<f32, LANES>, ROWS>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let first = (group.y * WORKGROUPS_PER_ROW + group.x) * ROWS; // of [B,T,NH]
  let row = index / LANES;
  let lane = index % LANES;
  if (first + row < sizes.rows) {
    let vector = (first + row) * QUADS + lane;
    let products = vec4f(dy[vector]) * vec4f(y[vector]);
    let four = fma(vec4f(dy[vector + LANES]), vec4f(y[vector + LANES]), products);
    sums[row][lane] = (four.x + four.y) + (four.z + four.w);
  }
  workgroupBarrier();
  let i = first + index;
  if (i >= sizes.rows) { return; }
  if (index < ROWS) {
    var sum = 0.0;
    // unroll
    for (var l = 0u; l < LANES; l++) {
      sum += sums[index][l];
    }
    let token = i / NH;
    delta[(token / sizes.T * NH + i % NH) * sizes.T + token % sizes.T] = sum; // of [B,NH,T]
  }
}
