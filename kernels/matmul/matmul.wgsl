// y = a · b (+ bias), or y += a · b.   a: [M,K] or [K,M] transposed; b: [K,N] or [N,K] transposed; bias: [N]; y: [M,N]
//
// Each invocation keeps ROWS × COLUMNS sums in registers and walks K once: ROWS + COLUMNS loads feed
// ROWS · COLUMNS multiply-adds. An invocation's columns lie WORKGROUP_X apart, so that neighbours read
// and write neighbouring elements. Past the edge indices are clamped, not tested: the loop has no
// tail, and what it computes there is never stored. This kernel takes any size; where dimensions are
// multiples of four, quads.wgsl and rows.wgsl load vectors.
enable f16;

alias aType = f16;
alias bType = f16;
alias yType = f16;
const M: u32 = 1;
const N: u32 = 1;
const K: u32 = 1;
const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false;
const A_STRIDE: u32 = 1; // elements from one row of a, as stored, to the next
const Y_STRIDE: u32 = 1; // elements from one row of y to the next
const HAS_BIAS: bool = false;
const ACCUMULATE: bool = false;
const ROWS: u32 = 8;
const COLUMNS: u32 = 8;
const WORKGROUP_X: u32 = 8;
const WORKGROUP_Y: u32 = 8;

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
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
  const B_STEP = select(N, 1u, TRANSPOSE_B);
  var aIndex: array<u32, ROWS>;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    aIndex[r] = start.x + min(row + r, M - 1) * select(A_STRIDE, 1u, TRANSPOSE_A);
  }
  var bIndex: array<u32, COLUMNS>;
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    bIndex[c] = min(column + c * WORKGROUP_X, N - 1) * select(1u, K, TRANSPOSE_B);
  }

  var sums: array<f32, SUMS>;
  for (var k = 0u; k < K; k++) {
    var bs: array<f32, COLUMNS>;
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      bs[c] = f32(b[bIndex[c] + k * B_STEP]);
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
        if (ACCUMULATE) { sum += f32(y[i]); }
        y[i] = yType(sum);
      }
    }
  }
}
