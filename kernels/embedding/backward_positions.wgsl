// dwpe[t] = sum of dy over the sequences, 0 past T; set or accumulated.   dy: [B·T,C]; dwpe: [L,C]
enable f16;

alias real = f16; // element type of dy
const B: u32 = 1;
const T: u32 = 1;
const L: u32 = 1;
const C: u32 = 1;
const ACCUMULATE: bool = false;
const WORKGROUP_SIZE: u32 = 64;

@group(0) @binding(0) var<storage, read> dy: array<real>;
@group(0) @binding(1) var<storage, read_write> dwpe: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= L * C) { return; }
  var sum = 0.0;
  if (i < T * C) {
    for (var b = 0u; b < B; b++) {
      sum += f32(dy[b * T * C + i]);
    }
  }
  if (ACCUMULATE) { sum += dwpe[i]; }
  dwpe[i] = sum;
}
