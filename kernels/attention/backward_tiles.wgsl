// dk = SCALE · Σₜ ds[t,s] · q[t], dv = Σₜ p[t,s] · dy[t], and partial sums of ds[t,s] · k[s], which
// backward_sum.wgsl adds up to dq. In tiles, for GPUs; backward_query.wgsl explains ds.
// qkv, dqkv: [B,T,3C], C = NH · HS; dy: [B,T,C]; logSumExp, delta: [B,NH,T]; partials: [P,B,T,C]
// k's and v's parts of dqkv are set
//
// A workgroup has every P-th block of OWN keys of one head. For each it walks the queries from its first
// key on, WALKED at a time, in two rounds: first k · qᵀ, of which come the probabilities p, and p · dy; then
// v · dyᵀ, of which with them comes ds, and ds · q. Last, the same ds by rows, comes dsᵀ · k. Statistics of
// four queries, which are columns here, make a vector.
enable f16;

alias real = f16; // element type of qkv, dy and dqkv
const NH: u32 = 1;
const HS: u32 = 32;
const DROPOUT: bool = false;

alias real4 = vec4<real>;
const C: u32 = NH * HS / 4; // in vectors of four, as are all strides below
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const LOWEST: f32 = -3.0e38;

@group(0) @binding(0) var<storage, read> qkv: array<held>;
@group(0) @binding(1) var<storage, read> dy: array<held>;
@group(0) @binding(2) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(5) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(6) var<storage, read_write> partials: array<vec4f>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

// Where q of a head is at t = 0, and dy of it.
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

// A block of k or q, in the second round of v or dy.
fn loadPair(head: Head, firstKey: u32, firstQuery: u32, round: u32, block: u32, step: u32) -> Block {
  let isOwn = block < OWN_BLOCKS;
  let tokens = select(firstQuery, firstKey, isOwn) + tokensOfPair(block);
  let column = select(0, (1 + round) * C, isOwn) + quadOfPair(block, step);
  return loadTokens(!isOwn && round == 1, head, column, tokens);
}

// A block of dy, in the second round of q.
fn loadSum(head: Head, firstQuery: u32, round: u32, block: u32, part: u32) -> Block {
  let tokens = firstQuery + tokensOfPart(part, block);
  return loadTokens(round == 0, head, block % QUADS, tokens);
}

