// Attention of S new tokens per text over the text's cache and their own keys and values, and its output projection.
// Needs fourInt8() from ../int8.wgsl.
//
// qkv: [B·S,(NH+2·KH)·HS]; cursors: [B,4]; keys, values: [slots,KH,T,HS]; y: [B·S,C], C = NH · HS;
// rotation: [maxT,HS/2,2], cosine and sine; qWeight, kWeight: [HS]
//
// A workgroup has one head of one new token. It reads the keys and values of earlier tokens from the cache, and
// those of new tokens from qkv: no workgroup reads what another one writes. It loops over the keys, KEYS at a
// time. A fetch is EACH neighbours of a key or value, of which PIECES invocations fetch one each, so that neighbours
// read neighbours. An invocation fetches its piece of TURNS keys, SHARES apart, and of their values, before it uses
// any of them. Then one invocation per key adds up the products of the pieces. The highest score and the sums of the
// online softmax are updated (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867), and each invocation
// adds its weighted pieces of values to its sums, which are added up over SHARES at the end.
//
// If each text has one new token, ROTATED does with its q and k what ../rope/forward.wgsl does, which saves a launch.
// PROJECTED saves the launch of the product after attention: instead of y a workgroup stores what its head adds to
// SLICE of its columns. The workgroups of all slices compute the head, which takes less time than to read the weights of
// all columns with one workgroup.
// weight: [NH·HS,OUT]; scales, projectionBias: [OUT], the latter added by head 0; projected: [NH,B·S,OUT]
enable f16;

alias real4 = vec4<f16>; // four elements of y
alias words = vec4u; // a fetch of qkv, keys and values
const F16: bool = true; // their type, or else f32
const EACH: u32 = 8; // elements in it
const S: u32 = 1;
const ONE: bool = true; // whether S is 1
const NH: u32 = 1;
const KH: u32 = 1; // heads of k and v, each of which NH / KH heads of q read
const HS: u32 = 8;
const SCALE: f32 = 1.0 / sqrt(f32(HS));
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it
const WORKGROUP_SIZE: u32 = 64; // a power of two
const TURNS: u32 = 8;
const PARTS: u32 = 8; // of the sum over SHARES, each with HS invocations, or 1
const ROTATED: bool = true; // whether q and k are rotated first; S is 1 then
const NORM: bool = true; // whether they are normalised before that
const EPSILON: f32 = 1e-6;
const PROJECTED: bool = true;
const BIAS: bool = true; // whether the projection has one
const QUANTIZED: bool = true; // whether weight is int8, as [OUT,NH·HS], and its row n counts scales[n] times
alias weightType = vec4u; // a fetch of weights, as words
const WEIGHT_EACH: u32 = 8; // weights in it
const WEIGHT_F16: bool = true; // or else f32, unless QUANTIZED
const OUT: u32 = 4;
const SLICE: u32 = 4; // columns of a workgroup
const WIDTH: u32 = 4; // columns of a lane: WEIGHT_EACH, or 4 if QUANTIZED
const OUT_LANES: u32 = 1; // invocations along the columns
const TERM_SHARES: u32 = 64; // invocations along the terms, which are those of one head
const UNITS: u32 = HS; // of terms that a lane fetches: single ones, or WEIGHT_EACH if QUANTIZED
const UNITS_AHEAD: u32 = 1; // that it fetches at a time
const FETCHES: u32 = 4; // per UNITS_AHEAD, of which a unit has one per row of weight

struct Sizes {
  T: u32, // tokens of a text for which the cache has room
}

@group(0) @binding(0) var<storage, read> qkv: array<words>;
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
@group(0) @binding(6) var<storage, read> scales: array<f32>;
// only if PROJECTED
// only if BIAS
@group(0) @binding(7) var<storage, read> projectionBias: array<f32>;
@group(0) @binding(8) var<storage, read_write> keys: array<words>;
@group(0) @binding(9) var<storage, read_write> values: array<words>;
// unless PROJECTED
@group(0) @binding(10) var<storage, read_write> y: array<real4>;
// only if PROJECTED
@group(0) @binding(11) var<storage, read_write> projected: array<f32>;
@group(0) @binding(12) var<uniform> sizes: Sizes;

