// The tiles of scores of the backward pass, for backward_scores.wgsl and backward_products.wgsl, and products in steps.
// Needs xOf(), yOf() and transposed() from tiles.wgsl, unpacked() from ../packed_f16.wgsl or ../packed_f32.wgsl, seenBy() from window.wgsl.
//
// scores: [heads,2,tiles,TOKENS,TOKENS], of each head first the tiles of f · p and then those of ds. A tile has TOKENS
// queries, its rows, and TOKENS keys. A block of queries sees at most `seenBlocks` blocks of keys, the last of which is
// its own, and only these tiles have a place. With seenBlocks = 3:
//
//        block of keys   0   1   2   3   4
//     of queries  0    │ 0 │
//                 1    │ 1 │ 2 │
//                 2    │ 3 │ 4 │ 5 │
//                 3        │ 6 │ 7 │ 8 │
//                 4            │ 9 │10 │11 │
//
// A product is a loop over steps of TERMS terms, which are staged in workgroup memory in f32, with the term as the
// outermost index. While a step is multiplied, the blocks of the next one are fetched into registers. A workgroup
// computes 64 rows and 32 · COLUMNS columns, and an invocation 8 rows and 4 · COLUMNS columns of these: vectors of four,
// which lie Y vectors apart in rows and X vectors apart in columns, as in matmul/tiles.wgsl.
const HS: u32 = 32;
const TOKENS: u32 = 64; // queries, and keys, of a tile: 4 · ROWS · Y
const COLUMNS: u32 = 2; // vectors of columns per invocation: 1 or 2

struct Sizes {
  T: u32,
  seenBlocks: u32, // most blocks of keys that a block of queries sees
  firstHead: u32, // of [B,KH], the first one whose tiles are in scores
}

// a binding number that neither kernel uses
@group(0) @binding(10) var<uniform> sizes: Sizes;

const Y: u32 = 8; // invocations along the rows
const WORKGROUP_SIZE: u32 = X * Y;
const ROWS: u32 = 2; // vectors of rows per invocation
const ROWS4: u32 = 4 * ROWS; // rows per invocation
const SUMS: u32 = ROWS4 * COLUMNS;
const QUADS: u32 = HS / 4; // vectors of four components
const TOKENS4: u32 = TOKENS / 4;
const TILE: u32 = TOKENS * TOKENS4; // vectors of a tile
alias Sums = array<vec4f, SUMS>; // of row r of an invocation those from r · COLUMNS on

// Four terms of a step. The padding keeps transposed stores of neighbours on different banks.
struct ATerms {
  rows: array<array<array<vec4f, Y>, ROWS>, 4>,
  padding: array<vec4f, 2>,
}
struct BTerms {
  rows: array<array<array<vec4f, X>, COLUMNS>, 4>,
  padding: array<vec4f, 2>,
}

var<workgroup> aTile: array<ATerms, TERMS4>; // [term / 4].rows[term % 4][r][y]
var<workgroup> bTile: array<BTerms, TERMS4>; // [term / 4].rows[term % 4][c][x]

// The row of the workgroup's sums that is row r of an invocation.
fn rowOf(r: u32, y: u32) -> u32 {
  return r / 4 * 4 * Y + 4 * y + r % 4;
}

// The number of tiles of all blocks of queries before this one.
fn tilesBefore(queries: u32) -> u32 {
  let whole = min(queries, sizes.seenBlocks);
  return whole * (whole + 1) / 2 + (queries - whole) * sizes.seenBlocks;
}

// The first block of keys that has a place for this block of queries.
fn firstPlaced(queries: u32) -> u32 {
  return max(queries + 1, sizes.seenBlocks) - sizes.seenBlocks;
}

// The place of a tile among those of a head.
fn tileOf(queries: u32, keys: u32) -> u32 {
  return tilesBefore(queries) + keys - firstPlaced(queries);
}

// The first block of keys that this block of queries sees.
fn firstBlockSeenBy(queries: u32, sequence: u32) -> u32 {
  var first = firstPlaced(queries);
  // only if APART
  {
    let query = queries * TOKENS; // the later ones see no key before those that the first one sees
    first = firstSeenBy(query, seenBy(sequence + query)) / TOKENS;
  }
  return first;
}

// Stages a block of a of four rows and four terms: each of its vectors has the terms of a row.
fn stageATransposed(block: Block, term4: u32, row4: u32) {
  let terms = transposed(block);
  // unroll
  for (var i = 0u; i < 4u; i++) {
    aTile[term4].rows[i][row4 / Y][row4 % Y] = terms[i];
  }
}

// sums += a · b, over the staged terms. Odd rows run backwards, so that each multiply-add shares a factor with the one
// before it, as in matmul.
fn addProducts(sums: ptr<function, Sums>, x: u32, y: u32) {
  // unroll
  for (var k = 0u; k < TERMS; k++) {
    var as4: array<vec4f, ROWS>;
    var bs4: array<vec4f, COLUMNS>;
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      as4[r] = aTile[k / 4].rows[k % 4][r][y];
    }
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      bs4[c] = bTile[k / 4].rows[k % 4][c][x];
    }
    // unroll
    for (var r = 0u; r < ROWS4; r++) {
      let a1 = vec4f(as4[r / 4][r % 4]);
      // unroll
      for (var i = 0u; i < COLUMNS; i++) {
        if (r % 2 == 0) {
          let s = r * COLUMNS + i;
          (*sums)[s] = fma(a1, bs4[i], (*sums)[s]);
        } else {
          let c = COLUMNS - 1 - i;
          let s = r * COLUMNS + c;
          (*sums)[s] = fma(a1, bs4[c].wzyx, (*sums)[s].wzyx).wzyx;
        }
      }
    }
  }
}
