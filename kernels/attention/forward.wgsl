// y = dropout(softmax(SCALE · q · kᵀ)) · v for every head, causal.
// qkv: [B,T,3C], C = NH · HS; y: [B,T,C]; logSumExp: [B,NH,T] of the scaled scores
//
// One invocation a query. It walks the keys up to its own position once, with the running maximum
// and sum of the online softmax (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867), so
// that memory stays linear in T. All invocations of a workgroup read the same key at the same time,
// those of a subgroup up to the last position among them: rows_*.wgsl say how.
enable f16;

alias real = f16; // element type of qkv and y
const NH: u32 = 1;
const HS: u32 = 4;
const DROPOUT: bool = false;
const WORKGROUP_SIZE: u32 = 64;

alias real4 = vec4<real>;
const QUADS: u32 = HS / 4;
const C: u32 = NH * QUADS; // in vectors of four, as are all strides below
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const LOWEST: f32 = -3.0e38;

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> random: array<u32>; // seed, counter
@group(0) @binding(2) var<storage, read_write> y: array<real4>;
@group(0) @binding(3) var<storage, read_write> logSumExp: array<f32>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let T = sizes.T;
  let here = group.x * WORKGROUP_SIZE + local.x;
  let t = min(here, T - 1);
  let lane = local.x % LANES;
  let row = group.y * T + t; // of [B·NH, T]
  let head = group.y / NH * T * 3 * C + group.y % NH * QUADS; // q of this head at t = 0

  var q: array<vec4f, QUADS>;
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    q[i] = SCALE * vec4f(qkv[head + t * 3 * C + i]);
  }

  let place = rowDropoutPlace(random[0], random[1], sizes.dropout, row);
  var sums: array<vec4f, QUADS>;
  var highest = LOWEST;
  var total = 0.0;
  let end = min(here / LANES * LANES + LANES, T);
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
    var products = vec4f();
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      products += q[i] * k[i];
    }
    let score = select(products.x + products.y + products.z + products.w, LOWEST, t - s >= WINDOW); // wraps where s > t
    let raised = max(highest, score);
    let decay = exp(highest - raised);
    var p = exp(score - raised);
    highest = raised;
    total = total * decay + p;
    if (DROPOUT) { p *= dropoutFactor(place, sizes.dropout, s); }
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      sums[i] = sums[i] * decay + p * v[i];
    }
  }

  if (here >= T) { return; }
  let out = (group.y / NH * T + t) * C + group.y % NH * QUADS;
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    y[out + i] = real4(sums[i] / total);
  }
  logSumExp[row] = highest + log(total);
}
