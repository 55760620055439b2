// dwte[token] += sum of the partials of a run that crosses chunks, see backward.wgsl.
// tokens, order: [M]; partials: [chunks,2,C]; dwte: [V,C]; C in vectors of four
//
// A workgroup looks at the last run of one chunk, and adds it up if it begins there and goes on: each of
// its SHARES rows of invocations takes every SHARES-th further chunk, and the first adds up the shares.
const SHARES: u32 = 8;

@group(0) @binding(2) var<storage, read> partials: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> dwte: array<vec4f>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

const INVOCATIONS: u32 = COLUMNS * SHARES;
var<workgroup> shares: array<vec4f, INVOCATIONS>;

@compute @workgroup_size(COLUMNS, SHARES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let chunk = group.y * 32768 + group.x;
  let c = group.z * COLUMNS + local.x;
  let next = (chunk + 1) * CHUNK; // first place of the next chunk
  let token = tokenAt(next - 1);
  let row = token - sizes.firstToken;
  let beginsHere = tokenAt(chunk * CHUNK - 1) != token;
  if (!beginsHere || tokenAt(next) != token || row >= sizes.slicedTokens) { return; }

  var sum = vec4f();
  if (c < sizes.columns4) {
    if (local.y == 0) { sum = partials[(chunk * 2 + 1) * sizes.columns4 + c]; }
    for (var k = chunk + 1 + local.y; tokenAt(k * CHUNK) == token; k += SHARES) {
      sum += partials[k * 2 * sizes.columns4 + c];
    }
  }
  shares[local.y * COLUMNS + local.x] = sum;
  workgroupBarrier();
  if (local.y != 0 || c >= sizes.columns4) { return; }
  for (var share = 1u; share < SHARES; share++) {
    sum += shares[share * COLUMNS + local.x];
  }
  dwte[row * sizes.columns4 + c] += sum;
}
