// y = x / ‖x‖ for each matrix, so that no singular value is above 1, as the rounds need.
// x, y: [G,inputs,outputs]; squares: [G,parts], whose sum for a matrix is ‖x‖²
enable f16;

const PART: u32 = 1024; // values per workgroup, a multiple of WORKGROUP_SIZE
const WORKGROUP_SIZE: u32 = 256;
const LEAST_NORM: f32 = 1e-7; // by which x is divided
alias value = vec4f; // four columns, or f32: one column
alias yType = vec4<f16>;

struct Sizes {
  elements: u32, // values of a matrix
  parts: u32,
}

@group(0) @binding(0) var<storage, read> squares: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<value>;
@group(0) @binding(2) var<storage, read_write> y: array<yType>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const EACH: u32 = PART / WORKGROUP_SIZE; // values per invocation

var<workgroup> shares: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let part = group.y * WORKGROUPS_PER_ROW + group.x;
  let first = part * PART + index;
  // loaded before the norm is known, so that the loads overlap with its sum
  var values: array<value, EACH>;
  // unroll
  for (var e = 0u; e < EACH; e++) {
    let i = first + e * WORKGROUP_SIZE;
    if (i < sizes.elements) { values[e] = x[group.z * sizes.elements + i]; }
  }

  var sum = 0.0;
  for (var i = index; i < sizes.parts; i += WORKGROUP_SIZE) {
    sum += squares[group.z * sizes.parts + i];
  }
  shares[index] = sum;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (index < half) { shares[index] += shares[index + half]; }
  }
  workgroupBarrier();
  let factor = 1.0 / max(sqrt(shares[0]), LEAST_NORM);

  // unroll
  for (var e = 0u; e < EACH; e++) {
    let i = first + e * WORKGROUP_SIZE;
    if (i < sizes.elements) { y[group.z * sizes.elements + i] = yType(values[e] * factor); }
  }
}
