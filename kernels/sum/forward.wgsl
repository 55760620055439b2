// y[place] = sum of x; without a place y[0] = sum of x.   x: [N]; place: [1]; y: [R]
//
// One workgroup sums all: each invocation every WORKGROUP_SIZE-th element, and a tree reduction their shares. An
// invocation sums runs of RUN terms, RUN such sums, and then these: for a million equal terms, whose rounding
// errors do not cancel, a single running sum is off by up to 6e-5, this sum by 5e-7.
const PLACED: bool = true;
const WORKGROUP_SIZE: u32 = 256;
const RUN: u32 = 16;

@group(0) @binding(0) var<storage, read> x: array<f32>;
// only if PLACED
@group(0) @binding(1) var<storage, read> place: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

var<workgroup> shares: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_id) local: vec3u) {
  var sums = vec3f(); // of a run, of runs, and of all before
  var count = 0u;
  for (var i = local.x; i < arrayLength(&x); i += WORKGROUP_SIZE) {
    sums.x += x[i];
    count++;
    if (count % RUN == 0) { sums = vec3f(0.0, sums.y + sums.x, sums.z); }
    if (count % (RUN * RUN) == 0) { sums = vec3f(0.0, 0.0, sums.z + sums.y); }
  }
  shares[local.x] = sums.x + sums.y + sums.z;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.x < half) { shares[local.x] += shares[local.x + half]; }
  }
  if (local.x != 0) { return; }
  var i = 0u;
  // only if PLACED
  i = place[0];
  y[i] = shares[0];
}
