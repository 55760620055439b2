// dk = SCALE · Σₜ ds[t,s] · q[t] and dv = Σₜ f · p[t,s] · dy[t]: backward_key.wgsl in tiles, for GPUs.
// qkv, dqkv: [B,T,3C], C = NH · HS; dy: [B,T,C]; logSumExp, delta: [B,NH,T]; k's and v's parts of
// dqkv are set
//
// A workgroup has KEYS keys of one head and walks the queries from its first key on, QUERIES at a
// time. README.md draws which elements are whose; ds is explained in backward_query.wgsl.
enable f16;

alias real = f16; // element type of qkv, dy and dqkv
const NH: u32 = 1;
const HS: u32 = 32;
const DROPOUT: bool = false;
const QUERIES: u32 = 32;
const KEYS: u32 = 16;
const WORKGROUP_X: u32 = 8; // invocations that share a row
const WORKGROUP_Y: u32 = 8;

alias real4 = vec4<real>;
const QUADS: u32 = HS / 4;
const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const INVOCATIONS: u32 = WORKGROUP_X * WORKGROUP_Y;
const ROWS: u32 = KEYS / WORKGROUP_Y; // keys of an invocation
const COLUMNS: u32 = QUERIES / WORKGROUP_X; // queries of an invocation, while it computes p and ds
const COLUMN_QUADS: u32 = COLUMNS / 4;
const PAIRS: u32 = ROWS * COLUMNS;
const VECTORS: u32 = QUADS / WORKGROUP_X; // vectors of dk of an invocation in each of its rows
const SUMS: u32 = ROWS * VECTORS;
const K_LOADS: u32 = KEYS * QUADS / INVOCATIONS;
const Q_LOADS: u32 = QUERIES * QUADS / INVOCATIONS;
const PADDED: u32 = QUADS + 1; // rows one vector apart: neighbours' reads fall on different banks
const PADDED_X: u32 = WORKGROUP_X + 1;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const LOWEST: f32 = -3.0e38;

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(5) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

var<workgroup> kTile: array<array<array<real4, PADDED>, WORKGROUP_Y>, ROWS>;
var<workgroup> vTile: array<array<array<real4, PADDED>, WORKGROUP_Y>, ROWS>;
var<workgroup> qTile: array<array<array<real4, PADDED>, WORKGROUP_X>, COLUMNS>;
var<workgroup> dyTile: array<array<array<real4, PADDED>, WORKGROUP_X>, COLUMNS>;
var<workgroup> pTile: array<array<array<array<vec4f, PADDED_X>, WORKGROUP_Y>, ROWS>, COLUMN_QUADS>;
var<workgroup> dsTile: array<array<array<array<vec4f, PADDED_X>, WORKGROUP_Y>, ROWS>, COLUMN_QUADS>;

