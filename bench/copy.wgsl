// y = x: what a kernel can reach that does nothing but move memory.  x, y: [N] vectors of four

const N: u32 = 1;
const VECTORS: u32 = 1;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = (group.x + group.y * 32768u) * WORKGROUP_SIZE * VECTORS + lane;
  // unroll
  for (var v = 0u; v < VECTORS; v++) {
    let i = first + v * WORKGROUP_SIZE;
    if i < N {
      y[i] = x[i];
    }
  }
}
