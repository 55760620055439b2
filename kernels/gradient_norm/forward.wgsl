// For each block of BLOCK elements: the sum of (gradient / lossScale)², and whether any is not finite.
// gradient: [N]; partials: [blocks,2], the flag as 0 or 1
//
// x != x and the like are optimised away by compilers that assume finite numbers: only the exponent's
// bits tell.
const N: u32 = 1;
const BLOCK: u32 = 2048;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> gradient: array<f32>;
@group(0) @binding(1) var<storage, read> lossScale: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec2f>;
@group(0) @binding(3) var<uniform> start: vec4u; // first block of this launch

var<workgroup> sums: array<f32, WORKGROUP_SIZE>;
var<workgroup> found: array<u32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let block = group.y * 32768 + group.x;
  let inverse = 1.0 / lossScale[0];
  var sum = 0.0;
  var nonFinite = 0u;
  let end = min((block + 1) * BLOCK, N);
  for (var i = block * BLOCK + local.x; i < end; i += WORKGROUP_SIZE) {
    let value = gradient[i];
    if ((bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u) { nonFinite = 1; }
    sum += (value * inverse) * (value * inverse);
  }
  sums[local.x] = sum;
  found[local.x] = nonFinite;
  workgroupBarrier();
  if (local.x != 0 || block * BLOCK >= N) { return; }
  for (var i = 1u; i < WORKGROUP_SIZE; i++) {
    sum += sums[i];
    nonFinite |= found[i];
  }
  partials[start.x + block] = vec2f(sum, f32(nonFinite));
}
