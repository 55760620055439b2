// dz = dropout's mask over dy; the gradient of x is dy itself.   dy, dz: [N]; dz is set
enable f16;

alias real = f16; // element type of dz
const N: u32 = 1;
const DROPOUT: bool = false;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> dy: array<f32>;
@group(0) @binding(1) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(2) var<storage, read_write> dz: array<real>;
@group(0) @binding(3) var<uniform> dropout: vec4u; // site, threshold, bits of 1 / (1 - rate)

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= N) { return; }
  var slope = dy[i];
  if (DROPOUT) { slope *= dropoutFactor(random[0], random[1], dropout, i); }
  dz[i] = real(slope);
}
