// y = a · b, or norm(a) · b, for a few rows a.   a: [M,K]; b: [K,N], or [N,K] transposed; y: [M,N]
// Needs Sizes and store() from epilogue.wgsl with value = f32, yType = f16, FOUR_COLUMNS = false, fourInt8() from ../int8.wgsl, and normalizeRows() from ../normalized_rows.wgsl.
//
// For generation, whose speed is that of reading b: each element is read once for ROWS rows. A fetch is EACH
// neighbours in a row of b. A workgroup computes VECTORS vectors of COLUMNS columns of y, and LANES invocations share
// each vector. A lane has FETCHES fetches under way, of groups of four rows of b, or of four columns if b is
// transposed: the first of them before the norm, which fills the time until memory answers, and the next group as soon as
// one is used. Neighbours fetch neighbours. With VECTORS = 2 and LANES = 4, invocations 0 to 7 are
//
//     b                   b transposed           (vector,lane)
//     0,0 1,0 0,1 1,1     0,0 0,1 0,2 0,3
//     0,2 1,2 0,3 1,3     1,0 1,1 1,2 1,3
//
// The sums of the lanes are added up in workgroup memory, those of KEPT turns together, because barriers take time.
//
// With SPLIT workgroup z sums over `split` terms of K, and its y is a partial sum.   y: [parts,M,N]
// With QUANTIZED b, which is transposed then, has int8 elements, and row n counts scales[n] times.   scales: [N]
// With PAIRED y is the up of a gated MLP, and the kernel also computes its gate, norm(a) · gateWeight.
// gateWeight: as b; gateScales: [N]
enable f16;

alias aType = vec4<f16>;
alias bType = vec4u; // a fetch, as words
const EACH: u32 = 8;
const B_F16: bool = true; // or else f32, or int8 if QUANTIZED
const TRANSPOSE_B: bool = false;
const QUANTIZED: bool = true;
const ROWS: u32 = 1; // a power of two
const VECTORS: u32 = 4;
const COLUMNS: u32 = 8; // EACH, or 4 if b is transposed
const LANES: u32 = 64;
const OWN_COLUMNS: u32 = 1; // columns that an invocation stores: 1 if lanes share them, or else COLUMNS
const SHARED: bool = true; // whether there are several
const KEPT: u32 = 1; // turns whose sums are added up over the lanes at the same time; 1 if there are several rows
const COLUMN_GROUPS: u32 = 1; // workgroups along the columns
const COLUMN_TURNS: u32 = 1; // blocks of VECTORS vectors per workgroup
const ONE_TURN: bool = true; // whether that is one
const K_STEPS: u32 = 1; // groups of FETCHES fetches of a lane
const ONE_STEP: bool = true; // whether that is one
const ONE_FETCH: bool = true; // whether both are one, so that a lane fetches once
const A_AHEAD: bool = true; // whether a row that is not normalised is fetched with b, which takes registers
const EVEN: bool = true; // whether each lane has whole groups of FETCHES fetches
const FETCHES: u32 = 12; // a multiple of four
const TURNS_OF_K: u32 = 1; // vectors of four of a row of a that meet a fetch: EACH / 4 if b is transposed, or else 1
const NORMALIZE: bool = true;
const SPLIT: bool = true;
const OFFSET: bool = true; // whether there is a bias
const FACTOR: bool = true; // whether a · b is multiplied by a number

// unless NORMALIZE
@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;
// only if PAIRED
@group(0) @binding(13) var<storage, read> gateWeight: array<bType>;
// only if QUANTIZED
@group(0) @binding(15) var<storage, read> scales: array<f32>;
// only if QUANTIZED
// only if PAIRED
@group(0) @binding(16) var<storage, read> gateScales: array<f32>;
// only if OFFSET
@group(0) @binding(17) var<storage, read> offset: array<f32>; // [N], the bias

