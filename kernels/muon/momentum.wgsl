// momentum = β · momentum + (1 - β) · g; x = β · momentum + (1 - β) · g, Nesterov's look-ahead.
// Needs struct Update from ../prepare_step/update.wgsl.
//
// A launch computes one matrix of each of L blocks, a part of a stored one: `outputs` of its `columns`, in each of `inputs`
// rows.   gradient, momentum: [L,S]; x: [G,inputs,outputs]; squares: [G,parts], sums of x² of workgroups
const BETA: f32 = 0.95;
const PART: u32 = 1024; // values per workgroup, a multiple of WORKGROUP_SIZE
const WORKGROUP_SIZE: u32 = 256;
alias value = vec4f; // four columns, or f32: one column
const COUNTED: f32 = 1.0; // how often vec4f(value) has each column, 1 or 4

struct Sizes { // all but first and parts count values
  S: u32, // of a block
  start: u32, // the matrix's first one in the first block
  columns: u32, // from one stored row to the next
  outputs: u32,
  elements: u32, // inputs · outputs
  first: u32, // number of the first block's matrix in x
  parts: u32,
}

@group(0) @binding(0) var<storage, read> gradient: array<value>; // with the loss scale
@group(0) @binding(1) var<storage, read> update: Update;
@group(0) @binding(2) var<storage, read_write> momentum: array<value>;
@group(0) @binding(3) var<storage, read_write> x: array<value>;
@group(0) @binding(4) var<storage, read_write> squares: array<f32>;
@group(0) @binding(5) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const EACH: u32 = PART / WORKGROUP_SIZE; // values per invocation

var<workgroup> shares: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let part = group.y * WORKGROUPS_PER_ROW + group.x;
  let matrix = sizes.first + group.z;
  let first = part * PART + index;
  // all values are loaded before any is stored, so that the loads overlap
  var places: array<u32, EACH>;
  var gradients: array<value, EACH>;
  var momenta: array<value, EACH>;
  // unroll
  for (var e = 0u; e < EACH; e++) {
    let i = first + e * WORKGROUP_SIZE;
    if (i < sizes.elements) {
      let row = i / sizes.outputs;
      let column = i % sizes.outputs;
      places[e] = group.z * sizes.S + sizes.start + row * sizes.columns + column;
      gradients[e] = gradient[places[e]];
      momenta[e] = momentum[places[e]];
    }
  }
  var sum = 0.0;
  // unroll
  for (var e = 0u; e < EACH; e++) {
    let i = first + e * WORKGROUP_SIZE;
    if (i < sizes.elements) {
      let g = gradients[e] * update.gradientFactor;
      let m = BETA * momenta[e] + (1.0 - BETA) * g;
      let ahead = BETA * m + (1.0 - BETA) * g;
      if (update.skipped == 0) { momentum[places[e]] = m; }
      x[matrix * sizes.elements + i] = ahead;
      sum += dot(vec4f(ahead), vec4f(ahead));
    }
  }
  shares[index] = sum;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (index < half) { shares[index] += shares[index + half]; }
  }
  if (index == 0 && part < sizes.parts) { squares[matrix * sizes.parts + part] = shares[0] / COUNTED; }
}
