// dq = SCALE · Σ partials, the partial sums of backward_matrices.wgsl.
// Needs seenBy() from window.wgsl.
//
// partials: [P,B,rows,C], C = NH · HS; dqkv: [B,T,(NH+2·KH)·HS], in which dq is set
//
// Block i of KEYS keys adds to partial sum i % P. For a query only those partial sums are set whose blocks of
// keys its tile of queries sees, so this kernel adds up these, at most P.
enable f16;

const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const HS: u32 = 32;
const P: u32 = 1;
const QUERIES: u32 = 64; // per tile, a divisor of KEYS
const KEYS: u32 = 64; // per block
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WORKGROUP_SIZE: u32 = 64;

struct Sizes {
  T: u32,
  rows: u32, // of the partial sums per sequence, at least T
  vectors: u32, // B · T · C
}

@group(0) @binding(0) var<storage, read> partials: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dqkv: array<vec4<f16>>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const C: u32 = NH * HS / 4; // in vectors of four
const ROW: u32 = (NH + 2 * KH) * HS / 4; // of dqkv

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.vectors) { return; }
  let token = i / C;
  let t = token % sizes.T;
  let last = t / KEYS; // the last block of keys that the query sees
  let firstQuery = t / QUERIES * QUERIES; // of the query's tile
  let seen = seenBy(token - t + firstQuery);
  let reach = (KEYS - 1) + seen; // the tile sees a block if it begins less than this after the block
  let first = select(0u, (firstQuery - reach) / KEYS + 1, firstQuery >= reach);
  let partial = (token / sizes.T * sizes.rows + t) * C + i % C;
  let stride = sizes.vectors / sizes.T * sizes.rows; // between partial sums
  var sum = vec4f();
  for (var block = first; block <= last && block < first + P; block++) {
    sum += partials[block % P * stride + partial];
  }
  dqkv[token * ROW + i % C] = vec4<f16>(SCALE * sum);
}
