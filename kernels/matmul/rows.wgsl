// y = a · bᵀ (+ bias), or y += a · bᵀ.   a: [M,K]; b: [N,K]; bias: [N]; y: [M,N]
//
// The case of matmul.wgsl in which both operands lie along K: four steps of k at a time come
// in one vector. N need not be a multiple of anything, since y is written number by number.
enable f16;

alias aType = vec4<f16>;
alias bType = vec4<f16>;
alias yType = f16;
const M: u32 = 1;
const N: u32 = 1;
const K: u32 = 4;
const A_STRIDE: u32 = 4; // from one row of a to the next
const Y_STRIDE: u32 = 1;
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
const QUADS: u32 = K / 4;

@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * WORKGROUP_Y + local.y) * ROWS;
  let column = group.x * WORKGROUP_X * COLUMNS + local.x;
  if (row >= M || column >= N) { return; }

  var aIndex: array<u32, ROWS>;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    aIndex[r] = start.x / 4 + min(row + r, M - 1) * (A_STRIDE / 4);
  }
  var bIndex: array<u32, COLUMNS>;
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    bIndex[c] = min(column + c * WORKGROUP_X, N - 1) * QUADS;
  }

  var sums: array<f32, SUMS>;
  for (var k = 0u; k < QUADS; k++) {
    var bs: array<vec4f, COLUMNS>;
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      bs[c] = vec4f(b[bIndex[c] + k]);
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      let ar = vec4f(a[aIndex[r] + k]);
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let i = r * COLUMNS + c;
        var sum = fma(ar.x, bs[c].x, sums[i]);
        sum = fma(ar.y, bs[c].y, sum);
        sum = fma(ar.z, bs[c].z, sum);
        sums[i] = fma(ar.w, bs[c].w, sum);
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
