// dq = SCALE · Σₛ ds[t,s] · k[s], and delta = Σ dy · y: backward_query.wgsl in tiles, for GPUs.
// qkv, dqkv: [B,T,3C], C = NH · HS; y, dy: [B,T,C]; logSumExp, delta: [B,NH,T]; q's part of dqkv is set
//
// A workgroup has QUERIES queries of one head and walks the keys up to its last query, KEYS at a
// time. README.md draws which elements are whose; ds is explained in backward_query.wgsl.
enable f16;

alias real = f16; // element type of qkv, y, dy and dqkv
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
const COLUMNS: u32 = KEYS / WORKGROUP_X; // keys of an invocation, while it computes ds
const COLUMN_QUADS: u32 = COLUMNS / 4;
const PAIRS: u32 = ROWS * COLUMNS;
const VECTORS: u32 = QUADS / WORKGROUP_X; // vectors of dq of an invocation in each of its rows
const SUMS: u32 = ROWS * VECTORS;
const Q_LOADS: u32 = QUERIES * QUADS / INVOCATIONS;
const K_LOADS: u32 = KEYS * QUADS / INVOCATIONS;
const PADDED: u32 = QUADS + 1; // rows one vector apart: neighbours' reads fall on different banks
const PADDED_X: u32 = WORKGROUP_X + 1;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const LOWEST: f32 = -3.0e38;

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> y: array<real4>;
@group(0) @binding(2) var<storage, read> dy: array<real4>;
@group(0) @binding(3) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(4) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(5) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