const WORKGROUP_SIZE: u32 = VECTORS * LANES;
const FOURS: u32 = EACH / 4; // vectors of four in a fetch
const GROUPS: u32 = FETCHES / 4; // of four fetches
const QUADS: u32 = COLUMNS / 4; // sums per row, of four columns each
const SUMS: u32 = ROWS * QUADS;
const K_EACH: u32 = select(4u, EACH, TRANSPOSE_B); // terms of K per fetch

const GROUP_COLUMNS: u32 = VECTORS * COLUMNS; // columns of a workgroup
// only if SHARED
const SHARES: u32 = KEPT * QUADS * WORKGROUP_SIZE;
// only if SHARED
var<workgroup> shares: array<vec4f, SHARES>;
var<private> sums: array<vec4f, SUMS>;
var<private> fetched: array<bType, FETCHES>;
// only if A_AHEAD
const AS: u32 = GROUPS * TURNS_OF_K;
// only if A_AHEAD
var<private> fetchedA: array<vec4f, AS>;
// only if OFFSET
var<private> offsetOf: array<f32, OWN_COLUMNS>;
// only if QUANTIZED
var<private> scaleOf: array<f32, OWN_COLUMNS>;
// only if QUANTIZED
// only if PAIRED
var<private> gateScaleOf: array<f32, OWN_COLUMNS>;
// only if PAIRED
// only if SHARED
var<workgroup> gateShares: array<vec4f, SHARES>;
// only if PAIRED
var<private> gateSums: array<vec4f, SUMS>;
// only if PAIRED
var<private> fetchedGate: array<bType, FETCHES>;

// only if NORMALIZE
const ROW_FOURS: u32 = ROW_TURNS * LANES_OF_ROW; // vectors from one row to the next
// only if NORMALIZE
const NORMALIZED: u32 = ROWS * ROW_FOURS;
// only if NORMALIZE
var<workgroup> normalized: array<vec4f, NORMALIZED>;

// Four numbers of a row that the product reads.
fn rowAt(row: u32, firstRow: u32, k4: u32) -> vec4f {
  var four: vec4f;
  // only if NORMALIZE
  four = normalized[row * ROW_FOURS + k4];
  // unless NORMALIZE
  four = vec4f(a[sizes.aStart + min(firstRow + row, sizes.M - 1) * sizes.aStride + k4]);
  return four;
}

// The j-th vector of four in a fetch.
fn fourOf(words: bType, j: u32) -> vec4f {
  var four: vec4f;
  // only if QUANTIZED
  four = fourInt8(words[j]);
  // unless QUANTIZED
  // only if B_F16
  four = vec4f(unpack2x16float(words[2 * j]), unpack2x16float(words[2 * j + 1]));
  // unless QUANTIZED
  // unless B_F16
  four = bitcast<vec4f>(words);
  return four;
}

// Index of fetch i of group k4 of four rows, or of column i and fetch k of its row if b is transposed.
fn placeOf(k: u32, i: u32, vector: u32) -> u32 {
  if (TRANSPOSE_B) { return min(vector * 4 + i, sizes.N - 1) * sizes.bStride + k; }
  return (4 * k + i) * sizes.bStride + min(vector, sizes.N / COLUMNS - 1);
}

// Begins to read group g of a lane's fetches: from k on, which counts groups of four rows, or fetches if b is transposed.
fn fetch(g: u32, first: u32, end: u32, vector: u32) {
  var k = first + g * LANES;
  // unless EVEN
  k = min(k, end - 1);
  // only if A_AHEAD
  {
    // unroll
    for (var j = 0u; j < TURNS_OF_K; j++) {
      fetchedA[g * TURNS_OF_K + j] = vec4f(a[sizes.aStart + k * TURNS_OF_K + j]);
    }
  }
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let place = placeOf(k, i, vector);
    fetched[4 * g + i] = b[place];
    // only if PAIRED
    fetchedGate[4 * g + i] = gateWeight[place];
  }
}

