// dq = SCALE · Σₛ ds[t,s] · k[s], and delta = Σ dy · y: backward_query.wgsl in tiles, for GPUs.
// qkv, dqkv: [B,T,3C], C = NH · HS; y, dy: [B,T,C]; logSumExp, delta: [B,NH,T]; q's part of dqkv is set
//
// A workgroup has OWN queries of one head and walks the keys up to its last query, WALKED at a time: first
// q · kᵀ, of which come the probabilities, then dy · vᵀ, of which with them comes ds, then ds · k.
// ds is explained in backward_query.wgsl. Statistics of four rows make a vector.
enable f16;

alias real = f16; // element type of qkv, y, dy and dqkv
const NH: u32 = 1;
const HS: u32 = 32;
const DROPOUT: bool = false;

alias real4 = vec4<real>;
const C: u32 = NH * HS / 4; // in vectors of four, as are all strides below
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const LOWEST: f32 = -3.0e38;

@group(0) @binding(0) var<storage, read> qkv: array<held>;
@group(0) @binding(1) var<storage, read> y: array<held>;
@group(0) @binding(2) var<storage, read> dy: array<held>;
@group(0) @binding(3) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(4) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(5) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

// Where q of a head is at t = 0, and y and dy of it.
struct Head {
  q: u32,
  out: u32,
}

// Four vectors of dy, or of qkv, so many vectors after the head's first. Past the end the last token is
// loaded again; what comes of it is masked or never stored.
fn loadTokens(fromDy: bool, head: Head, column: u32, tokens: vec4u) -> Block {
  let places = select(head.q, head.out, fromDy) + column +
    min(tokens, vec4u(sizes.T - 1)) * select(3 * C, C, fromDy);
  var four: Block;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    if (fromDy) { four[i] = dy[places[i]]; } else { four[i] = qkv[places[i]]; }
  }
  return four;
}

// A block of q or k, in the second round of dy or v.
fn loadPair(head: Head, firstQuery: u32, firstKey: u32, round: u32, block: u32, step: u32) -> Block {
  let isOwn = block < OWN_BLOCKS;
  let tokens = select(firstKey, firstQuery, isOwn) + tokensOfPair(block);
  let column = select((1 + round) * C, 0, isOwn) + quadOfPair(block, step);
  return loadTokens(isOwn && round == 1, head, column, tokens);
}

// A block of k.
fn loadKeys(head: Head, firstKey: u32, block: u32, part: u32) -> Block {
  return loadTokens(false, head, C + block % QUADS, firstKey + tokensOfPart(part, block));
}

