// Attention of S new tokens of every text over its cached keys and values, which they join.
// qkv: [B·S,3C], C = NH · HS; cursors: [B]; keys, values: [B,NH,L,HS]; y: [B·S,C]
//
// A workgroup has one head of one new token. Keys of the tokens before the new ones lie in the cache,
// those of the new ones still in qkv: nothing is read that another workgroup writes. It walks them KEYS
// at a time. For the scores an invocation has a key; for the weighted sum it has QUADS values of four
// components, one in SHARES of the keys. In between the highest score and the sum of the online softmax
// (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867) are brought up to date.
//
//              HS                          QUADS
//          ┌─────────┐                   ┌─────────┐
//    KEYS  │ · q     │ → score,   SHARES │ Σ p · v │   SHARES · QUADS = KEYS, and each
//          └─────────┘    p       keys   └─────────┘   invocation sums QUADS of these
enable f16;

alias real4 = vec4<f16>;
const HS: u32 = 4;
const WORKGROUP_SIZE: u32 = 64; // a power of two

const QUADS: u32 = HS / 4;
const SHARES: u32 = WORKGROUP_SIZE / QUADS;
const KEYS: u32 = SHARES * QUADS; // invocations beyond it only keep the barriers company
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const LOWEST: f32 = -3.0e38;

struct Sizes {
  S: u32,
  L: u32,
  columns4: u32, // C / 4
}

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> cursors: array<vec2u>; // next token to read, token at position 0
@group(0) @binding(2) var<storage, read_write> keys: array<real4>;
@group(0) @binding(3) var<storage, read_write> values: array<real4>;
@group(0) @binding(4) var<storage, read_write> y: array<real4>;
@group(0) @binding(5) var<uniform> sizes: Sizes;

var<workgroup> q: array<vec4f, QUADS>;
var<workgroup> weights: array<f32, WORKGROUP_SIZE>;
var<workgroup> partial: array<vec4f, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) id: u32) {
  let row = group.y;
  let columns = sizes.columns4;
  let text = row / sizes.S;
  let cached = cursors[text].x - cursors[text].y; // tokens of this text in the cache
  let position = cached + row % sizes.S; // of this token
  let head = group.x * QUADS; // of a row of qkv and y
  let cache = (text * (columns / QUADS) + group.x) * sizes.L * QUADS;
  let fresh = text * sizes.S; // row of the first new token

  if (id < QUADS) {
    let own = row * 3 * columns + head + id;
    q[id] = SCALE * vec4f(qkv[own]);
    if (position < sizes.L) { // else it is padding
      keys[cache + position * QUADS + id] = qkv[own + columns];
      values[cache + position * QUADS + id] = qkv[own + 2 * columns];
    }
  }
  workgroupBarrier();

  let share = id / QUADS;
  let quad = id % QUADS;
  var highest = LOWEST;
  var total = 0.0; // of the weights of this invocation's keys
  var sum = vec4f(); // of their values: this invocation's share and components
  let firstSeen = select(0u, position - (WINDOW - 1), position >= WINDOW);
  for (var first = firstSeen; first <= position; first += KEYS) {
    let s = first + id;
    let here = s <= position && id < KEYS;
    var score = LOWEST;
    if (here) {
      var products = vec4f();
      if (s < cached) {
        // unroll
        for (var i = 0u; i < QUADS; i++) {
          products += q[i] * vec4f(keys[cache + s * QUADS + i]);
        }
      } else {
        let k = (fresh + s - cached) * 3 * columns + columns + head;
        // unroll
        for (var i = 0u; i < QUADS; i++) {
          products += q[i] * vec4f(qkv[k + i]);
        }
      }
      score = dot(products, vec4f(1.0));
    }
    let raised = max(highest, highestOf(score, id));
    let decay = exp(highest - raised);
    let weight = select(0.0, exp(score - raised), here);
    highest = raised;
    total = total * decay + weight;
    weights[id] = weight;
    workgroupBarrier();

    sum *= decay;
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      let other = min(i * SHARES + share, KEYS - 1);
      let s = min(first + other, position); // a key past the end has no weight
      if (s < cached) {
        sum += weights[other] * vec4f(values[cache + s * QUADS + quad]);
      } else {
        let v = (fresh + s - cached) * 3 * columns + 2 * columns + head;
        sum += weights[other] * vec4f(qkv[v + quad]);
      }
    }
  }

  total = totalOf(total, id);
  partial[id] = sum;
  for (var count = SHARES; count > 1; count = (count + 1) / 2) {
    workgroupBarrier();
    let half = (count + 1) / 2;
    if (share + half < count) { partial[id] += partial[id + half * QUADS]; }
  }
  if (id < QUADS) { y[row * columns + head + id] = real4(partial[id] / total); }
}

// The highest of one value of each invocation.
fn highestOf(value: f32, id: u32) -> f32 {
  workgroupBarrier(); // the weights before have been read
  weights[id] = value;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (id < half) { weights[id] = max(weights[id], weights[id + half]); }
  }
  workgroupBarrier();
  let highest = weights[0];
  workgroupBarrier();
  return highest;
}

// The sum of one value of each invocation.
fn totalOf(value: f32, id: u32) -> f32 {
  workgroupBarrier();
  weights[id] = value;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (id < half) { weights[id] += weights[id + half]; }
  }
  workgroupBarrier();
  return weights[0];
}
