// y = a · b.   a: [M,K], or [K,M] transposed; b: [K,N], or [N,K] transposed; y: [M,N]; or a batch of each
// Needs Sizes, Beside, besideOf() and storeWith() from epilogue.wgsl.
//
// For GPUs with tensor cores: the 32 invocations of a subgroup together multiply matrices of 16 × 16 f16 and sum in
// f32. A workgroup computes a tile of y with 16·Y·ROWS rows and 16·X·COLUMNS columns, of which each of its X·Y
// subgroups has ROWS × COLUMNS matrices, all in registers. It loops over K in steps of TILE_K, whose elements of a and
// b are staged in workgroup memory as they are stored, in vectors of eight f16. Per 16 steps of k a subgroup loads
// ROWS + COLUMNS matrices from there for ROWS · COLUMNS products; a transposed operand is loaded in columns. Before
// these products each invocation fetches its vectors of a later step, the AHEAD-th from there, into registers.
//
// If rows of an operand lie along k, a step has half a line of the cache of each of them. So eight neighbours fetch a
// whole line of row i, which has the vectors of two steps, and for the next step that of row i + 4 with its halves
// exchanged. Then each has vectors of both steps. In one step four of them stage those of row i, and the others those of
// row i + 4; in the other step the other four.
//
//       b: 16·X·COLUMNS columns       Rows of a tile are padded by a vector, so that the eight rows that tensor cores
//        ┌────────┬────────┐          read together are in different banks of workgroup memory.
//     k  │        │▓▓▓▓▓▓▓▓│
//        └────────┴────────┘          Dawn checks that each matrix lies in its array. A driver's compiler can prove
//   k                                 it, and remove the check, since the places of all matrices are constants but
//  ┌─┐   ┌────────┬────────┐          for the number of the subgroup; a branch per matrix would take longer than
//  │ │   │  0  1  │  0  1  │          its products.
//  │ │   │  2  3  │  2  3  │
//  ├─┤   ├────────┼────────┤          WGSL has no access to the elements of a matrix. So y is stored 16 rows at a
//  │▓│   │  0  1  │▓▓0▓▓1▓▓│          time through workgroup memory, where the tiles were.
//  │▓│   │  2  3  │▓▓2▓▓3▓▓│
//  └─┘   └────────┴────────┘
//  a     X = Y = ROWS = COLUMNS = 2
//
// If K is split, each group.z has another part of K, and y is a scratch tensor [splits,M,N], which reduce.wgsl adds
// up. In a batch each group.z has other matrices, and K is not split. Past the end of K, a and b count as zero. Rows
// and columns past the edges have the values of other elements, or any others if they lie outside of a or b; their sums
// are not stored.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity); // it does not know that index / 32 is uniform in a subgroup

const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false;
const TILE_K: u32 = 32;
const ROWS: u32 = 4; // matrices of 16 rows per subgroup
const COLUMNS: u32 = 4; // matrices of 16 columns per subgroup
const X: u32 = 2; // subgroups along the columns
const Y: u32 = 2; // subgroups along the rows
const BAND: u32 = 16; // rows of tiles that workgroups compute together, column by column
const AHEAD: u32 = 2; // steps whose vectors are in registers or on their way; so many as a line of the cache has
const WHOLE_K: bool = false; // whether K is a multiple of AHEAD · TILE_K
const BATCH: bool = false; // whether group.z is the number of a matrix, not of a part of K
const SYMMETRIC: bool = false; // whether y is: no tile above the diagonal is computed; those below it are stored twice
const READS_AHEAD: bool = true; // whether what belongs to y is read before vectors above it are stored
const CHECKS_BOUNDS: bool = true; // whether a tile may pass the edges of y, or the check costs nothing
const SKIPS: bool = true; // whether all results of a subgroup may lie past the edges of y: it does not compute them

@group(0) @binding(0) var<storage, read> a: array<vec4u>; // each element has eight f16
@group(0) @binding(1) var<storage, read> b: array<vec4u>;

const WORKGROUP_SIZE: u32 = 32 * X * Y;
const SUMS: u32 = ROWS * COLUMNS;
const TILE_M: u32 = 16 * Y * ROWS;
const TILE_N: u32 = 16 * X * COLUMNS;