// A block of k, whose tokens are terms now.
fn loadKeys(head: Head, firstKey: u32, block: u32, part: u32) -> Block {
  let tokens = vec4u(0, 1, 2, 3) + (firstKey + part * TERMS + block / QUADS * 4);
  return loadTokens(false, head, C + block % QUADS, tokens);
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
  let sequence = group.x / NH * T;
  let head = Head(
    sequence * 3 * C + group.x % NH * QUADS,
    sequence * C + group.x % NH * QUADS,
  );
  let partial = groups.x / NH * T * C * group.y + head.out;
  let stride = groups.y * OWN; // of the workgroup's blocks

  for (var firstKey = group.y * OWN; firstKey < T; firstKey += stride) { // the longest columns start first
    var first = firstKey / WALKED * WALKED;
    var fetched: array<Block, TURNS>;
    // unroll
    for (var i = 0u; i < PAIR_TURNS; i++) {
      fetched[i] = loadPair(head, firstKey, first, 0, id + i * SIZE, 0);
    }
    var dk = array<vec4f, SUMS>(); // Naga zeroes once what a loop only declares
    var dv = array<vec4f, SUMS>();
    let end = min(firstKey + (OWN - 1) + WINDOW, T);
    for (; first < end; first += WALKED) {
      var p: array<vec4f, PAIRS>;
      var pairs: array<vec4f, PAIRS>;
      for (var round = 0u; round < 2; round++) {
        pairs = array<vec4f, PAIRS>();
        for (var step = 0u; step < STEPS; step++) {
          keepPairs(&fetched, id);
          workgroupBarrier();
          // while a step is computed, the next is on its way
          if (step + 1 < STEPS) {
            // unroll
            for (var i = 0u; i < PAIR_TURNS; i++) {
              fetched[i] = loadPair(head, firstKey, first, round, id + i * SIZE, step + 1);
            }
          } else {
            // unroll
            for (var i = 0u; i < SUM_TURNS; i++) {
              fetched[i] = loadSum(head, first, round, id + i * SIZE, 0);
            }
          }
          addPairs(&pairs, x, y4);
          workgroupBarrier();
        }

        let crossing = firstKey + OWN > first + 1 || first + WALKED > min(firstKey + WINDOW, T);
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
          let query = vec4u(0, 1, 2, 3) + first + (x + c * X) * 4;
          let place = group.x * T + min(query, vec4u(T - 1));
          var statistics: vec4f; // lse, in the second round delta
          // unroll
          for (var j = 0u; j < 4u; j++) {
            if (round == 0) { statistics[j] = logSumExp[place[j]]; } else {
              statistics[j] = delta[place[j]];
            }
          }
          var dropoutPlaces: vec4u;
          if (DROPOUT) {
            // unroll
            for (var j = 0u; j < 4u; j++) {
              let row = group.x * T + query[j];
              dropoutPlaces[j] = rowDropoutPlace(random[0], random[1], sizes.dropout, row);
            }
          }
          // unroll
          for (var r = 0u; r < 4u; r++) {
            let key = firstKey + y4 * 4 + r;
            var factor = vec4f(1);
            if (DROPOUT) {
              // unroll
              for (var j = 0u; j < 4u; j++) {
                factor[j] = dropoutFactor(dropoutPlaces[j], sizes.dropout, key);
              }
            }
            let sum = pairs[r * COLUMNS + c];
            if (round == 0) {
              let masked = vec4<bool>(crossing) &
                ((query - vec4u(key) >= vec4u(WINDOW)) | (query >= vec4u(T)));
              let scores = select(sum, vec4f(LOWEST), masked);
              p[r * COLUMNS + c] = exp(fma(vec4f(SCALE), scores, -statistics));
              pairs[r * COLUMNS + c] = factor * p[r * COLUMNS + c];
            } else {
              pairs[r * COLUMNS + c] = p[r * COLUMNS + c] * (factor * sum - statistics);
            }
          }
        }

        for (var part = 0u; part < PARTS; part++) {
          keepPart(part, &pairs, x, y4);
          keepSums(&fetched, id);
          workgroupBarrier();
          if (part + 1 < PARTS) {
            // unroll
            for (var i = 0u; i < SUM_TURNS; i++) {
              fetched[i] = loadSum(head, first, round, id + i * SIZE, part + 1);
            }
          } else if (round == 0) {
            // unroll
            for (var i = 0u; i < PAIR_TURNS; i++) {
              fetched[i] = loadPair(head, firstKey, first, 1, id + i * SIZE, 0);
            }
          } else {
            // unroll
            for (var i = 0u; i < SUM_TURNS; i++) {
              fetched[i] = loadKeys(head, firstKey, id + i * SIZE, 0);
            }
          }
          if (round == 0) { addSums(&dv, x, y4); } else { addSums(&dk, x, y4); }
          workgroupBarrier();
        }
      }

      var dq = array<vec4f, SUMS>();
      for (var part = 0u; part < OWN_PARTS; part++) {
        keepRows(part, &pairs, x, y4);
        keepSums(&fetched, id);
        workgroupBarrier();
        if (part + 1 < OWN_PARTS) {
          // unroll
          for (var i = 0u; i < SUM_TURNS; i++) {
            fetched[i] = loadKeys(head, firstKey, id + i * SIZE, part + 1);
          }
        } else {
          // unroll
          for (var i = 0u; i < PAIR_TURNS; i++) {
            fetched[i] = loadPair(head, firstKey, first + WALKED, 0, id + i * SIZE, 0);
          }
        }
        addSums(&dq, x, y4);
        workgroupBarrier();
      }
      // the first of the workgroup's blocks that these queries see sets what the others add to
      let isFirst = firstKey < stride || firstKey - stride + (OWN - 1) + WINDOW <= first;
      // unroll
      for (var r = 0u; r < 4u; r++) {
        let t = first + y4 * 4 + r;
        if (t < T) {
          // unroll
          for (var n = 0u; n < VECTORS; n++) {
            let place = partial + t * C + n * X + x;
            if (isFirst) {
              partials[place] = dq[r * VECTORS + n];
            } else {
              partials[place] += dq[r * VECTORS + n];
            }
          }
        }
      }
    }

    // unroll
    for (var r = 0u; r < 4u; r++) {
      let s = firstKey + y4 * 4 + r;
      if (s < T) {
        let k = head.q + s * 3 * C + C + x;
        // unroll
        for (var n = 0u; n < VECTORS; n++) {
          dqkv[k + n * X] = real4(SCALE * dk[r * VECTORS + n]);
          dqkv[k + C + n * X] = real4(dv[r * VECTORS + n]);
        }
      }
    }
  }
}
