// y = dropout(x), and as well dx = the same mask over dy: dropout is linear.   x, y: [N]
enable f16;

alias xType = f16;
alias yType = f16;
const N: u32 = 1;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> x: array<xType>;
@group(0) @binding(1) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(2) var<storage, read_write> y: array<yType>;
@group(0) @binding(3) var<uniform> dropout: vec4u; // site, threshold, bits of 1 / (1 - rate)

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= N) { return; }
  y[i] = yType(f32(x[i]) * dropoutFactor(random[0], random[1], dropout, i));
}
