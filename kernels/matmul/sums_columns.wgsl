// The sums of tiles.wgsl column by column, in vectors of four rows: the faster order.
const COLUMNS4: u32 = 4 * COLUMNS;

// Odd columns go backwards: so each multiply-add shares a factor with the one before it, which an NVIDIA
// core then need not read from its registers again.
fn addProducts(sums: ptr<function, Sums>, as4: array<vec4f, ROWS>, bs4: array<vec4f, COLUMNS>) {
  // unroll
  for (var c = 0u; c < COLUMNS4; c++) {
    let b1 = vec4f(bs4[c / 4][c % 4]);
    // unroll
    for (var i = 0u; i < ROWS; i++) {
      if (c % 2 == 0) {
        let s = c * ROWS + i;
        sums[s] = fma(as4[i], b1, sums[s]);
      } else {
        let r = ROWS - 1 - i;
        let s = c * ROWS + r;
        sums[s] = fma(as4[r].wzyx, b1, sums[s].wzyx).wzyx;
      }
    }
  }
}

// Stores the sums of an invocation whose first vectors begin at these rows and columns.
fn storeSums(sums: ptr<function, Sums>, row: u32, column: u32, split: u32) {
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      let s = 4 * c * ROWS + r;
      let rows = transpose(mat4x4f(sums[s], sums[s + ROWS], sums[s + 2 * ROWS], sums[s + 3 * ROWS]));
      // unroll
      for (var i = 0u; i < 4u; i++) {
        storeInside(row + 4 * r * Y + i, column + 4 * c * X, split, rows[i]);
      }
    }
  }
}
