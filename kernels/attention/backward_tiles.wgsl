// dk[s] = SCALE · Σₜ ds[t,s] · q[t], dv[s] = Σₜ f · p[t,s] · dy[t], and partial sums of dq, in tiles.
// Needs addToScores() and all else from tiles.wgsl, seenBy() from window.wgsl, rowDropoutPlace() from ../random.wgsl.
//
// ds = p · (dp − delta), p = exp(SCALE · q · k − logSumExp), dp = f · (dy · v), f: dropout's factors.
// qkv, dqkv: [B,T,(NH+2·KH)·HS]; dy: [B,T,C], C = NH · HS; logSumExp, delta: [B,NH,T]; partials: [P,B,T,C], partial
// sums of SCALE · Σₛ ds[t,s] · k[s], which backward_sum.wgsl adds up to dq. dk and dv in dqkv are set.
//
// A workgroup has every P-th block of TOKENS keys of one head. For each block, the rows of its tiles, it loops over the
// heads of q that read the keys, and over their queries from the block's first key on, TOKENS at a time. Four products
// of a tile are computed in two rounds of the same code, and a fifth one from the transposed tile of ds:
//
//                 scores of the tile     become                            product
//     round 0     k · qᵀ                 p, kept in registers, and f · p   dv += (f · p) · dy
//     round 1     v · dyᵀ                ds = p · (f · … − delta)          dk += ds · q
//     last        ds of round 1          dsᵀ                               dq += dsᵀ · k
//
// A workgroup loops over all queries of its keys, so it computes dk and dv completely. Many workgroups have addends
// of dq of the same query: workgroup i of a head adds its own, in the order of its blocks, to partial sum i. So
// every element of dq, dk and dv is summed in one order, without atomics. (A separate kernel for dq that loops over
// keys needed seven products instead of five, and took a quarter longer.) Columns are queries here, so logSumExp
// and delta are read for the four queries of a vector.
enable f16;

alias real4 = vec4<f16>; // four elements of qkv, dy, dqkv and partials
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const SINGLE: bool = true; // whether KH = NH
const SCALE: f32 = 1.0 / sqrt(f32(HS));

struct Sizes {
  T: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<packed>;
@group(0) @binding(1) var<storage, read> dy: array<packed>;
@group(0) @binding(2) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(5) var<storage, read_write> partials: array<real4>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv
const GROUP: u32 = NH / KH;
const LOWEST: f32 = -3.0e38;

// Index of a head's first vector of the first token, of q in qkv and in dy; the distance from a row's q to its k.
struct Head {
  q: u32,
  dy: u32,
  toKey: u32,
}

// A block of dy or of qkv, `column` vectors after the head's first vector. The last token replaces those past the
// end; their results are masked or not stored.
fn fetch(isDy: bool, head: Head, column: u32, tokens: vec4u) -> Block {
  let places = select(head.q, head.dy, isDy) + column +
    min(tokens, vec4u(sizes.T - 1)) * select(ROW, C, isDy);
  var block: Block;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    if (isDy) { block[i] = dy[places[i]]; } else { block[i] = qkv[places[i]]; }
  }
  return block;
}

// The blocks of an invocation for a step of the scores: of a, which is k, or of b, which is q; in round 1 v or dy.
fn fetchFactors(
  fetched: ptr<function, Fetched>,
  head: Head,
  firstKey: u32,
  firstQuery: u32,
  round: u32,
  index: u32,
  step: u32,
) {
  // unroll
  for (var f = 0u; f < FACTOR_FETCHES; f++) {
    let block = index + f * WORKGROUP_SIZE;
    let isKey = isOfA(block);
    let tokens = select(firstQuery, firstKey, isKey) + tokensOfBlock(block);
    let column = select(0, head.toKey + round * KH * QUADS, isKey) + quadOfBlock(block, step);
    (*fetched)[f] = fetch(!isKey && round == 1, head, column, tokens);
  }
}

// Those for a step of c, by which the scores are multiplied: dy, in round 1 q.
fn fetchQueries(fetched: ptr<function, Fetched>, head: Head, firstQuery: u32, round: u32, index: u32, step: u32) {
  // unroll
  for (var f = 0u; f < FETCHES; f++) {
    let block = index + f * WORKGROUP_SIZE;
    (*fetched)[f] = fetch(round == 0, head, block % QUADS, firstQuery + tokensOfColumns(step, block));
  }
}

// Those for a step of c, by which the transposed ds is multiplied: k.
fn fetchKeys(fetched: ptr<function, Fetched>, head: Head, firstKey: u32, index: u32, step: u32) {
  // unroll
  for (var f = 0u; f < FETCHES; f++) {
    let block = index + f * WORKGROUP_SIZE;
    (*fetched)[f] = fetch(false, head, head.toKey + block % QUADS, firstKey + tokensOfRows(step, block));
  }
}

