// delta = Σ dy · y over a head's components, which backward_tiles.wgsl needs.
// y, dy: [B,T,C], C = NH · HS; delta: [B,NH,T]
const NH: u32 = 1;
const HS: u32 = 32;
const WORKGROUP_SIZE: u32 = 64;

@group(0) @binding(0) var<storage, read> y: array<held>;
@group(0) @binding(1) var<storage, read> dy: array<held>;
@group(0) @binding(2) var<storage, read_write> delta: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

struct Sizes {
  T: u32,
  heads: u32, // B · T · NH
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x; // of all heads of all tokens
  if (i >= sizes.heads) { return; }
  var products = vec4f();
  // unroll
  for (var q = 0u; q < HS / 4; q++) {
    products = fma(widened(dy[i * (HS / 4) + q]), widened(y[i * (HS / 4) + q]), products);
  }
  let token = i / NH;
  let place = (token / sizes.T * NH + i % NH) * sizes.T + token % sizes.T;
  delta[place] = (products.x + products.y) + (products.z + products.w);
}
