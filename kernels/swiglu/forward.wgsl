// activated = activation(gate) · up.   gate, up, activated: [N] in vectors of four
// Needs activation() from ../activation.wgsl.
enable f16;

alias xType = vec4<f16>;
const WORKGROUP_SIZE: u32 = 256;

struct Sizes {
  N4: u32, // N / 4
}

@group(0) @binding(0) var<storage, read> gate: array<xType>;
@group(0) @binding(1) var<storage, read> up: array<xType>;
@group(0) @binding(2) var<storage, read_write> activated: array<xType>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.N4) { return; }
  activated[i] = xType(activation(vec4f(gate[i])) * vec4f(up[i]));
}
