// y = sum of x; set or accumulated.   x: [N]; y: [1]
//
// One workgroup: each invocation adds up every WORKGROUP_SIZE-th element, a tree adds the shares.
const ACCUMULATE: bool = false;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;

var<workgroup> shares: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_id) local: vec3u) {
  var share = 0.0;
  for (var i = local.x; i < arrayLength(&x); i += WORKGROUP_SIZE) {
    share += x[i];
  }
  shares[local.x] = share;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.x < half) { shares[local.x] += shares[local.x + half]; }
  }
  if (local.x != 0) { return; }
  y[0] = shares[0] + select(0.0, y[0], ACCUMULATE);
}
