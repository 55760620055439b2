// dk[s] = SCALE · Σₜ ds[t,s] · q[t], dv[s] = Σₜ f · p[t,s] · dy[t], and partial sums of dq, by tensor cores.
// Needs packedEight() from ../packed_f16.wgsl, seenBy() from window.wgsl, rowDropoutPlace() and dropoutFactor() from ../random.wgsl.
//
// ds = p · (dp − delta), p = exp(SCALE · q · k − logSumExp), dp = f · (dy · v), f: dropout's factors.
// qkv, dqkv: [B,T,(NH+2·KH)·HS]; dy: [B,T,C], C = NH · HS; logSumExp, delta: [B,NH,T]; partials: [P,B,rows,C], partial
// sums of Σₛ ds[t,s] · k[s], which backward_sum.wgsl adds up to dq. dk and dv in dqkv are set.
//
// A workgroup has every P-th block of KEYS keys of one head. For each block it loops over the heads of q that read the keys,
// and over their queries from the block's first key on, QUERIES at a time. Products are those of matrices of 16 × 16
// elements, as in forward_matrices.wgsl. Per tile of queries:
//
//     by subgroup                            by invocation (COLUMNS scores of a query)
//     scores = q · kᵀ, stored                p in registers, f · p replaces the scores
//     scores = dy · vᵀ, dv += (f · p)ᵀ · dy   ds = p · (f · … − delta) replaces the scores
//     dk += dsᵀ · q, dq += ds · k
//
// A subgroup has 16 keys, and if SPLIT subgroups share them, its part of the queries and of the components of
// dk and dv. It keeps dk, dv and v in registers; k is in workgroup memory, because all subgroups need it for dq.
enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);

const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const SINGLE: bool = true; // whether KH = NH
const HS: u32 = 64; // a multiple of 16 · SPLIT
const QUERIES: u32 = 64; // per tile, a divisor of KEYS
const KEYS: u32 = 64; // per block
const SPLIT: u32 = 2; // subgroups that share keys
const COLUMNS: u32 = 32; // scores of a query that an invocation replaces, a multiple of 16
const FETCHES: u32 = 4; // vectors per invocation of a tile of q or dy: QUERIES · VECTORS / WORKGROUP_SIZE, rounded up
const DQS: u32 = 4; // matrices of dq per subgroup, rounded up: BLOCKS · QUERY_BLOCKS / SUBGROUPS
const SCALE: f32 = 1.0 / sqrt(f32(HS));

struct Sizes {
  T: u32,
  rows: u32, // of the partial sums per sequence: T, rounded up to whole tiles
}

// vectors of eight f16, of partials four f32
@group(0) @binding(0) var<storage, read> qkv: array<vec4u>;
@group(0) @binding(1) var<storage, read> dy: array<vec4u>;
@group(0) @binding(2) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dqkv: array<vec4u>;
@group(0) @binding(5) var<storage, read_write> partials: array<vec4f>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Result = subgroup_matrix_result<f32, 16, 16>;
const BLOCKS: u32 = HS / 16; // matrices along the components
const KEY_BLOCKS: u32 = KEYS / 16;
const QUERY_BLOCKS: u32 = QUERIES / 16;
const SUBGROUPS: u32 = KEY_BLOCKS * SPLIT;
const SCORE_ROWS: u32 = QUERY_BLOCKS / SPLIT; // matrices of scores per subgroup, along the queries
const OUT_COLUMNS: u32 = BLOCKS / SPLIT; // matrices of dk, and of dv, per subgroup, along the components
const DQ_STEP: u32 = SUBGROUPS / QUERY_BLOCKS; // between the blocks of components of a subgroup's dq
const WORKGROUP_SIZE: u32 = 32 * SUBGROUPS;
const QUADS: u32 = COLUMNS / 4;
const MATRICES: u32 = COLUMNS / 16;

