// dwte[token] += sum of the partials of a run that crosses blocks; backward.wgsl explains runs and blocks.
//
// tokens, order: [M]; partials: [blocks,2,C]; dwte: [V,C]; C in vectors of four
//
// A workgroup has SHARES blocks, and sums the runs that begin in one of them and continue in the next. Row y of its
// invocations sums the run of block y if it continues in at most SHARES blocks. A run that continues in more leaves no
// room for another one in the workgroup's blocks: all rows sum it, each every SHARES-th further block, and the first
// row adds the shares. All places are looked up together, and AHEAD partials, so that few loads wait for others.
const BLOCK: u32 = 128; // places per block
const COLUMNS: u32 = 16; // vectors of four columns per workgroup, more than SHARES
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
const AHEAD: u32 = 4; // partials that are loaded together
const INVOCATIONS: u32 = COLUMNS * SHARES;
var<workgroup> continues: array<array<u32, COLUMNS>, SHARES>; // 1 if the run of block y continues x + 1 blocks later
var<workgroup> longRun: u32; // 1 + the row whose run continues in more than SHARES blocks; 0 if there is none
var<workgroup> longToken: u32;
var<workgroup> longFurther: u32; // blocks in which it continues; 0 until they are counted
var<workgroup> shares: array<vec4f, INVOCATIONS>;

// The token at a place in the order, NONE before the first place and past the last.
fn tokenAt(place: u32) -> u32 {
  let token = tokens[order[min(place, sizes.M - 1)]];
  return select(NONE, token, place < sizes.M);
}

// start + the partials of `count` blocks in which a run continues, from `block` on, every `stride`-th.
fn addPartials(start: vec4f, block: u32, count: u32, stride: u32, c: u32) -> vec4f {
  var sum = start;
  for (var first = 0u; first < count; first += AHEAD) {
    var loaded: array<vec4f, AHEAD>;
    // unroll
    for (var i = 0u; i < AHEAD; i++) {
      loaded[i] = partials[(block + min(first + i, count - 1) * stride) * 2 * sizes.columns4 + c];
    }
    // unroll
    for (var i = 0u; i < AHEAD; i++) {
      if (first + i < count) { sum += loaded[i]; }
    }
  }
  return sum;
}

@compute @workgroup_size(COLUMNS, SHARES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let c = group.z * COLUMNS + local.x;
  let inside = c < sizes.columns4;
  let block = group.x * SHARES + local.y;
  let token = tokenAt(block * BLOCK + BLOCK - 1);
  let begins = tokenAt(block * BLOCK - 1) != token && token - sizes.firstToken < sizes.slicedTokens;
  continues[local.y][local.x] = u32(tokenAt((block + 1 + local.x) * BLOCK) == token);
  workgroupBarrier();
  var further = 0u; // blocks in which the run continues, at most COLUMNS
  // unroll
  for (var x = 0u; x < COLUMNS; x++) {
    further += continues[local.y][x];
  }
  if (begins && further > 0 && further <= SHARES && inside) {
    let begun = partials[(block * 2 + 1) * sizes.columns4 + c];
    dwte[(token - sizes.firstToken) * sizes.columns4 + c] += addPartials(begun, block + 1, further, 1, c);
  }

  if (begins && further > SHARES && local.x == 0) {
    longRun = local.y + 1;
    longToken = token;
  }
  let longRow = workgroupUniformLoad(&longRun); // with a barrier before and after
  if (longRow == 0) { return; }
  let longBlock = group.x * SHARES + longRow - 1;
  var place = (longBlock + 1 + local.y * COLUMNS + local.x) * BLOCK; // where a further block begins
  var longBlocks = 0u;
  while (longBlocks == 0) {
    if (tokenAt(place) == longToken && tokenAt(place + BLOCK) != longToken) { longFurther = place / BLOCK - longBlock; }
    place += INVOCATIONS * BLOCK;
    longBlocks = workgroupUniformLoad(&longFurther);
  }
  var sum = vec4f();
  if (inside) {
    if (local.y == 0) { sum = partials[(longBlock * 2 + 1) * sizes.columns4 + c]; }
    let count = (longBlocks + SHARES - 1 - local.y) / SHARES;
    sum = addPartials(sum, longBlock + 1 + local.y, count, SHARES, c);
  }
  shares[local.y * COLUMNS + local.x] = sum;
  workgroupBarrier();
  if (local.y != 0 || !inside) { return; }
  // unroll
  for (var share = 1u; share < SHARES; share++) {
    sum += shares[share * COLUMNS + local.x];
  }
  dwte[(longToken - sizes.firstToken) * sizes.columns4 + c] += sum;
}
