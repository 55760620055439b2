// y = a · b.   a: [M,K], or [K,M] transposed; b: [K,N], or [N,K] transposed; y: [M,N]; or a batch of each
// Needs Sizes and store() from epilogue.wgsl.
//
// For GPUs with tensor cores: the 32 invocations of a subgroup together multiply matrices of 16 × 16 f16 and sum in
// f32. A workgroup computes a tile of y with 16·Y·ROWS rows and 16·X·COLUMNS columns, of which each of its X·Y
// subgroups has ROWS × COLUMNS matrices, all in registers. It loops over K in steps of TILE_K, whose elements of a and
// b are staged in workgroup memory as they are stored, in vectors of eight f16. Per 16 steps of k a subgroup loads
// ROWS + COLUMNS matrices from there for ROWS · COLUMNS products; a transposed operand is loaded in columns. Before
// these products each invocation fetches its vectors of the next step into registers.
//
//       b: 16·X·COLUMNS columns       One pair of tiles needs two barriers per step: the next step is staged after
//        ┌────────┬────────┐          all subgroups have multiplied the last one. With PAIRS = 2 one barrier is
//     k  │        │▓▓▓▓▓▓▓▓│          enough: while the subgroups multiply a step, the next one is staged into the
//        └────────┴────────┘          other pair. Two steps are written out, so that the places of all matrices in
//   k                                 workgroup memory are constants but for the number of the subgroup. Dawn checks
//  ┌─┐   ┌────────┬────────┐          that each matrix lies in its array. A driver's compiler removes the check only
//  │ │   │  0  1  │  0  1  │          if it can prove the result, and a branch per matrix takes longer than its
//  │ │   │  2  3  │  2  3  │          product.
//  ├─┤   ├────────┼────────┤
//  │▓│   │  0  1  │▓▓0▓▓1▓▓│          Rows of a tile are padded by a vector, so that the eight rows that tensor cores
//  │▓│   │  2  3  │▓▓2▓▓3▓▓│          read together are in different banks of workgroup memory.
//  └─┘   └────────┴────────┘
//  a     X = Y = ROWS = COLUMNS = 2   WGSL has no access to the elements of a matrix. So y is stored 16 rows at a
//                                     time through workgroup memory, where the tiles were.
//
// If K is split, each group.z has another part of K, and y is a scratch tensor [splits,M,N], which reduce.wgsl adds
// up. In a batch each group.z has other matrices, and K is not split. Rows and columns past the edges are clamped, and
// their sums are not stored. Past the end of K, a and b count as zero.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity); // it does not know that index / 32 is uniform in a subgroup

const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false;
const TILE_K: u32 = 32;
const PAIRS: u32 = 1; // pairs of tiles: 1 or 2
const ROWS: u32 = 4; // matrices of 16 rows per subgroup
const COLUMNS: u32 = 4; // matrices of 16 columns per subgroup
const X: u32 = 2; // subgroups along the columns
const Y: u32 = 2; // subgroups along the rows
const BAND: u32 = 8; // rows of tiles that workgroups compute together, column by column
const WHOLE_K: bool = false; // whether K is a multiple of PAIRS · TILE_K
const BATCH: bool = false; // whether group.z is the number of a matrix, not of a part of K

@group(0) @binding(0) var<storage, read> a: array<vec4u>; // each element has eight f16
@group(0) @binding(1) var<storage, read> b: array<vec4u>;

const WORKGROUP_SIZE: u32 = 32 * X * Y;
const SUMS: u32 = ROWS * COLUMNS;
const TILE_M: u32 = 16 * Y * ROWS;
const TILE_N: u32 = 16 * X * COLUMNS;

// Vectors of eight per stored row of a tile, from one of its rows to the next, and in the tile.
const A_WIDTH: u32 = select(TILE_K, TILE_M, TRANSPOSE_A) / 8;
const B_WIDTH: u32 = select(TILE_N, TILE_K, TRANSPOSE_B) / 8;
const A_STRIDE: u32 = A_WIDTH + 1;
const B_STRIDE: u32 = B_WIDTH + 1;
const A_SIZE: u32 = select(TILE_M, TILE_K, TRANSPOSE_A) * A_STRIDE;
const B_SIZE: u32 = select(TILE_K, TILE_N, TRANSPOSE_B) * B_STRIDE;
const PAIR_SIZE: u32 = A_SIZE + B_SIZE;

// Vectors of a tile that an invocation fetches per step.
const A_FETCHES: u32 = TILE_M * TILE_K / 8 / WORKGROUP_SIZE;
const B_FETCHES: u32 = TILE_N * TILE_K / 8 / WORKGROUP_SIZE;

