// y[t] = Σₛ f · p[t,s] · v[s], with p = softmax(SCALE · q · kᵀ) over the keys s ≤ t, for every head, in tiles.
// Needs xOf(), yOf() and transposed() from tiles.wgsl, unpacked() from ../packed_f16.wgsl or ../packed_f32.wgsl, seenBy() from window.wgsl, rowDropoutPlace() from ../random.wgsl.
//
// qkv: [B,T,(NH+2·KH)·HS]; y: [B,T,C], C = NH · HS; logSumExp: [B,NH,T] of the scaled scores; f: dropout's factors
//
// A workgroup has TOKENS queries of one head, the rows of its tiles, and loops over the keys up to its last
// query, TOKENS at a time. It skips tiles whose keys are all after the last query or before those that the first
// query sees, and masks only the tiles that are partly so. Per tile of keys:
//
//                  HS                    TOKENS keys                   HS
//              ┌───────┐                ┌──────────────┐           ┌───────┐
//      TOKENS  │   q   │  ·    kᵀ    =  │    scores    │  ·  v  =  │  out  │
//      queries └───────┘                └──────────────┘           └───────┘
//
//     highest = max(highest before, scores of the row), over all invocations that share the row
//     p = exp(scores − highest)
//     out = out · exp(highest before − highest) + f · p · v
//
// The sum of a row of p is needed only at the end: until then each invocation adds up its own columns. highest,
// total and decay are vectors of the four rows of an invocation. q is fetched again for each tile of keys, from
// the cache.
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
//      scores += q · kᵀ    components          q, transposed              k, transposed     stageQK()
//      out += scores · v   keys                scores of these keys       v of these keys   stageScores(), stageV()
//
// Scores stay in registers, and only one step of them at a time is staged. So a workgroup needs memory for one
// step, with heads of 64 9 KB. Functions have pointers to the registers of main(), and every index into these is a
// constant once the loops are unrolled.
enable f16;

alias real4 = vec4<f16>; // four elements of y
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const HS: u32 = 32;
const TOKENS: u32 = 64; // queries, and keys, of a tile: 32 or 64
const FETCHES: u32 = 1; // blocks per invocation and step, at most
const SCALE: f32 = 1.0 / sqrt(f32(HS));

