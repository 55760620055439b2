// momentum = β · momentum + (1 - β) · g, and x = β · momentum + (1 - β) · g, Nesterov's look-ahead, for one matrix of
// each of L blocks.   gradient, momentum: [L,S]; x: [G,m,n]; squares: [G,parts], sums of x² of each workgroup
//
// A matrix is a part of a stored one: `outputs` of its `columns`, in each of `inputs` rows. x has the rows of the
// matrix, or its columns if these are fewer.
const BETA: f32 = 0.95;
const PART: u32 = 1024; // elements per workgroup
const WORKGROUP_SIZE: u32 = 256;

struct Update { // of prepare_step.wgsl
  learningRate: f32,
  gradientFactor: f32,
  step: u32,
  skipped: u32, // 1 if nothing changes
  muonLearningRate: f32,
}

struct Sizes {
  S: u32, // elements of a block
  start: u32, // the matrix's first element in a block
  columns: u32,
  elements: u32, // inputs · outputs
  inputs: u32,
  outputs: u32,
  first: u32, // number of the first block's matrix in x
  parts: u32,
}

@group(0) @binding(0) var<storage, read> gradient: array<f32>; // with the loss scale
@group(0) @binding(1) var<storage, read> update: Update;
@group(0) @binding(2) var<storage, read_write> momentum: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> squares: array<f32>;
@group(0) @binding(5) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

var<workgroup> shares: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let part = group.y * WORKGROUPS_PER_ROW + group.x;
  let matrix = sizes.first + group.z;
  var sum = 0.0;
  for (var i = part * PART + index; i < min((part + 1) * PART, sizes.elements); i += WORKGROUP_SIZE) {
    let row = i / sizes.outputs;
    let column = i % sizes.outputs;
    let stored = group.z * sizes.S + sizes.start + row * sizes.columns + column;
    let g = gradient[stored] * update.gradientFactor;
    let m = BETA * momentum[stored] + (1.0 - BETA) * g;
    let ahead = BETA * m + (1.0 - BETA) * g;
    if (update.skipped == 0) { momentum[stored] = m; }
    let transposed = column * sizes.inputs + row;
    x[matrix * sizes.elements + select(i, transposed, sizes.outputs < sizes.inputs)] = ahead;
    sum += ahead * ahead;
  }
  shares[index] = sum;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (index < half) { shares[index] += shares[index + half]; }
  }
  if (index == 0 && part < sizes.parts) { squares[matrix * sizes.parts + part] = shares[0]; }
}
