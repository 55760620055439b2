// y = x, the upper bound for kernels that only move memory.   x, y: [N] vectors of four
const VECTORS: u32 = 1;
const WORKGROUP_SIZE: u32 = 256;

struct Sizes {
  N: u32,
}

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let first = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE * VECTORS + index;
  // unroll
  for (var v = 0u; v < VECTORS; v++) {
    let i = first + v * WORKGROUP_SIZE;
    if (i < sizes.N) { y[i] = x[i]; }
  }
}