const QUADS: u32 = HS / 4;
const FOURS: u32 = EACH / 4; // vectors of four in a fetch
const PIECES: u32 = HS / EACH;
const ROW: u32 = (NH + 2 * KH) * PIECES; // of qkv, in fetches, as are all strides of keys and values
const GROUP: u32 = NH / KH;
const SHARES: u32 = WORKGROUP_SIZE / PIECES;
const KEYS: u32 = SHARES * TURNS; // keys per iteration, at most WORKGROUP_SIZE; invocations from KEYS on have none
const PADDED: u32 = KEYS + 4; // so that pieces are in different banks
const DOTS: u32 = PIECES * PADDED;
const SUMS: u32 = SHARES * QUADS;
const LOWEST: f32 = -3.0e38;
const HALF: u32 = HS / 2;
const RAW: u32 = 2 * HS;
const PART_SUMS: u32 = PARTS * HS;
const HIGHS: u32 = WORKGROUP_SIZE / 16;

// only if ROTATED
var<workgroup> raw: array<f32, RAW>; // q and k of the new token before the norm and the rotation
var<workgroup> dots: array<f32, DOTS>;
var<workgroup> weights: array<f32, WORKGROUP_SIZE>;
var<workgroup> scores: array<f32, WORKGROUP_SIZE>;
var<workgroup> highs: array<f32, HIGHS>; // of 16 scores each
var<workgroup> sums: array<vec4f, SUMS>; // of weighted values
var<workgroup> totals: array<f32, SHARES>; // of weights
var<workgroup> partSums: array<f32, PART_SUMS>;
var<workgroup> partTotals: array<f32, PARTS>;
var<workgroup> result: array<f32, HS>;

var<private> keyWords: array<words, TURNS>;
var<private> valueWords: array<words, TURNS>;

// only if PROJECTED
const OUT_FOURS: u32 = WIDTH / 4;
// only if PROJECTED
const SLICE_VECTORS: u32 = SLICE / WIDTH;
// only if PROJECTED
const WORDS: u32 = WEIGHT_EACH / 4; // vectors of four terms in a fetch of int8
// only if PROJECTED
const OUT_COLUMNS: u32 = OUT_LANES * WIDTH;
// only if PROJECTED
const OUT_SHARES: u32 = TERM_SHARES * OUT_COLUMNS / 4;
// only if PROJECTED
var<workgroup> outShares: array<vec4f, OUT_SHARES>;
// only if PROJECTED
var<private> fetched: array<weightType, FETCHES>;
// only if PROJECTED
var<private> outSums: array<vec4f, OUT_FOURS>;

// The j-th vector of four in a fetch.
fn fourOf(fetched: words, j: u32) -> vec4f {
  var four: vec4f;
  // only if F16
  four = vec4f(unpack2x16float(fetched[2 * j]), unpack2x16float(fetched[2 * j + 1]));
  // unless F16
  four = bitcast<vec4f>(fetched);
  return four;
}

// Begins to read a lane's weights of the head from a unit on.
// only if PROJECTED
fn fetch(head: u32, first: u32, vector: u32) {
  // unroll
  for (var i = 0u; i < UNITS_AHEAD; i++) {
    let unit = min(first + i * TERM_SHARES, UNITS - 1);
    // unless QUANTIZED
    fetched[i] = weight[(head * HS + unit) * (OUT / WIDTH) + vector];
    // only if QUANTIZED
    {
      // unroll
      for (var c = 0u; c < 4u; c++) {
        fetched[4 * i + c] = weight[((4 * vector + c) * NH + head) * UNITS + unit];
      }
    }
  }
}

