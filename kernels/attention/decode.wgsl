// Attention of S new tokens per text over the keys and values in the text's cache and over their own.
// qkv: [B·S,(NH+2·KH)·HS]; cursors: [B,4]; keys, values: [slots,KH,T,HS]; y: [B·S,C], C = NH · HS;
// rotation: [maxT,HS/2,2], cosine and sine; qWeight, kWeight: [HS]
//
// A workgroup has one head of one new token. It reads the keys and values of earlier tokens from the cache, and
// those of new tokens from qkv: no workgroup reads what another one writes. It loops over the keys, KEYS at a
// time. For the scores an invocation has one key. Then the highest score and the sum of the online softmax are
// updated (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867). For the weighted sum an invocation has
// one vector of components and every SHARES-th key, QUADS keys in all:
//
//              HS                          QUADS vectors
//          ┌─────────┐                   ┌─────────┐
//    KEYS  │ · q     │ → score,   SHARES │ Σ p · v │   SHARES · QUADS = KEYS
//          └─────────┘    p              └─────────┘
//
// If each text has one new token, ROTATED does with its q and k what ../rope/forward.wgsl does, which saves a launch.
enable f16;

alias real4 = vec4<f16>; // four elements of all tensors but cursors
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const HS: u32 = 4;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const WORKGROUP_SIZE: u32 = 64; // a power of two
const ROTATED: bool = true; // whether q and k are rotated first; S is 1 then
const NORM: bool = true; // whether they are normalised before that
const EPSILON: f32 = 1e-6;

struct Sizes {
  S: u32,
  T: u32, // tokens of a text for which the cache has room
}

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> cursors: array<vec4u>; // first new token, token at position 0, slot, end
// only if ROTATED
@group(0) @binding(2) var<storage, read> rotation: array<vec2f>;
// only if NORM
@group(0) @binding(3) var<storage, read> qWeight: array<f32>;
// only if NORM
@group(0) @binding(4) var<storage, read> kWeight: array<f32>;
@group(0) @binding(5) var<storage, read_write> keys: array<real4>;
@group(0) @binding(6) var<storage, read_write> values: array<real4>;
@group(0) @binding(7) var<storage, read_write> y: array<real4>;
@group(0) @binding(8) var<uniform> sizes: Sizes;

const QUADS: u32 = HS / 4;
const ROW: u32 = (NH + 2 * KH) * QUADS; // of qkv, in vectors of four, as are all strides below
const C: u32 = NH * QUADS;
const GROUP: u32 = NH / KH;
const SHARES: u32 = WORKGROUP_SIZE / QUADS;
const KEYS: u32 = SHARES * QUADS; // keys per iteration; invocations from KEYS on have none
const LOWEST: f32 = -3.0e38;
const HALF: u32 = HS / 2;
const RAW: u32 = 2 * QUADS;

var<workgroup> q: array<vec4f, QUADS>;
// only if ROTATED
var<workgroup> newKey: array<vec4f, QUADS>; // k of the new token
// only if ROTATED
var<workgroup> raw: array<vec4f, RAW>; // q and k of the new token before the norm and the rotation
var<workgroup> weights: array<f32, WORKGROUP_SIZE>; // also the memory of trees of maxima and sums
var<workgroup> partial: array<vec4f, WORKGROUP_SIZE>;

// A component of a head in raw, normalised if rstd is 1 / RMS. q is the head from vector 0 on, k that from QUADS on.
// only if ROTATED
fn component(first: u32, c: u32, rstd: f32) -> f32 {
  var x = raw[first + c / 4][c % 4];
  // only if NORM
  x *= rstd * select(kWeight[c], qWeight[c], first == 0);
  return x;
}

// A vector of a head in raw, normalised and rotated, as it is stored.
// only if ROTATED
fn rotated(first: u32, quad: u32, position: u32) -> vec4f {
  var rstd = 1.0;
  // only if NORM
  {
    var squares = 0.0;
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      squares += dot(raw[first + i], raw[first + i]);
    }
    rstd = inverseSqrt(squares / f32(HS) + EPSILON);
  }
  var four: vec4f;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let c = 4 * quad + i;
    let isFirst = c < HALF; // of its pair
    let x = component(first, c, rstd);
    let other = component(first, select(c - HALF, c + HALF, isFirst), rstd);
    let angle = rotation[position * HALF + c % HALF]; // cosine, sine
    four[i] = x * angle.x + select(other, -other, isFirst) * angle.y;
  }
  return vec4f(real4(four));
}