@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(local_invocation_id) local: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let T = sizes.T;
  let x = local.x;
  let row = local.y;
  let firstKey = group.x * KEYS; // the longest columns start first
  let head = group.y / NH * T * 3 * C + group.y % NH * QUADS; // q of this head at t = 0
  let out = group.y / NH * T * C + group.y % NH * QUADS; // dy of this head at t = 0

  // past the end the last token is loaded again; what comes of it is masked or never stored
  // unroll
  for (var n = 0u; n < K_LOADS; n++) {
    let i = index + n * INVOCATIONS;
    let r = i / QUADS;
    let k = head + min(firstKey + r, T - 1) * 3 * C + C + i % QUADS;
    kTile[r / WORKGROUP_Y][r % WORKGROUP_Y][i % QUADS] = qkv[k];
    vTile[r / WORKGROUP_Y][r % WORKGROUP_Y][i % QUADS] = qkv[k + C];
  }

  var dk: array<vec4f, SUMS>;
  var dv: array<vec4f, SUMS>;
  let end = min(firstKey + (KEYS - 1) + WINDOW, T);
  for (var firstQuery = firstKey / QUERIES * QUERIES; firstQuery < end; firstQuery += QUERIES) {
    // unroll
    for (var n = 0u; n < Q_LOADS; n++) {
      let i = index + n * INVOCATIONS;
      let r = i / QUADS;
      let t = min(firstQuery + r, T - 1);
      qTile[r / WORKGROUP_X][r % WORKGROUP_X][i % QUADS] = qkv[head + t * 3 * C + i % QUADS];
      dyTile[r / WORKGROUP_X][r % WORKGROUP_X][i % QUADS] = dy[out + t * C + i % QUADS];
    }
    var lse: array<f32, COLUMNS>;
    var dyDotY: array<f32, COLUMNS>;
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      let t = group.y * T + min(firstQuery + c * WORKGROUP_X + x, T - 1);
      lse[c] = logSumExp[t];
      dyDotY[c] = delta[t];
    }
    workgroupBarrier();

    // Naga zeroes only once what a loop declares without a value
    var scores = array<f32, PAIRS>(); // k · q
    for (var i = 0u; i < sizes.quads; i++) {
      var ks: array<vec4f, ROWS>;
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        ks[r] = vec4f(kTile[r][row][i]);
      }
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let q = vec4f(qTile[c][x][i]);
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          let xy = fma(ks[r].y, q.y, fma(ks[r].x, q.x, scores[r * COLUMNS + c]));
          scores[r * COLUMNS + c] = fma(ks[r].w, q.w, fma(ks[r].z, q.z, xy));
        }
      }
    }
    var slopes = array<f32, PAIRS>(); // v · dy
    for (var i = 0u; i < sizes.quads; i++) {
      var vs: array<vec4f, ROWS>;
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        vs[r] = vec4f(vTile[r][row][i]);
      }
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let dyt = vec4f(dyTile[c][x][i]);
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          let xy = fma(vs[r].y, dyt.y, fma(vs[r].x, dyt.x, slopes[r * COLUMNS + c]));
          slopes[r * COLUMNS + c] = fma(vs[r].w, dyt.w, fma(vs[r].z, dyt.z, xy));
        }
      }
    }

    if (firstKey + KEYS > firstQuery + 1 || firstQuery + QUERIES > min(firstKey + WINDOW, T)) {
      // unroll
      for (var r = 0u; r < ROWS; r++) {
        // unroll
        for (var c = 0u; c < COLUMNS; c++) {
          let t = firstQuery + c * WORKGROUP_X + x;
          let masked = t - (firstKey + r * WORKGROUP_Y + row) >= WINDOW || t >= T;
          scores[r * COLUMNS + c] = select(scores[r * COLUMNS + c], LOWEST, masked);
        }
      }
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      // unroll
      for (var i = 0u; i < COLUMN_QUADS; i++) {
        var kept: vec4f;
        var ds: vec4f;
        // unroll
        for (var j = 0u; j < 4u; j++) {
          let c = i * 4 + j;
          let p = exp(fma(SCALE, scores[r * COLUMNS + c], -lse[c]));
          var f = 1.0;
          if (DROPOUT) {
            let t = group.y * T + firstQuery + c * WORKGROUP_X + x;
            let s = firstKey + r * WORKGROUP_Y + row;
            f = dropoutFactor(random[0], random[1], sizes.dropout, t * T + s);
          }
          kept[j] = f * p;
          ds[j] = p * (f * slopes[r * COLUMNS + c] - dyDotY[c]);
        }
        pTile[i][r][row][x] = kept;
        dsTile[i][r][row][x] = ds;
      }
    }
    workgroupBarrier();

    // pTile[i][r][row][t] are the queries t, t + WORKGROUP_X, …: four of the columns, not neighbours
    for (var t = 0u; t < sizes.lanes; t++) {
      // unroll
      for (var i = 0u; i < COLUMN_QUADS; i++) {
        var kept: array<vec4f, ROWS>;
        var ds: array<vec4f, ROWS>;
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          kept[r] = pTile[i][r][row][t];
          ds[r] = dsTile[i][r][row][t];
        }
        // unroll
        for (var j = 0u; j < 4u; j++) {
          // unroll
          for (var n = 0u; n < VECTORS; n++) {
            let q = vec4f(qTile[i * 4 + j][t][n * WORKGROUP_X + x]);
            let dyt = vec4f(dyTile[i * 4 + j][t][n * WORKGROUP_X + x]);
            // unroll
            for (var r = 0u; r < ROWS; r++) {
              dk[r * VECTORS + n] = fma(vec4f(ds[r][j]), q, dk[r * VECTORS + n]);
              dv[r * VECTORS + n] = fma(vec4f(kept[r][j]), dyt, dv[r * VECTORS + n]);
            }
          }
        }
      }
    }
    workgroupBarrier();
  }

  // unroll
  for (var r = 0u; r < ROWS; r++) {
    let s = firstKey + r * WORKGROUP_Y + row;
    if (s < T) {
      let k = head + s * 3 * C + C + x;
      // unroll
      for (var n = 0u; n < VECTORS; n++) {
        dqkv[k + n * WORKGROUP_X] = real4(SCALE * dk[r * VECTORS + n]);
        dqkv[k + C + n * WORKGROUP_X] = real4(dv[r * VECTORS + n]);
      }
    }
  }
}
