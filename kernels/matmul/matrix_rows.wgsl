// y = a · b, or norm(a) · b, for tens of rows a.   a: [M,K]; b: [K,N], or [N,K] transposed; y: [M,N]
// Needs Sizes, besideOf() and storeWith() from epilogue.wgsl, and normalizeRows() from ../normalized_rows.wgsl.
//
// For generation of many texts on GPUs with tensor cores, whose time is that of launches and waits for memory. A workgroup
// computes 16 rows × 16 · COLUMNS columns of y. Its invocations fetch their whole rows of a, and of b the first STEP terms
// of K, before they wait for anything. SHARES subgroups share a matrix of y: each multiplies every SHARES-th matrix of 16
// terms. Their sums are added up in workgroup memory.
//
// With SPLIT workgroup z sums over `split` terms of K, and its y is a partial sum.   y: [parts,M,N]
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity); // it does not know that index / 32 is uniform in a subgroup

const TRANSPOSE_B: bool = false;
const NORMALIZE: bool = true;
const SPLIT: bool = true;
const COLUMNS: u32 = 2; // matrices of 16 columns per workgroup
const SHARES: u32 = 4; // subgroups that share a matrix of y
const STEP: u32 = 256; // terms of K that are staged at the same time, a multiple of 16 · SHARES
const STEPS: u32 = 1; // of a workgroup, the last one padded with zeros

// unless NORMALIZE
@group(0) @binding(0) var<storage, read> a: array<vec2u>; // each element has four f16
@group(0) @binding(1) var<storage, read> b: array<vec4u>; // each element has eight f16

const WORKGROUP_SIZE: u32 = 32 * COLUMNS * SHARES;
const LANES: u32 = WORKGROUP_SIZE / 16; // invocations that fetch a row of a, each every LANES-th vector of four

// Vectors from one stored row to the next in workgroup memory. Rows are padded by 16 bytes, so that the rows that tensor
// cores read together are in different banks.
const A_FOURS: u32 = STEPS * STEP / 4;
const A_STRIDE: u32 = A_FOURS + 2;
const A_SIZE: u32 = 16 * A_STRIDE;
const B_WIDTH: u32 = select(2 * COLUMNS, STEP / 8, TRANSPOSE_B);
const B_STRIDE: u32 = B_WIDTH + 1;
const B_SIZE: u32 = select(STEP, 16 * COLUMNS, TRANSPOSE_B) * B_STRIDE;
const STRIP_STRIDE: u32 = 5; // of 16 sums, four per vector
const STRIP_SIZE: u32 = 16 * STRIP_STRIDE;

const A_FETCHES: u32 = A_FOURS / LANES;
const B_FETCHES: u32 = 2 * COLUMNS * STEP / WORKGROUP_SIZE;

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;

var<workgroup> aTile: array<vec2u, A_SIZE>;
var<workgroup> tile: array<vec4u, max(B_SIZE, COLUMNS * SHARES * STRIP_SIZE)>; // of b; in the end sums, a strip per subgroup
var<private> fetched: array<vec4u, B_FETCHES>;

// Keeps an invocation's i-th four numbers of a row of a.
fn keep(index: u32, i: u32, four: vec2u) {
  aTile[index / LANES * A_STRIDE + index % LANES + i * LANES] = four;
}

// Row and vector in the tile of b of the i-th vector that an invocation fetches.
fn placeOf(index: u32, i: u32) -> vec2u {
  let vector = index + i * WORKGROUP_SIZE;
  return vec2u(vector / B_WIDTH, vector % B_WIDTH);
}