// Adds the products of group g to the sums.
fn multiply(g: u32, first: u32, end: u32, firstRow: u32) {
  let k = first + g * LANES;
  var inside = true;
  // unless EVEN
  inside = k < end;
  if (!inside) { return; }
  var fours: array<vec4f, ROWS>; // of each row of a
  // unroll
  for (var j = 0u; j < TURNS_OF_K; j++) {
    // only if A_AHEAD
    fours[0] = fetchedA[g * TURNS_OF_K + j];
    // unless A_AHEAD
    {
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        fours[r] = rowAt(r, firstRow, k * TURNS_OF_K + j);
      }
    }
    // unroll
    for (var i = 0u; i < 4u; i++) {
      if (TRANSPOSE_B) {
        let weights = fourOf(fetched[4 * g + i], j);
        // only if PAIRED
        let gateWeights = fourOf(fetchedGate[4 * g + i], j);
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          sums[r][i] += dot(fours[r], weights);
          // only if PAIRED
          gateSums[r][i] += dot(fours[r], gateWeights);
        }
      } else {
        // unroll
        for (var q = 0u; q < QUADS; q++) {
          let weights = fourOf(fetched[4 * g + i], q);
          // only if PAIRED
          let gateWeights = fourOf(fetchedGate[4 * g + i], q);
          // unroll
          for (var r = 0u; r < ROWS; r++) {
            sums[r * QUADS + q] += fours[r][i] * weights;
            // only if PAIRED
            gateSums[r * QUADS + q] += fours[r][i] * gateWeights;
          }
        }
      }
    }
  }
}

// Keeps a lane's sums of a row in workgroup memory, at place `slot` of KEPT.
// only if SHARED
fn keepSums(r: u32, slot: u32, lane: u32, vector: u32) {
  // unroll
  for (var j = 0u; j < QUADS; j++) {
    let place = (slot * QUADS + j) * WORKGROUP_SIZE + lane * VECTORS + vector;
    shares[place] = sums[r * QUADS + j];
    // only if PAIRED
    gateShares[place] = gateSums[r * QUADS + j];
  }
}

// The first column that an invocation stores.
fn columnOf(firstBlock: u32, index: u32) -> u32 {
  let column = index * OWN_COLUMNS; // of those of KEPT blocks
  return (firstBlock + column / GROUP_COLUMNS * COLUMN_GROUPS) * GROUP_COLUMNS + column % GROUP_COLUMNS;
}

// Reads what the sums of columns are multiplied by and what is added, which is needed at the end.
fn readColumns(firstBlock: u32, index: u32, part: u32) {
  // unroll
  for (var i = 0u; i < OWN_COLUMNS; i++) {
    let column = min(columnOf(firstBlock, index) + i, sizes.N - 1);
    // only if QUANTIZED
    scaleOf[i] = scales[column];
    // only if QUANTIZED
    // only if PAIRED
    gateScaleOf[i] = gateScales[column];
    // only if OFFSET
    offsetOf[i] = select(0.0, offset[column], part == 0);
  }
}

// Stores the sum of a row for a column, the i-th of an invocation.
fn storeSum(row: u32, column: u32, part: u32, i: u32, whole: f32) {
  var sum = whole;
  // only if QUANTIZED
  sum *= scaleOf[i];
  // only if QUANTIZED
  // only if PAIRED
  gateOfRow *= gateScaleOf[i];
  // only if FACTOR
  sum *= sizes.scale;
  // only if OFFSET
  sum += offsetOf[i];
  // only if SPLIT
  y[(part * sizes.M + row) * sizes.N + column] = yType(sum);
  // unless SPLIT
  store(row, column, sum);
}

