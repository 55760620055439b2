// What forward.wgsl and backward.wgsl share: who computes which elements.
//
// LANES invocations share a row, ROWS rows a workgroup. A lane has the vectors of four lane, lane + LANES,
// lane + 2 · LANES, … of its row, QUADS of them, and keeps them in registers: memory is read once.
const LANES: u32 = 32;
const ROWS: u32 = 8;
const QUADS: u32 = 1;

struct Sizes {
  dropout: vec4u, // site, threshold, bits of 1 / (1 - rate)
  M: u32,
  columns4: u32, // C / 4
  block: u32, // rows whose parameter gradients a workgroup adds up
}
