// y[t] = Σₛ f · p[t,s] · v[s], with p = softmax(SCALE · q · kᵀ) over the keys s ≤ t, for every head.
// Needs rowOf() from rows.wgsl, seenBy() from window.wgsl, rowDropoutPlace() and dropoutFactor() from ../random.wgsl.
//
// qkv: [B,T,(NH+2·KH)·HS]; y: [B,T,C], C = NH · HS; logSumExp: [B,NH,T] of the scaled scores; f: dropout's factors
//
// An invocation has one query. It loops once over the keys and keeps the running maximum and sum of the online
// softmax (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867), so that memory stays linear in T.
// The invocations of a subgroup loop up to the last query of the subgroup, and each masks the keys after its own
// query.
enable f16;

alias real4 = vec4<f16>; // four elements of qkv and y
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WORKGROUP_SIZE: u32 = 64;

struct Sizes {
  T: u32,
}

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read_write> y: array<real4>;
@group(0) @binding(2) var<storage, read_write> logSumExp: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv
const LOWEST: f32 = -3.0e38;

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

  var q: array<vec4f, QUADS>; // SCALE · q
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    q[i] = SCALE * vec4f(qkv[head + t * ROW + i]);
  }

  // only if DROPOUT
  let place = rowDropoutPlace(row);
  var out: array<vec4f, QUADS>; // Σ exp(score − highest) · f · v
  var highest = LOWEST;
  var total = 0.0; // Σ exp(score − highest)
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
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      qk += q[i] * k[i];
    }
    let masked = t - s >= seen; // wraps if s > t
    let score = select(qk.x + qk.y + qk.z + qk.w, LOWEST, masked);
    let raised = max(highest, score);
    let decay = exp(highest - raised);
    var p = exp(score - raised);
    highest = raised;
    total = total * decay + p;
    // only if DROPOUT
    p *= dropoutFactor(place, s);
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      out[i] = out[i] * decay + p * v[i];
    }
  }

  if (query >= sizes.T) { return; }
  let output = (sequence + t) * C + h * QUADS;
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    y[output + i] = real4(out[i] / total);
  }
  logSumExp[row] = highest + log(total);
}
