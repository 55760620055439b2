// y = a · b (+ bias), or y += a · b.   a: [M,K] or [K,M] transposed; b: [K,N]; bias: [N]; y: [M,N]
//
// The case of matmul.wgsl in which every dimension is a multiple of four: four steps of k at a time,
// all loads and stores are vectors of four.
enable f16;

alias aType = vec4<f16>;
alias bType = vec4<f16>;
alias yType = vec4<f16>;
const M: u32 = 4;
const N: u32 = 4;
const K: u32 = 4;
const TRANSPOSE_A: bool = false;
const A_STRIDE: u32 = 4; // elements from one row of a, as stored, to the next
const Y_STRIDE: u32 = 4; // elements from one row of y to the next
const HAS_BIAS: bool = false;
const ACCUMULATE: bool = false;
const ROWS: u32 = 8;
const COLUMNS: u32 = 2; // vectors of four
const WORKGROUP_X: u32 = 8;
const WORKGROUP_Y: u32 = 8;

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<yType>;
@group(0) @binding(4) var<uniform> start: vec4u; // first element of a, and first column of y

const SUMS: u32 = ROWS * COLUMNS;
const N4: u32 = N / 4;
const A4: u32 = A_STRIDE / 4;
const Y4: u32 = Y_STRIDE / 4;

@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * WORKGROUP_Y + local.y) * ROWS;
  let column = group.x * WORKGROUP_X * COLUMNS + local.x; // of vectors
  if (row >= M || column >= N4) { return; }

  // Eight vectors of a for four steps of k: along k one a row, or transposed along the rows two a
  // step. Indices past the edge are clamped, and what comes of them is never stored.
  var aIndex: array<u32, ROWS>;
  // unroll
  for (var i = 0u; i < ROWS; i++) {
    let transposed = i / 2 * A4 + min(row / 4 + i % 2, M / 4 - 1);
    aIndex[i] = start.x / 4 + select(min(row + i, M - 1) * A4, transposed, TRANSPOSE_A);
  }
  const A_STEP = select(1u, 4 * A4, TRANSPOSE_A);
  var bIndex: array<u32, COLUMNS>;
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    bIndex[c] = min(column + c * WORKGROUP_X, N4 - 1);
  }

  var sums: array<vec4f, SUMS>;
  for (var k4 = 0u; k4 < K / 4; k4++) {
    var as4: array<vec4f, ROWS>;
    // unroll
    for (var i = 0u; i < ROWS; i++) {
      as4[i] = vec4f(a[aIndex[i] + k4 * A_STEP]);
    }
    // unroll
    for (var k = 0u; k < 4u; k++) {
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let bc = vec4f(b[bIndex[c] + (k4 * 4 + k) * N4]);
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          const FROM = select(r, 2 * k + r / 4, TRANSPOSE_A);
          const LANE = select(k, r % 4, TRANSPOSE_A);
          sums[r * COLUMNS + c] += as4[FROM][LANE] * bc;
        }
      }
    }
  }

  // unroll
  for (var r = 0u; r < ROWS; r++) {
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      let n = column + c * WORKGROUP_X;
      if (row + r < M && n < N4) {
        let i = start.y / 4 + (row + r) * Y4 + n;
        var sum = sums[r * COLUMNS + c];
        if (HAS_BIAS) { sum += bias[n]; }
        if (ACCUMULATE) { sum += vec4f(y[i]); }
        y[i] = yType(sum);
      }
    }
  }
}
