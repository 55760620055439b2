// Attention of S new tokens per text over the text's cache and their own keys and values, and its output projection.
// Needs fourInt8() from ../int8.wgsl.
//
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
// PROJECTED saves the launch of the product after attention: instead of y a workgroup stores what its head adds to it.
// weight: [NH·HS,OUT]; scales, projectionBias: [OUT], the latter added by head 0; projected: [NH,B·S,OUT]
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
const PROJECTED: bool = true;
const BIAS: bool = true; // whether the projection has one
const QUANTIZED: bool = true; // whether weight is int8, as [OUT,NH·HS], and its row n counts scales[n] times
alias weightType = vec4u; // a fetch of weights, as words
const EACH: u32 = 8; // weights in it
const WEIGHT_F16: bool = true; // or else f32, unless QUANTIZED
const OUT: u32 = 4;
const WIDTH: u32 = 4; // columns of a lane: EACH, or 4 if QUANTIZED
const OUT_LANES: u32 = 1; // invocations along the columns
const TERM_SHARES: u32 = 64; // invocations along the terms, which are those of one head
const UNITS: u32 = HS; // of terms that a lane fetches: single ones, or EACH if QUANTIZED
const UNITS_AHEAD: u32 = 1; // that it fetches at a time
const FETCHES: u32 = 4; // per UNITS_AHEAD, of which a unit has one per row of weight

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
// only if PROJECTED
@group(0) @binding(5) var<storage, read> weight: array<weightType>;
// only if PROJECTED
// only if QUANTIZED
@group(0) @binding(6) var<storage, read> scales: array<vec4f>;
// only if PROJECTED
// only if BIAS
@group(0) @binding(7) var<storage, read> projectionBias: array<vec4f>;
@group(0) @binding(8) var<storage, read_write> keys: array<real4>;
@group(0) @binding(9) var<storage, read_write> values: array<real4>;
// unless PROJECTED
@group(0) @binding(10) var<storage, read_write> y: array<real4>;
// only if PROJECTED
@group(0) @binding(11) var<storage, read_write> projected: array<vec4f>;
@group(0) @binding(12) var<uniform> sizes: Sizes;

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

// only if PROJECTED
const OUT_FOURS: u32 = WIDTH / 4;
// only if PROJECTED
const OUT_VECTORS: u32 = OUT / WIDTH;
// only if PROJECTED
const WORDS: u32 = EACH / 4; // vectors of four terms in a fetch of int8
// only if PROJECTED
const OUT_SHARES: u32 = OUT_FOURS * WORKGROUP_SIZE;
// only if PROJECTED
var<workgroup> outShares: array<vec4f, OUT_SHARES>;
// only if PROJECTED
var<private> fetched: array<weightType, FETCHES>;
// only if PROJECTED
var<private> outSums: array<vec4f, OUT_FOURS>;

// Begins to read a lane's weights of the head from a unit on.
// only if PROJECTED
fn fetch(head: u32, first: u32, vector: u32) {
  let column = min(vector, OUT_VECTORS - 1);
  // unroll
  for (var i = 0u; i < UNITS_AHEAD; i++) {
    let unit = min(first + i * TERM_SHARES, UNITS - 1);
    // unless QUANTIZED
    fetched[i] = weight[(head * HS + unit) * OUT_VECTORS + column];
    // only if QUANTIZED
    {
      // unroll
      for (var c = 0u; c < 4u; c++) {
        fetched[4 * i + c] = weight[((4 * column + c) * NH + head) * UNITS + unit];
      }
    }
  }
}

// Adds the products of what was fetched and the head's result, which is in q, to outSums.
// only if PROJECTED
fn multiply(first: u32) {
  // unroll
  for (var i = 0u; i < UNITS_AHEAD; i++) {
    let unit = first + i * TERM_SHARES;
    if (unit < UNITS) {
      // unless QUANTIZED
      {
        let x = q[unit / 4][unit % 4];
        // unroll
        for (var j = 0u; j < OUT_FOURS; j++) {
          // only if WEIGHT_F16
          outSums[j] += x *
            vec4f(unpack2x16float(fetched[i][2 * j]), unpack2x16float(fetched[i][2 * j + 1]));
          // unless WEIGHT_F16
          outSums[j] += x * bitcast<vec4f>(fetched[i]);
        }
      }
      // only if QUANTIZED
      {
        // unroll
        for (var j = 0u; j < WORDS; j++) {
          let x = q[unit * WORDS + j];
          // unroll
          for (var c = 0u; c < 4u; c++) {
            outSums[0][c] += dot(x, fourInt8(fetched[4 * i + c][j]));
          }
        }
      }
    }
  }
}