var<workgroup> qTile: array<array<array<real4, PADDED>, WORKGROUP_Y>, ROWS>;
var<workgroup> dyTile: array<array<array<real4, PADDED>, WORKGROUP_Y>, ROWS>;
var<workgroup> kTile: array<array<array<real4, PADDED>, WORKGROUP_X>, COLUMNS>;
var<workgroup> vTile: array<array<array<real4, PADDED>, WORKGROUP_X>, COLUMNS>;
var<workgroup> dsTile: array<array<array<array<vec4f, PADDED_X>, WORKGROUP_Y>, ROWS>, COLUMN_QUADS>;

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
  let out = group.y / NH * T * C + group.y % NH * QUADS; // y and dy of this head at t = 0

  // past the end the last token is loaded again; what comes of it is masked or never stored
  // unroll
  for (var n = 0u; n < Q_LOADS; n++) {
    let i = index + n * INVOCATIONS;
    let r = i / QUADS;
    let t = min(firstQuery + r, T - 1);
    qTile[r / WORKGROUP_Y][r % WORKGROUP_Y][i % QUADS] = qkv[head + t * 3 * C + i % QUADS];
    dyTile[r / WORKGROUP_Y][r % WORKGROUP_Y][i % QUADS] = dy[out + t * C + i % QUADS];
  }

  // delta: each invocation its vectors, then all the same sum over the eight that share a row
  var lse: array<f32, ROWS>;
  var dyDotY: array<f32, ROWS>;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    let t = min(firstQuery + r * WORKGROUP_Y + row, T - 1);
    lse[r] = logSumExp[group.y * T + t];
    var products = vec4f();
    // unroll
    for (var n = 0u; n < VECTORS; n++) {
      let i = out + t * C + n * WORKGROUP_X + x;
      products = fma(vec4f(dy[i]), vec4f(y[i]), products);
    }
    dsTile[0][r][row][x] = products;
  }
  workgroupBarrier();
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    var products = vec4f();
    // unroll
    for (var i = 0u; i < WORKGROUP_X; i++) {
      products += dsTile[0][r][row][i];
    }
    dyDotY[r] = (products.x + products.y) + (products.z + products.w);
  }
  workgroupBarrier();

  var sums: array<vec4f, SUMS>;
  let end = min(firstQuery + QUERIES, T);
  for (var firstKey = firstSeen(firstQuery) / KEYS * KEYS; firstKey < end; firstKey += KEYS) {
    // unroll
    for (var n = 0u; n < K_LOADS; n++) {
      let i = index + n * INVOCATIONS;
      let r = i / QUADS;
      let k = head + min(firstKey + r, T - 1) * 3 * C + C + i % QUADS;
      kTile[r / WORKGROUP_X][r % WORKGROUP_X][i % QUADS] = qkv[k];
      vTile[r / WORKGROUP_X][r % WORKGROUP_X][i % QUADS] = qkv[k + C];
    }
    workgroupBarrier();

    // Naga zeroes only once what a loop declares without a value
    var scores = array<f32, PAIRS>(); // q · k
    for (var i = 0u; i < sizes.quads; i++) {
      var qs: array<vec4f, ROWS>;
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        qs[r] = vec4f(qTile[r][row][i]);
      }
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let k = vec4f(kTile[c][x][i]);
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          let xy = fma(qs[r].y, k.y, fma(qs[r].x, k.x, scores[r * COLUMNS + c]));
          scores[r * COLUMNS + c] = fma(qs[r].w, k.w, fma(qs[r].z, k.z, xy));
        }
      }
    }
    var slopes = array<f32, PAIRS>(); // dy · v
    for (var i = 0u; i < sizes.quads; i++) {
      var dys: array<vec4f, ROWS>;
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        dys[r] = vec4f(dyTile[r][row][i]);
      }
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let v = vec4f(vTile[c][x][i]);
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          let xy = fma(dys[r].y, v.y, fma(dys[r].x, v.x, slopes[r * COLUMNS + c]));
          slopes[r * COLUMNS + c] = fma(dys[r].w, v.w, fma(dys[r].z, v.z, xy));
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
      // unroll
      for (var i = 0u; i < COLUMN_QUADS; i++) {
        var ds: vec4f;
        // unroll
        for (var j = 0u; j < 4u; j++) {
          let c = i * 4 + j;
          let p = exp(fma(SCALE, scores[r * COLUMNS + c], -lse[r]));
          var dp = slopes[r * COLUMNS + c];
          if (DROPOUT) {
            let t = group.y * T + firstQuery + r * WORKGROUP_Y + row;
            let s = firstKey + c * WORKGROUP_X + x;
            dp *= dropoutFactor(random[0], random[1], sizes.dropout, t * T + s);
          }
          ds[j] = p * (dp - dyDotY[r]);
        }
        dsTile[i][r][row][x] = ds;
      }
    }
    workgroupBarrier();

    // dsTile[i][r][row][s] are the keys s, s + WORKGROUP_X, …: four of the columns, not neighbours
    for (var s = 0u; s < sizes.lanes; s++) {
      // unroll
      for (var i = 0u; i < COLUMN_QUADS; i++) {
        var ds: array<vec4f, ROWS>;
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          ds[r] = dsTile[i][r][row][s];
        }
        // unroll
        for (var j = 0u; j < 4u; j++) {
          // unroll
          for (var n = 0u; n < VECTORS; n++) {
            let k = vec4f(kTile[i * 4 + j][s][n * WORKGROUP_X + x]);
            // unroll
            for (var r = 0u; r < ROWS; r++) {
              sums[r * VECTORS + n] = fma(vec4f(ds[r][j]), k, sums[r * VECTORS + n]);
            }
          }
        }
      }
    }
    workgroupBarrier();
  }

  // unroll
  for (var r = 0u; r < ROWS; r++) {
    let t = firstQuery + r * WORKGROUP_Y + row;
    if (t < T) {
      // unroll
      for (var n = 0u; n < VECTORS; n++) {
        dqkv[head + t * 3 * C + n * WORKGROUP_X + x] = real4(SCALE * sums[r * VECTORS + n]);
      }
      if (x == 0) { delta[group.y * T + t] = dyDotY[r]; }
    }
  }
}
