// y = Σ partials, over the parts into which K is split.   partials: [SPLITS,M,N] in vectors of four columns
// Needs Sizes and store() from epilogue.wgsl.
enable f16;

const SPLITS: u32 = 2;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> partials: array<vec4f>;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  let columns4 = (sizes.N + 3) / 4;
  if (i >= sizes.M * columns4) { return; }
  var sum = vec4f();
  // unroll
  for (var s = 0u; s < SPLITS; s++) {
    sum += partials[i + s * sizes.M * columns4];
  }
  store(i / columns4, i % columns4, sum);
}