// Vectors of eight per stored row of a tile, and from one of its rows to the next in workgroup memory.
const A_WIDTH: u32 = select(TILE_K, TILE_M, TRANSPOSE_A) / 8;
const B_WIDTH: u32 = select(TILE_N, TILE_K, TRANSPOSE_B) / 8;
const A_STRIDE: u32 = A_WIDTH + 1;
const B_STRIDE: u32 = B_WIDTH + 1;
const A_SIZE: u32 = select(TILE_M, TILE_K, TRANSPOSE_A) * A_STRIDE;
const B_SIZE: u32 = select(TILE_K, TILE_N, TRANSPOSE_B) * B_STRIDE;

// Vectors of a tile that an invocation fetches per step.
const A_FETCHES: u32 = TILE_M * TILE_K / 8 / WORKGROUP_SIZE;
const B_FETCHES: u32 = TILE_N * TILE_K / 8 / WORKGROUP_SIZE;
const A_FETCHED: u32 = AHEAD * A_FETCHES;
const B_FETCHED: u32 = AHEAD * B_FETCHES;

// Whether rows lie along k.
const A_LINES: bool = !TRANSPOSE_A;
const B_LINES: bool = TRANSPOSE_B;

// Vectors of a stored row that a workgroup fetches at the same time: unless these are lines of the cache a whole row of
// several, or, if such rows would not share its invocations equally, some of each row.
const A_TOGETHER: u32 = select(A_WIDTH, WORKGROUP_SIZE / TILE_K, WORKGROUP_SIZE % A_WIDTH != 0);
const B_TOGETHER: u32 = select(B_WIDTH, WORKGROUP_SIZE / TILE_K, WORKGROUP_SIZE % B_WIDTH != 0);

// Rows, and vectors of a row, from an invocation's fetch to its next one in the same step.
const A_ROWS: u32 = select(select(0u, WORKGROUP_SIZE / A_WIDTH, A_TOGETHER == A_WIDTH), WORKGROUP_SIZE / 4, A_LINES);
const B_ROWS: u32 = select(select(0u, WORKGROUP_SIZE / B_WIDTH, B_TOGETHER == B_WIDTH), WORKGROUP_SIZE / 4, B_LINES);
const A_VECTORS: u32 = select(A_TOGETHER, 0u, A_TOGETHER == A_WIDTH);
const B_VECTORS: u32 = select(B_TOGETHER, 0u, B_TOGETHER == B_WIDTH);

// A subgroup stores 16 rows of sums at a time, with four columns per vector. Rows are padded by two vectors, so that what
// is stored together is in different banks.
const STRIP_WIDTH: u32 = 4 * COLUMNS;
const STRIP_STRIDE: u32 = STRIP_WIDTH + 2;
const STRIP_SIZE: u32 = 16 * STRIP_STRIDE;

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;

// The tile of a and then that of b; in the end strips, one per subgroup.
var<workgroup> tiles: array<vec4u, max(A_SIZE + B_SIZE, X * Y * STRIP_SIZE)>;

// The tile that a workgroup computes, as its column and row among the tiles. Workgroups run in the order of their
// numbers: those that run together have tiles of few rows and few columns, whose operands fit into the cache.
fn tileOf(group: vec2u, groups: vec2u) -> vec2u {
  let number = group.y * groups.x + group.x;
  let band = number / (BAND * groups.x);
  let inBand = number % (BAND * groups.x);
  let height = min(BAND, groups.y - band * BAND);
  return vec2u(inBand / height, band * BAND + inBand % height);
}

// The tile with a number, of those on and below the diagonal, which are counted row by row.
// only if SYMMETRIC
fn tileBelow(number: u32) -> vec2u {
  var row = u32(sqrt(2.0 * f32(number)));
  row -= select(0u, 1u, row * (row + 1) / 2 > number);
  return vec2u(number - row * (row + 1) / 2, row);
}

