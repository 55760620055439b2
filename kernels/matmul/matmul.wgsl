// y = a · b (+ bias), or y += a · b.   a: [M,K] or [K,M] transposed; b: [K,N] or [N,K] transposed; bias: [N]; y: [M,N]
//
// Each invocation keeps ROWS × COLUMNS sums in registers and walks K once: ROWS + COLUMNS loads feed
// ROWS · COLUMNS multiply-adds. A column is a single number, or four side by side where N allows
// it (four lanes). An invocation's columns lie WORKGROUP_X apart, so that neighbours read and write
// neighbouring elements. Past the edge indices are clamped, not tested: the loop has no tail, and
// what it computes there is never stored.
enable f16;

alias aType = f16;
alias bType = f16; // one or four lanes: f16 or vec4<f16>
alias yType = f16; // one or four lanes
alias sumType = f32; // one or four lanes
const M: u32 = 1;
const N: u32 = 1; // in columns of one or four lanes, as are B_STRIDE and Y_STRIDE
const K: u32 = 1;
const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false; // with one lane only
const A_STRIDE: u32 = 1; // from one row of a, as stored, to the next
const B_STRIDE: u32 = 1;
const Y_STRIDE: u32 = 1;
const HAS_BIAS: bool = false;
const ACCUMULATE: bool = false;
const ROWS: u32 = 8;
const COLUMNS: u32 = 8;
const WORKGROUP_X: u32 = 8;
const WORKGROUP_Y: u32 = 8;

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;
@group(0) @binding(2) var<storage, read> bias: array<sumType>;
@group(0) @binding(3) var<storage, read_write> y: array<yType>;
@group(0) @binding(4) var<uniform> start: vec4u; // first element of a, and first column of y

const SUMS: u32 = ROWS * COLUMNS;

@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * WORKGROUP_Y + local.y) * ROWS;
  let column = group.x * WORKGROUP_X * COLUMNS + local.x;
  if (row >= M || column >= N) { return; }

  // where each row of a and column of b begins, and how far one step of k goes
  const A_STEP = select(1u, A_STRIDE, TRANSPOSE_A);
  const B_STEP = select(B_STRIDE, 1u, TRANSPOSE_B);
  var aIndex: array<u32, ROWS>;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    aIndex[r] = start.x + min(row + r, M - 1) * select(A_STRIDE, 1u, TRANSPOSE_A);
  }
  var bIndex: array<u32, COLUMNS>;
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    bIndex[c] = min(column + c * WORKGROUP_X, N - 1) * select(1u, B_STRIDE, TRANSPOSE_B);
  }

  var sums: array<sumType, SUMS>;
  for (var k = 0u; k < K; k++) {
    var bs: array<sumType, COLUMNS>;
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      bs[c] = sumType(b[bIndex[c] + k * B_STEP]);
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      let ar = f32(a[aIndex[r] + k * A_STEP]);
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
      if (row + r < M && n < N) {
        let i = start.y + (row + r) * Y_STRIDE + n;
        var sum = sums[r * COLUMNS + c];
        if (HAS_BIAS) { sum += bias[n]; }
        if (ACCUMULATE) { sum += sumType(y[i]); }
        y[i] = yType(sum);
      }
    }
  }
}