const VECTORS: u32 = HS / 8; // in a row of a head
const C: u32 = NH * VECTORS; // of dy
const ROW: u32 = (NH + 2 * KH) * VECTORS; // of qkv
const PARTIAL_ROW: u32 = NH * HS / 4; // of partials
const GROUP: u32 = NH / KH;
const BLOCK_FETCHES: u32 = KEYS * VECTORS / WORKGROUP_SIZE; // vectors per invocation of a block of k, v, dk or dv

// Rows in workgroup memory, in vectors of 16 bytes. One that is not used keeps rows on different banks.
const TILE_ROW: u32 = VECTORS + 1; // of q, dy, k and v in f16
const SCORE_ROW: u32 = KEYS / 4 + 1; // of scores in f32, and of p and ds in f16: a matrix begins where its scores began
const OUT_ROW: u32 = HS / 4 + 1; // of dk and dv in f32

// Workgroup memory holds scores, q, dy and k; before the loop v in the place of k, and after the loop dk or dv.
const Q: u32 = QUERIES * SCORE_ROW;
const DY: u32 = Q + QUERIES * TILE_ROW;
const K: u32 = DY + QUERIES * TILE_ROW;
const MEMORY: u32 = max(K + KEYS * TILE_ROW, KEYS * OUT_ROW);
var<workgroup> memory: array<vec4u, MEMORY>;

const LOG2E: f32 = 1.4426950408889634;
const SCALE_LOG2: f32 = SCALE * LOG2E; // exp(SCALE · x) = exp2(SCALE_LOG2 · x)

// Index of a head's first vector of the first token, in qkv and in dy, and of its first row, in logSumExp and in delta.
struct Head {
  q: u32,
  dy: u32,
  row: u32,
}

// A tile of q and dy: an invocation's vectors with numbers index, index + WORKGROUP_SIZE, … The last token replaces
// those past the end; their p is 0. Beside them logSumExp and delta of the invocation's query.
struct Fetched {
  q: array<vec4u, FETCHES>,
  dy: array<vec4u, FETCHES>,
  logSumExp: f32,
  delta: f32,
}
fn fetch(head: Head, firstQuery: u32, index: u32) -> Fetched {
  var fetched: Fetched;
  // unroll
  for (var f = 0u; f < FETCHES; f++) {
    let vector = index + f * WORKGROUP_SIZE;
    let token = min(firstQuery + vector / VECTORS, sizes.T - 1);
    fetched.q[f] = qkv[head.q + token * ROW + vector % VECTORS];
    fetched.dy[f] = dy[head.dy + token * C + vector % VECTORS];
  }
  let row = head.row + min(firstQuery + index % QUERIES, sizes.T - 1);
  fetched.logSumExp = logSumExp[row];
  fetched.delta = delta[row];
  return fetched;
}
fn stage(fetched: Fetched, index: u32) {
  // unroll
  for (var f = 0u; f < FETCHES; f++) {
    let vector = index + f * WORKGROUP_SIZE;
    let at = vector / VECTORS * TILE_ROW + vector % VECTORS;
    if (vector < QUERIES * VECTORS) {
      memory[Q + at] = fetched.q[f];
      memory[DY + at] = fetched.dy[f];
    }
  }
}

// Stages a block of k or v. The last token replaces those past the end; no query sees them.
fn stageBlock(first: u32, firstKey: u32, index: u32) {
  // unroll
  for (var f = 0u; f < BLOCK_FETCHES; f++) {
    let vector = index + f * WORKGROUP_SIZE;
    let token = min(firstKey + vector / VECTORS, sizes.T - 1);
    memory[K + vector / VECTORS * TILE_ROW + vector % VECTORS] = qkv[first + token * ROW + vector % VECTORS];
  }
}

// Stores a block of dk or dv from its sums in workgroup memory.
fn storeBlock(first: u32, firstKey: u32, factor: f32, index: u32) {
  // unroll
  for (var f = 0u; f < BLOCK_FETCHES; f++) {
    let vector = index + f * WORKGROUP_SIZE;
    let s = firstKey + vector / VECTORS;
    let at = vector / VECTORS * OUT_ROW + vector % VECTORS * 2;
    if (s < sizes.T) {
      let low = factor * bitcast<vec4f>(memory[at]);
      let high = factor * bitcast<vec4f>(memory[at + 1]);
      dqkv[first + s * ROW + vector % VECTORS] = packedEight(low, high);
    }
  }
}