// logSumExp of four queries; the last query replaces those past the end.
fn logSumExpsOf(headRow: u32, queries: vec4u) -> vec4f {
  let rows = headRow + min(queries, vec4u(sizes.T - 1));
  return vec4f(logSumExp[rows.x], logSumExp[rows.y], logSumExp[rows.z], logSumExp[rows.w]);
}

// delta of four queries; the last query replaces those past the end.
fn deltasOf(headRow: u32, queries: vec4u) -> vec4f {
  let rows = headRow + min(queries, vec4u(sizes.T - 1));
  return vec4f(delta[rows.x], delta[rows.y], delta[rows.z], delta[rows.w]);
}

// The numbers of tokens that four queries see; the last query replaces those past the end.
fn seenByEach(sequence: u32, queries: vec4u) -> vec4u {
  let tokens = sequence + min(queries, vec4u(sizes.T - 1));
  return vec4u(seenBy(tokens.x), seenBy(tokens.y), seenBy(tokens.z), seenBy(tokens.w));
}

// The counters at which dropout's random numbers of four queries begin.
// only if DROPOUT
fn dropoutPlacesOf(headRow: u32, queries: vec4u) -> vec4u {
  var places: vec4u;
  // unroll
  for (var j = 0u; j < 4u; j++) {
    places[j] = rowDropoutPlace(headRow + queries[j]);
  }
  return places;
}

// Dropout's factors of four queries for a key.
// only if DROPOUT
fn factorsOfKey(places: vec4u, key: u32) -> vec4f {
  var factors: vec4f;
  // unroll
  for (var j = 0u; j < 4u; j++) {
    factors[j] = dropoutFactor(places[j], key);
  }
  return factors;
}

// Round 0: k · qᵀ becomes p, and in scores f · p.
fn toProbabilities(
  scores: ptr<function, Scores>,
  p: ptr<function, Scores>,
  sequence: u32,
  firstKey: u32,
  firstQuery: u32,
  headRow: u32,
  x: u32,
  y4: u32,
) {
  let T = sizes.T;
  let seenByLast = seenBy(sequence + min(firstQuery + TOKENS, T) - 1);
  let onEdge = firstKey + TOKENS > firstQuery + 1 ||
    firstQuery + TOKENS > min(firstKey + seenByLast, T);
  // unroll
  for (var c = 0u; c < SCORE_COLUMNS; c++) {
    let queries = tokensOfColumn(firstQuery, x, c);
    let seen = seenByEach(sequence, queries);
    let logSumExps = logSumExpsOf(headRow, queries);
    // only if DROPOUT
    let dropoutPlaces = dropoutPlacesOf(headRow, queries);
    // unroll
    for (var r = 0u; r < 4u; r++) {
      let key = firstKey + y4 * 4 + r;
      let i = r * SCORE_COLUMNS + c;
      let masked = vec4<bool>(onEdge) &
        ((queries - vec4u(key) >= seen) | (queries >= vec4u(T))); // wraps if key > query
      let kq = select((*scores)[i], vec4f(LOWEST), masked);
      (*p)[i] = exp(fma(vec4f(SCALE), kq, -logSumExps));
      var factor = vec4f(1);
      // only if DROPOUT
      factor = factorsOfKey(dropoutPlaces, key);
      (*scores)[i] = factor * (*p)[i];
    }
  }
}

