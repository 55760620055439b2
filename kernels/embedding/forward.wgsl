// y[m] = wte[tokens[m]] + wpe[m % T].   tokens: [M]; wte: [V,C]; wpe: [L,C]; y: [M,C]
//
// wte may be a slice of the embedding: rows first to first + ROWS. Tokens outside are left to the
// launches for the other slices.
enable f16;

alias real = f16; // element type of y
const M: u32 = 1;
const T: u32 = 1;
const C: u32 = 1;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(1) var<storage, read> wte: array<f32>;
@group(0) @binding(2) var<storage, read> wpe: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<real>;
@group(0) @binding(4) var<uniform> slice: vec4u; // first row, number of rows

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= M * C) { return; }
  let m = i / C;
  let c = i % C;
  let row = tokens[m] - slice.x; // wraps far beyond the slice for tokens before it
  if (row >= slice.y) { return; }
  y[i] = real(wte[row * C + c] + wpe[m % T * C + c]);
}
