// y = wte[token] + wpe[position], with POSITIONS, for S consecutive tokens of each text; decode.ts has the contract.
//
// tokens: [slots,N]; cursors: [B,4]; wte: [V,C]; wpe: [maxT,C]; y: [B·S,C], C in vectors of four. wte may be a slice
// of the embedding, as in forward.wgsl. Indices past the end of a text or of the positions are clamped.
enable f16;

alias yType = vec4<f16>;
const WORKGROUP_SIZE: u32 = 64;
const POSITIONS: bool = true; // whether wpe is added
const QUANTIZED: bool = true; // whether wte is int8Wte, whose row v counts scales[v] times

struct Sizes {
  firstToken: u32, // of the slice
  slicedTokens: u32,
  M: u32,
  S: u32,
  N: u32,
  maxT: u32,
  columns4: u32, // C / 4
}

@group(0) @binding(0) var<storage, read> tokens: array<u32>;
@group(0) @binding(1) var<storage, read> cursors: array<vec4u>; // next token, token at position 0, slot, end
// unless QUANTIZED
@group(0) @binding(2) var<storage, read> wte: array<vec4f>;
// only if QUANTIZED
@group(0) @binding(3) var<storage, read> int8Wte: array<u32>; // four elements each
// only if QUANTIZED
@group(0) @binding(4) var<storage, read> scales: array<f32>;
// only if POSITIONS
@group(0) @binding(5) var<storage, read> wpe: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> y: array<yType>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * WORKGROUPS_PER_ROW + group.x) * WORKGROUP_SIZE + local.x;
  let m = i / sizes.columns4;
  let c = i % sizes.columns4;
  if (m >= sizes.M) { return; }
  let cursor = cursors[m / sizes.S];
  let next = cursor.x + m % sizes.S;
  let row = tokens[cursor.z * sizes.N + min(next, sizes.N - 1)] - sizes.firstToken;
  if (row >= sizes.slicedTokens) { return; }
  var value: vec4f;
  // unless QUANTIZED
  value = wte[row * sizes.columns4 + c];
  // only if QUANTIZED
  value = scales[row] * vec4f(unpack4xI8(int8Wte[row * sizes.columns4 + c]));
  // only if POSITIONS
  value += wpe[min(next - cursor.y, sizes.maxT - 1) * sizes.columns4 + c];
  y[i] = yType(value);
}
