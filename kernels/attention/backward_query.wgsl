// dq = SCALE · Σₛ ds[t,s] · k[s], and delta = Σ dy · y, which backward_key.wgsl needs.
// qkv, dqkv: [B,T,3C], C = NH · HS; y, dy: [B,T,C]; logSumExp, delta: [B,NH,T]; q's part of dqkv is set
//
// p[t,s] = exp(score − logSumExp) is computed again, not stored; with dropout factors f,
// ds = p · (f · (dy · v) − delta), because Σₛ p · f · (dy · v) = dy · y.
enable f16;

alias real = f16; // element type of qkv, y, dy and dqkv
const NH: u32 = 1;
const HS: u32 = 4;
const DROPOUT: bool = false;
const WORKGROUP_SIZE: u32 = 64;

alias real4 = vec4<real>;
const QUADS: u32 = HS / 4;
const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> y: array<real4>;
@group(0) @binding(2) var<storage, read> dy: array<real4>;
@group(0) @binding(3) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(4) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(5) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(6) var<storage, read_write> delta: array<f32>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let T = sizes.T;
  let here = group.x * WORKGROUP_SIZE + local.x;
  let t = min(here, T - 1);
  let lane = local.x % LANES;
  let row = group.y * T + t; // of [B·NH, T]
  let head = group.y / NH * T * 3 * C + group.y % NH * QUADS; // q of this head at t = 0
  let out = (group.y / NH * T + t) * C + group.y % NH * QUADS;

  var q: array<vec4f, QUADS>;
  var dyt: array<vec4f, QUADS>;
  var dq: array<vec4f, QUADS>;
  var products = vec4f();
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    q[i] = SCALE * vec4f(qkv[head + t * 3 * C + i]);
    dyt[i] = vec4f(dy[out + i]);
    products += dyt[i] * vec4f(y[out + i]);
  }
  let dyDotY = products.x + products.y + products.z + products.w;
  let lse = logSumExp[row];
  let place = rowDropoutPlace(random[0], random[1], sizes.dropout, row);

  let end = min(here / LANES * LANES + LANES, T); // as in forward.wgsl
  for (var s = firstSeen(here / LANES * LANES); s < end; s++) {
    let key = head + s * 3 * C + C;
    var keyParts: array<vec4f, PARTS>;
    var valueParts: array<vec4f, PARTS>;
    // unroll
    for (var p = 0u; p < PARTS; p++) {
      keyParts[p] = vec4f(qkv[key + partOf(p, lane)]);
      valueParts[p] = vec4f(qkv[key + C + partOf(p, lane)]);
    }
    let k = together(keyParts);
    let v = together(valueParts);
    var scores = vec4f();
    var slopes = vec4f();
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      scores += q[i] * k[i];
      slopes += dyt[i] * v[i];
    }
    let score = scores.x + scores.y + scores.z + scores.w;
    // a masked pair may score above logSumExp: min keeps its exp finite before it is dropped
    let p = select(0.0, exp(min(score - lse, 0.0)), t - s < WINDOW); // wraps where s > t
    var dp = slopes.x + slopes.y + slopes.z + slopes.w;
    if (DROPOUT) { dp *= dropoutFactor(place, sizes.dropout, s); }
    let ds = SCALE * p * (dp - dyDotY);
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      dq[i] += ds * k[i];
    }
  }

  if (here >= T) { return; }
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    dqkv[head + t * 3 * C + i] = real4(dq[i]);
  }
  delta[row] = dyDotY;
}
