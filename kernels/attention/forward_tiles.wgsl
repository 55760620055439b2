// y[t] = Σₛ f · p[t,s] · v[s], with p = softmax(SCALE · q · kᵀ) over the keys s ≤ t, for every head, in tiles.
// Needs addToScores() and all else from tiles.wgsl, seenBy() from window.wgsl, rowDropoutPlace() from ../random.wgsl.
//
// qkv: [B,T,(NH+2·KH)·HS]; y: [B,T,C], C = NH · HS; logSumExp: [B,NH,T] of the scaled scores; f: dropout's factors
//
// A workgroup has TOKENS queries of one head, the rows of its tiles, and loops over the keys up to its last
// query, TOKENS at a time. It skips tiles whose keys are all after the last query or before those that the first
// query sees, and masks only the tiles that are partly so. Per tile of keys:
//
//     scores = q · kᵀ
//     highest = max(highest before, scores of the row), over all invocations that share the row
//     p = exp(scores − highest)
//     out = out · exp(highest before − highest) + f · p · v
//
// The sum of a row of p is needed only at the end: until then each invocation adds up its own columns. highest,
// total and decay are vectors of the four rows of an invocation. q is fetched again for each tile of keys, from
// the cache.
enable f16;

alias real4 = vec4<f16>; // four elements of qkv and y
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const SCALE: f32 = 1.0 / sqrt(f32(HS));

struct Sizes {
  T: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<packed>;
@group(0) @binding(1) var<storage, read_write> y: array<real4>;
@group(0) @binding(2) var<storage, read_write> logSumExp: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv
const SCALE_LOG2: f32 = SCALE * 1.4426950408889634; // exp(SCALE · x) = exp2(SCALE_LOG2 · x)
const LOWEST: f32 = -1.0e38; // finite when multiplied by SCALE_LOG2

// Index of a head's first vector of the first token in qkv, and the distance from a row's q to its k.
struct Head {
  q: u32,
  toKey: u32,
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

// A block of a, which is q, or of b, which is k.
fn fetchQK(head: Head, firstQuery: u32, firstKey: u32, block: u32, step: u32) -> Block {
  let isQ = isOfA(block);
  let tokens = select(firstKey, firstQuery, isQ) + tokensOfBlock(block);
  return fetch(head.q + select(head.toKey, 0, isQ) + quadOfBlock(block, step), tokens);
}

// A block of c, which is v.
fn fetchV(head: Head, firstKey: u32, block: u32, step: u32) -> Block {
  return fetch(head.q + head.toKey + KH * QUADS + block % QUADS, firstKey + tokensOfColumns(step, block));
}

// Sets the scores of keys that a query does not see to the lowest value.
fn mask(scores: ptr<function, Scores>, sequence: u32, firstQuery: u32, firstKey: u32, x: u32, y4: u32) {
  // unroll
  for (var r = 0u; r < 4u; r++) {
    let query = firstQuery + y4 * 4 + r;
    let seen = seenBy(sequence + min(query, sizes.T - 1));
    // unroll
    for (var c = 0u; c < SCORE_COLUMNS; c++) {
      let keys = tokensOfColumn(firstKey, x, c);
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
  fetched[0] = fetchQK(head, firstQuery, firstKey, index, 0);
  var out: Out;
  var highest = vec4f(LOWEST);
  var total: vec4f;

  for (; firstKey < end; firstKey += TOKENS) {
    // scores = q · kᵀ
    var scores = Scores(); // Naga zeroes a variable without a value only once, before the loop
    for (var step = 0u; step < SCORE_STEPS; step++) {
      stageTransposed(index, fetched[0]);
      workgroupBarrier();
      if (step + 1 < SCORE_STEPS) {
        fetched[0] = fetchQK(head, firstQuery, firstKey, index, step + 1);
      } else {
        // unroll
        for (var f = 0u; f < FETCHES; f++) {
          fetched[f] = fetchV(head, firstKey, index + f * WORKGROUP_SIZE, 0);
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
      stageScores(step, &scores, x, y4);
      stageRows(&fetched, index);
      workgroupBarrier();
      if (step + 1 < OUT_STEPS) {
        // unroll
        for (var f = 0u; f < FETCHES; f++) {
          fetched[f] = fetchV(head, firstKey, index + f * WORKGROUP_SIZE, step + 1);
        }
      } else {
        fetched[0] = fetchQK(head, firstQuery, firstKey + TOKENS, index, 0);
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
