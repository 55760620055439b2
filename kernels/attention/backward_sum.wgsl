// dq = SCALE · the sum of what backward_tiles.wgsl left of it.
// partials: [P,B,T,C], C = NH · HS; dqkv: [B,T,3C], of which q's part is set
//
// A query has a part from every workgroup that has a block of keys which its own block sees.
enable f16;

alias real = f16; // element type of dqkv
const NH: u32 = 1;
const HS: u32 = 32;
const P: u32 = 1;
const TOKENS: u32 = 64; // keys, or queries, of a block
const WORKGROUP_SIZE: u32 = 64;

alias real4 = vec4<real>;
const C: u32 = NH * HS / 4; // in vectors of four
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it

@group(0) @binding(0) var<storage, read> partials: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

struct Sizes {
  T: u32,
  vectors: u32, // B · T · C
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.vectors) { return; }
  let token = i / C;
  let youngest = token % sizes.T / TOKENS;
  let first = youngest * TOKENS; // of the block of queries
  let reach = (TOKENS - 1) + WINDOW; // a block of keys is seen up to so many tokens after its first
  let oldest = select(0u, (first - reach) / TOKENS + 1, first >= reach);
  var sum = vec4f();
  for (var block = oldest; block <= youngest && block < oldest + P; block++) {
    sum += partials[block % P * sizes.vectors + i];
  }
  dqkv[token * 3 * C + i % C] = real4(SCALE * sum);
}