struct Sizes {
  T: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<packed>;
@group(0) @binding(1) var<storage, read_write> y: array<real4>;
@group(0) @binding(2) var<storage, read_write> logSumExp: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const Y: u32 = TOKENS / 4; // invocations along the rows
const WORKGROUP_SIZE: u32 = X * Y;
const QUADS: u32 = HS / 4; // vectors of four components
const SCORE_STEPS: u32 = HS / TERMS;
const OUT_STEPS: u32 = TOKENS / TERMS;
const SCORE_COLUMNS: u32 = TOKENS / 4 / X;
const OUT_COLUMNS: u32 = QUADS / X;
const SCORES: u32 = 4 * SCORE_COLUMNS;
const OUTS: u32 = 4 * OUT_COLUMNS;
const OWN_TERMS: u32 = TERMS / X; // keys of a step per invocation: half a vector
const STEPS_PER_VECTOR: u32 = 4 / OWN_TERMS;
alias Scores = array<vec4f, SCORES>;
alias Out = array<vec4f, OUTS>;

const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv
const SCALE_LOG2: f32 = SCALE * 1.4426950408889634; // exp(SCALE · x) = exp2(SCALE_LOG2 · x)
const LOWEST: f32 = -1.0e38; // finite when multiplied by SCALE_LOG2

// A block is a vector of four components of each of four tokens.
alias Fetched = array<Block, FETCHES>;
const V_BLOCKS: u32 = TERMS4 * QUADS; // blocks of v per step
const Q_BLOCKS: u32 = Y * TERMS4; // blocks of q per step, and as many of k

// Index of a head's first vector of the first token in qkv, and the distance from a row's q to its k.
struct Head {
  q: u32,
  toKey: u32,
}

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

// The place of a block of q or k in a step: which vector of components, and which vector of tokens. Eight neighbours
// have four by two of these, so that what they store, transposed, lies on different banks.
fn quadOf(block: u32) -> u32 {
  return block % TERMS4;
}
fn vectorOf(block: u32) -> u32 {
  return block % Q_BLOCKS / TERMS4;
}

// The first half of the blocks of q and k are those of q.
fn isOfQ(block: u32) -> bool {
  return block < Q_BLOCKS;
}

// Stages a block of q or k.
fn stageQK(tokens: Block, block: u32) {
  let terms = transposed(tokens);
  let quad = quadOf(block);
  let vector = vectorOf(block);
  if (isOfQ(block)) {
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

// Stages the blocks of v that an invocation has fetched.
fn stageV(fetched: ptr<function, Fetched>, index: u32) {
  // unroll
  for (var f = 0u; f < FETCHES; f++) {
    let block = index + f * WORKGROUP_SIZE;
    if (block < V_BLOCKS) {
      // unroll
      for (var i = 0u; i < 4u; i++) {
        bTile[block / QUADS].rows[i][block % QUADS] = unpacked((*fetched)[f][i]);
      }
    }
  }
}

// The tokens in a block of v, counted from the first key of the tile.
fn tokensOfV(step: u32, block: u32) -> vec4u {
  let terms = vec4u(0, 1, 2, 3) + block / QUADS * 4;
  let vectors = terms / OWN_TERMS + step / STEPS_PER_VECTOR * X;
  return 4 * vectors + step % STEPS_PER_VECTOR * OWN_TERMS + terms % OWN_TERMS;
}

// Stages the scores of a step of keys. Every invocation has OWN_TERMS of these keys, side by side in a vector.
fn stageScores(scores: ptr<function, Scores>, step: u32, x: u32, y: u32) {
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

// scores += q · kᵀ, over the staged terms
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

// out += scores · v, over the staged terms: the same loops as in addToScores(), which stand twice
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

// A vector of qkv of each of four tokens. The last token replaces those past the end; their results are masked or
// not stored.
fn fetch(place: u32, tokens: vec4u) -> Block {
  var block: Block;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    block[i] = qkv[place + min(tokens[i], sizes.T - 1) * ROW];
  }
  return block;
}

// A block of q or k.
fn fetchQK(head: Head, firstQuery: u32, firstKey: u32, step: u32, block: u32) -> Block {
  let isQ = isOfQ(block);
  let tokens = select(firstKey, firstQuery, isQ) + (vec4u(0, 1, 2, 3) + 4 * vectorOf(block));
  return fetch(head.q + select(head.toKey, 0, isQ) + (step * TERMS4 + quadOf(block)), tokens);
}

// A block of v.
fn fetchV(head: Head, firstKey: u32, step: u32, block: u32) -> Block {
  return fetch(head.q + head.toKey + KH * QUADS + block % QUADS, firstKey + tokensOfV(step, block));
}

// Sets the scores of keys that a query does not see to the lowest value.
fn mask(scores: ptr<function, Scores>, sequence: u32, firstQuery: u32, firstKey: u32, x: u32, y4: u32) {
  // unroll
  for (var r = 0u; r < 4u; r++) {
    let query = firstQuery + y4 * 4 + r;
    let seen = seenBy(sequence + min(query, sizes.T - 1));
    // unroll
    for (var c = 0u; c < SCORE_COLUMNS; c++) {
      let keys = vec4u(0, 1, 2, 3) + firstKey + (x + c * X) * 4;
      let masked = vec4u(query) - keys >= vec4u(seen); // wraps if key > query
      (*scores)[r * SCORE_COLUMNS + c] = select((*scores)[r * SCORE_COLUMNS + c], vec4f(LOWEST), masked);
    }
  }
}

// The highest score of each row of an invocation, over its own columns.
fn highestOf(scores: ptr<function, Scores>) -> vec4f {
  var highest: vec4f;
  // unroll
  for (var r = 0u; r < 4u; r++) {
    var four = (*scores)[r * SCORE_COLUMNS];
    // unroll
    for (var c = 1u; c < SCORE_COLUMNS; c++) {
      four = max(four, (*scores)[r * SCORE_COLUMNS + c]);
    }
    highest[r] = max(max(four.x, four.y), max(four.z, four.w));
  }
  return highest;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let x = xOf(index);
  let y4 = yOf(index);
  let firstQuery = (groups.y - 1 - group.y) * TOKENS; // those with the most keys start first, of all heads
  let end = min(firstQuery + TOKENS, sizes.T);
  let sequence = group.x / NH * sizes.T;
  let seenByLast = seenBy(sequence + end - 1);
  let h = group.x % NH;
  let head = Head(sequence * ROW + h * QUADS, (NH - (h - h / (NH / KH))) * QUADS);
  var firstKey = firstSeenBy(firstQuery, seenBy(sequence + firstQuery)) / TOKENS * TOKENS;

  var fetched: Fetched;
  fetched[0] = fetchQK(head, firstQuery, firstKey, 0, index);
  var out: Out;
  var highest = vec4f(LOWEST);
  var total: vec4f;

  for (; firstKey < end; firstKey += TOKENS) {
    // scores = q · kᵀ
    var scores = Scores(); // Naga zeroes a variable without a value only once, before the loop
    for (var step = 0u; step < SCORE_STEPS; step++) {
      stageQK(fetched[0], index);
      workgroupBarrier();
      if (step + 1 < SCORE_STEPS) {
        fetched[0] = fetchQK(head, firstQuery, firstKey, step + 1, index);
      } else {
        // unroll
        for (var f = 0u; f < FETCHES; f++) {
          fetched[f] = fetchV(head, firstKey, 0, index + f * WORKGROUP_SIZE);
        }
      }
      addToScores(&scores, x, y4);
      workgroupBarrier();
    }
    if (firstKey + TOKENS > firstQuery + 1 || firstQuery + TOKENS > firstKey + seenByLast) {
      mask(&scores, sequence, firstQuery, firstKey, x, y4);
    }

    // the highest score of each row so far, exchanged through the memory of aTile
    aTile[x / 4].rows[x % 4][y4] = highestOf(&scores);
    workgroupBarrier();
    var raised = highest;
    // unroll
    for (var i = 0u; i < X; i++) {
      raised = max(raised, aTile[i / 4].rows[i % 4][y4]);
    }
    let decay = exp2(SCALE_LOG2 * (highest - raised));
    highest = raised;

    // rescales out and total to the new highest score; scores become f · p
    total *= decay;
    // unroll
    for (var r = 0u; r < 4u; r++) {
      // unroll
      for (var c = 0u; c < OUT_COLUMNS; c++) {
        out[r * OUT_COLUMNS + c] *= decay[r];
      }
      // unroll
      for (var c = 0u; c < SCORE_COLUMNS; c++) {
        var p = exp2(SCALE_LOG2 * (scores[r * SCORE_COLUMNS + c] - vec4f(raised[r])));
        total[r] += (p.x + p.y) + (p.z + p.w);
        // only if DROPOUT
        {
          let place = rowDropoutPlace(group.x * sizes.T + firstQuery + y4 * 4 + r);
          let key = firstKey + (x + c * X) * 4;
          // unroll
          for (var j = 0u; j < 4u; j++) {
            p[j] *= dropoutFactor(place, key + j);
          }
        }
        scores[r * SCORE_COLUMNS + c] = p;
      }
    }
    workgroupBarrier();

    // out += f · p · v
    for (var step = 0u; step < OUT_STEPS; step++) {
      stageScores(&scores, step, x, y4);
      stageV(&fetched, index);
      workgroupBarrier();
      if (step + 1 < OUT_STEPS) {
        // unroll
        for (var f = 0u; f < FETCHES; f++) {
          fetched[f] = fetchV(head, firstKey, step + 1, index + f * WORKGROUP_SIZE);
        }
      } else {
        fetched[0] = fetchQK(head, firstQuery, firstKey + TOKENS, 0, index);
      }
      addToOut(&out, x, y4);
      workgroupBarrier();
    }
  }

  // adds up the sums of the invocations that share a row
  aTile[x / 4].rows[x % 4][y4] = total;
  workgroupBarrier();
  var sum: vec4f;
  // unroll
  for (var i = 0u; i < X; i++) {
    sum += aTile[i / 4].rows[i % 4][y4];
  }
  // unroll
  for (var r = 0u; r < 4u; r++) {
    let t = firstQuery + y4 * 4 + r;
    if (t < sizes.T) {
      let output = (sequence + t) * C + h * QUADS;
      // unroll
      for (var c = 0u; c < OUT_COLUMNS; c++) {
        y[output + c * X + x] = real4(out[r * OUT_COLUMNS + c] / sum[r]);
      }
      if (x == 0) { logSumExp[group.x * sizes.T + t] = SCALE * highest[r] + log(sum[r]); }
    }
  }
}
