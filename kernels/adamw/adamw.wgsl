// AdamW with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).
// Needs struct Update from ../prepare_step/update.wgsl.
// gradient, parameter, m, v, copy: [N] in vectors of four; corrections: [K], of both moments.
enable f16;

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.0;
const COPY: bool = true; // whether matrix products read an f16 copy of the parameter
const DENSE: u32 = 1; // rows of corrections that hold consecutive t, from 1 on
const STRIDE: u32 = 1; // step of t from row to row after them
const WORKGROUP_SIZE: u32 = 256;

struct Sizes {
  N4: u32, // N / 4
}

@group(0) @binding(0) var<storage, read> gradient: array<vec4f>; // with the loss scale
@group(0) @binding(1) var<storage, read> update: Update;
@group(0) @binding(2) var<storage, read> corrections: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> parameter: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> m: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> v: array<vec4f>;
// only if COPY
@group(0) @binding(6) var<storage, read_write> copy: array<vec4<f16>>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

// 1 / (1 - beta1^t) and 1 / sqrt(1 - beta2^t); between rows both are nearly linear in t.
fn correctionsOf(t: u32) -> vec2f {
  let last = arrayLength(&corrections) - 1;
  if (t <= DENSE) { return corrections[min(t - 1, last)]; }
  let beyond = t - DENSE;
  let row = DENSE - 1 + beyond / STRIDE;
  let share = f32(beyond % STRIDE) / f32(STRIDE);
  return mix(corrections[min(row, last)], corrections[min(row + 1, last)], share);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.N4 || update.skipped != 0) { return; }
  let learningRate = update.learningRate;
  let correction = correctionsOf(update.step);
  let g = gradient[i] * update.gradientFactor;
  m[i] = BETA1 * m[i] + (1.0 - BETA1) * g;
  v[i] = BETA2 * v[i] + (1.0 - BETA2) * g * g;
  let step = m[i] * correction.x / (sqrt(v[i]) * correction.y + EPSILON);
  let value = parameter[i] * (1.0 - learningRate * WEIGHT_DECAY) - learningRate * step;
  parameter[i] = value;
  // only if COPY
  copy[i] = vec4<f16>(value);
}
