// y[t] = Σₛ f · p[t,s] · v[s], with p = softmax(SCALE · q · kᵀ) over the keys s ≤ t, for every head, by tensor cores.
// Needs packedEight() from ../packed_f16.wgsl, seenBy() from window.wgsl, rowDropoutPlace() and dropoutFactor() from ../random.wgsl.
//
// qkv: [B,T,(NH+2·KH)·HS]; y: [B,T,C], C = NH · HS; logSumExp: [B,NH,T] of the scaled scores; f: dropout's factors
//
// A workgroup has QUERIES queries of one head and loops over the keys up to its last query, KEYS at a time. Products
// are those of matrices of 16 × 16 elements, which are distributed over the 32 invocations of a subgroup. WGSL does
// not access the elements of a matrix, so scores become probabilities in workgroup memory. Per tile of keys:
//
//     by subgroup (32 queries)        by invocation (one query)                     by subgroup
//     scores = q · kᵀ, stored         p = exp2(SCALE_LOG2 · scores − reference),    out += f · p · v
//                                     total += Σ p, and f · p replaces the scores
//
// k and v of the next tile are fetched into registers as soon as those of a tile are staged, of k at the end of the
// loop: a compiler may move a load behind all else in the loop, to where its value is needed, but not into the next turn.
//
// `reference` keeps p in the range of f16. In an online softmax it is the highest score so far, and out is multiplied
// by a factor per row whenever it grows. Here out lies in matrices, for which this is a detour through memory that
// takes as long as a product. So `reference` is the highest score of the first tile in which a query sees a key, plus
// HEADROOM, and p may grow to 2^MOST_GROWTH. If a score is even higher, which is rare, the workgroup starts again: then
// it knows the highest of all scores.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const HS: u32 = 64; // a multiple of 16
const QUERIES: u32 = 128; // per workgroup, which has as many invocations
const KEYS: u32 = 32; // per tile
const FETCHES: u32 = 2; // vectors per invocation of a tile of k or v: KEYS · VECTORS / QUERIES, rounded up
const SCALE: f32 = 1.0 / sqrt(f32(HS));

struct Sizes {
  T: u32,
}

// vectors of eight f16
@group(0) @binding(0) var<storage, read> qkv: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4u>;
@group(0) @binding(2) var<storage, read_write> logSumExp: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Result = subgroup_matrix_result<f32, 16, 16>;
const BLOCKS: u32 = HS / 16; // matrices along the components
const KEY_BLOCKS: u32 = KEYS / 16;
const QS: u32 = 2 * BLOCKS; // matrices of q per subgroup, as many as of out
const SCORES: u32 = 2 * KEY_BLOCKS; // matrices of scores per subgroup
const SCORE_QUADS: u32 = KEYS / 4; // vectors of four scores per query

const VECTORS: u32 = HS / 8; // in a row of a head
const C: u32 = NH * VECTORS; // of y
const ROW: u32 = (NH + 2 * KH) * VECTORS; // of qkv

// Rows in workgroup memory, in vectors of 16 bytes. One that is not used keeps rows on different banks.
const TILE_ROW: u32 = VECTORS + 1; // of k and v in f16
const SCORE_ROW: u32 = SCORE_QUADS + 1; // of scores in f32, and of p in f16: a matrix of p begins where its scores began
const Q_BLOCKS: u32 = SCORE_QUADS / 2; // matrices of q in such a row
const Y_VECTORS: u32 = SCORE_QUADS / 2; // vectors of y whose sums in f32 are in such a row

// Workgroup memory holds scores, then k or v. The rows of the scores also hold parts of q before the loop, and parts of
// out after it, so that there is room for several workgroups per core: an H100 has some 52 KB for them.
const TILE: u32 = QUERIES * SCORE_ROW;
var<workgroup> memory: array<vec4u, TILE + KEYS * TILE_ROW>;
var<workgroup> exceeds: atomic<u32>; // whether a row has a p above 2^MOST_GROWTH
var<workgroup> startsAgain: u32;

const LOG2E: f32 = 1.4426950408889634;
const SCALE_LOG2: f32 = SCALE * LOG2E; // exp(SCALE · x) = exp2(SCALE_LOG2 · x)
const LOWEST: f32 = -1.0e38; // finite when multiplied by SCALE_LOG2
const HEADROOM: f32 = 8.0; // the highest score of the first tile has p = 2^-HEADROOM; f16 rounds at 2^-25
const MOST_GROWTH: f32 = select(15.0, 11.0, DROPOUT); // f16 holds less than 2^16, dropout's factors are at most 20