// Stored row of a tile, and vector in this row, of the first vector that an invocation fetches, if `width` vectors of a
// row are fetched together. Eight neighbours stage theirs together, in rows that are not in the same banks: with four
// vectors and a padding of one these are rows i and i + 4.
fn placeOf(index: u32, width: u32) -> vec2u {
  let together = max(8 / width, 1u);
  let row = index / width;
  return vec2u(row / 8 * 8 + row % together * width + row % 8 / together, index % width);
}

// As placeOf(), if lines of the cache are fetched: the vector is one of eight, four of each step.
fn placeInLines(index: u32) -> vec2u {
  return vec2u(index / 32 * 8 + index / 8 % 4, index % 8);
}

// A vector of which only the elements before the `count`-th are kept; the others become zero.
fn keep(eight: vec4u, count: u32) -> vec4u {
  let i = vec4u(0, 2, 4, 6);
  let low = select(vec4u(), vec4u(0xffff), i < vec4u(count));
  let high = select(vec4u(), vec4u(0xffff0000), i + 1 < vec4u(count));
  return eight & (low | high);
}

// Elements of a vector that lie before the end of K: those of a row of k, or of the vector that begins at k.
fn countOf(k: u32, end: u32, isRow: bool) -> u32 {
  return select(max(k, end) - k, select(0u, 8u, k < end), isRow);
}

// Row and vector of a strip of the i-th vector that a lane stores.
fn placeInStrip(lane: u32, i: u32) -> vec2u {
  let vector = lane + 32 * i;
  return vec2u(vector / STRIP_WIDTH, vector % STRIP_WIDTH);
}

// Reads what belongs to the first or second half of the vectors of a strip, from row m and column n of y on.
fn besidesOf(lane: u32, half: u32, m: u32, n: u32) -> array<Beside, COLUMNS> {
  var besides: array<Beside, COLUMNS>;
  // unroll
  for (var i = 0u; i < COLUMNS; i++) {
    let place = placeInStrip(lane, half * COLUMNS + i);
    besides[i] = besideOf(m + place.x, n / 4 + place.y);
  }
  return besides;
}