// Begins to read the tile of b that starts with term k and this column.
fn fetch(index: u32, k: u32, column: u32) {
  // unroll
  for (var i = 0u; i < B_FETCHES; i++) {
    let place = placeOf(index, i);
    // only if TRANSPOSE_B
    fetched[i] = b[min(column + place.x, sizes.N - 1) * sizes.bStride + min(k / 8 + place.y, sizes.K / 8 - 1)];
    // unless TRANSPOSE_B
    fetched[i] = b[min(k + place.x, sizes.K - 1) * sizes.bStride + min(column / 8 + place.y, sizes.N / 8 - 1)];
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let firstRow = group.y * 16;
  let firstColumn = group.x * 16 * COLUMNS;
  let begin = group.z * sizes.split;
  let end = min(begin + sizes.split, sizes.K);
  // only if NORMALIZE
  readRows(firstRow, group.x == 0, index);
  // unless NORMALIZE
  var rows: array<vec2u, A_FETCHES>;
  // unless NORMALIZE
  let aRow = sizes.aStart + min(firstRow + index / LANES, sizes.M - 1) * sizes.aStride;
  // unless NORMALIZE
  // unroll
  for (var i = 0u; i < A_FETCHES; i++) {
    rows[i] = a[aRow + min(begin / 4 + index % LANES + i * LANES, sizes.K / 4 - 1)];
  }
  fetch(index, begin, firstColumn);
  // only if NORMALIZE
  {
    normalizeRows(index);
    // unroll
    for (var i = 0u; i < ROW_TURNS; i++) {
      keep(index, i, vec2u(pack2x16float(ownRow[i].xy), pack2x16float(ownRow[i].zw)));
    }
  }
  // unless NORMALIZE
  // unroll
  for (var i = 0u; i < A_FETCHES; i++) {
    keep(index, i, rows[i]);
  }

  let subgroup = index / 32;
  let matrix = subgroup / SHARES; // of y
  let share = subgroup % SHARES;
  var sum: Sum;
  for (var step = 0u; step < STEPS; step++) {
    // unroll
    for (var i = 0u; i < B_FETCHES; i++) {
      let place = placeOf(index, i);
      let k = begin + step * STEP + select(place.x, 8 * place.y, TRANSPOSE_B);
      tile[place.x * B_STRIDE + place.y] = select(vec4u(), fetched[i], k < end); // past the end a has any finite terms, and b zeros
    }
    workgroupBarrier();
    if (step + 1 < STEPS) { fetch(index, begin + (step + 1) * STEP, firstColumn); }
    // unroll
    for (var i = 0u; i < STEP / 16 / SHARES; i++) {
      let k = 16 * (i * SHARES + share);
      let left = subgroupMatrixLoad<Left, row_major>(&aTile, step * STEP / 4 + k / 4, A_STRIDE);
      // only if TRANSPOSE_B
      let right = subgroupMatrixLoad<Right, col_major>(&tile, matrix * 16 * B_STRIDE + k / 8, B_STRIDE);
      // unless TRANSPOSE_B
      let right = subgroupMatrixLoad<Right, row_major>(&tile, k * B_STRIDE + matrix * 2, B_STRIDE);
      sum = subgroupMatrixMultiplyAccumulate(left, right, sum);
    }
    workgroupBarrier();
  }
  subgroupMatrixStore<row_major>(&tile, subgroup * STRIP_SIZE, sum, STRIP_STRIDE);
  workgroupBarrier();

  // four columns of y per invocation
  let row = index / (4 * COLUMNS);
  let four = index % (4 * COLUMNS);
  let m = firstRow + row;
  let n4 = firstColumn / 4 + four;
  if (row < 16 && m < sizes.M && 4 * n4 < sizes.N) {
    var beside = besideOf(group.z * sizes.M + m, n4);
    // only if BIAS
    // only if SPLIT
    beside.bias = select(vec4f(), beside.bias, group.z == 0);
    var whole = vec4f();
    // unroll
    for (var s = 0u; s < SHARES; s++) {
      let strip = (four / 4 * SHARES + s) * STRIP_SIZE;
      whole += bitcast<vec4f>(tile[strip + row * STRIP_STRIDE + four % 4]);
    }
    storeWith(beside, whole);
  }
}
