// dbias = sum of dy over its rows.   dy: [M,N]; dbias: [N], set or accumulated
//
// A workgroup takes COLUMNS columns; each of its SHARES rows of invocations sums every SHARES-th
// row of dy, and the first adds up the shares: no atomics, one order of summation.
enable f16;

alias real = f16; // element type of dy
const M: u32 = 1;
const N: u32 = 1;
const ACCUMULATE: bool = false;
const COLUMNS: u32 = 32;
const SHARES: u32 = 8;

@group(0) @binding(0) var<storage, read> dy: array<real>;
@group(0) @binding(1) var<storage, read_write> dbias: array<f32>;

const SUMS: u32 = COLUMNS * SHARES;
var<workgroup> sums: array<f32, SUMS>;

@compute @workgroup_size(COLUMNS, SHARES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let n = group.x * COLUMNS + local.x;
  var sum = 0.0;
  if (n < N) {
    for (var m = local.y; m < M; m += SHARES) {
      sum += f32(dy[m * N + n]);
    }
  }
  sums[local.y * COLUMNS + local.x] = sum;
  workgroupBarrier();
  if (local.y != 0 || n >= N) { return; }
  sum = 0.0;
  for (var share = 0u; share < SHARES; share++) {
    sum += sums[share * COLUMNS + local.x];
  }
  if (ACCUMULATE) { sum += dbias[n]; }
  dbias[n] = sum;
}
