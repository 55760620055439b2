// delta[t] = dy[t] · y[t] over the components of a head.   y, dy: [B,T,C], C = NH · HS; delta: [B,NH,T]
enable f16;

alias real4 = vec4<f16>; // four elements of y and dy
const NH: u32 = 1;
const HS: u32 = 32;
const WORKGROUP_SIZE: u32 = 64;

struct Sizes {
  T: u32,
  rows: u32, // B · T · NH
}

@group(0) @binding(0) var<storage, read> y: array<real4>;
@group(0) @binding(1) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read_write> delta: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const QUADS: u32 = HS / 4;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x; // of all heads of all tokens
  if (i >= sizes.rows) { return; }
  var dyY = vec4f();
  // unroll
  for (var q = 0u; q < QUADS; q++) {
    dyY = fma(vec4f(dy[i * QUADS + q]), vec4f(y[i * QUADS + q]), dyY);
  }
  let token = i / NH;
  let row = (token / sizes.T * NH + i % NH) * sizes.T + token % sizes.T;
  delta[row] = (dyY.x + dyY.y) + (dyY.z + dyY.w);
}
