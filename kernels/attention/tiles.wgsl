// The two matrix products of attention in tiles, which the workgroups of forward_tiles and backward_tiles share.
// Needs packed and unpacked() from ../packed_f16.wgsl or ../packed_f32.wgsl.
//
// A tile is TOKENS × TOKENS scores of one head. Its rows are queries and its columns keys in the forward pass;
// in the backward pass rows are keys and columns queries. A workgroup keeps its rows and loops over the columns:
//
//                  HS                    TOKENS columns                HS
//              ┌───────┐                ┌──────────────┐           ┌───────┐
//      TOKENS  │   a   │  ·  bᵀ   =     │    scores    │  ·  c  =  │  out  │
//      rows    └───────┘                └──────────────┘           └───────┘
//
// Invocation (x, y) of X × Y has rows 4y … 4y + 3, in registers. Of the scores it has the vectors of four columns
// x, x + X, …, SCORE_COLUMNS of them; of out the vectors of four components x, x + X, …, OUT_COLUMNS of them:
//
//                  x    x + X             scores[r · SCORE_COLUMNS + c]: row 4y + r, columns 4 (x + c · X) … + 3
//              ┌──┬──┬──┬──┐              out[r · OUT_COLUMNS + c]: row 4y + r, components 4 (x + c · X) … + 3
//       4y     │  │▓▓│  │▓▓│
//              └──┴──┴──┴──┘
//
// A product is a loop over steps of TERMS terms. Each step's terms are staged in workgroup memory in f32, the
// terms outermost; while a step is multiplied, the blocks of the next are fetched into registers:
//
//      product             the terms are       aTile holds                bTile holds
//      scores += a · bᵀ    components          a, transposed              b, transposed     stageTransposed()
//      out += scores · c   tokens of columns   scores of those columns    rows of c         stageScores(), stageRows()
//      out += scoresᵀ · c  tokens of rows      scores of those rows       rows of c         stageScoreRows(), stageRows()
//
// Scores never leave the registers but for one step at a time, so a workgroup needs no more memory than a step, 9
// KB with heads of 64. That is what counts: an H100 gives out some 52 KB per core, and a staged tile of scores
// would leave room for half the workgroups. Functions have pointers to the registers of main(), and every index
// into these is a constant once the loops are unrolled.
const HS: u32 = 32;
const TOKENS: u32 = 64; // rows, and columns, of a tile: 32 or 64
const FETCHES: u32 = 1; // blocks that an invocation fetches of a step of rows: HS / WORKGROUP_SIZE, rounded up

const X: u32 = 8; // invocations along the columns, and along the components
const Y: u32 = TOKENS / 4; // invocations along the rows
const WORKGROUP_SIZE: u32 = X * Y;
const QUADS: u32 = HS / 4; // vectors of four components
const TERMS: u32 = 16;
const TERMS4: u32 = TERMS / 4;
const SCORE_STEPS: u32 = HS / TERMS;
const OUT_STEPS: u32 = TOKENS / TERMS;
const SCORE_COLUMNS: u32 = TOKENS / 4 / X;
const OUT_COLUMNS: u32 = QUADS / X;
const SCORES: u32 = 4 * SCORE_COLUMNS;
const OUTS: u32 = 4 * OUT_COLUMNS;
alias Scores = array<vec4f, SCORES>;
alias Out = array<vec4f, OUTS>;

// Four terms of a tile. Unused vectors keep stores of neighbours, by columns and transposed, off the same banks.
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

// Of a warp's 32 invocations, 8 × 4 in a tile, neighbours have the same x or the same y, so that they load the
// same vectors of a or of b; matmul/tiles.wgsl gives the reason.
fn xOf(index: u32) -> u32 {
  return index % 2 + index / 4 % 4 * 2;
}
fn yOf(index: u32) -> u32 {
  return index / 32 * 4 + index / 16 % 2 * 2 + index / 2 % 2;
}

// What an invocation fetches at a time: a vector of four components of each of four tokens.
alias Block = array<packed, 4>;
alias Fetched = array<Block, FETCHES>;
const ROW_BLOCKS: u32 = TERMS4 * QUADS; // blocks of a step of rows

// A step of a and b has one block for each invocation: the first TOKENS blocks are those of a.
fn isOfA(block: u32) -> bool {
  return block < TOKENS;
}
// Which tokens of a or b the block has.
fn tokensOfBlock(block: u32) -> vec4u {
  return vec4u(0, 1, 2, 3) + 4 * (block % TOKENS / TERMS4);
}
// Which vector of their components.
fn quadOfBlock(block: u32, step: u32) -> u32 {
  return step * TERMS4 + block % TERMS4;
}

// Stages a block of a or b.
fn stageTransposed(block: u32, tokens: Block) {
  let terms = transpose(
    mat4x4f(unpacked(tokens[0]), unpacked(tokens[1]), unpacked(tokens[2]), unpacked(tokens[3])),
  );
  let quad = block % TERMS4;
  let vector = block % TOKENS / TERMS4; // of four tokens
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

// Stages what an invocation has fetched of a step of rows.
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

// Which tokens of the columns a block of rows has, if the terms are those of stageScores().
fn tokensOfColumns(step: u32, block: u32) -> vec4u {
  return vec4u(0, 1, 4, 5) + (block / QUADS * 8 + step / 2 * 4 * X + step % 2 * 2);
}

// Stages a step of the scores' columns: every invocation has two terms in each, side by side in a vector.
fn stageScores(step: u32, scores: ptr<function, Scores>, x: u32, y: u32) {
  // unroll
  for (var s = 0u; s < OUT_STEPS; s++) {
    if (step == s) {
      // unroll
      for (var e = 0u; e < 2u; e++) {
        aTile[x / 2].rows[x % 2 * 2 + e][y] = vec4f(
          (*scores)[s / 2][s % 2 * 2 + e],
          (*scores)[SCORE_COLUMNS + s / 2][s % 2 * 2 + e],
          (*scores)[2 * SCORE_COLUMNS + s / 2][s % 2 * 2 + e],
          (*scores)[3 * SCORE_COLUMNS + s / 2][s % 2 * 2 + e],
        );
      }
    }
  }
}

// Which tokens of the rows a block of rows has, if the terms are those of stageScoreRows().
fn tokensOfRows(step: u32, block: u32) -> vec4u {
  return vec4u(0, 1, 2, 3) + (step * TERMS + block / QUADS * 4);
}

// Stages a step of the scores' rows: four y have them all.
fn stageScoreRows(step: u32, scores: ptr<function, Scores>, x: u32, y: u32) {
  if (y / 4 == step) {
    // unroll
    for (var r = 0u; r < 4u; r++) {
      // unroll
      for (var c = 0u; c < SCORE_COLUMNS; c++) {
        aTile[y % 4].rows[r][x + c * X] = (*scores)[r * SCORE_COLUMNS + c];
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
    // odd rows go backwards, so that each multiply-add shares a factor with the one before it, as in matmul
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

// out += scores · c, or scoresᵀ · c, over the staged terms
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