// A subgroup stores 16 rows of sums at a time, with four columns per vector.
const STRIP_WIDTH: u32 = 4 * COLUMNS;
const STRIP_STRIDE: u32 = STRIP_WIDTH + 1;
const STRIP_SIZE: u32 = 16 * STRIP_STRIDE;
const STRIP_VECTORS: u32 = STRIP_WIDTH / 2; // per invocation

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;

// Pairs of tiles, each of a and then of b; in the end strips, one per subgroup.
var<workgroup> tiles: array<vec4u, max(PAIRS * PAIR_SIZE, X * Y * STRIP_SIZE)>;

// The tile that a workgroup computes, as its column and row among the tiles. Workgroups run in the order of their
// numbers: those that run together have tiles of few rows and few columns, whose operands fit into the cache.
fn tileOf(group: vec2u, groups: vec2u) -> vec2u {
  let number = group.y * groups.x + group.x;
  let band = number / (BAND * groups.x);
  let inBand = number % (BAND * groups.x);
  let height = min(BAND, groups.y - band * BAND);
  return vec2u(inBand / height, band * BAND + inBand % height);
}

// Stored row of a tile, and vector in this row, of the v-th vector of a tile whose rows have `width` vectors. Eight
// neighbours store together, in rows that are not in the same banks: with four vectors per row and a padding of one
// these are rows i and i + 4, with two vectors rows i, i + 2, i + 4 and i + 6.
fn placeOf(v: u32, width: u32) -> vec2u {
  let together = max(8 / width, 1u);
  let row = v / width;
  return vec2u(row / 8 * 8 + row % together * width + row % 8 / together, v % width);
}

// The v-th vector of the tile of a that begins at this row and this k. Past the end of K it may have any value.
fn fetchA(v: u32, matrix: u32, firstRow: u32, first: u32) -> vec4u {
  let place = placeOf(v, A_WIDTH);
  let start = sizes.aStart + matrix * sizes.aMatrix;
  if (TRANSPOSE_A) {
    let column = min(firstRow / 8 + place.y, (sizes.M - 1) / 8);
    return a[start + (first + place.x) * sizes.aStride + column];
  }
  let row = min(firstRow + place.x, sizes.M - 1);
  return a[start + row * sizes.aStride + first / 8 + place.y];
}

// The v-th vector of the tile of b, likewise.
fn fetchB(v: u32, matrix: u32, firstColumn: u32, first: u32) -> vec4u {
  let place = placeOf(v, B_WIDTH);
  let start = matrix * sizes.bMatrix;
  if (TRANSPOSE_B) {
    let row = min(firstColumn + place.x, sizes.N - 1);
    return b[start + row * sizes.bStride + first / 8 + place.y];
  }
  let column = min(firstColumn / 8 + place.y, (sizes.N - 1) / 8);
  return b[start + (first + place.x) * sizes.bStride + column];
}

// A vector of which only the elements before the `count`-th are kept; the others become zero.
fn keep(eight: vec4u, count: u32) -> vec4u {
  let i = vec4u(0, 2, 4, 6);
  let low = select(vec4u(), vec4u(0xffff), i < vec4u(count));
  let high = select(vec4u(), vec4u(0xffff0000), i + 1 < vec4u(count));
  return eight & (low | high);
}

// Terms of K from k on before the end.
fn termsFrom(k: u32, end: u32) -> u32 {
  return max(k, end) - k;
}

// Stages the v-th vector of the tile of a that begins at `first` in K.
fn stageA(v: u32, pair: u32, eight: vec4u, first: u32, end: u32) {
  let place = placeOf(v, A_WIDTH);
  var kept = eight;
  // unless WHOLE_K
  kept = keep(eight, select(termsFrom(first + 8 * place.y, end), 8 * termsFrom(first + place.x, end), TRANSPOSE_A));
  tiles[pair * PAIR_SIZE + place.x * A_STRIDE + place.y] = kept;
}

// Stages a vector of the tile of b, likewise.
fn stageB(v: u32, pair: u32, eight: vec4u, first: u32, end: u32) {
  let place = placeOf(v, B_WIDTH);
  var kept = eight;
  // unless WHOLE_K
  kept = keep(eight, select(8 * termsFrom(first + place.x, end), termsFrom(first + 8 * place.y, end), TRANSPOSE_B));
  tiles[pair * PAIR_SIZE + A_SIZE + place.x * B_STRIDE + place.y] = kept;
}

