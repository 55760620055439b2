// Attention of S new tokens per text over the text's cache and their own keys and values.
// Needs rotate() from decode_rotation.wgsl, project() from decode_projection.wgsl.
//
// qkv: [B·S,(NH+2·KH)·HS]; cursors: [B,4]; keys, values: [slots,KH,T,HS]; y: [B·S,C], C = NH · HS
//
// A workgroup has one head of one new token. It reads the keys and values of earlier tokens from the cache, and
// those of new tokens from qkv: no workgroup reads what another one writes. It loops over the keys, KEYS at a time.
//
// A fetch is EACH neighbours of a key or value. PIECES invocations, a share, fetch one piece each, so that neighbours read
// neighbours: those of TURNS keys, SHARES apart, and of their values, before they use any of them, and the next ones as soon
// as these are used. Then one invocation per key adds up the products of the pieces. Each share has its own online softmax (Milakov and Gimelshein 2018,
// https://arxiv.org/abs/1805.02867): its highest score, and sums of weights and weighted values relative to it. At the end
// the sums of the shares are added up, in PARTS and then over these.
//
// If each text has one new token, ROTATED does with its q and k what ../rope/forward.wgsl does, which saves a launch.
// PROJECTED saves the launch of the product after attention: instead of y a workgroup stores what its head adds to a slice
// of the columns of that product. The workgroups of all slices compute the head, which takes less time than to read the
// weights of all columns with one workgroup.
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
const TURN_FOURS: u32 = 2; // vectors of four with the products of TURNS keys
const PARTS: u32 = 8; // of the sum over SHARES, each with HS invocations, or 1
const EXCHANGED: u32 = 68; // vectors of workgroup memory that invocations use to exchange products and sums
const ROTATED: bool = true; // whether q and k are rotated first; S is 1 then
const PROJECTED: bool = true;

struct Sizes {
  T: u32, // tokens of a text for which the cache has room
}

@group(0) @binding(0) var<storage, read> qkv: array<words>;
@group(0) @binding(1) var<storage, read> cursors: array<vec4u>; // first new token, token at position 0, slot, end
@group(0) @binding(8) var<storage, read_write> keys: array<words>;
@group(0) @binding(9) var<storage, read_write> values: array<words>;
// unless PROJECTED
@group(0) @binding(10) var<storage, read_write> y: array<real4>;
@group(0) @binding(12) var<uniform> sizes: Sizes;

const QUADS: u32 = HS / 4;
const FOURS: u32 = EACH / 4; // vectors of four in a fetch
const PIECES: u32 = HS / EACH;
const ROW: u32 = (NH + 2 * KH) * PIECES; // of qkv, in fetches, as are all strides of keys and values
const GROUP: u32 = NH / KH;
const SHARES: u32 = WORKGROUP_SIZE / PIECES;
const KEYS: u32 = SHARES * TURNS; // keys per iteration, at most WORKGROUP_SIZE; invocations from KEYS on have none
const PRODUCT_ROW: u32 = SHARES * TURN_FOURS + 1; // of a piece, in vectors; one more so that pieces are in different banks
const LOWEST: f32 = -3.0e38; // score of a key past the end
const PART_SUMS: u32 = PARTS * HS;

var<workgroup> exchanged: array<vec4f, EXCHANGED>; // products of pieces, then sums of shares, then those of the projection
var<workgroup> scores: array<f32, KEYS>; // those of a share are neighbours
var<workgroup> highests: array<f32, SHARES>; // of shares
var<workgroup> totals: array<f32, SHARES>;
var<workgroup> partSums: array<f32, PART_SUMS>;
var<workgroup> partTotals: array<f32, PARTS>;
var<workgroup> partHighests: array<f32, PARTS>;
var<workgroup> result: array<f32, HS>;

var<private> piece: u32; // of the invocation
var<private> share: u32;
var<private> position: u32; // of the new token
var<private> cached: u32; // tokens in the cache of the text
var<private> cache: u32; // first fetch of the head's keys, and of its values
var<private> newKeys: u32; // first fetch of the first new token's k in qkv
var<private> keyWords: array<words, TURNS>;
var<private> valueWords: array<words, TURNS>;
var<private> newValue: words; // of the new token, a piece
var<private> newKey: array<vec4f, FOURS>;
var<private> query: array<vec4f, FOURS>;
// of the share, relative to its highest score
var<private> highest: f32;
var<private> total: f32; // sum of the weights
var<private> sum: array<vec4f, FOURS>; // Σ weight · v

