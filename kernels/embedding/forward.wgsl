// y[m] = wte[tokens[m]] + wpe[position of m], with POSITIONS.   tokens: [M]; wte: [V,C]; wpe: [maxT,C]; y: [M,C]
// Needs positionOf() from ../positions.wgsl.
//
// C is counted in vectors of four. A workgroup computes ROWS rows, COLUMNS vectors of each at a time. wte may be a
// slice of the embedding: the launches for other slices write the rows of other tokens.
enable f16;

alias yType = vec4<f16>;
const COLUMNS: u32 = 16;
const ROWS: u32 = 16;
const POSITIONS: bool = true; // whether wpe is added
const QUANTIZED: bool = true; // whether wte is int8Wte, whose row v counts scales[v] times

struct Sizes {
  firstToken: u32, // of the slice
  slicedTokens: u32,
  M: u32,
  T: u32,
  columns4: u32, // C / 4
}

@group(0) @binding(0) var<storage, read> tokens: array<u32>;
// unless QUANTIZED
@group(0) @binding(1) var<storage, read> wte: array<vec4f>;
// only if QUANTIZED
@group(0) @binding(2) var<storage, read> int8Wte: array<u32>; // four elements each
// only if QUANTIZED
@group(0) @binding(3) var<storage, read> scales: array<f32>;
// only if POSITIONS
@group(0) @binding(4) var<storage, read> wpe: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> y: array<yType>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

@compute @workgroup_size(COLUMNS, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let m = (group.y * WORKGROUPS_PER_ROW + group.x) * ROWS + local.y;
  if (m >= sizes.M) { return; }
  let row = tokens[m] - sizes.firstToken; // a token before the slice wraps to a large number
  if (row >= sizes.slicedTokens) { return; }
  for (var c = local.x; c < sizes.columns4; c += COLUMNS) {
    var value: vec4f;
    // unless QUANTIZED
    value = wte[row * sizes.columns4 + c];
    // only if QUANTIZED
    value = scales[row] * vec4f(unpack4xI8(int8Wte[row * sizes.columns4 + c]));
    // only if POSITIONS
    value += wpe[positionOf(m, sizes.T) * sizes.columns4 + c];
    y[m * sizes.columns4 + c] = yType(value);
  }
}
