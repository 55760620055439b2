// Adds 1 to the bucket of every number of x, by sign and power of two.   x: [N]; counts: [BUCKETS]
//
// The bits of a number decide, since a device may round subnormal numbers to zero when it computes with them. x is read
// as words, each of one f32 or two f16. Integers are added atomically, so the order does not matter.
const HALVES: bool = false; // whether x is f16
const WORKGROUP_SIZE: u32 = 256;
const EXPONENTS: u32 = 277; // buckets of positive numbers: powers of two from 2^-149 to 2^127

struct Sizes {
  N: u32,
  block: u32, // numbers per workgroup
}

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<atomic<u32>>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const ZEROS: u32 = 2 * EXPONENTS; // after the buckets of positive numbers, and those of negative ones
const NOT_FINITE: u32 = ZEROS + 1;
const GREATEST: u32 = ZEROS + 2; // the greatest key of a finite number
const LEAST: u32 = ZEROS + 3; // the complement of the least key
const BUCKETS: u32 = ZEROS + 4;

const MAGNITUDE: u32 = 0x7fffffff; // the bits of an f32 without its sign
const INFINITY: u32 = 0x7f800000;

var<workgroup> bins: array<atomic<u32>, BUCKETS>;

// The bits of an f16 as those of an f32.
fn widened(half: u32) -> u32 {
  let sign = (half & 0x8000) << 16;
  let exponent = (half >> 10) & 31;
  let mantissa = half & 1023;
  if (exponent == 31) { return sign | INFINITY | mantissa; }
  if (exponent > 0) { return sign | ((exponent + 112) << 23) | (mantissa << 13); }
  if (mantissa == 0) { return sign; }
  let power = firstLeadingBit(mantissa); // subnormal: mantissa · 2^-24
  return sign | ((power + 103) << 23) | ((mantissa << (23 - power)) & 0x7fffff);
}

// The bits of number i as an f32.
fn bitsAt(i: u32) -> u32 {
  var bits = x[i];
  // only if HALVES
  bits = widened((x[i / 2] >> (16 * (i % 2))) & 0xffff);
  return bits;
}

// The bucket of a number; in one that is subnormal, the highest bit that is set gives the power of two.
fn bucketOf(bits: u32) -> u32 {
  let magnitude = bits & MAGNITUDE;
  let exponent = magnitude >> 23;
  if (magnitude == 0) { return ZEROS; }
  if (magnitude >= INFINITY) { return NOT_FINITE; }
  let power = select(exponent + 22, firstLeadingBit(magnitude), exponent == 0);
  return power + select(0, EXPONENTS, bits != magnitude);
}

// A key for each number, which is greater for a greater number.
fn keyOf(bits: u32) -> u32 {
  return select(bits | 0x80000000, ~bits, bits > MAGNITUDE);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let first = (group.y * WORKGROUPS_PER_ROW + group.x) * sizes.block;
  let end = min(first + sizes.block, sizes.N);
  var greatest = 0u;
  var least = 0u;
  for (var i = first + local.x; i < end; i += WORKGROUP_SIZE) {
    let bits = bitsAt(i);
    let bucket = bucketOf(bits);
    atomicAdd(&bins[bucket], 1);
    if (bucket != NOT_FINITE) {
      greatest = max(greatest, keyOf(bits));
      least = max(least, ~keyOf(bits));
    }
  }
  atomicMax(&bins[GREATEST], greatest);
  atomicMax(&bins[LEAST], least);
  workgroupBarrier();
  for (var bucket = local.x; bucket < BUCKETS; bucket += WORKGROUP_SIZE) {
    let count = atomicLoad(&bins[bucket]);
    if (count == 0) { continue; }
    if (bucket < GREATEST) { atomicAdd(&counts[bucket], count); } else { atomicMax(&counts[bucket], count); }
  }
}
