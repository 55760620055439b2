// f · p and ds of the pairs of a query and a key, in tiles, from which backward_products.wgsl computes dq, dk and dv.
// Needs addProducts() and all else from score_tiles.wgsl with COLUMNS = 2, packedEight() from ../packed_f16.wgsl or ../packed_f32.wgsl, rowDropoutPlace() from ../random.wgsl.
//
// ds = p · (dp − delta), p = exp(SCALE · q · k − logSumExp), dp = f · (dy · v), f: dropout's factors.
// qkv: [B,T,(NH+2·KH)·HS]; dy: [B,T,C], C = NH · HS; logSumExp, delta: [B,NH,T]; scores: [heads,2,tiles,TOKENS,TOKENS],
// as in score_tiles.wgsl, of the heads of q that read the heads of k from firstHead of [B,KH] on.
//
// A workgroup computes one tile in two rounds of the same code:
//
//     round 0     q · kᵀ      becomes p, kept in registers as it is stored, and f · p
//     round 1     dy · vᵀ     becomes ds = p · (f · … − delta)
//
// Rows are queries, and columns keys. An invocation has the eight keys from 8x on, so that it stores eight f16, 16 bytes, at
// once. A pair whose query does not see its key is stored as zeros. Tiles that have only such pairs are neither stored nor
// read.
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const SCALE: f32 = 1.0 / sqrt(f32(HS));

@group(0) @binding(0) var<storage, read> qkv: array<packed>;
@group(0) @binding(1) var<storage, read> dy: array<packed>;
@group(0) @binding(2) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> scores: array<Eight>;

const C: u32 = NH * QUADS; // in vectors of four
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv
const GROUP: u32 = NH / KH;
const STEPS: u32 = HS / TERMS; // of a round
const LOWEST: f32 = -3.0e38; // score of a key that is not seen: its p is 0

// Indices of a head's first vectors of the first token: of q and k in qkv, and in dy.
struct Head {
  q: u32,
  k: u32,
  dy: u32,
}

// A block of q, or in the second round of dy. The last token replaces those past the end, whose scores are masked.
fn fetchQueries(head: Head, firstQuery: u32, step: u32, index: u32) -> Block {
  let column = step % STEPS * TERMS4 + index % TERMS4;
  var block: Block;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let t = min(firstQuery + index / TERMS4 * 4 + i, sizes.T - 1);
    if (step < STEPS) { block[i] = qkv[head.q + t * ROW + column]; } else { block[i] = dy[head.dy + t * C + column]; }
  }
  return block;
}

// The vector of keys of a block: neighbours have every other one, as two vectors side by side belong to one invocation and
// are staged in different places.
fn keysOf(index: u32) -> u32 {
  let i = index / TERMS4;
  return i % 2 * 2 + i / 2 % 2 + i / 4 * 4;
}

// A block of k, or in the second round of v.
fn fetchKeys(head: Head, firstKey: u32, step: u32, index: u32) -> Block {
  let column = step / STEPS * KH * QUADS + step % STEPS * TERMS4 + index % TERMS4;
  var block: Block;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let s = min(firstKey + keysOf(index) * 4 + i, sizes.T - 1);
    block[i] = qkv[head.k + s * ROW + column];
  }
  return block;
}

fn stageKeys(block: Block, index: u32) {
  let terms = transposed(block);
  let vector = keysOf(index);
  // unroll
  for (var i = 0u; i < 4u; i++) {
    bTile[index % TERMS4].rows[i][vector % 2][vector / 2] = terms[i];
  }
}

// Dropout's factors of a query for four keys.
// only if DROPOUT
fn factorsOf(place: u32, key: u32) -> vec4f {
  return vec4f(
    dropoutFactor(place, key),
    dropoutFactor(place, key + 1),
    dropoutFactor(place, key + 2),
    dropoutFactor(place, key + 3),
  );
}

// The block of queries of a tile: the inverse of tilesBefore().
fn queriesOf(tile: u32) -> u32 {
  let whole = tilesBefore(sizes.seenBlocks); // tiles of the blocks with places for all earlier keys
  if (tile >= whole) { return sizes.seenBlocks + (tile - whole) / sizes.seenBlocks; }
  let queries = u32(sqrt(f32(2 * tile))); // the block, or the next one
  return select(queries, queries - 1, tilesBefore(queries) > tile);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let T = sizes.T;
  let x = xOf(index);
  let y = yOf(index);
  let batchHead = sizes.firstHead * GROUP + group.y; // of [B,NH]
  let sequence = batchHead / NH * T;
  let h = batchHead % NH;
  let queries = queriesOf(group.x);
  let keys = firstPlaced(queries) + group.x - tilesBefore(queries);
  let firstQuery = queries * TOKENS;
  let firstKey = keys * TOKENS;
  let head = Head(
    sequence * ROW + h * QUADS,
    sequence * ROW + (NH + h / GROUP) * QUADS,
    sequence * C + h * QUADS,
  );

  var a = fetchQueries(head, firstQuery, 0, index);
  var b = fetchKeys(head, firstKey, 0, index);
  var p: array<Eight, ROWS4>;
  var rounds = 2u;
  // only if APART
  if (keys < firstBlockSeenBy(queries, sequence)) { rounds = 0; }
  for (var round = 0u; round < rounds; round++) {
    var sums = Sums(); // Naga zeroes a variable without a value only once, before the loop
    for (var step = round * STEPS; step < (round + 1) * STEPS; step++) {
      stageATransposed(a, index % TERMS4, index / TERMS4);
      stageKeys(b, index);
      workgroupBarrier();
      let next = min(step + 1, 2 * STEPS - 1);
      a = fetchQueries(head, firstQuery, next, index);
      b = fetchKeys(head, firstKey, next, index);
      addProducts(&sums, x, y);
      workgroupBarrier();
    }

    // unroll
    for (var r = 0u; r < ROWS4; r++) {
      let query = firstQuery + rowOf(r, y);
      let t = min(query, T - 1);
      let key = firstKey + 8 * x;
      let place = ((group.y * 2 + round) * groups.x + group.x) * (TILE / 2) + rowOf(r, y) * X + x;
      var low = vec4f(1);
      var high = vec4f(1);
      // only if DROPOUT
      {
        let dropoutPlace = rowDropoutPlace(batchHead * T + t);
        low = factorsOf(dropoutPlace, key);
        high = factorsOf(dropoutPlace, key + 4);
      }
      if (round == 0) {
        let seen = vec4u(select(0, seenBy(sequence + t), query < T));
        let before = vec4u(query - key) - vec4u(0, 1, 2, 3); // wraps if the key is after the query
        let logSumExps = vec4f(logSumExp[batchHead * T + t]);
        let lowScores = select(vec4f(LOWEST), sums[2 * r], before < seen);
        let highScores = select(vec4f(LOWEST), sums[2 * r + 1], before - 4 < seen);
        let lowP = exp(fma(vec4f(SCALE), lowScores, -logSumExps));
        let highP = exp(fma(vec4f(SCALE), highScores, -logSumExps));
        p[r] = packedEight(lowP, highP);
        scores[place] = packedEight(low * lowP, high * highP);
      } else {
        let deltas = vec4f(delta[batchHead * T + t]);
        let lowDs = unpacked(lowOf(p[r])) * (low * sums[2 * r] - deltas);
        let highDs = unpacked(highOf(p[r])) * (high * sums[2 * r + 1] - deltas);
        scores[place] = packedEight(lowDs, highDs);
      }
    }
  }
}