// Adds the products of what was fetched and the head's result to outSums.
// only if PROJECTED
fn multiply(first: u32) {
  // unroll
  for (var i = 0u; i < UNITS_AHEAD; i++) {
    let unit = first + i * TERM_SHARES;
    if (unit < UNITS) {
      // unless QUANTIZED
      {
        let x = result[unit];
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
          let u = unit * WEIGHT_EACH + 4 * j;
          let x = vec4f(result[u], result[u + 1], result[u + 2], result[u + 3]);
          // unroll
          for (var c = 0u; c < 4u; c++) {
            outSums[0][c] += dot(x, fourInt8(fetched[4 * i + c][j]));
          }
        }
      }
    }
  }
}

// Stores what a head adds to a slice of the projection of a row.
// only if PROJECTED
fn project(head: u32, slice: u32, row: u32, rows: u32, index: u32) {
  let share = index / OUT_LANES;
  let step = UNITS_AHEAD * TERM_SHARES;
  for (var firstVector = 0u; firstVector < SLICE_VECTORS; firstVector += OUT_LANES) {
    let vector = min(firstVector + index % OUT_LANES, SLICE_VECTORS - 1);
    // unroll
    for (var j = 0u; j < OUT_FOURS; j++) {
      outSums[j] = vec4f();
    }
    for (var first = share; first < UNITS; first += step) {
      if (first > share || firstVector > 0) { fetch(head, first, slice * SLICE_VECTORS + vector); }
      multiply(first);
    }
    workgroupBarrier(); // until all have read the previous sums
    if (share < TERM_SHARES) {
      // unroll
      for (var j = 0u; j < OUT_FOURS; j++) {
        outShares[(share * OUT_LANES + index % OUT_LANES) * OUT_FOURS + j] = outSums[j];
      }
    }
    workgroupBarrier();
    for (var c = index; c < OUT_COLUMNS; c += WORKGROUP_SIZE) {
      let column = slice * SLICE + firstVector * WIDTH + c;
      if (firstVector * WIDTH + c < SLICE) {
        var sum = 0.0;
        for (var other = 0u; other < TERM_SHARES; other++) {
          sum += outShares[(other * OUT_COLUMNS + c) / 4][c % 4];
        }
        // only if QUANTIZED
        sum *= scales[column];
        // only if BIAS
        if (head == 0) { sum += projectionBias[column]; }
        projected[(head * rows + row) * OUT + column] = sum;
      }
    }
  }
}

// Component c of a head in raw, normalised if rstd is 1 / RMS. q is the head from 0 on, k that from HS on.
// only if ROTATED
fn component(first: u32, c: u32, rstd: f32) -> f32 {
  var x = raw[first + c];
  // only if NORM
  x *= rstd * select(kWeight[c], qWeight[c], first == 0);
  return x;
}

// 1 / RMS of a head in raw.
// only if ROTATED
fn rstdOf(first: u32) -> f32 {
  var squares = 0.0;
  // only if NORM
  {
    // unroll
    for (var i = 0u; i < HS; i++) {
      squares += raw[first + i] * raw[first + i];
    }
  }
  return inverseSqrt(squares / f32(HS) + EPSILON);
}

// Four components of a head in raw, normalised and rotated.
// only if ROTATED
fn rotated(first: u32, c4: u32, rstd: f32, angles: mat4x2f) -> vec4f {
  var four: vec4f;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let c = c4 + i;
    let isFirst = c < HALF; // of its pair
    let x = component(first, c, rstd);
    let other = component(first, select(c - HALF, c + HALF, isFirst), rstd);
    four[i] = x * angles[i].x + select(other, -other, isFirst) * angles[i].y;
  }
  return four;
}

// The highest of one score per invocation, in two steps, because barriers take time.
fn highestOf(score: f32, index: u32) -> f32 {
  scores[index] = score;
  workgroupBarrier();
  if (index < HIGHS) {
    var highest = LOWEST;
    // unroll
    for (var i = 0u; i < 16u; i++) {
      highest = max(highest, scores[16 * index + i]);
    }
    highs[index] = highest;
  }
  workgroupBarrier();
  var highest = LOWEST;
  // unroll
  for (var i = 0u; i < HIGHS; i++) {
    highest = max(highest, highs[i]);
  }
  return highest;
}

