// dwte[token] += sum of the partials of a run that crosses chunks; backward.wgsl explains runs and chunks.
//
// tokens, order: [M]; partials: [chunks,2,C]; dwte: [V,C]; C in vectors of four
//
// A workgroup checks the last run of each of CHUNKS chunks and sums those that begin in that chunk and continue
// in the next: each of its SHARES rows of invocations sums every SHARES-th further chunk, and the first row adds
// the shares.
const CHUNK: u32 = 16; // places per chunk
const COLUMNS: u32 = 16; // vectors of four columns per workgroup
const CHUNKS: u32 = 8; // at most SHARES
const SHARES: u32 = 8;

struct Sizes {
  firstToken: u32, // of the slice of dwte that is bound
  slicedTokens: u32,
  M: u32,
  columns4: u32, // C / 4
}

@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> partials: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> dwte: array<vec4f>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

const NONE: u32 = 0xffffffff;
const INVOCATIONS: u32 = COLUMNS * SHARES;
var<workgroup> longRuns: array<u32, CHUNKS>; // token of the run that begins in a chunk and continues, or NONE
var<workgroup> shares: array<vec4f, INVOCATIONS>;

// The token at a place in the order, NONE before the first place and past the last.
fn tokenAt(place: u32) -> u32 {
  if (place >= sizes.M) { return NONE; }
  return tokens[order[place]];
}

@compute @workgroup_size(COLUMNS, SHARES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let firstChunk = group.x * CHUNKS;
  let c = group.z * COLUMNS + local.x;
  let inside = c < sizes.columns4;
  if (local.x == 0 && local.y < CHUNKS) {
    let first = (firstChunk + local.y) * CHUNK;
    let token = tokenAt(first + CHUNK - 1);
    let continues = tokenAt(first - 1) != token && tokenAt(first + CHUNK) == token;
    longRuns[local.y] = select(NONE, token, continues && token - sizes.firstToken < sizes.slicedTokens);
  }
  for (var i = 0u; i < CHUNKS; i++) {
    let token = workgroupUniformLoad(&longRuns[i]); // with a barrier before and after
    if (token == NONE) { continue; }
    let chunk = firstChunk + i;
    var sum = vec4f();
    if (inside) {
      if (local.y == 0) { sum = partials[(chunk * 2 + 1) * sizes.columns4 + c]; }
      for (var k = chunk + 1 + local.y; tokenAt(k * CHUNK) == token; k += SHARES) {
        sum += partials[k * 2 * sizes.columns4 + c];
      }
    }
    shares[local.y * COLUMNS + local.x] = sum;
    workgroupBarrier();
    if (local.y == 0 && inside) {
      for (var share = 1u; share < SHARES; share++) {
        sum += shares[share * COLUMNS + local.x];
      }
      dwte[(token - sizes.firstToken) * sizes.columns4 + c] += sum;
    }
  }
}