// Dropout's factors of four keys.
// only if DROPOUT
fn factorsOf(firstDraw: u32, key: u32) -> vec4f {
  return vec4f(
    dropoutFactor(firstDraw, key),
    dropoutFactor(firstDraw, key + 1),
    dropoutFactor(firstDraw, key + 2),
    dropoutFactor(firstDraw, key + 3),
  );
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let T = sizes.T;
  let sequence = group.x / KH * T;
  let kOfHead = sequence * ROW + (NH + group.x % KH) * VECTORS;
  let vOfHead = kOfHead + KH * VECTORS;
  let stride = groups.y * KEYS; // between the blocks of keys of the workgroup

  // the part of a subgroup
  let subgroup = index / 32;
  let keyBlock = subgroup / SPLIT;
  let part = subgroup % SPLIT;
  let firstQueryBlock = part * SCORE_ROWS;
  let firstOut = part * OUT_COLUMNS; // block of components
  // its part of dq
  let dqQueryBlock = subgroup % QUERY_BLOCKS;
  let dqBlock = subgroup / QUERY_BLOCKS; // of components; the next one is DQ_STEP later
  // the part of an invocation
  let tileRow = index % QUERIES;
  let column = index / QUERIES * COLUMNS;
  let scoresAt = tileRow * SCORE_ROW + column / 4;
  let hasScores = column < KEYS;

  for (var firstKey = group.y * KEYS; firstKey < T; firstKey += stride) { // the keys with the most queries start first
    stageBlock(vOfHead, firstKey, index);
    workgroupBarrier();
    var v: array<Right, BLOCKS>; // transposed
    // unroll
    for (var c = 0u; c < BLOCKS; c++) {
      let place = K + keyBlock * 16 * TILE_ROW + c * 2;
      v[c] = subgroupMatrixLoad<Right, col_major>(&memory, place, TILE_ROW);
    }
    workgroupBarrier();
    stageBlock(kOfHead, firstKey, index);

    var dk = array<Result, OUT_COLUMNS>();
    var dv = array<Result, OUT_COLUMNS>();
    let end = min(firstKey + (KEYS - 1) + WINDOW, T);
    // unroll if SINGLE
    for (var member = 0u; member < GROUP; member++) {
      let h = group.x % KH * GROUP + member;
      let headRow = (group.x * GROUP + member) * T;
      let head = Head(sequence * ROW + h * VECTORS, sequence * C + h * VECTORS, headRow);
      let partial = (groups.x / KH * group.y + group.x / KH) * sizes.rows * PARTIAL_ROW + h * HS / 4;
      var fetched = fetch(head, firstKey, index);
      stage(fetched, index);
      var rowLogSumExp = LOG2E * fetched.logSumExp;
      var rowDelta = fetched.delta;
      fetched = fetch(head, firstKey + QUERIES, index); // of the next tile
      for (var firstQuery = firstKey; firstQuery < end; firstQuery += QUERIES) {
        let seenByFirst = seenBy(sequence + firstQuery);
        // only if APART
        if (firstQuery >= firstKey + (KEYS - 1) + seenByFirst) { break; } // nor do later queries see a key of the block
        let query = firstQuery + tileRow;
        let seen = seenBy(sequence + min(query, T - 1));
        let seenByLast = seenBy(sequence + min(firstQuery + QUERIES, T) - 1);
        // only if DROPOUT
        let firstDraw = rowDropoutPlace(headRow + query);
        workgroupBarrier();

        // scores = q · kᵀ
        var scores = array<Result, SCORE_ROWS>();
        // unroll
        for (var c = 0u; c < BLOCKS; c++) {
          let b = subgroupMatrixLoad<Right, col_major>(&memory, K + keyBlock * 16 * TILE_ROW + c * 2, TILE_ROW);
          // unroll
          for (var i = 0u; i < SCORE_ROWS; i++) {
            let place = Q + (firstQueryBlock + i) * 16 * TILE_ROW + c * 2;
            let a = subgroupMatrixLoad<Left, row_major>(&memory, place, TILE_ROW);
            scores[i] = subgroupMatrixMultiplyAccumulate(a, b, scores[i]);
          }
        }
        // unroll
        for (var i = 0u; i < SCORE_ROWS; i++) {
          let place = (firstQueryBlock + i) * 16 * SCORE_ROW + keyBlock * 4;
          subgroupMatrixStore<row_major>(&memory, place, scores[i], SCORE_ROW);
        }
        workgroupBarrier();

        // an invocation replaces its scores by f · p
        var p: array<vec4f, QUADS>;
        if (hasScores) {
          // unroll
          for (var n = 0u; n < QUADS; n++) {
            let score = bitcast<vec4f>(memory[scoresAt + n]);
            p[n] = exp2(fma(vec4f(SCALE_LOG2), score, vec4f(-rowLogSumExp)));
          }
          if (firstKey + KEYS > firstQuery + 1 || firstQuery + QUERIES > min(firstKey + seenByLast, T)) {
            // unroll
            for (var n = 0u; n < QUADS; n++) {
              let keys = vec4u(0, 1, 2, 3) + firstKey + column + n * 4;
              let masked = (vec4u(query) - keys >= vec4u(seen)) | vec4<bool>(query >= T); // wraps if key > query
              p[n] = select(p[n], vec4f(), masked);
            }
          }
          // unroll
          for (var j = 0u; j < MATRICES; j++) {
            var fp: array<vec4f, 4>;
            // unroll
            for (var i = 0u; i < 4u; i++) {
              fp[i] = p[j * 4 + i];
              // only if DROPOUT
              fp[i] *= factorsOf(firstDraw, firstKey + column + j * 16 + i * 4);
            }
            memory[scoresAt + j * 4] = packedEight(fp[0], fp[1]);
            memory[scoresAt + j * 4 + 1] = packedEight(fp[2], fp[3]);
          }
        }
        workgroupBarrier();

        // dv += (f · p)ᵀ · dy
        // unroll
        for (var t = 0u; t < QUERY_BLOCKS; t++) {
          let a = subgroupMatrixLoad<Left, col_major>(&memory, t * 16 * SCORE_ROW + keyBlock * 4, SCORE_ROW);
          // unroll
          for (var c = 0u; c < OUT_COLUMNS; c++) {
            let place = DY + t * 16 * TILE_ROW + (firstOut + c) * 2;
            let b = subgroupMatrixLoad<Right, row_major>(&memory, place, TILE_ROW);
            dv[c] = subgroupMatrixMultiplyAccumulate(a, b, dv[c]);
          }
        }
        // scores = dy · vᵀ
        scores = array<Result, SCORE_ROWS>();
        // unroll
        for (var c = 0u; c < BLOCKS; c++) {
          // unroll
          for (var i = 0u; i < SCORE_ROWS; i++) {
            let place = DY + (firstQueryBlock + i) * 16 * TILE_ROW + c * 2;
            let a = subgroupMatrixLoad<Left, row_major>(&memory, place, TILE_ROW);
            scores[i] = subgroupMatrixMultiplyAccumulate(a, v[c], scores[i]);
          }
        }
        workgroupBarrier();
        // unroll
        for (var i = 0u; i < SCORE_ROWS; i++) {
          let place = (firstQueryBlock + i) * 16 * SCORE_ROW + keyBlock * 4;
          subgroupMatrixStore<row_major>(&memory, place, scores[i], SCORE_ROW);
        }
        workgroupBarrier();

        // an invocation replaces its scores by ds
        if (hasScores) {
          // unroll
          for (var j = 0u; j < MATRICES; j++) {
            var ds: array<vec4f, 4>;
            // unroll
            for (var i = 0u; i < 4u; i++) {
              let n = j * 4 + i;
              var dp = bitcast<vec4f>(memory[scoresAt + n]);
              // only if DROPOUT
              dp *= factorsOf(firstDraw, firstKey + column + n * 4);
              ds[i] = p[n] * (dp - vec4f(rowDelta));
            }
            memory[scoresAt + j * 4] = packedEight(ds[0], ds[1]);
            memory[scoresAt + j * 4 + 1] = packedEight(ds[2], ds[3]);
          }
        }
        workgroupBarrier();

        // dk += dsᵀ · q
        // unroll
        for (var t = 0u; t < QUERY_BLOCKS; t++) {
          let a = subgroupMatrixLoad<Left, col_major>(&memory, t * 16 * SCORE_ROW + keyBlock * 4, SCORE_ROW);
          // unroll
          for (var c = 0u; c < OUT_COLUMNS; c++) {
            let place = Q + t * 16 * TILE_ROW + (firstOut + c) * 2;
            let b = subgroupMatrixLoad<Right, row_major>(&memory, place, TILE_ROW);
            dk[c] = subgroupMatrixMultiplyAccumulate(a, b, dk[c]);
          }
        }
        // dq += ds · k: the first block of the workgroup that these queries see sets the partial sum, later blocks add
        let isFirst = firstKey < stride || firstKey - stride + (KEYS - 1) + seenByFirst <= firstQuery;
        let dqPlace = partial + (firstQuery + dqQueryBlock * 16) * PARTIAL_ROW;
        var dq = array<Result, DQS>();
        if (!isFirst) {
          // unroll
          for (var d = 0u; d < DQS; d++) {
            let c = dqBlock + d * DQ_STEP;
            if (c < BLOCKS) { dq[d] = subgroupMatrixLoad<Result, row_major>(&partials, dqPlace + c * 4, PARTIAL_ROW); }
          }
        }
        // unroll
        for (var s = 0u; s < KEY_BLOCKS; s++) {
          let a = subgroupMatrixLoad<Left, row_major>(&memory, dqQueryBlock * 16 * SCORE_ROW + s * 4, SCORE_ROW);
          // unroll
          for (var d = 0u; d < DQS; d++) {
            let c = min(dqBlock + d * DQ_STEP, BLOCKS - 1);
            let b = subgroupMatrixLoad<Right, row_major>(&memory, K + s * 16 * TILE_ROW + c * 2, TILE_ROW);
            dq[d] = subgroupMatrixMultiplyAccumulate(a, b, dq[d]);
          }
        }
        // unroll
        for (var d = 0u; d < DQS; d++) {
          let c = dqBlock + d * DQ_STEP;
          if (c < BLOCKS) { subgroupMatrixStore<row_major>(&partials, dqPlace + c * 4, dq[d], PARTIAL_ROW); }
        }
        workgroupBarrier();
        // as in forward_matrices.wgsl, at the end of the loop
        stage(fetched, index);
        rowLogSumExp = LOG2E * fetched.logSumExp;
        rowDelta = fetched.delta;
        fetched = fetch(head, firstQuery + 2 * QUERIES, index);
      }
    }
    workgroupBarrier();

    // unroll
    for (var c = 0u; c < OUT_COLUMNS; c++) {
      let place = keyBlock * 16 * OUT_ROW + (firstOut + c) * 4;
      subgroupMatrixStore<row_major>(&memory, place, dk[c], OUT_ROW);
    }
    workgroupBarrier();
    storeBlock(kOfHead, firstKey, SCALE, index);
    workgroupBarrier();
    // unroll
    for (var c = 0u; c < OUT_COLUMNS; c++) {
      let place = keyBlock * 16 * OUT_ROW + (firstOut + c) * 4;
      subgroupMatrixStore<row_major>(&memory, place, dv[c], OUT_ROW);
    }
    workgroupBarrier();
    storeBlock(vOfHead, firstKey, 1.0, index);
    workgroupBarrier();
  }
}