// Stores what a head, whose result is in q, adds to the projection of a row.
// only if PROJECTED
fn project(head: u32, row: u32, rows: u32, index: u32) {
  let share = index / OUT_LANES;
  let step = UNITS_AHEAD * TERM_SHARES;
  for (var firstVector = 0u; firstVector < OUT_VECTORS; firstVector += OUT_LANES) {
    let vector = firstVector + index % OUT_LANES;
    // unroll
    for (var j = 0u; j < OUT_FOURS; j++) {
      outSums[j] = vec4f();
    }
    for (var first = share; first < UNITS; first += step) {
      if (first > share || firstVector > 0) { fetch(head, first, vector); }
      multiply(first);
    }
    workgroupBarrier(); // until all have read the previous sums
    // unroll
    for (var j = 0u; j < OUT_FOURS; j++) {
      outShares[j * WORKGROUP_SIZE + index] = outSums[j];
    }
    workgroupBarrier();
    if (share == 0 && vector < OUT_VECTORS) {
      // unroll
      for (var j = 0u; j < OUT_FOURS; j++) {
        var sum = outSums[j];
        for (var other = 1u; other < TERM_SHARES; other++) {
          sum += outShares[j * WORKGROUP_SIZE + index + other * OUT_LANES];
        }
        let column = vector * OUT_FOURS + j;
        // only if QUANTIZED
        sum *= scales[column];
        // only if BIAS
        if (head == 0) { sum += projectionBias[column]; }
        projected[(head * rows + row) * (OUT / 4) + column] = sum;
      }
    }
  }
}

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
fn rotated(first: u32, quad: u32, angles: array<vec2f, 4>) -> vec4f {
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
    four[i] = x * angles[i].x + select(other, -other, isFirst) * angles[i].y;
  }
  return vec4f(real4(four));
}

// The highest of one value per invocation.
fn highestOf(value: f32, index: u32) -> f32 {
  workgroupBarrier(); // until all have read the weights of the previous iteration
  weights[index] = value;
  for (var left = WORKGROUP_SIZE; left > 1; ) {
    let quarter = (left + 3) / 4; // four values per step, because barriers take time
    workgroupBarrier();
    if (index < quarter) {
      // unroll
      for (var i = 1u; i < 4u; i++) {
        if (index + i * quarter < left) {
          weights[index] = max(weights[index], weights[index + i * quarter]);
        }
      }
    }
    left = quarter;
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
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let row = group.y;
  // only if PROJECTED
  fetch(group.x, index / OUT_LANES, index % OUT_LANES); // long before they are used
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
    var angles: array<vec2f, 4>; // cosine, sine
    if (index < QUADS) {
      raw[index] = vec4f(qkv[row * ROW + head + index]);
      raw[QUADS + index] = vec4f(qkv[newK + index]);
      // unroll
      for (var i = 0u; i < 4u; i++) {
        angles[i] = rotation[min(position, sizes.T - 1) * HALF + (4 * index + i) % HALF];
      }
    }
    workgroupBarrier();
    if (index < QUADS) {
      q[index] = SCALE * rotated(0, index, angles);
      newKey[index] = rotated(QUADS, index, angles);
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
    // The values are read before they are needed, while the scores are, and from both places: loads in branches
    // would wait for each other.
    var old: array<real4, QUADS>;
    var recent: array<real4, QUADS>;
    // unroll
    for (var i = 0u; i < QUADS; i++) {
      let s = min(first + min(i * SHARES + share, KEYS - 1), position); // a key past the end has weight 0
      old[i] = values[cache + min(s, max(cached, 1) - 1) * QUADS + quad];
      recent[i] = qkv[(firstNew + max(s, cached) - cached) * ROW + keyHead + KH * QUADS + quad];
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
      let key = min(i * SHARES + share, KEYS - 1);
      sum += weights[key] * vec4f(select(recent[i], old[i], min(first + key, position) < cached));
    }
  }

  total = totalOf(total, index);
  partial[index] = sum;
  for (var count = SHARES; count > 1; count = (count + 1) / 2) {
    workgroupBarrier();
    let half = (count + 1) / 2;
    if (share + half < count) { partial[index] += partial[index + half * QUADS]; }
  }
  // unless PROJECTED
  if (index < QUADS) { y[row * C + head + index] = real4(partial[index] / total); }
  // only if PROJECTED
  {
    if (index < QUADS) { q[index] = partial[index] / total; }
    workgroupBarrier();
    project(group.x, row, groups.y, index);
  }
}
