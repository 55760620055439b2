// The matrix products of attention in tiles, for forward_tiles.wgsl and backward_tiles.wgsl.
// Needs packed and unpacked() from ../packed_f16.wgsl or ../packed_f32.wgsl.
//
// A tile is TOKENS × TOKENS scores of one head. In the forward pass its rows are queries and its columns keys, in
// the backward pass rows are keys and columns queries. A workgroup has fixed rows and loops over the columns:
//
//                  HS                    TOKENS columns                HS
//              ┌───────┐                ┌──────────────┐           ┌───────┐
//      TOKENS  │   a   │  ·  bᵀ   =     │    scores    │  ·  c  =  │  out  │
//      rows    └───────┘                └──────────────┘           └───────┘
//
// Invocation (x, y) of X × Y keeps rows 4y … 4y + 3 in registers: of the scores SCORE_COLUMNS vectors of four
// columns, with numbers x, x + X, …; of out OUT_COLUMNS vectors of four components, with numbers x, x + X, …:
//
//                  x    x + X             scores[r · SCORE_COLUMNS + c]: row 4y + r, columns 4 (x + c · X) … + 3
//              ┌──┬──┬──┬──┐              out[r · OUT_COLUMNS + c]: row 4y + r, components 4 (x + c · X) … + 3
//       4y     │  │▓▓│  │▓▓│
//              └──┴──┴──┴──┘
//
// A product is a loop over steps of TERMS terms. The terms of a step are staged in workgroup memory in f32, with
// the term as the outermost index. While a step is multiplied, the blocks of the next one are fetched into registers:
//
//      product             the terms are       aTile holds                bTile holds
//      scores += a · bᵀ    components          a, transposed              b, transposed     stageTransposed()
//      out += scores · c   tokens of columns   scores of those columns    rows of c         stageScores(), stageRows()
//      out += scoresᵀ · c  tokens of rows      scores of those rows       rows of c         stageScoreRows(), stageRows()
//
// Scores stay in registers, and only one step of them at a time is staged. So a workgroup needs memory for one
// step, with heads of 64 9 KB per 16 terms. (In the backward pass whole tiles of scores in workgroup memory took a
// third longer.) Functions have pointers to the registers of main(), and every index into these is a constant once the
// loops are unrolled.
const HS: u32 = 32;
const TOKENS: u32 = 64; // rows, and columns, of a tile: 32 or 64
const TERMS: u32 = 16; // per step of a product; in the backward pass also 32, if TOKENS is 64
const FETCHES: u32 = 1; // blocks per invocation and step, at most

const X: u32 = 8; // invocations along the columns, and along the components
const Y: u32 = TOKENS / 4; // invocations along the rows
const WORKGROUP_SIZE: u32 = X * Y;
const QUADS: u32 = HS / 4; // vectors of four components
const TERMS4: u32 = TERMS / 4;
const SCORE_STEPS: u32 = HS / TERMS;
const OUT_STEPS: u32 = TOKENS / TERMS;
const SCORE_COLUMNS: u32 = TOKENS / 4 / X;
const OUT_COLUMNS: u32 = QUADS / X;
const SCORES: u32 = 4 * SCORE_COLUMNS;
const OUTS: u32 = 4 * OUT_COLUMNS;
const OWN_TERMS: u32 = TERMS / X; // of a step of columns of the scores, per invocation: half a vector, or one
const STEPS_PER_VECTOR: u32 = 4 / OWN_TERMS;
alias Scores = array<vec4f, SCORES>;
alias Out = array<vec4f, OUTS>;

// Four terms of a tile. The unused vectors keep stores of neighbours, by columns and transposed, on different banks.
const A_WIDTH: u32 = Y + 2;
const B_WIDTH: u32 = max(Y, QUADS);
struct ATerms {
  rows: array<array<vec4f, A_WIDTH>, 4>,
  padding: array<vec4f, 2>,
}
struct BTerms {
  rows: array<array<vec4f, B_WIDTH>, 4>,
  padding: array<vec4f, 2>,
}

