// DiLoCo's outer gradient of a rank: how far its weights have moved, in their place.
// start, weights: [N] in vectors of four.
const WORKGROUP_SIZE: u32 = 256;

struct Sizes {
  N4: u32, // N / 4
}

@group(0) @binding(0) var<storage, read> start: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> weights: array<vec4f>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.N4) { return; }
  weights[i] = start[i] - weights[i];
}
