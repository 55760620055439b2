// Products of tiles, 16 terms at a time. Completes the kernels in tiles; README.md draws it.
const COLUMNS: u32 = 2; // vectors of four walked tokens of an invocation
const Y: u32 = 8; // invocations along the own tokens, four of each
const X: u32 = 8; // invocations along the walked tokens, and along the components of a head

const SIZE: u32 = X * Y;
const OWN: u32 = 4 * Y; // tokens of the workgroup
const WALKED: u32 = 4 * X * COLUMNS; // tokens that it walks at a time
const QUADS: u32 = HS / 4;
const VECTORS: u32 = QUADS / X; // vectors of four components of an invocation
const TERMS: u32 = 16;
const STEPS: u32 = HS / TERMS; // along the components
const PARTS: u32 = 2 * COLUMNS; // along the walked tokens
const OWN_PARTS: u32 = OWN / TERMS; // along the own ones
const PAIRS: u32 = 4 * COLUMNS;
const SUMS: u32 = 4 * VECTORS;
const A_WIDTH: u32 = Y + 2; // vectors of a row, two more against bank conflicts of stores by columns
const B_WIDTH: u32 = max(X * COLUMNS, QUADS);

// Four terms of a tile. What is unused keeps the transposing stores of neighbours off the same banks.
struct AQuad {
  rows: array<array<vec4f, A_WIDTH>, 4>,
  unused: array<vec4f, 2>,
}
struct BQuad {
  rows: array<array<vec4f, B_WIDTH>, 4>,
  unused: array<vec4f, 2>,
}

var<workgroup> aTile: array<AQuad, TERMS / 4>; // [term / 4].rows[term % 4]
var<workgroup> bTile: array<BQuad, TERMS / 4>;

// Which vectors of a tile are an invocation's: a warp's 32 have 8 × 4, neighbours the same ones of a or of b,
// for which matmul/tiles.wgsl gives the reason.
fn columnOf(id: u32) -> u32 {
  return id % 2 + id / 4 % 4 * 2;
}
fn rowOf(id: u32) -> u32 {
  return id / 32 * 4 + id / 16 % 2 * 2 + id / 2 % 2;
}

// What an invocation fetches at a time: four tokens, four components of each.
alias Block = array<held, 4>;
const OWN_BLOCKS: u32 = OWN / 4 * (TERMS / 4);
const PAIR_BLOCKS: u32 = OWN_BLOCKS + WALKED / 4 * (TERMS / 4);
const SUM_BLOCKS: u32 = TERMS / 4 * QUADS;
const PAIR_TURNS: u32 = 2; // turns in which all invocations fetch the blocks of a step
const SUM_TURNS: u32 = 1;
const TURNS: u32 = max(PAIR_TURNS, SUM_TURNS);

// Which of the own or walked tokens, and which vector of components, a block of a step has.
fn tokensOfPair(block: u32) -> vec4u {
  return vec4u(0, 1, 2, 3) + 4 * columnOfPair(block);
}
fn columnOfPair(block: u32) -> u32 {
  return select(block - OWN_BLOCKS, block, block < OWN_BLOCKS) / (TERMS / 4);
}
fn quadOfPair(block: u32, step: u32) -> u32 {
  return step * (TERMS / 4) + block % (TERMS / 4);
}

// Tokens go into the tiles as columns, terms are their components.
fn keepPair(block: u32, tokens: Block) {
  let columns = transpose(
    mat4x4f(widened(tokens[0]), widened(tokens[1]), widened(tokens[2]), widened(tokens[3])),
  );
  let quad = block % (TERMS / 4);
  let column = columnOfPair(block);
  if (block < OWN_BLOCKS) {
    // unroll
    for (var i = 0u; i < 4u; i++) {
      aTile[quad].rows[i][column] = columns[i];
    }
  } else {
    // unroll
    for (var i = 0u; i < 4u; i++) {
      bTile[quad].rows[i][column] = columns[i];
    }
  }
}

// Keeps what an invocation has fetched of a step.
fn keepPairs(fetched: ptr<function, array<Block, TURNS>>, id: u32) {
  // unroll
  for (var i = 0u; i < PAIR_TURNS; i++) {
    if (id + i * SIZE < PAIR_BLOCKS) { keepPair(id + i * SIZE, (*fetched)[i]); }
  }
}