// The j-th vector of four in a fetch.
fn fourOf(fetched: words, j: u32) -> vec4f {
  var four: vec4f;
  // only if F16
  four = vec4f(unpack2x16float(fetched[2 * j]), unpack2x16float(fetched[2 * j + 1]));
  // unless F16
  four = bitcast<vec4f>(fetched);
  return four;
}

// A fetch with these elements.
fn wordsOf(fours: array<vec4f, FOURS>) -> words {
  var fetched: words;
  // unless F16
  fetched = bitcast<words>(fours[0]);
  // only if F16
  {
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      fetched[2 * j] = pack2x16float(fours[j].xy);
      fetched[2 * j + 1] = pack2x16float(fours[j].zw);
    }
  }
  return fetched;
}

// Begins to read a piece of TURNS keys. One past the end is the last, whose weight is then 0.
fn fetchKeys(first: u32) {
  // unroll
  for (var t = 0u; t < TURNS; t++) {
    let s = min(first + t * SHARES + share, position);
    keyWords[t] = keys[cache + min(s, max(cached, 1) - 1) * PIECES + piece];
    // unless ONE
    {
      // from both places, because loads in branches would wait for each other
      let recent = qkv[newKeys + (max(s, cached) - cached) * ROW + piece];
      if (s >= cached) { keyWords[t] = recent; }
    }
  }
}

// Begins to read the same piece of their values.
fn fetchValues(first: u32) {
  // unroll
  for (var t = 0u; t < TURNS; t++) {
    let s = min(first + t * SHARES + share, position);
    valueWords[t] = values[cache + min(s, max(cached, 1) - 1) * PIECES + piece];
    // unless ONE
    {
      let recent = qkv[newKeys + KH * PIECES + (max(s, cached) - cached) * ROW + piece];
      if (s >= cached) { valueWords[t] = recent; }
    }
  }
}

// Adds the keys and values that were fetched to the softmax of the share, and begins to read the next ones.
fn addKeys(first: u32, isLast: bool, index: u32) {
  var products: array<vec4f, TURN_FOURS>; // of a piece of TURNS keys
  // unroll
  for (var t = 0u; t < TURNS; t++) {
    var terms = vec4f();
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      var k4 = fourOf(keyWords[t], j);
      // only if ONE
      if (first + t * SHARES + share >= position) { k4 = newKey[j]; }
      terms += query[j] * k4;
    }
    products[t / 4][t % 4] = dot(terms, vec4f(1));
  }
  if (share < SHARES) {
    // whole vectors, as a write of a component may touch the others, https://github.com/gpuweb/gpuweb/issues/2112
    // unroll
    for (var j = 0u; j < TURN_FOURS; j++) {
      exchanged[piece * PRODUCT_ROW + share * TURN_FOURS + j] = products[j];
    }
  }
  if (!isLast) { fetchKeys(first + KEYS); }
  workgroupBarrier();
  if (index < KEYS) {
    let vector = index / TURNS * TURN_FOURS + index % TURNS / 4;
    var score = 0.0;
    // unroll
    for (var p = 0u; p < PIECES; p++) {
      score += exchanged[p * PRODUCT_ROW + vector][index % TURNS % 4];
    }
    let key = first + index % TURNS * SHARES + index / TURNS;
    scores[index] = select(LOWEST, score, key <= position);
  }
  workgroupBarrier();
  let own = min(share, SHARES - 1) * TURNS;
  var raised = highest;
  // unroll
  for (var t = 0u; t < TURNS; t++) {
    raised = max(raised, scores[own + t]);
  }
  let decay = exp(highest - raised);
  highest = raised;
  total *= decay;
  // unroll
  for (var j = 0u; j < FOURS; j++) {
    sum[j] *= decay;
  }
  // unroll
  for (var t = 0u; t < TURNS; t++) {
    let weight = exp(scores[own + t] - highest);
    total += weight;
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      var v4 = fourOf(valueWords[t], j);
      // only if ONE
      if (first + t * SHARES + share >= position) { v4 = fourOf(newValue, j); }
      sum[j] += weight * v4;
    }
  }
  if (!isLast) { fetchValues(first + KEYS); }
}