// A tile of k or v: an invocation's vectors with numbers index, index + QUERIES, … The last token replaces those past
// the end; their scores are masked.
alias Fetched = array<vec4u, FETCHES>;
fn fetch(place: u32, firstKey: u32, index: u32) -> Fetched {
  var fetched: Fetched;
  // unroll
  for (var f = 0u; f < FETCHES; f++) {
    let vector = index + f * QUERIES;
    let token = min(firstKey + vector / VECTORS, sizes.T - 1);
    fetched[f] = qkv[place + token * ROW + vector % VECTORS];
  }
  return fetched;
}
fn stage(fetched: Fetched, index: u32) {
  // unroll
  for (var f = 0u; f < FETCHES; f++) {
    let vector = index + f * QUERIES;
    if (vector < KEYS * VECTORS) {
      memory[TILE + vector / VECTORS * TILE_ROW + vector % VECTORS] = fetched[f];
    }
  }
}

@compute @workgroup_size(QUERIES)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let T = sizes.T;
  let firstQuery = (groups.y - 1 - group.y) * QUERIES; // those with the most keys start first, of all heads
  let query = firstQuery + index;
  let subgroupRow = index / 32 * 32; // of the subgroup's first query, in the tile
  let firstSubgroupQuery = firstQuery + subgroupRow;
  let row = group.x * T + query; // of [B·NH,T]
  let h = group.x % NH;
  let sequence = group.x / NH * T;
  let head = sequence * ROW + h * VECTORS; // q of this head at t = 0
  let k = head + (NH - (h - h / (NH / KH))) * VECTORS;
  let v = k + KH * VECTORS;
  let end = min(firstQuery + QUERIES, T);
  let seen = seenBy(sequence + min(query, T - 1));
  let firstKeyTile = firstSeenBy(firstQuery, seenBy(sequence + firstQuery)) / KEYS * KEYS;
  // of the queries of the subgroup
  let seenByFirst = seenBy(sequence + min(firstSubgroupQuery, T - 1));
  let seenByLast = seenBy(sequence + min(firstSubgroupQuery + 31, T - 1));

  var q: array<Left, QS>;
  // unroll
  for (var first = 0u; first < BLOCKS; first += Q_BLOCKS) {
    // unroll
    for (var f = 0u; f < SCORE_QUADS; f++) {
      let vector = index + f * QUERIES;
      let token = min(firstQuery + vector / SCORE_QUADS, T - 1);
      let column = min(first * 2 + vector % SCORE_QUADS, VECTORS - 1);
      memory[vector / SCORE_QUADS * SCORE_ROW + vector % SCORE_QUADS] = qkv[head + token * ROW + column];
    }
    workgroupBarrier();
    // unroll
    for (var i = 0u; i < 2u; i++) {
      // unroll
      for (var j = 0u; j < Q_BLOCKS; j++) {
        let c = min(first + j, BLOCKS - 1); // more than once the last one, if the parts are not equal
        let place = (subgroupRow + i * 16) * SCORE_ROW + (c - first) * 2;
        q[i * BLOCKS + c] = subgroupMatrixLoad<Left, row_major>(&memory, place, SCORE_ROW);
      }
    }
    workgroupBarrier();
  }

  var out: array<Result, QS>;
  var highest = LOWEST; // of the scores so far
  var reference = 0.0; // log2 of what p is divided by
  var total: f32;
  // only if DROPOUT
  let firstDraw = rowDropoutPlace(row);
  for (var attempt = 0u; attempt < 2; attempt++) {
    out = array<Result, QS>();
    total = 0.0;
    var firstKey = firstKeyTile;
    stage(fetch(k, firstKey, index), index);
    var fetchedK = fetch(k, firstKey + KEYS, index); // of the next tile
    var fetchedV = fetch(v, firstKey, index);
    for (; firstKey < end; firstKey += KEYS) {
      // whether any query of the subgroup sees a key of the tile
      let isSeen = firstKey <= firstSubgroupQuery + 31 && firstSubgroupQuery < firstKey + (KEYS - 1) + seenByFirst;
      workgroupBarrier();

      // scores = q · kᵀ
      if (isSeen) {
        var scores = array<Result, SCORES>();
        // unroll
        for (var c = 0u; c < BLOCKS; c++) {
          // unroll
          for (var j = 0u; j < KEY_BLOCKS; j++) {
            let b = subgroupMatrixLoad<Right, col_major>(&memory, TILE + j * 16 * TILE_ROW + c * 2, TILE_ROW);
            // unroll
            for (var i = 0u; i < 2u; i++) {
              let s = i * KEY_BLOCKS + j;
              scores[s] = subgroupMatrixMultiplyAccumulate(q[i * BLOCKS + c], b, scores[s]);
            }
          }
        }
        // unroll
        for (var i = 0u; i < 2u; i++) {
          // unroll
          for (var j = 0u; j < KEY_BLOCKS; j++) {
            let place = (subgroupRow + i * 16) * SCORE_ROW + j * 4;
            subgroupMatrixStore<row_major>(&memory, place, scores[i * KEY_BLOCKS + j], SCORE_ROW);
          }
        }
      }
      workgroupBarrier();

      // an invocation replaces the scores of its query by f · p
      if (isSeen) {
        var scores: array<vec4f, SCORE_QUADS>;
        // unroll
        for (var i = 0u; i < SCORE_QUADS; i++) {
          scores[i] = bitcast<vec4f>(memory[index * SCORE_ROW + i]);
        }
        // one branch for the subgroup, since most tiles have no masked scores
        if (firstKey + KEYS > firstSubgroupQuery + 1 || firstSubgroupQuery + 32 > firstKey + seenByLast) {
          // unroll
          for (var i = 0u; i < SCORE_QUADS; i++) {
            let keys = vec4u(0, 1, 2, 3) + firstKey + i * 4;
            let masked = vec4u(query) - keys >= vec4u(seen); // wraps if key > query
            scores[i] = select(scores[i], vec4f(LOWEST), masked);
          }
        }
        var highest4 = scores[0];
        // unroll
        for (var i = 1u; i < SCORE_QUADS; i++) {
          highest4 = max(highest4, scores[i]);
        }
        highest = max(highest, max(max(highest4.x, highest4.y), max(highest4.z, highest4.w)));
        if (total == 0 && highest > LOWEST) { reference = fma(SCALE_LOG2, highest, HEADROOM); }
        var total4 = vec4f();
        // unroll
        for (var j = 0u; j < KEY_BLOCKS; j++) {
          var p: array<vec4f, 4>; // of 16 keys
          // unroll
          for (var i = 0u; i < 4u; i++) {
            p[i] = exp2(fma(vec4f(SCALE_LOG2), scores[j * 4 + i], vec4f(-reference)));
            total4 += p[i];
            // only if DROPOUT
            {
              let key = firstKey + j * 16 + i * 4;
              // unroll
              for (var e = 0u; e < 4u; e++) {
                p[i][e] *= dropoutFactor(firstDraw, key + e);
              }
            }
          }
          memory[index * SCORE_ROW + j * 4] = packedEight(p[0], p[1]);
          memory[index * SCORE_ROW + j * 4 + 1] = packedEight(p[2], p[3]);
        }
        total += (total4.x + total4.y) + (total4.z + total4.w);
      }
      stage(fetchedV, index);
      fetchedV = fetch(v, firstKey + KEYS, index);
      workgroupBarrier();

      // out += f · p · v
      if (isSeen) {
        // unroll
        for (var j = 0u; j < KEY_BLOCKS; j++) {
          var p: array<Left, 2>;
          // unroll
          for (var i = 0u; i < 2u; i++) {
            p[i] = subgroupMatrixLoad<Left, row_major>(&memory, (subgroupRow + i * 16) * SCORE_ROW + j * 4, SCORE_ROW);
          }
          // unroll
          for (var c = 0u; c < BLOCKS; c++) {
            let b = subgroupMatrixLoad<Right, row_major>(&memory, TILE + j * 16 * TILE_ROW + c * 2, TILE_ROW);
            // unroll
            for (var i = 0u; i < 2u; i++) {
              let o = i * BLOCKS + c;
              out[o] = subgroupMatrixMultiplyAccumulate(p[i], b, out[o]);
            }
          }
        }
      }
      workgroupBarrier();
      stage(fetchedK, index);
      fetchedK = fetch(k, firstKey + 2 * KEYS, index);
    }

    if (SCALE_LOG2 * highest - reference > MOST_GROWTH) { atomicStore(&exceeds, 1); }
    workgroupBarrier();
    if (index == 0) { startsAgain = atomicLoad(&exceeds); }
    if (workgroupUniformLoad(&startsAgain) == 0) { break; }
  }

  // y = out / total, in parts of KEYS components
  if (query < T) { logSumExp[row] = (reference + log2(total)) / LOG2E; }
  memory[index * SCORE_ROW + SCORE_QUADS] = vec4u(bitcast<u32>(1.0 / total));
  // unroll
  for (var first = 0u; first < BLOCKS; first += KEY_BLOCKS) {
    // unroll
    for (var i = 0u; i < 2u; i++) {
      // unroll
      for (var j = 0u; j < KEY_BLOCKS; j++) {
        let c = min(first + j, BLOCKS - 1);
        let place = (subgroupRow + i * 16) * SCORE_ROW + (c - first) * 4;
        subgroupMatrixStore<row_major>(&memory, place, out[i * BLOCKS + c], SCORE_ROW);
      }
    }
    workgroupBarrier();
    // unroll
    for (var f = 0u; f < Y_VECTORS; f++) {
      let vector = index + f * QUERIES;
      let t = firstQuery + vector / Y_VECTORS;
      let at = vector / Y_VECTORS * SCORE_ROW;
      let column = vector % Y_VECTORS;
      if (t < T && first * 2 + column < VECTORS) {
        let factor = bitcast<f32>(memory[at + SCORE_QUADS].x);
        let low = factor * bitcast<vec4f>(memory[at + column * 2]);
        let high = factor * bitcast<vec4f>(memory[at + column * 2 + 1]);
        y[(sequence + t) * C + h * VECTORS + first * 2 + column] = packedEight(low, high);
      }
    }
    workgroupBarrier();
  }
}
