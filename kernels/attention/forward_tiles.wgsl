// y = dropout(softmax(SCALE · q · kᵀ)) · v for every head, causal: forward.wgsl in tiles, for GPUs.
// qkv: [B,T,3C], C = NH · HS; y: [B,T,C]; logSumExp: [B,NH,T] of the scaled scores
//
// A workgroup has QUERIES queries of one head and walks the keys up to its last query, KEYS at a
// time. Both products, q · kᵀ and p · v, are sums in registers of what lies in workgroup memory;
// README.md draws which elements are whose. A row's maximum must be known to all invocations that
// share the row, its sum only in the end: until then each keeps the sum of its own columns.
enable f16;

alias real = f16; // element type of qkv and y
const NH: u32 = 1;
const HS: u32 = 32;
const DROPOUT: bool = false;
const QUERIES: u32 = 16;
const KEYS: u32 = 32;
const WORKGROUP_X: u32 = 8; // invocations that share a row
const WORKGROUP_Y: u32 = 8;

alias real4 = vec4<real>;
const QUADS: u32 = HS / 4;
const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const INVOCATIONS: u32 = WORKGROUP_X * WORKGROUP_Y;
const ROWS: u32 = QUERIES / WORKGROUP_Y; // queries of an invocation
const COLUMNS: u32 = KEYS / WORKGROUP_X; // keys of an invocation, while it computes scores
const COLUMN_QUADS: u32 = COLUMNS / 4;
const SCORES: u32 = ROWS * COLUMNS;
const VECTORS: u32 = QUADS / WORKGROUP_X; // vectors of y of an invocation in each of its rows
const SUMS: u32 = ROWS * VECTORS;
const X_QUADS: u32 = WORKGROUP_X / 4;
const Q_LOADS: u32 = QUERIES * QUADS / INVOCATIONS;
const K_LOADS: u32 = KEYS * QUADS / INVOCATIONS;
const PADDED: u32 = QUADS + 1; // rows one vector apart: neighbours' reads fall on different banks
const PADDED_X: u32 = WORKGROUP_X + 1;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const SCALE_LOG2: f32 = SCALE * 1.4426950408889634; // exp(SCALE · x) = exp2(SCALE_LOG2 · x)
const LOWEST: f32 = -1.0e38; // times SCALE_LOG2 still a number
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(2) var<storage, read_write> y: array<real4>;
@group(0) @binding(3) var<storage, read_write> logSumExp: array<f32>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

// row r of a tile is [r / WORKGROUP_Y][r % WORKGROUP_Y] of q, [r / WORKGROUP_X][r % WORKGROUP_X] of kv
var<workgroup> q: array<array<array<real4, PADDED>, WORKGROUP_Y>, ROWS>;
var<workgroup> kv: array<array<array<real4, PADDED>, WORKGROUP_X>, COLUMNS>; // keys, then values
var<workgroup> p: array<array<array<array<vec4f, PADDED_X>, WORKGROUP_Y>, ROWS>, COLUMN_QUADS>;
var<workgroup> exchange: array<array<array<vec4f, X_QUADS>, WORKGROUP_Y>, ROWS>; // [row][x]

