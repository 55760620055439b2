// dgate = dactivated · up · activation'(gate); dup = dactivated · activation(gate); set.
// Needs activation() and activationDerivative() from ../activation.wgsl.
//
// gate, up, dactivated, dgate, dup: [N] in vectors of four
enable f16;

alias xType = vec4<f16>;
const WORKGROUP_SIZE: u32 = 256;

struct Sizes {
  N4: u32, // N / 4
}

@group(0) @binding(0) var<storage, read> gate: array<xType>;
@group(0) @binding(1) var<storage, read> up: array<xType>;
@group(0) @binding(2) var<storage, read> dactivated: array<xType>;
@group(0) @binding(3) var<storage, read_write> dgate: array<xType>;
@group(0) @binding(4) var<storage, read_write> dup: array<xType>;
@group(0) @binding(5) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.N4) { return; }
  let argument = vec4f(gate[i]);
  let dy = vec4f(dactivated[i]);
  dgate[i] = xType(dy * vec4f(up[i]) * activationDerivative(argument));
  dup[i] = xType(dy * activation(argument));
}