// Which of the walked tokens a block of a part has: of each four, a part has two that are side by side.
fn tokensOfPart(part: u32, block: u32) -> vec4u {
  return vec4u(0, 1, 4, 5) + (block / QUADS * 8 + part / 2 * 4 * X + part % 2 * 2);
}

// Tokens go into the tile of b as rows, terms are the tokens.
fn keepSum(block: u32, tokens: Block) {
  // unroll
  for (var i = 0u; i < 4u; i++) {
    bTile[block / QUADS].rows[i][block % QUADS] = widened(tokens[i]);
  }
}

// Keeps what an invocation has fetched of a part.
fn keepSums(fetched: ptr<function, array<Block, TURNS>>, id: u32) {
  // unroll
  for (var i = 0u; i < SUM_TURNS; i++) {
    if (id + i * SIZE < SUM_BLOCKS) { keepSum(id + i * SIZE, (*fetched)[i]); }
  }
}

// A part of the pairs goes into the tile of a, terms are the walked tokens.
fn keepPart(part: u32, pairs: ptr<function, array<vec4f, PAIRS>>, x: u32, y: u32) {
  // unroll
  for (var p = 0u; p < PARTS; p++) {
    if (part == p) {
      // unroll
      for (var e = 0u; e < 2u; e++) {
        aTile[x / 2].rows[x % 2 * 2 + e][y] = vec4f(
          (*pairs)[p / 2][p % 2 * 2 + e],
          (*pairs)[COLUMNS + p / 2][p % 2 * 2 + e],
          (*pairs)[2 * COLUMNS + p / 2][p % 2 * 2 + e],
          (*pairs)[3 * COLUMNS + p / 2][p % 2 * 2 + e],
        );
      }
    }
  }
}

// A part of the pairs' rows goes into the tile of a, terms are the own tokens. Tiles are square here.
fn keepRows(part: u32, pairs: ptr<function, array<vec4f, PAIRS>>, x: u32, y: u32) {
  if (y / 4 == part) {
    // unroll
    for (var r = 0u; r < 4u; r++) {
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        aTile[y % 4].rows[r][x + c * X] = (*pairs)[r * COLUMNS + c];
      }
    }
  }
}

// pairs += aᵀ · b, own tokens by walked ones
fn addPairs(pairs: ptr<function, array<vec4f, PAIRS>>, x: u32, y: u32) {
  // unroll
  for (var k = 0u; k < TERMS; k++) {
    let a4 = aTile[k / 4].rows[k % 4][y];
    var bs4: array<vec4f, COLUMNS>;
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      bs4[c] = bTile[k / 4].rows[k % 4][x + c * X];
    }
    // there and back, for which matmul/tiles.wgsl gives the reason
    // unroll
    for (var r = 0u; r < 4u; r++) {
      // unroll
      for (var i = 0u; i < COLUMNS; i++) {
        if (r % 2 == 0) {
          let s = r * COLUMNS + i;
          (*pairs)[s] = fma(vec4f(a4[r]), bs4[i], (*pairs)[s]);
        } else {
          let c = COLUMNS - 1 - i;
          let s = r * COLUMNS + c;
          (*pairs)[s] = fma(vec4f(a4[r]), bs4[c].wzyx, (*pairs)[s].wzyx).wzyx;
        }
      }
    }
  }
}

// sums += aᵀ · b, own tokens by components
fn addSums(sums: ptr<function, array<vec4f, SUMS>>, x: u32, y: u32) {
  // unroll
  for (var k = 0u; k < TERMS; k++) {
    let a4 = aTile[k / 4].rows[k % 4][y];
    var bs4: array<vec4f, VECTORS>;
    // unroll
    for (var n = 0u; n < VECTORS; n++) {
      bs4[n] = bTile[k / 4].rows[k % 4][x + n * X];
    }
    // unroll
    for (var r = 0u; r < 4u; r++) {
      // unroll
      for (var i = 0u; i < VECTORS; i++) {
        if (r % 2 == 0) {
          let s = r * VECTORS + i;
          (*sums)[s] = fma(vec4f(a4[r]), bs4[i], (*sums)[s]);
        } else {
          let n = VECTORS - 1 - i;
          let s = r * VECTORS + n;
          (*sums)[s] = fma(vec4f(a4[r]), bs4[n].wzyx, (*sums)[s].wzyx).wzyx;
        }
      }
    }
  }
}
