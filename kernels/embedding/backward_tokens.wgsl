// dwte[token] += sum of dy over the token's positions.   dy: [M,C]; dwte: [V,C]
//
// order lists the positions sorted by token; run s of equal tokens is order[segments[s], segments[s + 1]).
// One workgroup a run: the sum has one order and needs no atomics. Runs beyond the last are empty.
enable f16;

alias real = f16; // element type of dy
const M: u32 = 1;
const C: u32 = 1;
const WORKGROUP_SIZE: u32 = 64;

@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(1) var<storage, read> order: array<u32>;
@group(0) @binding(2) var<storage, read> segments: array<u32>;
@group(0) @binding(3) var<storage, read> dy: array<real>;
@group(0) @binding(4) var<storage, read_write> dwte: array<f32>;
@group(0) @binding(5) var<uniform> slice: vec4u; // first row of dwte, number of rows

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let run = group.y * 32768 + group.x;
  let c = group.z * WORKGROUP_SIZE + local.x;
  if (run >= M || c >= C) { return; }
  let first = segments[run];
  let end = min(segments[run + 1], M);
  if (first >= end) { return; }
  let row = tokens[order[first]] - slice.x;
  if (row >= slice.y) { return; }
  var sum = 0.0;
  for (var i = first; i < end; i++) {
    sum += f32(dy[order[i] * C + c]);
  }
  dwte[row * C + c] += sum;
}