@compute @workgroup_size(SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) id: u32,
) {
  let T = sizes.T;
  let x = columnOf(id);
  let y4 = rowOf(id);
  let firstQuery = (groups.x - 1 - group.x) * OWN; // the longest rows start first
  var firstKey = firstSeen(firstQuery) / WALKED * WALKED;
  let sequence = group.y / NH * T;
  let head = Head(
    sequence * 3 * C + group.y % NH * QUADS,
    sequence * C + group.y % NH * QUADS,
  );

  // delta: each invocation its vectors, then all the same sum over the eight that share a row
  var lse: array<vec4f, ROWS>;
  var dyDotY: array<vec4f, ROWS>;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    var four: vec4f;
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let t = min(firstQuery + (y4 + r * Y) * 4 + i, T - 1);
      lse[r][i] = logSumExp[group.y * T + t];
      var products = vec4f();
      // unroll
      for (var n = 0u; n < VECTORS; n++) {
        let at = head.out + t * C + n * X + x;
        products = fma(widened(dy[at]), widened(y[at]), products);
      }
      four[i] = (products.x + products.y) + (products.z + products.w);
    }
    aTile[x][y4 + r * Y] = four;
  }
  workgroupBarrier();
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    // unroll
    for (var i = 0u; i < X; i++) {
      dyDotY[r] += aTile[i][y4 + r * Y];
    }
  }
  workgroupBarrier();

  var fetched: array<Block, TURNS>;
  // unroll
  for (var i = 0u; i < PAIR_TURNS; i++) {
    fetched[i] = loadPair(head, firstQuery, firstKey, 0, id + i * SIZE, 0);
  }
  var dq: array<vec4f, SUMS>;
  let end = min(firstQuery + OWN, T);
  for (; firstKey < end; firstKey += WALKED) {
    var ds: array<vec4f, PAIRS>; // probabilities after the first round
    for (var round = 0u; round < 2; round++) {
      var pairs = array<vec4f, PAIRS>(); // Naga zeroes once what a loop only declares
      for (var step = 0u; step < STEPS; step++) {
        // unroll
        for (var i = 0u; i < PAIR_TURNS; i++) {
          if (id + i * SIZE < PAIR_BLOCKS) { keepPair(id + i * SIZE, fetched[i]); }
        }
        workgroupBarrier();
        // while a step is computed, the next is on its way
        if (step + 1 < STEPS || round == 0) {
          let isLast = step + 1 == STEPS;
          let nextRound = select(round, 1u, isLast);
          let nextStep = select(step + 1, 0u, isLast);
          // unroll
          for (var i = 0u; i < PAIR_TURNS; i++) {
            fetched[i] = loadPair(head, firstQuery, firstKey, nextRound, id + i * SIZE, nextStep);
          }
        } else {
          // unroll
          for (var i = 0u; i < SUM_TURNS; i++) {
            fetched[i] = loadKeys(head, firstKey, id + i * SIZE, 0);
          }
        }
        addPairs(&pairs, x, y4);
        workgroupBarrier();
      }

      let crossing = firstKey + WALKED > firstQuery + 1 || firstQuery + OWN > firstKey + WINDOW;
      // unroll
      for (var r = 0u; r < ROWS4; r++) {
        let query = firstQuery + (y4 + r / 4 * Y) * 4 + r % 4;
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
          let key = firstKey + (x + c * X) * 4;
          if (round == 0) {
            let before = vec4u(query) - (vec4u(0, 1, 2, 3) + key); // wraps where key > query
            let masked = vec4<bool>(crossing) & (before >= vec4u(WINDOW));
            let scores = select(pairs[r * COLUMNS + c], vec4f(LOWEST), masked);
            ds[r * COLUMNS + c] = exp(fma(vec4f(SCALE), scores, vec4f(-lse[r / 4][r % 4])));
          } else {
            var slopes = pairs[r * COLUMNS + c];
            if (DROPOUT) {
              let first = (group.y * T + query) * T + key;
              // unroll
              for (var j = 0u; j < 4u; j++) {
                slopes[j] *= dropoutFactor(random[0], random[1], sizes.dropout, first + j);
              }
            }
            ds[r * COLUMNS + c] *= slopes - vec4f(dyDotY[r / 4][r % 4]);
          }
        }
      }
    }

    for (var part = 0u; part < PARTS; part++) {
      keepPart(part, &ds, x, y4);
      // unroll
      for (var i = 0u; i < SUM_TURNS; i++) {
        if (id + i * SIZE < SUM_BLOCKS) { keepSum(id + i * SIZE, fetched[i]); }
      }
      workgroupBarrier();
      if (part + 1 < PARTS) {
        // unroll
        for (var i = 0u; i < SUM_TURNS; i++) {
          fetched[i] = loadKeys(head, firstKey, id + i * SIZE, part + 1);
        }
      } else {
        // unroll
        for (var i = 0u; i < PAIR_TURNS; i++) {
          fetched[i] = loadPair(head, firstQuery, firstKey + WALKED, 0, id + i * SIZE, 0);
        }
      }
      addSums(&dq, x, y4);
      workgroupBarrier();
    }
  }

  // unroll
  for (var r = 0u; r < ROWS4; r++) {
    let t = firstQuery + (y4 + r / 4 * Y) * 4 + r % 4;
    if (t < T) {
      // unroll
      for (var n = 0u; n < VECTORS; n++) {
        dqkv[head.q + t * 3 * C + n * X + x] = real4(SCALE * dq[r * VECTORS + n]);
      }
      if (x == 0) { delta[group.y * T + t] = dyDotY[r / 4][r % 4]; }
    }
  }
}
