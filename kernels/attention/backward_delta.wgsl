// delta = Σ dy · y over a head's components, which backward_tiles.wgsl needs.
// y, dy: [B,T,C], C = NH · HS; delta: [B,NH,T]
//
// A workgroup has HEADS heads, which lie side by side, and an invocation four components.
const NH: u32 = 1;
const HS: u32 = 32;
const HEADS: u32 = 8;

@group(0) @binding(0) var<storage, read> y: array<held>;
@group(0) @binding(1) var<storage, read> dy: array<held>;
@group(0) @binding(2) var<storage, read_write> delta: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

struct Sizes {
  T: u32,
  heads: u32, // B · T · NH
}

const QUADS: u32 = HS / 4;
const SHARES: u32 = HEADS * QUADS;
var<workgroup> shares: array<f32, SHARES>;

@compute @workgroup_size(QUADS, HEADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * HEADS + local.y; // of all heads of all tokens
  let at = min(i, sizes.heads - 1) * QUADS + local.x;
  shares[local.y * QUADS + local.x] = dot(widened(dy[at]), widened(y[at]));
  workgroupBarrier();
  if (local.x != 0 || i >= sizes.heads) { return; }
  var sum = 0.0;
  // unroll
  for (var q = 0u; q < QUADS; q++) {
    sum += shares[local.y * QUADS + q];
  }
  let token = i / NH;
  delta[(token / sizes.T * NH + i % NH) * sizes.T + token % sizes.T] = sum;
}
