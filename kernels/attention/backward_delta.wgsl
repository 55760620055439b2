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

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const QUADS: u32 = HS / 4;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x; // of [B,T,NH]
  if (i >= sizes.rows) { return; }
  var delta4 = vec4f(); // delta in four partial sums
  // unroll
  for (var q = 0u; q < QUADS; q++) {
    delta4 = fma(vec4f(dy[i * QUADS + q]), vec4f(y[i * QUADS + q]), delta4);
  }
  let token = i / NH;
  let row = (token / sizes.T * NH + i % NH) * sizes.T + token % sizes.T; // of [B,NH,T]
  delta[row] = (delta4.x + delta4.y) + (delta4.z + delta4.w);
}
