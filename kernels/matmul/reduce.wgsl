// y = sum over the splits of K.   partials: [SPLITS,M,N4] vectors of four; shape.wgsl holds y's layout
enable f16;

const SPLITS: u32 = 1;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> partials: array<vec4f>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  let columns = (shape.N + 3) / 4;
  if (i >= shape.M * columns) { return; }
  var sum = vec4f();
  // unroll
  for (var s = 0u; s < SPLITS; s++) {
    sum += partials[i + s * shape.M * columns];
  }
  store(i / columns, i % columns, sum);
}
