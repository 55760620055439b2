// y = gelu(x), tanh approximation.   x, y: [N]
enable f16;

alias real = f16; // element type of x and y
const N: u32 = 1;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> x: array<real>;
@group(0) @binding(1) var<storage, read_write> y: array<real>;

const SQRT_2_OVER_PI: f32 = 0.7978845608028654;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= N) { return; }
  let v = f32(x[i]);
  // (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), without the cancellation near tanh u = -1;
  // the clamp keeps exp finite where f32 would overflow
  let u = clamp(SQRT_2_OVER_PI * (v + 0.044715 * v * v * v), -40.0, 40.0);
  y[i] = real(v / (1.0 + exp(-2.0 * u)));
}
