// sums[i] = sums of the columns of block i of the rows of x.   x: [M,N]; sums: [blocks,N], set or accumulated
//
// dbias is the sum of the rows of dy: one launch adds up the rows of each block, another one the blocks. A workgroup
// adds up COLUMNS columns of one block: each of its SHARES rows of invocations adds up every SHARES-th row, and a
// tree adds up the shares. Without atomics, the order of summation is fixed.
enable f16;

alias xType = vec4<f16>; // four columns if N is a multiple of four, or else one
alias value = vec4f; // as many columns, in which sums are computed
const COLUMNS: u32 = 16;
const SHARES: u32 = 8; // a power of two

struct Sizes {
  M: u32,
  N: u32, // in units of xType
  block: u32, // rows per block
  accumulate: u32, // whether to add to sums
}

@group(0) @binding(0) var<storage, read> x: array<xType>;
@group(0) @binding(1) var<storage, read_write> sums: array<value>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const STRIDE: u32 = 8 * SHARES;
const INVOCATIONS: u32 = COLUMNS * SHARES;
var<workgroup> shares: array<value, INVOCATIONS>;

@compute @workgroup_size(COLUMNS, SHARES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let n = group.x * COLUMNS + local.x;
  let first = group.y * sizes.block;
  let end = min(first + sizes.block, sizes.M);
  let inside = n < sizes.N; // out-of-range columns do no work but must reach every barrier
  var sum = value();
  if (inside) {
    for (var m = first + local.y; m < end; m += STRIDE) {
      // eight rows are read before they are added, so that the loads overlap
      // unroll
      for (var i = 0u; i < 8u; i++) {
        let row = m + i * SHARES;
        sum += select(value(), value(x[min(row, end - 1) * sizes.N + n]), row < end);
      }
    }
  }
  let place = local.y * COLUMNS + local.x;
  shares[place] = sum;
  for (var half = SHARES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.y < half) { shares[place] += shares[place + half * COLUMNS]; }
  }
  if (local.y != 0 || !inside) { return; }
  sum = shares[place];
  let i = group.y * sizes.N + n;
  if (sizes.accumulate != 0) { sum += sums[i]; }
  sums[i] = sum;
}