var<workgroup> aTile: array<ATerms, TERMS4>; // [term / 4].rows[term % 4]
var<workgroup> bTile: array<BTerms, TERMS4>;

// A warp's 32 invocations cover 8 × 4 vectors of a tile. Neighbours have the same x or the same y, so that they
// load the same vectors of b or of a; matmul/tiles.wgsl gives the reason.
fn xOf(index: u32) -> u32 {
  return index % 2 + index / 4 % 4 * 2;
}
fn yOf(index: u32) -> u32 {
  return index / 32 * 4 + index / 16 % 2 * 2 + index / 2 % 2;
}

// The tokens of the vector c of an invocation's columns.
fn tokensOfColumn(first: u32, x: u32, c: u32) -> vec4u {
  return vec4u(0, 1, 2, 3) + first + (x + c * X) * 4;
}

// A vector of four components of each of four tokens: an invocation fetches one such block at a time.
alias Block = array<packed, 4>;
alias Fetched = array<Block, FETCHES>;
const ROW_BLOCKS: u32 = TERMS4 * QUADS; // blocks per step of rows
const FACTOR_BLOCKS: u32 = Y * TERMS4; // blocks per step of a, and of b
const FACTOR_FETCHES: u32 = TERMS / 16; // blocks of a and b per invocation and step

// The place of a block of a or b in a step: which vector of components, and which vector of tokens. Eight neighbours
// have four by two of these, so that what they store, transposed, lies on different banks.
fn quadOf(block: u32) -> u32 {
  return block % 4 + block / 8 % (TERMS4 / 4) * 4;
}
fn vectorOf(block: u32) -> u32 {
  return block % FACTOR_BLOCKS / (2 * TERMS4) * 2 + block / 4 % 2;
}

// The first half of the blocks of a and b are those of a.
fn isOfA(block: u32) -> bool {
  return block < FACTOR_BLOCKS;
}
// The tokens of a or b in a block.
fn tokensOfBlock(block: u32) -> vec4u {
  return vec4u(0, 1, 2, 3) + 4 * vectorOf(block);
}
// The index of the block's vector in the components of a token.
fn quadOfBlock(block: u32, step: u32) -> u32 {
  return step * TERMS4 + quadOf(block);
}

// Stages a block of a or b.
fn stageTransposed(block: u32, tokens: Block) {
  let terms = transpose(
    mat4x4f(unpacked(tokens[0]), unpacked(tokens[1]), unpacked(tokens[2]), unpacked(tokens[3])),
  );
  let quad = quadOf(block);
  let vector = vectorOf(block);
  if (isOfA(block)) {
    // unroll
    for (var i = 0u; i < 4u; i++) {
      aTile[quad].rows[i][vector] = terms[i];
    }
  } else {
    // unroll
    for (var i = 0u; i < 4u; i++) {
      bTile[quad].rows[i][vector] = terms[i];
    }
  }
}

// Stages the blocks that an invocation has fetched of a step of rows.
fn stageRows(fetched: ptr<function, Fetched>, index: u32) {
  // unroll
  for (var f = 0u; f < FETCHES; f++) {
    let block = index + f * WORKGROUP_SIZE;
    if (block < ROW_BLOCKS) {
      // unroll
      for (var i = 0u; i < 4u; i++) {
        bTile[block / QUADS].rows[i][block % QUADS] = unpacked((*fetched)[f][i]);
      }
    }
  }
}

// The tokens in a block of rows, if the terms are those of stageScores().
fn tokensOfColumns(step: u32, block: u32) -> vec4u {
  let terms = vec4u(0, 1, 2, 3) + block / QUADS * 4;
  let vectors = terms / OWN_TERMS + step / STEPS_PER_VECTOR * X;
  return 4 * vectors + step % STEPS_PER_VECTOR * OWN_TERMS + terms % OWN_TERMS;
}

