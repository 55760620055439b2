// y = sum of x; set or accumulated.   x: [N]; y: [1]
//
// One workgroup: each invocation adds up every WORKGROUP_SIZE-th element, the first adds the shares.
const N: u32 = 1;
const ACCUMULATE: bool = false;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> shares: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_id) local: vec3u) {
  var sum = 0.0;
  for (var i = local.x; i < N; i += WORKGROUP_SIZE) {
    sum += x[i];
  }
  shares[local.x] = sum;
  workgroupBarrier();
  if (local.x != 0) { return; }
  sum = 0.0;
  for (var i = 0u; i < WORKGROUP_SIZE; i++) {
    sum += shares[i];
  }
  if (ACCUMULATE) { sum += y[0]; }
  y[0] = sum;
}
