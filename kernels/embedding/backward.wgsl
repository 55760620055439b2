// dwte[token] += sum of dy over the token's positions, if these lie in one block; dwpe[t] = sum of dy over the
// sequences, 0 for t ≥ T, set or accumulated; the latter with POSITIONS.
//
// tokens, order: [M]; dy: [M,C]; dwte: [V,C]; partials: [blocks,2,C]; dwpe: [maxT,C]; C in vectors of four
//
// `order` lists the positions sorted by token, so the places of a token in it form one run. One workgroup per
// run would be slow for a frequent token; instead a workgroup sums a block of ROWS chunks of CHUNK places, a row of its
// invocations one chunk. A run within a chunk is added to dwte by that row, a run that crosses chunks by the row in
// which it begins, which finds the others' sums in workgroup memory. A run that crosses blocks leaves its sum over the
// block in which it begins in partials[block,1], and its sum over each further block in partials[block,0];
// backward_long_runs.wgsl adds them. There are no atomics, and the order of summation is fixed.
//
//     place in order    0 1 2 3 4 5 6 7 8 9 …       with CHUNK = 2 and ROWS = 2:
//     token             a b b b c c c c c d …       a and b are added to dwte by row 0 of block 0
//     chunk             ─0─ ─1─ ─2─ ─3─ ─4─ …
//     block             ───0─── ───1─── ──2── …     c leaves partials[1,1] and partials[2,0]
//
// GPUs start workgroups in the order of their numbers, z slowest. The sums over positions of some columns start
// right after the sums over tokens of the same columns, and find part of dy in the cache.
enable f16;

alias dyType = vec4<f16>;
const CHUNK: u32 = 16; // places per row of invocations, a multiple of AHEAD
const AHEAD: u32 = 4; // rows of dy that are loaded together, so that their latencies overlap
const COLUMNS: u32 = 16; // vectors of four columns per workgroup
const ROWS: u32 = 8; // chunks, or positions, per workgroup
const POSITIONS: bool = true; // whether there is dwpe
const KINDS: u32 = 2; // 2: sums over tokens and over positions; 1: over tokens alone

struct Sizes {
  firstToken: u32, // of the slice of dwte that is bound
  slicedTokens: u32,
  M: u32,
  columns4: u32, // C / 4
  maxT: u32, // rows of dwpe
  T: u32,
  accumulate: u32, // whether to add to what dwpe holds
}

@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> dy: array<dyType>;
@group(0) @binding(3) var<storage, read_write> dwte: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> partials: array<vec4f>;
// only if POSITIONS
@group(0) @binding(5) var<storage, read_write> dwpe: array<vec4f>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const NONE: u32 = 0xffffffff;
// positions and tokens of each chunk, from the place before it to the place after it
var<workgroup> chunkPositions: array<array<u32, CHUNK + 2>, ROWS>;
var<workgroup> chunkTokens: array<array<u32, CHUNK + 2>, ROWS>;
// sums over each chunk of the run that began before it, and of the run that begins in it and continues after it
var<workgroup> fromBefore: array<array<vec4f, COLUMNS>, ROWS>;
var<workgroup> toNext: array<array<vec4f, COLUMNS>, ROWS>;

// The token at a place in the order, NONE before the first place and past the last.
fn tokenAt(place: u32) -> u32 {
  if (place >= sizes.M) { return NONE; }
  return tokens[order[place]];
}