// Stores four columns of row m if they lie in y.
fn storeInside(m: u32, n: u32, split: u32, four: vec4f) {
  if (m < sizes.M && n < sizes.N) { store(split * sizes.M + m, n / 4, four); }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let tile = tileOf(group.xy, groups.xy);
  let firstRow = tile.y * TILE_M;
  let firstColumn = tile.x * TILE_N;
  let subgroup = index / 32;
  let subgroupRow = subgroup / X * 16 * ROWS; // of the tile
  let subgroupColumn = subgroup % X * 16 * COLUMNS;
  let matrix = select(0u, group.z, BATCH);
  let start = select(group.z, 0u, BATCH) * sizes.split;
  let end = min(start + sizes.split, sizes.K);

  var as8: array<vec4u, A_FETCHES>;
  var bs8: array<vec4u, B_FETCHES>;
  // unroll
  for (var i = 0u; i < A_FETCHES; i++) {
    as8[i] = fetchA(index + i * WORKGROUP_SIZE, matrix, firstRow, start);
  }
  // unroll
  for (var i = 0u; i < B_FETCHES; i++) {
    bs8[i] = fetchB(index + i * WORKGROUP_SIZE, matrix, firstColumn, start);
  }
  if (PAIRS == 2) {
    // unroll
    for (var i = 0u; i < A_FETCHES; i++) {
      stageA(index + i * WORKGROUP_SIZE, 0, as8[i], start, end);
      as8[i] = fetchA(index + i * WORKGROUP_SIZE, matrix, firstRow, start + TILE_K);
    }
    // unroll
    for (var i = 0u; i < B_FETCHES; i++) {
      stageB(index + i * WORKGROUP_SIZE, 0, bs8[i], start, end);
      bs8[i] = fetchB(index + i * WORKGROUP_SIZE, matrix, firstColumn, start + TILE_K);
    }
    workgroupBarrier();
  }

  var sums: array<Sum, SUMS>;
  var first = start;
  loop {
    // unroll
    for (var pair = 0u; pair < PAIRS; pair++) {
      // unroll
      for (var i = 0u; i < A_FETCHES; i++) {
        stageA(index + i * WORKGROUP_SIZE, PAIRS - 1 - pair, as8[i], first + (PAIRS - 1) * TILE_K, end);
      }
      // unroll
      for (var i = 0u; i < B_FETCHES; i++) {
        stageB(index + i * WORKGROUP_SIZE, PAIRS - 1 - pair, bs8[i], first + (PAIRS - 1) * TILE_K, end);
      }
      if (PAIRS == 1) { workgroupBarrier(); }
      // the last steps fetch past the end, which is not used
      // unroll
      for (var i = 0u; i < A_FETCHES; i++) {
        as8[i] = fetchA(index + i * WORKGROUP_SIZE, matrix, firstRow, first + PAIRS * TILE_K);
      }
      // unroll
      for (var i = 0u; i < B_FETCHES; i++) {
        bs8[i] = fetchB(index + i * WORKGROUP_SIZE, matrix, firstColumn, first + PAIRS * TILE_K);
      }
      // unroll
      for (var k = 0u; k < TILE_K; k += 16u) {
        let aTile = pair * PAIR_SIZE;
        let bTile = pair * PAIR_SIZE + A_SIZE;
        var lefts: array<Left, ROWS>;
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          let row = subgroupRow + 16 * r;
          // only if TRANSPOSE_A
          lefts[r] = subgroupMatrixLoad<Left, col_major>(&tiles, aTile + k * A_STRIDE + row / 8, A_STRIDE);
          // unless TRANSPOSE_A
          lefts[r] = subgroupMatrixLoad<Left, row_major>(&tiles, aTile + row * A_STRIDE + k / 8, A_STRIDE);
        }
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
          let column = subgroupColumn + 16 * c;
          // only if TRANSPOSE_B
          let right = subgroupMatrixLoad<Right, col_major>(&tiles, bTile + column * B_STRIDE + k / 8, B_STRIDE);
          // unless TRANSPOSE_B
          let right = subgroupMatrixLoad<Right, row_major>(&tiles, bTile + k * B_STRIDE + column / 8, B_STRIDE);
          // unroll
          for (var r = 0u; r < ROWS; r++) {
            sums[r * COLUMNS + c] = subgroupMatrixMultiplyAccumulate(lefts[r], right, sums[r * COLUMNS + c]);
          }
        }
      }
      workgroupBarrier();
      first += TILE_K;
    }

    continuing {
      break if first >= end;
    }
  }

  let strip = subgroup * STRIP_SIZE;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      subgroupMatrixStore<row_major>(&tiles, strip + 4 * c, sums[r * COLUMNS + c], STRIP_STRIDE);
    }
    workgroupBarrier();
    // unroll
    for (var i = 0u; i < STRIP_VECTORS; i++) {
      let v = index % 32 + 32 * i;
      let m = firstRow + subgroupRow + 16 * r + v / STRIP_WIDTH;
      let n = firstColumn + subgroupColumn + 4 * (v % STRIP_WIDTH);
      storeInside(m, n, group.z, bitcast<vec4f>(tiles[strip + v / STRIP_WIDTH * STRIP_STRIDE + v % STRIP_WIDTH]));
    }
    workgroupBarrier();
  }
}