// Round 1: v · dyᵀ becomes ds = p · (dp − delta).
fn toScoreGradients(
  scores: ptr<function, Scores>,
  p: ptr<function, Scores>,
  firstKey: u32,
  firstQuery: u32,
  headRow: u32,
  x: u32,
  y4: u32,
) {
  // unroll
  for (var c = 0u; c < SCORE_COLUMNS; c++) {
    let queries = tokensOfColumn(firstQuery, x, c);
    let deltas = deltasOf(headRow, queries);
    // only if DROPOUT
    let dropoutPlaces = dropoutPlacesOf(headRow, queries);
    // unroll
    for (var r = 0u; r < 4u; r++) {
      let i = r * SCORE_COLUMNS + c;
      var factor = vec4f(1);
      // only if DROPOUT
      factor = factorsOfKey(dropoutPlaces, firstKey + y4 * 4 + r);
      (*scores)[i] = (*p)[i] * (factor * (*scores)[i] - deltas);
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let T = sizes.T;
  let x = xOf(index);
  let y4 = yOf(index);
  let sequence = group.x / KH * T;
  let stride = groups.y * TOKENS; // between the blocks of keys of the workgroup

  for (var firstKey = group.y * TOKENS; firstKey < T; firstKey += stride) { // the keys with the most queries start first
    var dk = Out(); // Naga zeroes a variable without a value only once, before the loop
    var dv = Out();
    let end = min(firstKey + (TOKENS - 1) + WINDOW, T);
    // unroll if SINGLE
    for (var member = 0u; member < GROUP; member++) {
      let h = group.x % KH * GROUP + member;
      let head = Head(
        sequence * ROW + h * QUADS,
        sequence * C + h * QUADS,
        (NH - (h - group.x % KH)) * QUADS,
      );
      let headRow = (group.x * GROUP + member) * T; // of logSumExp and delta
      let partial = groups.x / KH * T * C * group.y + head.dy;
      var firstQuery = firstKey;
      var fetched: Fetched;
      fetchFactors(&fetched, head, firstKey, firstQuery, 0, index, 0);
      for (; firstQuery < end; firstQuery += TOKENS) {
        let seen = seenBy(sequence + firstQuery);
        // only if APART
        if (firstQuery >= firstKey + (TOKENS - 1) + seen) { break; } // nor do later queries see a key of the block
        var p: Scores;
        var scores: Scores;
        for (var round = 0u; round < 2; round++) {
          // scores = k · qᵀ; in round 1 v · dyᵀ
          scores = Scores();
          for (var step = 0u; step < SCORE_STEPS; step++) {
            // unroll
            for (var f = 0u; f < FACTOR_FETCHES; f++) {
              stageTransposed(index + f * WORKGROUP_SIZE, fetched[f]);
            }
            workgroupBarrier();
            if (step + 1 < SCORE_STEPS) {
              fetchFactors(&fetched, head, firstKey, firstQuery, round, index, step + 1);
            } else {
              fetchQueries(&fetched, head, firstQuery, round, index, 0);
            }
            addToScores(&scores, x, y4);
            workgroupBarrier();
          }

          if (round == 0) {
            toProbabilities(&scores, &p, sequence, firstKey, firstQuery, headRow, x, y4);
          } else {
            toScoreGradients(&scores, &p, firstKey, firstQuery, headRow, x, y4);
          }

          // dv += (f · p) · dy; in round 1 dk += ds · q
          for (var step = 0u; step < OUT_STEPS; step++) {
            stageScores(step, &scores, x, y4);
            stageRows(&fetched, index);
            workgroupBarrier();
            if (step + 1 < OUT_STEPS) {
              fetchQueries(&fetched, head, firstQuery, round, index, step + 1);
            } else if (round == 0) {
              fetchFactors(&fetched, head, firstKey, firstQuery, 1, index, 0);
            } else {
              fetchKeys(&fetched, head, firstKey, index, 0);
            }
            if (round == 0) { addToOut(&dv, x, y4); } else { addToOut(&dk, x, y4); }
            workgroupBarrier();
          }
        }

        // dq = dsᵀ · k
        var dq = Out();
        for (var step = 0u; step < OUT_STEPS; step++) {
          stageScoreRows(step, &scores, x, y4);
          stageRows(&fetched, index);
          workgroupBarrier();
          if (step + 1 < OUT_STEPS) {
            fetchKeys(&fetched, head, firstKey, index, step + 1);
          } else {
            fetchFactors(&fetched, head, firstKey, firstQuery + TOKENS, 0, index, 0);
          }
          addToOut(&dq, x, y4);
          workgroupBarrier();
        }
        // the first block of the workgroup that these queries see sets the partial sum, later blocks add to it
        let isFirst = firstKey < stride || firstKey - stride + (TOKENS - 1) + seen <= firstQuery;
        // unroll
        for (var r = 0u; r < 4u; r++) {
          let t = firstQuery + y4 * 4 + r;
          if (t < T) {
            // unroll
            for (var c = 0u; c < OUT_COLUMNS; c++) {
              let place = partial + t * C + c * X + x;
              var four = SCALE * dq[r * OUT_COLUMNS + c];
              if (!isFirst) { four += vec4f(partials[place]); }
              partials[place] = real4(four);
            }
          }
        }
      }
    }

    // unroll
    for (var r = 0u; r < 4u; r++) {
      let s = firstKey + y4 * 4 + r;
      if (s < T) {
        let k = (sequence + s) * ROW + (NH + group.x % KH) * QUADS + x;
        // unroll
        for (var c = 0u; c < OUT_COLUMNS; c++) {
          dqkv[k + c * X] = real4(SCALE * dk[r * OUT_COLUMNS + c]);
          dqkv[k + KH * QUADS + c * X] = real4(dv[r * OUT_COLUMNS + c]);
        }
      }
    }
  }
}