// Begins to read a piece of TURNS keys and values.
fn fetchKeys(first: u32, share: u32, piece: u32, cache: u32, position: u32, cached: u32, newKeys: u32) {
  // unroll
  for (var t = 0u; t < TURNS; t++) {
    let s = min(first + t * SHARES + share, position); // a key past the end has weight 0
    let old = cache + min(s, max(cached, 1) - 1) * PIECES + piece;
    keyWords[t] = keys[old];
    valueWords[t] = values[old];
    // unless ONE
    {
      // from both places, because loads in branches would wait for each other
      let recent = newKeys + (max(s, cached) - cached) * ROW + piece;
      let newKey = qkv[recent];
      let newValue = qkv[recent + KH * PIECES];
      if (s >= cached) {
        keyWords[t] = newKey;
        valueWords[t] = newValue;
      }
    }
  }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let row = group.y;
  // only if PROJECTED
  fetch(group.x, index / OUT_LANES, group.z * SLICE_VECTORS + index % OUT_LANES); // long before they are used
  let text = row / S;
  let piece = index % PIECES;
  let share = index / PIECES;
  let isActive = share < SHARES;
  let head = group.x * PIECES; // first fetch of the head in a row of qkv
  let keyHead = (NH + group.x / GROUP) * PIECES; // and of its k
  let newK = row * ROW + keyHead; // first fetch of the token's k in qkv
  let queryWords = qkv[row * ROW + head + piece];
  let newKeyWords = qkv[newK + piece];
  let newValueWords = qkv[newK + KH * PIECES + piece];
  let cursor = cursors[text];
  let next = cursor.x + row % S;
  if (next >= cursor.w) { return; } // the same for all of a workgroup
  let cached = cursor.x - cursor.y; // tokens in the cache of the text
  let position = cached + row % S; // of the token
  let cache = (cursor.z * KH + group.x / GROUP) * sizes.T * PIECES;
  let newKeys = text * S * ROW + keyHead; // first fetch of the first new token's k in qkv
  let firstSeen = select(0u, position - (WINDOW - 1), position >= WINDOW);
  fetchKeys(firstSeen, share, piece, cache, position, cached, newKeys);

  let place = cache + position * PIECES + piece; // of the token's k and v in the cache
  // one head of q of each group writes; a token past the end is padding
  let writes = share == 0 && group.z == 0 && group.x % GROUP == 0 && position < sizes.T;
  var query: array<vec4f, FOURS>;
  var newKey: array<vec4f, FOURS>;
  // only if ROTATED
  {
    var angles: array<mat4x2f, FOURS>; // cosine, sine
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      // unroll
      for (var i = 0u; i < 4u; i++) {
        let c = piece * EACH + 4 * j + i;
        angles[j][i] = rotation[min(position, sizes.T - 1) * HALF + c % HALF];
      }
    }
    if (share == 0) {
      // unroll
      for (var j = 0u; j < FOURS; j++) {
        let q4 = fourOf(queryWords, j);
        let k4 = fourOf(newKeyWords, j);
        // unroll
        for (var i = 0u; i < 4u; i++) {
          raw[piece * EACH + 4 * j + i] = q4[i];
          raw[HS + piece * EACH + 4 * j + i] = k4[i];
        }
      }
    }
    workgroupBarrier();
    let queryRstd = rstdOf(0);
    let keyRstd = rstdOf(HS);
    var stored: words;
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      let c4 = piece * EACH + 4 * j;
      // as they would be stored
      query[j] = vec4f(real4(rotated(0, c4, queryRstd, angles[j])));
      newKey[j] = vec4f(real4(rotated(HS, c4, keyRstd, angles[j])));
      // only if F16
      stored[2 * j] = pack2x16float(newKey[j].xy);
      // only if F16
      stored[2 * j + 1] = pack2x16float(newKey[j].zw);
      // unless F16
      stored = bitcast<vec4u>(newKey[j]);
    }
    if (writes) { keys[place] = stored; }
  }
  // unless ROTATED
  {
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      query[j] = fourOf(queryWords, j);
      newKey[j] = fourOf(newKeyWords, j);
    }
    if (writes) { keys[place] = newKeyWords; }
  }
  if (writes) { values[place] = newValueWords; }

  var highest = LOWEST;
  var total = 0.0; // sum of the weights of a share of the keys
  var sum: array<vec4f, FOURS>; // Σ weight · v over this share
  // unroll
  for (var j = 0u; j < FOURS; j++) {
    query[j] *= SCALE;
    sum[j] = vec4f();
  }
  for (var first = firstSeen; first <= position; first += KEYS) {
    if (first > firstSeen) { fetchKeys(first, share, piece, cache, position, cached, newKeys); }
    // unroll
    for (var t = 0u; t < TURNS; t++) {
      var products = vec4f();
      // unroll
      for (var j = 0u; j < FOURS; j++) {
        var k4 = fourOf(keyWords[t], j);
        // only if ONE
        if (first + t * SHARES + share >= position) { k4 = newKey[j]; }
        products += query[j] * k4;
      }
      if (isActive) { dots[piece * PADDED + t * SHARES + share] = dot(products, vec4f(1.0)); }
    }
    workgroupBarrier();
    let inside = index < KEYS && first + index <= position; // out-of-range invocations must reach every barrier
    var score = LOWEST;
    if (inside) {
      score = 0.0;
      // unroll
      for (var p = 0u; p < PIECES; p++) {
        score += dots[p * PADDED + index];
      }
    }
    let raised = max(highest, highestOf(score, index));
    let decay = exp(highest - raised);
    highest = raised;
    weights[index] = select(0.0, exp(score - raised), inside);
    workgroupBarrier();

    total *= decay;
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      sum[j] *= decay;
    }
    // unroll
    for (var t = 0u; t < TURNS; t++) {
      let key = min(t * SHARES + share, KEYS - 1);
      let weight = weights[key];
      total += weight;
      // unroll
      for (var j = 0u; j < FOURS; j++) {
        var v4 = fourOf(valueWords[t], j);
        // only if ONE
        if (first + t * SHARES + share >= position) { v4 = fourOf(newValueWords, j); }
        sum[j] += weight * v4;
      }
    }
  }

  if (isActive) {
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      sums[share * QUADS + piece * FOURS + j] = sum[j];
    }
    if (piece == 0) { totals[share] = total; }
  }
  workgroupBarrier();
  for (var i = index; i < PART_SUMS; i += WORKGROUP_SIZE) {
    let c = i % HS;
    var partSum = 0.0;
    var partTotal = 0.0;
    for (var s = i / HS; s < SHARES; s += PARTS) {
      partSum += sums[s * QUADS + c / 4][c % 4];
      partTotal += totals[s];
    }
    partSums[i] = partSum;
    if (c == 0) { partTotals[i / HS] = partTotal; }
  }
  workgroupBarrier();
  for (var c = index; c < HS; c += WORKGROUP_SIZE) {
    var partSum = 0.0;
    var partTotal = 0.0;
    // unroll
    for (var part = 0u; part < PARTS; part++) {
      partSum += partSums[part * HS + c];
      partTotal += partTotals[part];
    }
    result[c] = partSum / partTotal;
  }
  workgroupBarrier();
  // unless PROJECTED
  for (var i = index; i < QUADS; i += WORKGROUP_SIZE) {
    y[(row * NH + group.x) * QUADS + i] =
      real4(vec4f(result[4 * i], result[4 * i + 1], result[4 * i + 2], result[4 * i + 3]));
  }
  // only if PROJECTED
  project(group.x, group.z, row, groups.y, index);
}
