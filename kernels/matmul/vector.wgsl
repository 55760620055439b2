// y = x · b (+ bias) for a single row x.   x: [K]; b: [K,N] or [N,K] transposed; bias: [N]; y: [N]
//
// What generation runs: one token at a time. Each invocation sums one column, or with b transposed
// one row, over a share of K; the shares meet in workgroup memory.
enable f16;

alias aType = f16;
alias bType = f16;
alias yType = f16;
const N: u32 = 1;
const K: u32 = 1;
const TRANSPOSE_B: bool = false;
const HAS_BIAS: bool = false;
const WORKGROUP_X: u32 = 32; // columns of y
const WORKGROUP_Y: u32 = 8; // shares of K

@group(0) @binding(0) var<storage, read> x: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<yType>;

const SHARES: u32 = WORKGROUP_X * WORKGROUP_Y;
var<workgroup> shares: array<f32, SHARES>;

@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let n = group.x * WORKGROUP_X + local.x;
  const B_STEP = select(N, 1u, TRANSPOSE_B);
  let first = min(n, N - 1) * select(1u, K, TRANSPOSE_B);
  var sum = 0.0;
  for (var k = local.y; k < K; k += WORKGROUP_Y) {
    sum += f32(x[k]) * f32(b[first + k * B_STEP]);
  }
  shares[local.y * WORKGROUP_X + local.x] = sum;
  workgroupBarrier();
  if (local.y != 0 || n >= N) { return; }
  sum = 0.0;
  for (var share = 0u; share < WORKGROUP_Y; share++) {
    sum += shares[share * WORKGROUP_X + local.x];
  }
  if (HAS_BIAS) { sum += bias[n]; }
  y[n] = yType(sum);
}
