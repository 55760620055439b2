// y = a · b.   a: [M,K], or [K,M] transposed; b: [K,N], or [N,K] transposed; y: [M,N]; any sizes; or a batch of each
// Needs Sizes and store() from epilogue.wgsl with value = f32, yType = f16, FOUR_COLUMNS = false.
//
// The simplest kernel: each invocation keeps ROWS × COLUMNS sums in registers and loops over K, with
// ROWS + COLUMNS loads and ROWS · COLUMNS multiply-adds per step. The rows of an invocation are consecutive, its
// columns lie WORKGROUP_X apart, so that neighbours read and write neighbouring elements. With WORKGROUP_X = 4 and
// ROWS = COLUMNS = 2, the invocations (x,y) of a workgroup have
//
//                   column 0   1   2   3   4   5   6   7
//     rows 0 and 1        0,0 1,0 2,0 3,0 0,0 1,0 2,0 3,0
//     rows 2 and 3        0,1 1,1 2,1 3,1 0,1 1,1 2,1 3,1
//
// Indices past the edges are clamped and not tested, so that the loop has no branches; their sums are not stored.
enable f16;

alias aType = f16;
alias bType = f16;
const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false;
const ROWS: u32 = 8;
const COLUMNS: u32 = 8;
const WORKGROUP_X: u32 = 8;
const WORKGROUP_Y: u32 = 8;

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;

const SUMS: u32 = ROWS * COLUMNS;

@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * WORKGROUP_Y + local.y) * ROWS;
  let column = group.x * WORKGROUP_X * COLUMNS + local.x;
  if (row >= sizes.M || column >= sizes.N) { return; }

  // the first index of each row of a and each column of b, and the step of the index from k to k + 1
  let aStep = select(1u, sizes.aStride, TRANSPOSE_A);
  let bStep = select(sizes.bStride, 1u, TRANSPOSE_B);
  let aFirst = sizes.aStart + group.z * sizes.aMatrix;
  var aIndex: array<u32, ROWS>;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    aIndex[r] = aFirst + min(row + r, sizes.M - 1) * select(sizes.aStride, 1u, TRANSPOSE_A);
  }
  var bIndex: array<u32, COLUMNS>;
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    bIndex[c] = group.z * sizes.bMatrix + min(column + c * WORKGROUP_X, sizes.N - 1) * select(1u, sizes.bStride, TRANSPOSE_B);
  }

  var sums: array<f32, SUMS>;
  for (var k = 0u; k < sizes.K; k++) {
    var bs: array<f32, COLUMNS>;
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      bs[c] = f32(b[bIndex[c] + k * bStep]);
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      let ar = f32(a[aIndex[r] + k * aStep]);
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        sums[r * COLUMNS + c] += ar * bs[c];
      }
    }
  }

  // unroll
  for (var r = 0u; r < ROWS; r++) {
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      let n = column + c * WORKGROUP_X;
      if (row + r < sizes.M && n < sizes.N) { store(group.z * sizes.M + row + r, n, sums[r * COLUMNS + c]); }
    }
  }
}
