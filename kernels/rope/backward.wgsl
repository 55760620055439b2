// The gradients of q and k are rotated back, in place; with NORM the norm's gradient follows, x · rstd · weight.
// Needs rowSums() from ../row_sums.wgsl, columnSum() from ../column_sums.wgsl, positionOf() from ../positions.wgsl.
//
// With g the gradient that was rotated back, and x̂ = x · rstd: dx = rstd · (g · weight − x̂ · mean(g · weight · x̂)).
// dqkv: [M,(NH+2·KH)·HS], of which the columns of v stay; rotation: [maxT,HS/2,2], cosine and sine;
// qk: [M,(NH+KH)·HS], x; qWeight, kWeight: [HS]; partials: [P,2,HS], Σ g · x̂ over blocks of heads
//
// Workgroup (i, 0) has block i of the heads of q of all tokens, workgroup (i, 1) that of the heads of k: each has one
// weight. forward.wgsl says how lanes share a head.
enable f16;

alias real = f16; // element of dqkv and qk
const NH: u32 = 1;
const KH: u32 = 1;
const HS: u32 = 32;
const PAIRS: u32 = 1; // HS / 2 / LANES, rounded up
const NORM: bool = true;
const EPSILON: f32 = 1e-6;

struct Sizes {
  M: u32,
  T: u32, // rows of a text
  qBlock: u32, // heads of q per workgroup
  kBlock: u32,
}

@group(0) @binding(0) var<storage, read> rotation: array<vec2f>;
// only if NORM
@group(0) @binding(1) var<storage, read> qk: array<real>;
// only if NORM
@group(0) @binding(2) var<storage, read> qWeight: array<f32>;
// only if NORM
@group(0) @binding(3) var<storage, read> kWeight: array<f32>;
@group(0) @binding(4) var<storage, read_write> dqkv: array<real>;
// only if NORM
@group(0) @binding(5) var<storage, read_write> partials: array<f32>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

const HALF: u32 = HS / 2;
const HEADS: u32 = NH + KH; // of q and k

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let isKey = group.y == 1;
  let heads = select(NH, KH, isKey);
  let firstHead = select(0, NH, isKey);
  let block = select(sizes.qBlock, sizes.kBlock, isKey);
  let rows = sizes.M * heads;
  // only if NORM
  var weight: array<vec2f, PAIRS>;
  // only if NORM
  var dweight: array<vec2f, PAIRS>;
  // only if NORM
  {
    // unroll
    for (var j = 0u; j < PAIRS; j++) {
      let i = min(local.x + j * LANES, HALF - 1);
      weight[j] = vec2f(qWeight[i], qWeight[i + HALF]);
      if (isKey) { weight[j] = vec2f(kWeight[i], kWeight[i + HALF]); }
    }
  }

  for (var r = 0u; r < block; r += ROWS) {
    let row = group.x * block + r + local.y; // of [M,heads]
    let inside = row < rows; // out-of-range rows do no work but must reach every barrier
    let m = row / heads;
    let h = firstHead + row % heads;
    let head = (m * (HEADS + KH) + h) * HS; // first component in dqkv
    let angles = positionOf(m, sizes.T) * HALF;
    var g: array<vec2f, PAIRS>;
    // unroll
    for (var j = 0u; j < PAIRS; j++) {
      let i = local.x + j * LANES;
      g[j] = vec2f();
      if (inside && i < HALF) {
        let dy = vec2f(f32(dqkv[head + i]), f32(dqkv[head + i + HALF]));
        let angle = rotation[angles + i]; // cosine, sine
        g[j] = vec2f(dy.x * angle.x + dy.y * angle.y, dy.y * angle.x - dy.x * angle.y);
      }
    }
    // only if NORM
    {
      var x: array<vec2f, PAIRS>;
      var share = vec2f(); // of Σ x² and of Σ g · weight · x
      // unroll
      for (var j = 0u; j < PAIRS; j++) {
        let i = local.x + j * LANES;
        let place = (m * HEADS + h) * HS + i;
        x[j] = vec2f();
        if (inside && i < HALF) { x[j] = vec2f(f32(qk[place]), f32(qk[place + HALF])); }
        share += vec2f(dot(x[j], x[j]), dot(g[j] * weight[j], x[j]));
      }
      let means = rowSums(share, local) / f32(HS);
      let rstd = inverseSqrt(means.x + EPSILON);
      // unroll
      for (var j = 0u; j < PAIRS; j++) {
        let normalized = x[j] * rstd;
        dweight[j] += g[j] * normalized;
        g[j] = rstd * (g[j] * weight[j] - normalized * (rstd * means.y));
      }
    }
    // unroll
    for (var j = 0u; j < PAIRS; j++) {
      let i = local.x + j * LANES;
      if (inside && i < HALF) {
        dqkv[head + i] = real(g[j].x);
        dqkv[head + i + HALF] = real(g[j].y);
      }
    }
  }

  // only if NORM
  {
    // unroll
    for (var j = 0u; j < PAIRS; j++) {
      let i = local.x + j * LANES;
      let sum = columnSum(vec4f(dweight[j], 0.0, 0.0), local);
      if (local.y == 0 && i < HALF) {
        let place = (group.x * 2 + group.y) * HS + i;
        partials[place] = sum.x;
        partials[place + HALF] = sum.y;
      }
    }
  }
}