// The highest of one value per invocation.
fn highestOf(value: f32, index: u32) -> f32 {
  workgroupBarrier(); // until all have read the weights of the previous iteration
  weights[index] = value;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (index < half) { weights[index] = max(weights[index], weights[index + half]); }
  }
  workgroupBarrier();
  let highest = weights[0];
  workgroupBarrier();
  return highest;
}

// The sum of one value per invocation.
fn totalOf(value: f32, index: u32) -> f32 {
  workgroupBarrier();
  weights[index] = value;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (index < half) { weights[index] += weights[index + half]; }
  }
  workgroupBarrier();
  return weights[0];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let row = group.y;
  let text = row / sizes.S;
  let cursor = cursors[text];
  let next = cursor.x + row % sizes.S;
  if (next >= cursor.w) { return; } // the same for all of a workgroup
  let cached = cursor.x - cursor.y; // tokens in the cache of the text
  let position = cached + row % sizes.S; // of the token
  let head = group.x * QUADS; // first vector of the head in a row of qkv and y
  let keyHead = (NH + group.x / GROUP) * QUADS; // and of its k in a row of qkv
  let cache = (cursor.z * KH + group.x / GROUP) * sizes.T * QUADS;
  let firstNew = text * sizes.S; // row of the first new token

  let newK = row * ROW + keyHead; // first vector of the token's k in qkv
  let place = cache + position * QUADS + index; // of its k and v in the cache
  // one head of q of each group writes; a token past the end is padding
  let writes = index < QUADS && group.x % GROUP == 0 && position < sizes.T;
  // only if ROTATED
  {
    if (index < QUADS) {
      raw[index] = vec4f(qkv[row * ROW + head + index]);
      raw[QUADS + index] = vec4f(qkv[newK + index]);
    }
    workgroupBarrier();
    if (index < QUADS) {
      q[index] = SCALE * rotated(0, index, min(position, sizes.T - 1));
      newKey[index] = rotated(QUADS, index, min(position, sizes.T - 1));
    }
    if (writes) { keys[place] = real4(newKey[index]); }
  }
  // unless ROTATED
  {
    if (index < QUADS) { q[index] = SCALE * vec4f(qkv[row * ROW + head + index]); }
    if (writes) { keys[place] = qkv[newK + index]; }
  }
  if (writes) { values[place] = qkv[newK + KH * QUADS + index]; }
  workgroupBarrier();

  let share = index / QUADS;
  let quad = index % QUADS;
  var highest = LOWEST;
  var total = 0.0; // sum of the weights of this invocation's keys
  var sum = vec4f(); // Σ weight · v over this invocation's share of the keys
  let firstSeen = select(0u, position - (WINDOW - 1), position >= WINDOW);
  for (var first = firstSeen; first <= position; first += KEYS) {
    let s = first + index;
    let inside = s <= position && index < KEYS; // out-of-range invocations must reach every barrier
    var score = LOWEST;
    if (inside) {
      var products = vec4f();
      if (s < cached) {
        // unroll
        for (var i = 0u; i < QUADS; i++) {
          products += q[i] * vec4f(keys[cache + s * QUADS + i]);
        }
      } else {
        let k = (firstNew + s - cached) * ROW + keyHead;
        // unroll
        for (var i = 0u; i < QUADS; i++) {
          // only if ROTATED
          products += q[i] * newKey[i];
          // unless ROTATED
          products += q[i] * vec4f(qkv[k + i]);
        }
      }
      score = dot(products, vec4f(1.0));
    }
    let raised = max(highest, highestOf(score, index));
    let decay = exp(highest - raised);
    let weight = select(0.0, exp(score - raised), inside);
    highest = raised;
    total = total * decay + weight;
    weights[index] = weight;
    workgroupBarrier();

    sum *= decay;
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      let key = min(i * SHARES + share, KEYS - 1); // of this iteration
      let s = min(first + key, position); // a key past the end has weight 0
      if (s < cached) {
        sum += weights[key] * vec4f(values[cache + s * QUADS + quad]);
      } else {
        let v = (firstNew + s - cached) * ROW + keyHead + KH * QUADS;
        sum += weights[key] * vec4f(qkv[v + quad]);
      }
    }
  }

  total = totalOf(total, index);
  partial[index] = sum;
  for (var count = SHARES; count > 1; count = (count + 1) / 2) {
    workgroupBarrier();
    let half = (count + 1) / 2;
    if (share + half < count) { partial[index] += partial[index + half * QUADS]; }
  }
  if (index < QUADS) { y[row * C + head + index] = real4(partial[index] / total); }
}