// Stores what lies in y of a strip, from row m and column n on, of which the first row is `matrixRow` of all matrices.
// `besides` are those of its first half, and in the end those of the strip below it: each half is read before the one
// above it is stored. Unless READS_AHEAD they are not used.
fn storeStrip(strip: u32, lane: u32, m: u32, n: u32, matrixRow: u32, besides: ptr<function, array<Beside, COLUMNS>>) {
  // in a loop of two: to write out all takes a driver's compiler twice as long
  for (var half = 0u; half < 2u; half++) {
    // only if READS_AHEAD
    let these = *besides;
    // unless READS_AHEAD
    let these = besidesOf(lane, half, matrixRow + m, n);
    // only if READS_AHEAD
    *besides = besidesOf(lane, 1 - half, matrixRow + m + 16 * half, n);
    // unroll
    for (var i = 0u; i < COLUMNS; i++) {
      let place = placeInStrip(lane, half * COLUMNS + i);
      if (!CHECKS_BOUNDS || (m + place.x < sizes.M && n + 4 * place.y < sizes.N)) {
        storeWith(these[i], bitcast<vec4f>(tiles[strip + place.x * STRIP_STRIDE + place.y]));
      }
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  // unless SYMMETRIC
  let tile = tileOf(group.xy, groups.xy);
  // only if SYMMETRIC
  let tile = tileBelow(group.x);
  let firstRow = tile.y * TILE_M;
  let firstColumn = tile.x * TILE_N;
  let subgroup = index / 32;
  let subgroupRow = subgroup / X * 16 * ROWS; // of the tile
  let subgroupColumn = subgroup % X * 16 * COLUMNS;
  let isInside = firstRow + subgroupRow < sizes.M && firstColumn + subgroupColumn < sizes.N;
  let matrix = select(0u, group.z, BATCH);
  let start = select(group.z, 0u, BATCH) * sizes.split;
  let end = min(start + sizes.split, sizes.K);

  // where the invocation's first vector of each operand lies, the step to its next one, and that to the next tile
  let aPlace = select(placeOf(index, A_TOGETHER), placeInLines(index), A_LINES);
  let bPlace = select(placeOf(index, B_TOGETHER), placeInLines(index), B_LINES);
  let aCorner = select(firstRow * sizes.aStride + start / 8, start * sizes.aStride + firstRow / 8, TRANSPOSE_A);
  let bCorner = select(start * sizes.bStride + firstColumn / 8, firstColumn * sizes.bStride + start / 8, TRANSPOSE_B);
  var aFirst = sizes.aStart + matrix * sizes.aMatrix + aCorner + aPlace.x * sizes.aStride + aPlace.y;
  var bFirst = matrix * sizes.bMatrix + bCorner + bPlace.x * sizes.bStride + bPlace.y;
  let aNext = A_ROWS * sizes.aStride + A_VECTORS;
  let bNext = B_ROWS * sizes.bStride + B_VECTORS;
  let aStep = select(TILE_K / 8, TILE_K * sizes.aStride, TRANSPOSE_A);
  let bStep = select(TILE_K * sizes.bStride, TILE_K / 8, TRANSPOSE_B);

  // the vector's place in a staged row, whether it is of the second step, and the way from there to the first vector that is
  // fetched a step later: of the line of row i + 4, with its halves exchanged, or of the next step
  let aVector = aPlace.y % A_WIDTH;
  let bVector = bPlace.y % B_WIDTH;
  let exchanges = (index & 4) != 0;
  let toOtherHalf = select(4u, 0xfffffffcu, exchanges); // 4 or -4
  let aOther = select(aStep, 4 * sizes.aStride + toOtherHalf, A_LINES);
  let bOther = select(bStep, 4 * sizes.bStride + toOtherHalf, B_LINES);

  var aFetched: array<vec4u, A_FETCHED>;
  var bFetched: array<vec4u, B_FETCHED>;
  // unroll
  for (var s = 0u; s < AHEAD; s++) {
    // unroll
    for (var i = 0u; i < A_FETCHES; i++) {
      aFetched[s * A_FETCHES + i] = a[aFirst + s * aOther + i * aNext];
    }
    // unroll
    for (var i = 0u; i < B_FETCHES; i++) {
      bFetched[s * B_FETCHES + i] = b[bFirst + s * bOther + i * bNext];
    }
  }
  aFirst += AHEAD * aStep;
  bFirst += AHEAD * bStep;
  var sums: array<Sum, SUMS>;
  var first = start;
  loop {
    // vectors of lines: first those of the first step
    // unless TRANSPOSE_A
    // unroll
    for (var i = 0u; i < A_FETCHES; i++) {
      let ofLine = aFetched[i];
      let ofOtherLine = aFetched[A_FETCHES + i];
      aFetched[i] = select(ofLine, ofOtherLine, exchanges);
      aFetched[A_FETCHES + i] = select(ofOtherLine, ofLine, exchanges);
    }
    // only if TRANSPOSE_B
    // unroll
    for (var i = 0u; i < B_FETCHES; i++) {
      let ofLine = bFetched[i];
      let ofOtherLine = bFetched[B_FETCHES + i];
      bFetched[i] = select(ofLine, ofOtherLine, exchanges);
      bFetched[B_FETCHES + i] = select(ofOtherLine, ofLine, exchanges);
    }
    // unroll
    for (var s = 0u; s < AHEAD; s++) {
      // unroll
      for (var i = 0u; i < A_FETCHES; i++) {
        let row = aPlace.x + i * A_ROWS + select(0u, 4u, A_LINES && exchanges == (s == 0));
        var eight = aFetched[s * A_FETCHES + i];
        // unless WHOLE_K
        eight = keep(eight, countOf(first + select(8 * aVector, row, TRANSPOSE_A), end, TRANSPOSE_A));
        tiles[row * A_STRIDE + aVector + i * A_VECTORS] = eight;
      }
      // unroll
      for (var i = 0u; i < B_FETCHES; i++) {
        let row = bPlace.x + i * B_ROWS + select(0u, 4u, B_LINES && exchanges == (s == 0));
        var eight = bFetched[s * B_FETCHES + i];
        // unless WHOLE_K
        eight = keep(eight, countOf(first + select(row, 8 * bVector, TRANSPOSE_B), end, !TRANSPOSE_B));
        tiles[A_SIZE + row * B_STRIDE + bVector + i * B_VECTORS] = eight;
      }
      workgroupBarrier();
      // In a branch, because NVIDIA's compiler would otherwise move the loads behind the products, to where they are
      // needed. Past the end the vectors stay what they were; they count as zero.
      if (first + (AHEAD - s) * TILE_K < end) {
        // unroll
        for (var i = 0u; i < A_FETCHES; i++) {
          aFetched[s * A_FETCHES + i] = a[aFirst + s * aOther + i * aNext];
        }
        // unroll
        for (var i = 0u; i < B_FETCHES; i++) {
          bFetched[s * B_FETCHES + i] = b[bFirst + s * bOther + i * bNext];
        }
      }
      // branch if SKIPS
      if (isInside) {
        // unroll
        for (var k = 0u; k < TILE_K; k += 16u) {
          var lefts: array<Left, ROWS>;
          // unroll
          for (var r = 0u; r < ROWS; r++) {
            let row = subgroupRow + 16 * r;
            // only if TRANSPOSE_A
            lefts[r] = subgroupMatrixLoad<Left, col_major>(&tiles, k * A_STRIDE + row / 8, A_STRIDE);
            // unless TRANSPOSE_A
            lefts[r] = subgroupMatrixLoad<Left, row_major>(&tiles, row * A_STRIDE + k / 8, A_STRIDE);
          }
          // unroll
          for (var c = 0u; c < COLUMNS; c++) {
            let column = subgroupColumn + 16 * c;
            // only if TRANSPOSE_B
            let right = subgroupMatrixLoad<Right, col_major>(&tiles, A_SIZE + column * B_STRIDE + k / 8, B_STRIDE);
            // unless TRANSPOSE_B
            let right = subgroupMatrixLoad<Right, row_major>(&tiles, A_SIZE + k * B_STRIDE + column / 8, B_STRIDE);
            // unroll
            for (var r = 0u; r < ROWS; r++) {
              sums[r * COLUMNS + c] = subgroupMatrixMultiplyAccumulate(lefts[r], right, sums[r * COLUMNS + c]);
            }
          }
        }
      }
      workgroupBarrier();
      first += TILE_K;
    }
    aFirst += AHEAD * aStep;
    bFirst += AHEAD * bStep;

    continuing {
      break if first >= end;
    }
  }

  // One strip after the other, in loops that a compiler does not write out. The places of sums are constants, so that
  // they are in registers.
  let strip = subgroup * STRIP_SIZE;
  let lane = index % 32;
  let matrixRow = group.z * sizes.M;
  let m = firstRow + subgroupRow;
  let n = firstColumn + subgroupColumn;
  let strips = min(ROWS, (sizes.M - firstRow + 15) / 16);
  var besides: array<Beside, COLUMNS>;
  // only if READS_AHEAD
  besides = besidesOf(lane, 0, matrixRow + m, n);
  for (var i = 0u; i < strips; i++) {
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      if (r == i) {
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
          subgroupMatrixStore<row_major>(&tiles, strip + 4 * c, sums[r * COLUMNS + c], STRIP_STRIDE);
        }
      }
    }
    workgroupBarrier();
    storeStrip(strip, lane, m + 16 * i, n, matrixRow, &besides);
    workgroupBarrier();
  }
  // the same sums, in columns: a strip has those of 16 columns of y, as rows
  // only if SYMMETRIC
  // only if READS_AHEAD
  besides = besidesOf(lane, 0, matrixRow + n, m);
  // only if SYMMETRIC
  for (var i = 0u; i < select(COLUMNS, 0u, tile.x == tile.y); i++) {
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      if (c == i) {
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          subgroupMatrixStore<col_major>(&tiles, strip + 4 * r, sums[r * COLUMNS + c], STRIP_STRIDE);
        }
      }
    }
    workgroupBarrier();
    storeStrip(strip, lane, n + 16 * i, m, matrixRow, &besides);
    workgroupBarrier();
  }
}
