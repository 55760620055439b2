// The sums of tiles.wgsl row by row, in vectors of four columns: what compiles in half the time.
const ROWS4: u32 = 4 * ROWS;

fn addProducts(sums: ptr<function, Sums>, as4: array<vec4f, ROWS>, bs4: array<vec4f, COLUMNS>) {
  // unroll
  for (var r = 0u; r < ROWS4; r++) {
    let a1 = vec4f(as4[r / 4][r % 4]);
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      let s = r * COLUMNS + c;
      sums[s] = fma(a1, bs4[c], sums[s]);
    }
  }
}

// Stores the sums of an invocation whose first vectors begin at these rows and columns.
fn storeSums(sums: ptr<function, Sums>, row: u32, column: u32, split: u32) {
  // unroll
  for (var r = 0u; r < ROWS4; r++) {
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      storeInside(row + r / 4 * 4 * Y + r % 4, column + 4 * c * X, split, sums[r * COLUMNS + c]);
    }
  }
}