// Stages a step of columns of the scores. Every invocation has OWN_TERMS of the step, side by side in a vector.
fn stageScores(step: u32, scores: ptr<function, Scores>, x: u32, y: u32) {
  // unroll
  for (var s = 0u; s < OUT_STEPS; s++) {
    if (step == s) {
      // unroll
      for (var e = 0u; e < OWN_TERMS; e++) {
        let c = s / STEPS_PER_VECTOR;
        let own = s % STEPS_PER_VECTOR * OWN_TERMS + e;
        aTile[x * OWN_TERMS / 4].rows[x * OWN_TERMS % 4 + e][y] = vec4f(
          (*scores)[c][own],
          (*scores)[SCORE_COLUMNS + c][own],
          (*scores)[2 * SCORE_COLUMNS + c][own],
          (*scores)[3 * SCORE_COLUMNS + c][own],
        );
      }
    }
  }
}

// The tokens in a block of rows, if the terms are those of stageScoreRows().
fn tokensOfRows(step: u32, block: u32) -> vec4u {
  return vec4u(0, 1, 2, 3) + (step * TERMS + block / QUADS * 4);
}

// Stages a step of rows of the scores. The invocations of TERMS4 y have all of its terms.
fn stageScoreRows(step: u32, scores: ptr<function, Scores>, x: u32, y: u32) {
  if (y / TERMS4 == step) {
    // unroll
    for (var r = 0u; r < 4u; r++) {
      // unroll
      for (var c = 0u; c < SCORE_COLUMNS; c++) {
        aTile[y % TERMS4].rows[r][x + c * X] = (*scores)[r * SCORE_COLUMNS + c];
      }
    }
  }
}

// scores += a · bᵀ, over the staged terms
fn addToScores(scores: ptr<function, Scores>, x: u32, y: u32) {
  // unroll
  for (var k = 0u; k < TERMS; k++) {
    let a4 = aTile[k / 4].rows[k % 4][y];
    var bs4: array<vec4f, SCORE_COLUMNS>;
    // unroll
    for (var c = 0u; c < SCORE_COLUMNS; c++) {
      bs4[c] = bTile[k / 4].rows[k % 4][x + c * X];
    }
    // odd rows run backwards, so that each multiply-add shares a factor with the one before it, as in matmul
    // unroll
    for (var r = 0u; r < 4u; r++) {
      // unroll
      for (var i = 0u; i < SCORE_COLUMNS; i++) {
        if (r % 2 == 0) {
          let s = r * SCORE_COLUMNS + i;
          (*scores)[s] = fma(vec4f(a4[r]), bs4[i], (*scores)[s]);
        } else {
          let c = SCORE_COLUMNS - 1 - i;
          let s = r * SCORE_COLUMNS + c;
          (*scores)[s] = fma(vec4f(a4[r]), bs4[c].wzyx, (*scores)[s].wzyx).wzyx;
        }
      }
    }
  }
}

// out += scores · c, or scoresᵀ · c, over the staged terms: the same loops as in addToScores(), which stand twice
// because WGSL has no functions over arrays of any length
fn addToOut(out: ptr<function, Out>, x: u32, y: u32) {
  // unroll
  for (var k = 0u; k < TERMS; k++) {
    let a4 = aTile[k / 4].rows[k % 4][y];
    var bs4: array<vec4f, OUT_COLUMNS>;
    // unroll
    for (var c = 0u; c < OUT_COLUMNS; c++) {
      bs4[c] = bTile[k / 4].rows[k % 4][x + c * X];
    }
    // unroll
    for (var r = 0u; r < 4u; r++) {
      // unroll
      for (var i = 0u; i < OUT_COLUMNS; i++) {
        if (r % 2 == 0) {
          let s = r * OUT_COLUMNS + i;
          (*out)[s] = fma(vec4f(a4[r]), bs4[i], (*out)[s]);
        } else {
          let c = OUT_COLUMNS - 1 - i;
          let s = r * OUT_COLUMNS + c;
          (*out)[s] = fma(vec4f(a4[r]), bs4[c].wzyx, (*out)[s].wzyx).wzyx;
        }
      }
    }
  }
}
