// AdamW with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).
// gradient, parameter, m, v: [N] in vectors of four; store() comes from master.wgsl or with_copy.wgsl
enable f16;

const N: u32 = 1; // vectors of four
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.0;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> gradient: array<vec4f>; // with the loss scale
@group(0) @binding(1) var<storage, read> update: vec4f; // gradient factor, corrections 1 and 2, skipped
@group(0) @binding(2) var<storage, read> stepInputs: array<f32>; // learning rate
@group(0) @binding(3) var<storage, read_write> parameter: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4f>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= N || update.w != 0.0) { return; }
  let learningRate = stepInputs[0];
  let g = gradient[i] * update.x;
  m[i] = BETA1 * m[i] + (1.0 - BETA1) * g;
  v[i] = BETA2 * v[i] + (1.0 - BETA2) * g * g;
  let step = m[i] * update.y / (sqrt(v[i]) * update.z + EPSILON);
  store(i, parameter[i] * (1.0 - learningRate * WEIGHT_DECAY) - learningRate * step);
}