// Sets `result` to the sum of weighted values over all shares, divided by that of the weights. A share without keys has the
// lowest of all highest scores, and so the factor 0.
fn addShares(index: u32) {
  if (share < SHARES) {
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      exchanged[share * QUADS + piece * FOURS + j] = sum[j];
    }
    if (piece == 0) {
      highests[share] = highest;
      totals[share] = total;
    }
  }
  workgroupBarrier();
  for (var i = index; i < PART_SUMS; i += WORKGROUP_SIZE) {
    let part = i / HS;
    let c = i % HS;
    var partHighest = LOWEST;
    // unroll
    for (var first = 0u; first < SHARES; first += PARTS) {
      partHighest = max(partHighest, highests[min(first + part, SHARES - 1)]);
    }
    var partSum = 0.0;
    var partTotal = 0.0;
    // unroll
    for (var first = 0u; first < SHARES; first += PARTS) {
      let s = first + part;
      if (s < SHARES) {
        let factor = exp(highests[s] - partHighest);
        partSum += factor * exchanged[s * QUADS + c / 4][c % 4];
        partTotal += factor * totals[s];
      }
    }
    partSums[i] = partSum;
    if (c == 0) {
      partHighests[part] = partHighest;
      partTotals[part] = partTotal;
    }
  }
  workgroupBarrier();
  for (var c = index; c < HS; c += WORKGROUP_SIZE) {
    var all = LOWEST;
    // unroll
    for (var part = 0u; part < PARTS; part++) {
      all = max(all, partHighests[part]);
    }
    var weighted = 0.0;
    var weights = 0.0;
    // unroll
    for (var part = 0u; part < PARTS; part++) {
      let factor = exp(partHighests[part] - all);
      weighted += factor * partSums[part * HS + c];
      weights += factor * partTotals[part];
    }
    result[c] = weighted / weights;
  }
  workgroupBarrier();
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let row = group.y;
  let text = row / S;
  let keyHead = group.x / GROUP;
  let cursor = cursors[text];
  piece = index % PIECES;
  share = index / PIECES;
  newKeys = text * S * ROW + (NH + keyHead) * PIECES;
  let own = newKeys + row % S * ROW + piece; // of the token's k
  let queryWords = qkv[row * ROW + group.x * PIECES + piece];
  let keyOfToken = qkv[own];
  newValue = qkv[own + KH * PIECES];
  // only if PROJECTED
  fetchWeights(group.x, group.z, index); // long before they are used
  let next = cursor.x + row % S;
  if (next >= cursor.w) { return; } // the same for all of a workgroup
  let last = next - cursor.y; // the last key that the token sees, its own
  position = last;
  cached = cursor.x - cursor.y;
  cache = (cursor.z * KH + keyHead) * sizes.T * PIECES;
  let firstSeen = select(0u, last - (WINDOW - 1), last >= WINDOW);
  fetchKeys(firstSeen);
  fetchValues(firstSeen);

  // unroll
  for (var j = 0u; j < FOURS; j++) {
    query[j] = fourOf(queryWords, j);
    newKey[j] = fourOf(keyOfToken, j);
  }
  // only if ROTATED
  rotate(min(position, sizes.T - 1));
  // one head of q of each group writes; a token past the end is padding
  if (share == 0 && group.z == 0 && group.x % GROUP == 0 && position < sizes.T) {
    let place = cache + position * PIECES + piece;
    keys[place] = wordsOf(newKey);
    values[place] = newValue;
  }

  highest = LOWEST;
  // unroll
  for (var j = 0u; j < FOURS; j++) {
    query[j] *= SCALE;
  }
  for (var first = firstSeen; first <= last; first += KEYS) {
    addKeys(first, last - first < KEYS, index);
  }
  addShares(index);
  // unless PROJECTED
  for (var i = index; i < QUADS; i += WORKGROUP_SIZE) {
    y[(row * NH + group.x) * QUADS + i] =
      real4(vec4f(result[4 * i], result[4 * i + 1], result[4 * i + 2], result[4 * i + 3]));
  }
  // only if PROJECTED
  project(group.x, group.z, row, groups.y, index);
}
