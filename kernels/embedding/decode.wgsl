// y = wte[token] + wpe[position] for one token.   cursor: [token, position]; y: [C]
//
// wte may be a slice of the embedding, as in forward.wgsl.
enable f16;

alias real = f16; // element type of y
const C: u32 = 1;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> cursor: array<u32>;
@group(0) @binding(1) var<storage, read> wte: array<f32>;
@group(0) @binding(2) var<storage, read> wpe: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<real>;
@group(0) @binding(4) var<uniform> slice: vec4u; // first row, number of rows

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = cursor[0] - slice.x;
  if (id.x >= C || row >= slice.y) { return; }
  y[id.x] = real(wte[row * C + id.x] + wpe[cursor[1] * C + id.x]);
}
