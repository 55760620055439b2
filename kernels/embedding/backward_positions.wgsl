// dwpe[t] = sum of dy over the sequences, 0 past T; set or accumulated.
// dy: [B,T,C]; dwpe: [L,C], C in vectors of four
enable f16;

alias real4 = vec4<f16>; // dy
const WORKGROUP_SIZE: u32 = 64;

struct Sizes {
  B: u32,
  sequence: u32, // T · C / 4
  accumulate: u32, // add to what dwpe holds
}

@group(0) @binding(0) var<storage, read> dy: array<real4>;
@group(0) @binding(1) var<storage, read_write> dwpe: array<vec4f>;
@group(0) @binding(2) var<uniform> sizes: Sizes;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= arrayLength(&dwpe)) { return; }
  var sum = vec4f();
  if (i < sizes.sequence) {
    for (var b = 0u; b < sizes.B; b++) {
      sum += vec4f(dy[b * sizes.sequence + i]);
    }
  }
  if (sizes.accumulate != 0) { sum += dwpe[i]; }
  dwpe[i] = sum;
}
