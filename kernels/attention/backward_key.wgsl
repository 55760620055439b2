// dk = SCALE · Σₜ ds[t,s] · q[t] and dv = Σₜ f · p[t,s] · dy[t], with ds as in backward_query.wgsl.
// qkv, dqkv: [B,T,3C], C = NH · HS; dy: [B,T,C]; logSumExp, delta: [B,NH,T]; k's and v's parts of
// dqkv are set
//
// One invocation a key, which walks the queries from its own position on: no two invocations write
// the same element, so there is nothing to add atomically.
enable f16;

alias real = f16; // element type of qkv, dy and dqkv
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
@group(0) @binding(1) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(3) var<storage, read> delta: array<f32>;
@group(0) @binding(4) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(5) var<storage, read_write> dqkv: array<real4>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let T = sizes.T;
  let here = group.x * WORKGROUP_SIZE + local.x;
  let s = min(here, T - 1);
  let lane = local.x % LANES;
  let head = group.y / NH * T * 3 * C + group.y % NH * QUADS; // q of this head at t = 0
  let out = group.y / NH * T * C + group.y % NH * QUADS; // dy of this head at t = 0

  var k: array<vec4f, QUADS>;
  var v: array<vec4f, QUADS>;
  var dk: array<vec4f, QUADS>;
  var dv: array<vec4f, QUADS>;
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    k[i] = SCALE * vec4f(qkv[head + s * 3 * C + C + i]);
    v[i] = vec4f(qkv[head + s * 3 * C + 2 * C + i]);
  }

  // from the workgroup's first key on, so that all its invocations read the same query
  let end = min(group.x * WORKGROUP_SIZE + (WORKGROUP_SIZE - 1) + WINDOW, T);
  for (var t = group.x * WORKGROUP_SIZE; t < end; t++) {
    let row = group.y * T + t;
    var queryParts: array<vec4f, PARTS>;
    var slopeParts: array<vec4f, PARTS>; // of dy
    // unroll
    for (var p = 0u; p < PARTS; p++) {
      queryParts[p] = vec4f(qkv[head + t * 3 * C + partOf(p, lane)]);
      slopeParts[p] = vec4f(dy[out + t * C + partOf(p, lane)]);
    }
    let q = together(queryParts);
    let dyt = together(slopeParts);
    var scores = vec4f();
    var slopes = vec4f();
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      scores += k[i] * q[i];
      slopes += v[i] * dyt[i];
    }
    let score = scores.x + scores.y + scores.z + scores.w;
    // a masked pair may score above logSumExp: min keeps its exp finite before it is dropped
    let p = select(0.0, exp(min(score - logSumExp[row], 0.0)), t - s < WINDOW);
    var f = 1.0;
    if (DROPOUT) {
      let place = rowDropoutPlace(random[0], random[1], sizes.dropout, row);
      f = dropoutFactor(place, sizes.dropout, s);
    }
    let dp = f * (slopes.x + slopes.y + slopes.z + slopes.w);
    let ds = SCALE * p * (dp - delta[row]);
    let kept = f * p;
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      dk[i] += ds * q[i];
      dv[i] += kept * dyt[i];
    }
  }

  if (here >= T) { return; }
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    dqkv[head + s * 3 * C + C + i] = real4(dk[i]);
    dqkv[head + s * 3 * C + 2 * C + i] = real4(dv[i]);
  }
}
