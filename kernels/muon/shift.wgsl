// y = x + shift · I for each matrix: its diagonal grows by a number.   x, y: [G,M,M]
enable f16;

const WORKGROUP_SIZE: u32 = 256;
alias xType = vec4<f16>; // four columns

struct Sizes {
  N: u32, // vectors of all matrices
  M: u32,
  shift: f32,
}

@group(0) @binding(0) var<storage, read> x: array<xType>;
@group(0) @binding(1) var<storage, read_write> y: array<xType>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= sizes.N) { return; }
  let columns4 = sizes.M / 4;
  let column = i % columns4 * 4 + vec4u(0, 1, 2, 3);
  let row = i / columns4 % sizes.M;
  y[i] = xType(vec4f(x[i]) + select(vec4f(), vec4f(sizes.shift), column == vec4u(row)));
}
