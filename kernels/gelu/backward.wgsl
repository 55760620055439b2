// dx = dy * gelu'(x).   x, dy, dx: [N]; dx is set
enable f16;

alias real = f16; // element type of x, dy and dx
const N: u32 = 1;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> x: array<real>;
@group(0) @binding(1) var<storage, read> dy: array<real>;
@group(0) @binding(2) var<storage, read_write> dx: array<real>;

const SQRT_2_OVER_PI: f32 = 0.7978845608028654;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= N) { return; }
  let v = f32(x[i]);
  let u = clamp(SQRT_2_OVER_PI * (v + 0.044715 * v * v * v), -40.0, 40.0);
  let decay = exp(-2.0 * u);
  let gate = 1.0 / (1.0 + decay); // (1 + tanh u) / 2
  let du = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * v * v);
  let slope = gate + v * 2.0 * gate * (decay * gate) * du;
  dx[i] = real(slope * f32(dy[i]));
}