// Sums the chunk of row y by runs, and adds those within it to dwte.
fn addTokens(c: u32, x: u32, y: u32) {
  let before = chunkTokens[y][0];
  var sum = vec4f();
  for (var first = 1u; first <= CHUNK; first += AHEAD) {
    var rows: array<dyType, AHEAD>;
    var previous: array<vec4f, AHEAD>; // rows of dwte to which a run is added
    // unroll
    for (var i = 0u; i < AHEAD; i++) {
      let token = chunkTokens[y][first + i];
      let row = token - sizes.firstToken; // a token before the slice, and NONE, wrap to a large number
      rows[i] = dy[chunkPositions[y][first + i] * sizes.columns4 + c];
      if (token != before && token != chunkTokens[y][first + i + 1] && row < sizes.slicedTokens) {
        previous[i] = dwte[row * sizes.columns4 + c];
      }
    }
    // unroll
    for (var i = 0u; i < AHEAD; i++) {
      sum += vec4f(rows[i]);
      let token = chunkTokens[y][first + i];
      let beginsHere = token != before;
      let endsHere = token != chunkTokens[y][first + i + 1];
      if (endsHere || first + i == CHUNK) {
        let row = token - sizes.firstToken;
        if (!beginsHere) {
          fromBefore[y][x] = sum;
        } else if (!endsHere) {
          toNext[y][x] = sum;
        } else if (row < sizes.slicedTokens) {
          dwte[row * sizes.columns4 + c] = previous[i] + sum;
        }
        sum = vec4f();
      }
    }
  }
}

// sum + the sums of a run over the chunks after that of row y, as far as it continues in the block.
fn continued(sum: vec4f, token: u32, x: u32, y: u32) -> vec4f {
  var total = sum;
  for (var next = y + 1; next < ROWS; next++) {
    if (chunkTokens[next][1] != token) { break; }
    total += fromBefore[next][x];
  }
  return total;
}

// Adds the run that crosses the end of the chunk of row y, if it begins there, to dwte, or leaves it in partials; row 0
// also leaves the run that began before the block.
fn addCrossingRuns(block: u32, c: u32, x: u32, y: u32) {
  let before = chunkTokens[y][0];
  if (y == 0 && chunkTokens[0][1] == before && before - sizes.firstToken < sizes.slicedTokens) {
    partials[block * 2 * sizes.columns4 + c] = continued(fromBefore[0][x], before, x, 0);
  }
  let token = chunkTokens[y][CHUNK];
  let row = token - sizes.firstToken;
  if (token != before && token == chunkTokens[y][CHUNK + 1] && row < sizes.slicedTokens) {
    let sum = continued(toNext[y][x], token, x, y);
    if (chunkTokens[ROWS - 1][CHUNK + 1] == token) {
      partials[(block * 2 + 1) * sizes.columns4 + c] = sum;
    } else {
      dwte[row * sizes.columns4 + c] += sum;
    }
  }
}

// only if POSITIONS
fn addPosition(t: u32, c: u32) {
  if (t >= sizes.maxT) { return; }
  var sum = vec4f();
  if (t < sizes.T) {
    for (var first = t; first < sizes.M; first += AHEAD * sizes.T) {
      // unroll
      for (var i = 0u; i < AHEAD; i++) {
        let m = first + i * sizes.T;
        sum += select(vec4f(), vec4f(dy[min(m, sizes.M - 1) * sizes.columns4 + c]), m < sizes.M);
      }
    }
  }
  let i = t * sizes.columns4 + c;
  if (sizes.accumulate != 0) { sum += dwpe[i]; }
  dwpe[i] = sum;
}

@compute @workgroup_size(COLUMNS, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let block = group.y * WORKGROUPS_PER_ROW + group.x;
  let row = block * ROWS + local.y; // a chunk, or a position
  let c = group.z / KINDS * COLUMNS + local.x;
  let inside = c < sizes.columns4;
  if (group.z % KINDS == 0) {
    for (var i = local.x; i < CHUNK + 2; i += COLUMNS) {
      let place = row * CHUNK + i - 1;
      chunkPositions[local.y][i] = order[min(place, sizes.M - 1)];
      chunkTokens[local.y][i] = tokenAt(place);
    }
    workgroupBarrier();
    if (inside) { addTokens(c, local.x, local.y); }
    workgroupBarrier();
    if (inside) { addCrossingRuns(block, c, local.x, local.y); }
  } else if (inside) {
    // only if POSITIONS
    addPosition(row, c);
  }
}
