// parameter = (1 - rate · decay) · parameter - rate · scale · x, for one matrix of each of L blocks.
// x: [G,m,n]; parameter, copy: [L,S], of which a matrix is a part as in momentum.wgsl
enable f16;

const WEIGHT_DECAY: f32 = 0.0;
const COPY: bool = true; // whether matrix products read an f16 copy of the parameter
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
  scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> update: Update;
@group(0) @binding(2) var<storage, read_write> parameter: array<f32>;
// only if COPY
@group(0) @binding(3) var<storage, read_write> copy: array<f16>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + index;
  if (i >= sizes.elements || update.skipped != 0) { return; }
  let row = i / sizes.outputs;
  let column = i % sizes.outputs;
  let stored = group.z * sizes.S + sizes.start + row * sizes.columns + column;
  let transposed = column * sizes.inputs + row;
  let direction = x[(sizes.first + group.z) * sizes.elements +
    select(i, transposed, sizes.outputs < sizes.inputs)];
  let rate = update.muonLearningRate;
  let value = parameter[stored] * (1.0 - rate * WEIGHT_DECAY) - rate * sizes.scale * direction;
  parameter[stored] = value;
  // only if COPY
  copy[stored] = f16(value);
}
