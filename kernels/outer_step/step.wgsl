// DiLoCo's outer step (Douillard et al. 2023, https://arxiv.org/abs/2311.08105): SGD with Nesterov momentum.
// weights, start, momentum, copy: [N] in vectors of four.
enable f16;

const RANK_SHARE: f32 = 0.5; // 1 / ranks
const LEARNING_RATE: f32 = 0.7;
const DECAY: f32 = 0.9; // of the momentum
const COPY: bool = true; // whether matrix products read an f16 copy of the weights
const WORKGROUP_SIZE: u32 = 256;

struct Sizes {
  N4: u32, // N / 4
}

@group(0) @binding(0) var<storage, read_write> weights: array<vec4f>; // at first the sum of outer gradients
@group(0) @binding(1) var<storage, read_write> start: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> momentum: array<vec4f>;
// only if COPY
@group(0) @binding(3) var<storage, read_write> copy: array<vec4<f16>>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.N4) { return; }
  let gradient = weights[i] * RANK_SHARE;
  let m = DECAY * momentum[i] + gradient;
  let value = start[i] - LEARNING_RATE * (gradient + DECAY * m);
  momentum[i] = m;
  start[i] = value;
  weights[i] = value;
  // only if COPY
  copy[i] = vec4<f16>(value);
}
