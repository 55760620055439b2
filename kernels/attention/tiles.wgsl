// What the kernels by tiles share: which vectors of a tile an invocation has, and blocks of 4 × 4 elements.
// Needs packed and unpacked() from ../packed_f16.wgsl or ../packed_f32.wgsl.
const TERMS: u32 = 16; // per step of a product

const TERMS4: u32 = TERMS / 4;
const X: u32 = 8; // invocations along the columns
alias Block = array<packed, 4>; // four vectors as they are stored

// The 32 invocations of a warp have 8 × 4 vectors of a tile. Neighbours have the same x or the same y, so that they
// load the same vectors of b or of a; matmul/tiles.wgsl has a picture, and the reason.
fn xOf(index: u32) -> u32 {
  return index % 2 + index / 4 % 4 * 2;
}
fn yOf(index: u32) -> u32 {
  return index / 32 * 4 + index / 16 % 2 * 2 + index / 2 % 2;
}

fn transposed(block: Block) -> mat4x4f {
  return transpose(
    mat4x4f(unpacked(block[0]), unpacked(block[1]), unpacked(block[2]), unpacked(block[3])),
  );
}
