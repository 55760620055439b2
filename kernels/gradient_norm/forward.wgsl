// Per block: the sum of (gradient / lossScale)², and a number above 0 if an element is not finite.
// gradient: [N] in vectors of four; partials: [blocks,2]
//
// Numbers that are not finite are found by the bits of their exponent, because compilers that assume finite
// numbers remove comparisons such as x != x.
const WORKGROUP_SIZE: u32 = 256;

struct Sizes {
  firstBlock: u32, // number of this launch's first block
  block4: u32, // vectors per block
}

@group(0) @binding(0) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(1) var<storage, read> lossScale: array<f32>;
@group(0) @binding(2) var<storage, read_write> partials: array<vec2f>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

var<workgroup> shares: array<vec2f, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let inverse = 1.0 / lossScale[0];
  let first = group.x * sizes.block4;
  let end = min(first + sizes.block4, arrayLength(&gradient));
  var squares = vec4f();
  var nonFinite = vec4<bool>();
  for (var i = first + local.x; i < end; i += WORKGROUP_SIZE) {
    let four = gradient[i];
    nonFinite |= (bitcast<vec4u>(four) & vec4u(0x7f800000)) == vec4u(0x7f800000);
    squares += (four * inverse) * (four * inverse);
  }
  shares[local.x] = vec2f(dot(squares, vec4f(1.0)), f32(any(nonFinite)));
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.x < half) { shares[local.x] += shares[local.x + half]; }
  }
  if (local.x == 0) { partials[sizes.firstBlock + group.x] = shares[0]; }
}
