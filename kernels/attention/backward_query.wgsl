// dq[t] = SCALE · Σₛ ds[t,s] · k[s] over the keys s ≤ t, and delta[t] = dy[t] · y[t], for every head.
// Needs rowOf() from rows.wgsl, seenBy() from window.wgsl, rowDropoutPlace() and dropoutFactor() from ../random.wgsl.
//
// ds = p · (dp − delta), p = exp(SCALE · q · k − logSumExp), dp = f · (dy · v), f: dropout's factors.
// qkv, dqkv: [B,T,(NH+2·KH)·HS]; y, dy: [B,T,C], C = NH · HS; logSumExp, delta: [B,NH,T]. delta and dq in dqkv are set.
//
// An invocation has one query, as in forward.wgsl. p is not stored but computed again from logSumExp.
enable f16;

alias real4 = vec4<f16>; // four elements of qkv, y, dy and dqkv
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WORKGROUP_SIZE: u32 = 64;

struct Sizes {
  T: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> y: array<real4>;
@group(0) @binding(2) var<storage, read> dy: array<real4>;
@group(0) @binding(3) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(4) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let T = sizes.T;
  let query = group.x * WORKGROUP_SIZE + local.x;
  let t = min(query, T - 1); // lanes past the end repeat the last query, because all lanes load keys
  let lane = local.x % LANES;
  let row = group.y * T + t; // of [B·NH,T]
  let h = group.y % NH;
  let sequence = group.y / NH * T; // its first token, of [B,T]
  let head = sequence * ROW + h * QUADS; // q of this head at t = 0
  let toKey = (NH - (h - h / (NH / KH))) * QUADS; // from a row's q of this head to its k
  let output = (sequence + t) * C + h * QUADS;

  var q: array<vec4f, QUADS>; // SCALE · q
  var dyRow: array<vec4f, QUADS>;
  var dq: array<vec4f, QUADS>;
  var delta4 = vec4f(); // delta in four partial sums
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    q[i] = SCALE * vec4f(qkv[head + t * ROW + i]);
    dyRow[i] = vec4f(dy[output + i]);
    delta4 += dyRow[i] * vec4f(y[output + i]);
  }
  let rowDelta = delta4.x + delta4.y + delta4.z + delta4.w;
  let rowLogSumExp = logSumExp[row];
  // only if DROPOUT
  let place = rowDropoutPlace(row);

  let seen = seenBy(sequence + t);
  let firstLane = min(query / LANES * LANES, T - 1); // query of the subgroup's first lane
  let end = min(firstLane + LANES, T);
  for (var s = firstSeenBy(firstLane, seenBy(sequence + firstLane)); s < end; s++) {
    let kIndex = head + s * ROW + toKey;
    var kLoaded: array<vec4f, LOADS>;
    var vLoaded: array<vec4f, LOADS>;
    // unroll
    for (var i = 0u; i < LOADS; i++) {
      kLoaded[i] = vec4f(qkv[kIndex + quadOf(i, lane)]);
      vLoaded[i] = vec4f(qkv[kIndex + KH * QUADS + quadOf(i, lane)]);
    }
    let k = rowOf(kLoaded);
    let v = rowOf(vLoaded);
    var qk = vec4f();
    var dyV = vec4f();
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      qk += q[i] * k[i];
      dyV += dyRow[i] * v[i];
    }
    let score = qk.x + qk.y + qk.z + qk.w;
    // a masked score may exceed logSumExp: min keeps its exp finite, select discards it
    let p = select(0.0, exp(min(score - rowLogSumExp, 0.0)), t - s < seen); // wraps if s > t
    var dp = dyV.x + dyV.y + dyV.z + dyV.w;
    // only if DROPOUT
    dp *= dropoutFactor(place, s);
    let scaledDs = SCALE * p * (dp - rowDelta);
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      dq[i] += scaledDs * k[i];
    }
  }

  if (query >= sizes.T) { return; }
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    dqkv[head + t * ROW + i] = real4(dq[i]);
  }
  delta[row] = rowDelta;
}
