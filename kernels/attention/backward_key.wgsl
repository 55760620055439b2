// dk[s] = SCALE · Σₜ ds[t,s] · q[t] and dv[s] = Σₜ f · p[t,s] · dy[t] over the queries t ≥ s, for every head of k.
// Needs rowOf() from rows.wgsl, seenBy() from window.wgsl, rowDropoutPlace() and dropoutFactor() from ../random.wgsl.
//
// ds = p · (dp − delta), p = exp(SCALE · q · k − logSumExp), dp = f · (dy · v), f: dropout's factors.
// qkv, dqkv: [B,T,(NH+2·KH)·HS]; dy: [B,T,C], C = NH · HS; logSumExp, delta: [B,NH,T]. dk and dv in dqkv are
// set.
//
// An invocation has one key and loops over the queries of the heads of q that read it, in order. No two invocations
// write the same element, so that no atomics are needed. All loops start at the workgroup's first key, so that the
// lanes load the same query together.
enable f16;

alias real4 = vec4<f16>; // four elements of qkv, dy and dqkv
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const SINGLE: bool = true; // whether KH = NH
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WORKGROUP_SIZE: u32 = 64;

struct Sizes {
  T: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(5) var<uniform> sizes: Sizes;

const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv
const GROUP: u32 = NH / KH;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let T = sizes.T;
  let key = group.x * WORKGROUP_SIZE + local.x;
  let s = min(key, T - 1); // lanes past the end repeat the last key, because all lanes load queries
  let lane = local.x % LANES;
  let sequence = group.y / KH * T;
  let kIndex = (sequence + s) * ROW + (NH + group.y % KH) * QUADS;

  var k: array<vec4f, QUADS>; // SCALE · k
  var v: array<vec4f, QUADS>;
  var dk: array<vec4f, QUADS>;
  var dv: array<vec4f, QUADS>;
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    k[i] = SCALE * vec4f(qkv[kIndex + i]);
    v[i] = vec4f(qkv[kIndex + KH * QUADS + i]);
  }

  let lastKey = group.x * WORKGROUP_SIZE + (WORKGROUP_SIZE - 1);
  let end = min(lastKey + WINDOW, T);
  // unroll if SINGLE
  for (var member = 0u; member < GROUP; member++) {
    let h = group.y % KH * GROUP + member;
    let head = sequence * ROW + h * QUADS; // q of this head at t = 0
    let output = sequence * C + h * QUADS; // dy of this head at t = 0
    for (var t = group.x * WORKGROUP_SIZE; t < end; t++) {
      let seen = seenBy(sequence + t);
      // only if APART
      if (t >= lastKey + seen) { break; } // nor do later queries see a key of the workgroup
      let row = (group.y * GROUP + member) * T + t; // of [B·NH,T]
      var qLoaded: array<vec4f, LOADS>;
      var dyLoaded: array<vec4f, LOADS>;
      // unroll
      for (var i = 0u; i < LOADS; i++) {
        qLoaded[i] = vec4f(qkv[head + t * ROW + quadOf(i, lane)]);
        dyLoaded[i] = vec4f(dy[output + t * C + quadOf(i, lane)]);
      }
      let q = rowOf(qLoaded);
      let dyRow = rowOf(dyLoaded);
      var qk = vec4f();
      var dyV = vec4f();
      // unroll
      for (var i = 0u; i < QUADS; i++) {
        qk += k[i] * q[i];
        dyV += v[i] * dyRow[i];
      }
      let score = qk.x + qk.y + qk.z + qk.w;
      // a masked score may exceed logSumExp: min keeps its exp finite, select discards it
      let p = select(0.0, exp(min(score - logSumExp[row], 0.0)), t - s < seen); // wraps if s > t
      var f = 1.0;
      // only if DROPOUT
      f = dropoutFactor(rowDropoutPlace(row), s);
      let dp = f * (dyV.x + dyV.y + dyV.z + dyV.w);
      let scaledDs = SCALE * p * (dp - delta[row]);
      let fp = f * p;
      // unroll
      for (var i = 0u; i < QUADS; i++) {
        dk[i] += scaledDs * q[i];
        dv[i] += fp * dyRow[i];
      }
    }
  }

  if (key >= sizes.T) { return; }
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    dqkv[kIndex + i] = real4(dk[i]);
    dqkv[kIndex + KH * QUADS + i] = real4(dv[i]);
  }
}
