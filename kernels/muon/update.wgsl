// parameter = (1 - rate · decay) · parameter - rate · scale · x, for one matrix of each of L blocks.
// Needs struct Update from ../prepare_step/update.wgsl.
// x: [G,inputs,outputs]; parameter, copy: [L,S], of which a matrix is a part as in momentum.wgsl
enable f16;

const WEIGHT_DECAY: f32 = 0.0;
const COPY: bool = true; // whether matrix products read an f16 copy of the parameter
const WORKGROUP_SIZE: u32 = 256;
alias value = vec4f; // four columns, or f32: one column
alias xType = vec4f;
// only if COPY
alias copyType = vec4<f16>;

struct Sizes { // the first five count values
  S: u32, // of a block
  start: u32, // the matrix's first one in the first block
  columns: u32, // from one stored row to the next
  outputs: u32,
  elements: u32, // inputs · outputs
  first: u32, // number of the first block's matrix in x
  scale: f32,
}

@group(0) @binding(0) var<storage, read> x: array<xType>;
@group(0) @binding(1) var<storage, read> update: Update;
@group(0) @binding(2) var<storage, read_write> parameter: array<value>;
// only if COPY
@group(0) @binding(3) var<storage, read_write> copy: array<copyType>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + index;
  if (i >= sizes.elements || update.skipped != 0) { return; }
  let row = i / sizes.outputs;
  let column = i % sizes.outputs;
  let stored = group.z * sizes.S + sizes.start + row * sizes.columns + column;
  let direction = value(x[(sizes.first + group.z) * sizes.elements + i]);
  let rate = update.muonLearningRate;
  let moved = parameter[stored] * (1.0 - rate * WEIGHT_DECAY) - rate * sizes.scale * direction;
  parameter[stored] = moved;
  // only if COPY
  copy[stored] = copyType(moved);
}