@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let T = sizes.T;
  let x = local.x;
  let row = local.y;
  let firstQuery = (groups.x - 1 - group.x) * QUERIES; // the longest rows start first
  let head = group.y / NH * T * 3 * C + group.y % NH * QUADS; // q of this head at t = 0

  // past the end the last token is loaded again; what comes of it is masked or never stored
  // unroll
  for (var n = 0u; n < Q_LOADS; n++) {
    let i = index + n * INVOCATIONS;
    let r = i / QUADS;
    let t = min(firstQuery + r, T - 1);
    q[r / WORKGROUP_Y][r % WORKGROUP_Y][i % QUADS] = qkv[head + t * 3 * C + i % QUADS];
  }

  var sums: array<vec4f, SUMS>;
  var highest: array<f32, ROWS>;
  var total: array<f32, ROWS>;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    highest[r] = LOWEST;
  }

  let end = min(firstQuery + QUERIES, T);
  for (var firstKey = firstSeen(firstQuery) / KEYS * KEYS; firstKey < end; firstKey += KEYS) {
    // unroll
    for (var n = 0u; n < K_LOADS; n++) {
      let i = index + n * INVOCATIONS;
      let r = i / QUADS;
      let s = min(firstKey + r, T - 1);
      kv[r / WORKGROUP_X][r % WORKGROUP_X][i % QUADS] = qkv[head + s * 3 * C + C + i % QUADS];
    }
    workgroupBarrier();

    var scores = array<f32, SCORES>(); // Naga zeroes once what a loop only declares
    for (var i = 0u; i < sizes.quads; i++) {
      var qs: array<vec4f, ROWS>;
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        qs[r] = vec4f(q[r][row][i]);
      }
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let k = vec4f(kv[c][x][i]);
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          let xy = fma(qs[r].y, k.y, fma(qs[r].x, k.x, scores[r * COLUMNS + c]));
          scores[r * COLUMNS + c] = fma(qs[r].w, k.w, fma(qs[r].z, k.z, xy));
        }
      }
    }
    if (firstKey + KEYS > firstQuery + 1 || firstQuery + QUERIES > firstKey + WINDOW) {
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
          let before = firstQuery + r * WORKGROUP_Y + row - (firstKey + c * WORKGROUP_X + x);
          scores[r * COLUMNS + c] = select(scores[r * COLUMNS + c], LOWEST, before >= WINDOW);
        }
      }
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      var most = scores[r * COLUMNS];
      // unroll
      for (var c = 1u; c < COLUMNS; c++) {
        most = max(most, scores[r * COLUMNS + c]);
      }
      exchange[r][row][x / 4][x % 4] = most;
    }
    workgroupBarrier();

    // the keys have been used: values take their place
    // unroll
    for (var n = 0u; n < K_LOADS; n++) {
      let i = index + n * INVOCATIONS;
      let r = i / QUADS;
      let s = min(firstKey + r, T - 1);
      kv[r / WORKGROUP_X][r % WORKGROUP_X][i % QUADS] =
        qkv[head + s * 3 * C + 2 * C + i % QUADS];
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      var most = exchange[r][row][0];
      // unroll
      for (var i = 1u; i < X_QUADS; i++) {
        most = max(most, exchange[r][row][i]);
      }
      let raised = max(highest[r], max(max(most.x, most.y), max(most.z, most.w)));
      let decay = exp2(SCALE_LOG2 * (highest[r] - raised));
      highest[r] = raised;
      total[r] *= decay;
      // unroll
      for (var i = 0u; i < VECTORS; i++) {
        sums[r * VECTORS + i] *= decay;
      }
      // unroll
      for (var i = 0u; i < COLUMN_QUADS; i++) {
        var kept: vec4f;
        // unroll
        for (var j = 0u; j < 4u; j++) {
          let c = i * 4 + j;
          kept[j] = exp2(SCALE_LOG2 * (scores[r * COLUMNS + c] - raised));
          total[r] += kept[j];
          if (DROPOUT) {
            let t = group.y * T + firstQuery + r * WORKGROUP_Y + row;
            let s = firstKey + c * WORKGROUP_X + x;
            kept[j] *= dropoutFactor(random[0], random[1], sizes.dropout, t * T + s);
          }
        }
        p[i][r][row][x] = kept;
      }
    }
    workgroupBarrier();

    // p[i][r][row][k] are the keys k, k + WORKGROUP_X, …: four of the tile's columns, not neighbours
    for (var k = 0u; k < sizes.lanes; k++) {
      // unroll
      for (var i = 0u; i < COLUMN_QUADS; i++) {
        var ps: array<vec4f, ROWS>;
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          ps[r] = p[i][r][row][k];
        }
        // unroll
        for (var j = 0u; j < 4u; j++) {
          // unroll
          for (var n = 0u; n < VECTORS; n++) {
            let v = vec4f(kv[i * 4 + j][k][n * WORKGROUP_X + x]);
            // unroll
            for (var r = 0u; r < ROWS; r++) {
              sums[r * VECTORS + n] = fma(vec4f(ps[r][j]), v, sums[r * VECTORS + n]);
            }
          }
        }
      }
    }
    workgroupBarrier();
  }

  // unroll
  for (var r = 0u; r < ROWS; r++) {
    exchange[r][row][x / 4][x % 4] = total[r];
  }
  workgroupBarrier();
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    var parts = exchange[r][row][0];
    // unroll
    for (var i = 1u; i < X_QUADS; i++) {
      parts += exchange[r][row][i];
    }
    let sum = (parts.x + parts.y) + (parts.z + parts.w);
    let t = firstQuery + r * WORKGROUP_Y + row;
    if (t < T) {
      let out = (group.y / NH * T + t) * C + group.y % NH * QUADS;
      // unroll
      for (var n = 0u; n < VECTORS; n++) {
        y[out + n * WORKGROUP_X + x] = real4(sums[r * VECTORS + n] / sum);
      }
      if (x == 0) { logSumExp[group.y * T + t] = SCALE * highest[r] + log(sum); }
    }
  }
}
