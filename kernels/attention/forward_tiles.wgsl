// y = dropout(softmax(SCALE · q · kᵀ)) · v for every head, causal: forward.wgsl in tiles, for GPUs.
// qkv: [B,T,3C], C = NH · HS; y: [B,T,C]; logSumExp: [B,NH,T] of the scaled scores
//
// A workgroup has OWN queries of one head and walks the keys up to its last query, WALKED at a time. A
// row's maximum must be known to all invocations that share the row, its sum only in the end: until then
// each keeps the sum of its own columns. Statistics of four rows make a vector.
enable f16;

alias real = f16; // element type of qkv and y
const NH: u32 = 1;
const HS: u32 = 32;
const DROPOUT: bool = false;

alias real4 = vec4<real>;
const C: u32 = NH * HS / 4; // in vectors of four, as are all strides below
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const SCALE_LOG2: f32 = SCALE * 1.4426950408889634; // exp(SCALE · x) = exp2(SCALE_LOG2 · x)
const LOWEST: f32 = -1.0e38; // times SCALE_LOG2 still a number
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it

@group(0) @binding(0) var<storage, read> qkv: array<held>;
@group(0) @binding(1) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(2) var<storage, read_write> y: array<real4>;
@group(0) @binding(3) var<storage, read_write> logSumExp: array<f32>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

// Four vectors of qkv from a head's part on. Past the end the last token is loaded again; what comes of it
// is masked or never stored.
fn loadQkv(at: u32, tokens: vec4u) -> Block {
  var four: Block;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    four[i] = qkv[at + min(tokens[i], sizes.T - 1) * 3 * C];
  }
  return four;
}

// A block of q or k.
fn loadPair(head: u32, firstQuery: u32, firstKey: u32, block: u32, step: u32) -> Block {
  let isOwn = block < OWN_BLOCKS;
  let tokens = select(firstKey, firstQuery, isOwn) + tokensOfPair(block);
  return loadQkv(head + select(C, 0, isOwn) + quadOfPair(block, step), tokens);
}

// A block of v.
fn loadValues(head: u32, firstKey: u32, block: u32, part: u32) -> Block {
  return loadQkv(head + 2 * C + block % QUADS, firstKey + tokensOfPart(part, block));
}

@compute @workgroup_size(SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) id: u32,
) {
  let x = columnOf(id);
  let y4 = rowOf(id);
  let firstQuery = (groups.x - 1 - group.x) * OWN; // the longest rows start first
  var firstKey = firstSeen(firstQuery) / WALKED * WALKED;
  let head = group.y / NH * sizes.T * 3 * C + group.y % NH * QUADS; // q of this head at t = 0

  var fetched: array<Block, TURNS>;
  // unroll
  for (var i = 0u; i < PAIR_TURNS; i++) {
    fetched[i] = loadPair(head, firstQuery, firstKey, id + i * SIZE, 0);
  }
  var sums: array<vec4f, SUMS>;
  var highest = vec4f(LOWEST);
  var total: vec4f;

  let end = min(firstQuery + OWN, sizes.T);
  for (; firstKey < end; firstKey += WALKED) {
    var scores = array<vec4f, PAIRS>(); // Naga zeroes once what a loop only declares
    for (var step = 0u; step < STEPS; step++) {
      keepPairs(&fetched, id);
      workgroupBarrier();
      // while a step is computed, the next is on its way
      if (step + 1 < STEPS) {
        // unroll
        for (var i = 0u; i < PAIR_TURNS; i++) {
          fetched[i] = loadPair(head, firstQuery, firstKey, id + i * SIZE, step + 1);
        }
      } else {
        // unroll
        for (var i = 0u; i < SUM_TURNS; i++) {
          fetched[i] = loadValues(head, firstKey, id + i * SIZE, 0);
        }
      }
      addPairs(&scores, x, y4);
      workgroupBarrier();
    }

    if (firstKey + WALKED > firstQuery + 1 || firstQuery + OWN > firstKey + WINDOW) {
      // unroll
      for (var r = 0u; r < 4u; r++) {
        let query = firstQuery + y4 * 4 + r;
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
          let key = vec4u(0, 1, 2, 3) + firstKey + (x + c * X) * 4;
          let masked = vec4u(query) - key >= vec4u(WINDOW); // wraps where key > query
          scores[r * COLUMNS + c] = select(scores[r * COLUMNS + c], vec4f(LOWEST), masked);
        }
      }
    }
    // the tile of a lends its memory for the maxima
    var most: vec4f;
    // unroll
    for (var r = 0u; r < 4u; r++) {
      var four = scores[r * COLUMNS];
      // unroll
      for (var c = 1u; c < COLUMNS; c++) {
        four = max(four, scores[r * COLUMNS + c]);
      }
      most[r] = max(max(four.x, four.y), max(four.z, four.w));
    }
    aTile[x / 4].rows[x % 4][y4] = most;
    workgroupBarrier();
    var raised = highest;
    // unroll
    for (var i = 0u; i < X; i++) {
      raised = max(raised, aTile[i / 4].rows[i % 4][y4]);
    }
    let decay = exp2(SCALE_LOG2 * (highest - raised));
    highest = raised;
    total *= decay;
    // unroll
    for (var r = 0u; r < 4u; r++) {
      // unroll
      for (var n = 0u; n < VECTORS; n++) {
        sums[r * VECTORS + n] *= decay[r];
      }
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        var p = exp2(SCALE_LOG2 * (scores[r * COLUMNS + c] - vec4f(raised[r])));
        total[r] += (p.x + p.y) + (p.z + p.w);
        if (DROPOUT) {
          let query = group.y * sizes.T + firstQuery + y4 * 4 + r;
          let place = rowDropoutPlace(random[0], random[1], sizes.dropout, query);
          let key = firstKey + (x + c * X) * 4;
          // unroll
          for (var j = 0u; j < 4u; j++) {
            p[j] *= dropoutFactor(place, sizes.dropout, key + j);
          }
        }
        scores[r * COLUMNS + c] = p;
      }
    }
    workgroupBarrier();

    for (var part = 0u; part < PARTS; part++) {
      keepPart(part, &scores, x, y4);
      keepSums(&fetched, id);
      workgroupBarrier();
      if (part + 1 < PARTS) {
        // unroll
        for (var i = 0u; i < SUM_TURNS; i++) {
          fetched[i] = loadValues(head, firstKey, id + i * SIZE, part + 1);
        }
      } else {
        // unroll
        for (var i = 0u; i < PAIR_TURNS; i++) {
          fetched[i] = loadPair(head, firstQuery, firstKey + WALKED, id + i * SIZE, 0);
        }
      }
      addSums(&sums, x, y4);
      workgroupBarrier();
    }
  }

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
      let out = (group.y / NH * sizes.T + t) * C + group.y % NH * QUADS;
      // unroll
      for (var n = 0u; n < VECTORS; n++) {
        y[out + n * X + x] = real4(sums[r * VECTORS + n] / sum[r]);
      }
      if (x == 0) { logSumExp[group.y * sizes.T + t] = SCALE * highest[r] + log(sum[r]); }
    }
  }
}
