// dwte[token] += sum of dy over the token's positions, if these lie in one chunk; dwpe[t] = sum of dy over the
// sequences, 0 for t ≥ T, set or accumulated; the latter with POSITIONS.
//
// tokens, order: [M]; dy: [M,C]; dwte: [V,C]; partials: [chunks,2,C]; dwpe: [maxT,C]; C in vectors of four
//
// `order` lists the positions sorted by token, so the places of a token in it form one run. One workgroup per
// run would be slow for a frequent token; instead an invocation sums a chunk of CHUNK places. A run within one
// chunk is added to dwte here. A run that crosses chunks leaves its sum over the chunk in which it begins in
// partials[chunk,1], and its sum over each further chunk in partials[chunk,0]; backward_long_runs.wgsl adds
// them. There are no atomics, and the order of summation is fixed.
//
//     place in order    0 1 2 3 4 5 6 7 8 9 …       with CHUNK = 4:
//     token             a a b b b b b b b c …       a is added to dwte here
//     chunk             ───0─── ───1─── ──2──       b leaves partials[0,1], partials[1,0] and partials[2,0]
//
// GPUs start workgroups in the order of their numbers, z slowest. The sums over positions of some columns start
// right after the sums over tokens of the same columns, and find part of dy in the cache.
enable f16;

alias dyType = vec4<f16>;
const CHUNK: u32 = 16; // places per invocation, a multiple of AHEAD
const AHEAD: u32 = 8; // rows of dy that are loaded together, so that their latencies overlap
const COLUMNS: u32 = 16; // vectors of four columns per workgroup
const ROWS: u32 = 4; // chunks, or positions, per workgroup
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

// The token at a place in the order, NONE before the first place and past the last.
fn tokenAt(place: u32) -> u32 {
  if (place >= sizes.M) { return NONE; }
  return tokens[order[place]];
}

fn addTokens(chunk: u32, c: u32, y: u32) {
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
        if (row < sizes.slicedTokens) {
          if (beginsHere && endsHere) {
            dwte[row * sizes.columns4 + c] = previous[i] + sum;
          } else {
            partials[(chunk * 2 + u32(beginsHere)) * sizes.columns4 + c] = sum;
          }
        }
        sum = vec4f();
      }
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
  let row = (group.y * WORKGROUPS_PER_ROW + group.x) * ROWS + local.y;
  let c = group.z / KINDS * COLUMNS + local.x;
  let inside = c < sizes.columns4;
  if (group.z % KINDS == 0) {
    for (var i = local.x; i < CHUNK + 2; i += COLUMNS) {
      let place = row * CHUNK + i - 1;
      chunkPositions[local.y][i] = order[min(place, sizes.M - 1)];
      chunkTokens[local.y][i] = tokenAt(place);
    }
    workgroupBarrier();
    if (inside) { addTokens(row, c, local.y); }
  } else if (inside) {
    // only if POSITIONS
    addPosition(row, c);
  }
}