// Stores row r of the blocks from the first one on whose sums were kept, a column per invocation.
// only if SHARED
fn storeKept(r: u32, firstRow: u32, firstBlock: u32, part: u32, index: u32) {
  let row = firstRow + r;
  let column = columnOf(firstBlock, index);
  if (index >= KEPT * GROUP_COLUMNS || column >= sizes.N || row >= sizes.M) { return; }
  let c = index % GROUP_COLUMNS;
  let first = (index / GROUP_COLUMNS * QUADS + c / 4 % QUADS) * WORKGROUP_SIZE + c / COLUMNS;
  var four = vec4f(); // sums over every fourth lane
  // only if PAIRED
  var gateFour = vec4f();
  // unroll
  for (var i = 0u; i < LANES; i++) {
    four[i % 4] += shares[first + i * VECTORS][c % 4];
    // only if PAIRED
    gateFour[i % 4] += gateShares[first + i * VECTORS][c % 4];
  }
  // only if PAIRED
  gateOfRow = dot(gateFour, vec4f(1));
  storeSum(row, column, part, 0, dot(four, vec4f(1)));
}

// Stores row r of an invocation's vector, which no other lane shares.
// unless SHARED
fn storeOwn(r: u32, firstRow: u32, vector: u32, part: u32) {
  let row = firstRow + r;
  // unroll
  for (var i = 0u; i < COLUMNS; i++) {
    let column = vector * COLUMNS + i;
    if (column < sizes.N && row < sizes.M) {
      // only if PAIRED
      gateOfRow = gateSums[r * QUADS + i / 4][i % 4];
      storeSum(row, column, part, i, sums[r * QUADS + i / 4][i % 4]);
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let lane = select(index / VECTORS, index % LANES, TRANSPOSE_B);
  let place = select(index % VECTORS, index / LANES, TRANSPOSE_B);
  let firstRow = group.y * ROWS;
  let begin = group.z * (sizes.split / K_EACH) + lane;
  let end = min((group.z + 1) * sizes.split, sizes.K) / K_EACH;
  const STEP = GROUPS * LANES;

  // only if NORMALIZE
  readRows(firstRow, group.x == 0, index); // before weights are fetched, or else some rows would arrive after these
  // unroll
  for (var g = 0u; g < GROUPS; g++) {
    fetch(g, begin, end, group.x * VECTORS + place);
  }
  readColumns(group.x, index, group.z);
  // only if NORMALIZE
  {
    normalizeRows(index);
    // unroll
    for (var i = 0u; i < ROW_TURNS; i++) {
      normalized[index / LANES_OF_ROW * ROW_FOURS + index % LANES_OF_ROW + i * LANES_OF_ROW] = ownRow[i];
    }
    workgroupBarrier();
  }
  // unroll if ONE_TURN
  for (var turn = 0u; turn < COLUMN_TURNS; turn++) {
    let block = group.x + turn * COLUMN_GROUPS;
    let vector = block * VECTORS + place;
    sums = array<vec4f, SUMS>();
    // only if PAIRED
    gateSums = array<vec4f, SUMS>();
    // unroll if ONE_STEP
    for (var step = 0u; step < K_STEPS; step++) {
      let first = begin + step * STEP;
      let isLast = step + 1 == K_STEPS; // then the next fetches are of the next block
      let next = select(first + STEP, begin, isLast);
      let nextVector = select(vector, vector + COLUMN_GROUPS * VECTORS, isLast);
      // unroll
      for (var g = 0u; g < GROUPS; g++) {
        multiply(g, first, end, firstRow);
        // unless ONE_FETCH
        if (!isLast || turn + 1 < COLUMN_TURNS) { fetch(g, next, end, nextVector); }
      }
    }
    let slot = turn % KEPT;
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      // only if SHARED
      {
        if (turn + r > 0 && slot == 0) { workgroupBarrier(); } // until all have read the previous sums
        keepSums(r, slot, lane, place);
        if (slot + 1 == KEPT || turn + 1 == COLUMN_TURNS) {
          workgroupBarrier();
          storeKept(r, firstRow, group.x + (turn - slot) * COLUMN_GROUPS, group.z, index);
        }
      }
      // unless SHARED
      storeOwn(r, firstRow, vector, group.z);
    }
    // unless ONE_TURN
    if (slot + 1 == KEPT) { readColumns(block + COLUMN_GROUPS, index, group.z); }
  }
}
