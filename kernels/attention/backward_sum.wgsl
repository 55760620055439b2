// dq = SCALE · Σ partials, the partial sums of backward_tiles.wgsl.
// partials: [P,B,T,C], C = NH · HS; dqkv: [B,T,(NH+2·KH)·HS], in which dq is set
//
// Block i of TOKENS keys adds to partial sum i % P. For a query only those partial sums are set whose blocks of
// keys its block of queries sees, so this kernel adds up these, at most P.
enable f16;

alias real4 = vec4<f16>; // four elements of dqkv
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const HS: u32 = 32;
const P: u32 = 1;
const TOKENS: u32 = 64; // keys, and queries, per block
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const WORKGROUP_SIZE: u32 = 64;

struct Sizes {
  T: u32,
  vectors: u32, // B · T · C
}

@group(0) @binding(0) var<storage, read> partials: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const C: u32 = NH * HS / 4; // in vectors of four
const ROW: u32 = (NH + 2 * KH) * HS / 4; // of dqkv

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.vectors) { return; }
  let token = i / C;
  let last = token % sizes.T / TOKENS; // block of the query, which is the last block of keys that it sees
  let firstQuery = last * TOKENS;
  let reach = (TOKENS - 1) + WINDOW; // a query sees a block if it is less than this after the block's first key
  let first = select(0u, (firstQuery - reach) / TOKENS + 1, firstQuery >= reach);
  var sum = vec4f();
  for (var block = first; block <= last && block < first + P; block++) {
    sum += partials[block % P * sizes.vectors + i];
  }
  dqkv[token * ROW + i % C] = real4(SCALE * sum);
}
