// tokens[b, last + 1] = a token drawn from logits[b].   logits: [B,W]; tokens: [B,N]; cursors, seeds: [B]
// Needs pcgHash() from ../random.wgsl.
//
// sample.ts says how tokens are drawn. V columns of the logits count; penalized: [B,V], scratch. Each
// workgroup draws for one text. Nothing is sorted: every token has a place, the likeliest the highest and
// among equals the first, and those that may be drawn reach a certain place, the bar. barAt() finds it
// digit by digit, from a histogram of one digit at a time. Sums over tokens have one order or are of
// integers: the same logits and seed give the same token, whatever other texts are drawn for.
enable f16;

alias real = f16; // element type of logits
const GREEDY: bool = false; // temperature 0
const PENALTY: bool = true;
const TOP_K: bool = false;
const TOP_P: bool = false;
const MIN_P: bool = false;
const WORKGROUP_SIZE: u32 = 256; // a power of two

struct Sizes {
  W: u32,
  V: u32,
  N: u32,
  window: u32, // how many tokens back the penalty looks
}

struct Options {
  penalty: f32,
  inverseTemperature: f32,
  topK: u32,
  topP: u32, // in parts of ONE
  leastDistance: f32, // log of min-p
}

@group(0) @binding(0) var<storage, read> logits: array<real>;
@group(0) @binding(1) var<storage, read> seeds: array<u32>;
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> cursors: array<vec2u>; // last token, token at position 0
// only if PENALTY
@group(0) @binding(4) var<storage, read_write> penalized: array<f32>;
@group(0) @binding(5) var<uniform> sizes: Sizes;
@group(0) @binding(6) var<uniform> options: Options;

const ONE: f32 = 2147483648.0; // probability 1 in fixed point
const KEY_OF_INFINITY: u32 = 0xff800000;
const KEY_OF_MINUS_INFINITY: u32 = 0x00800000;
const NOT_A_NUMBER: u32 = 0xffffffff; // key of every NaN, and what is appended where there is one
const NOTHING_FINITE: u32 = 0xfffffffe; // what is appended where the highest score is infinite

// An invocation reads four scores together, so that it waits for them together.
const STRIDE: u32 = 4 * WORKGROUP_SIZE;

// The digits of a place, the highest first: word, lowest bit, and number of bits. Of the second word only
// the lower bits differ.
const DIGITS = array<vec3u, 5>(
  vec3u(0, 21, 11),
  vec3u(0, 10, 11),
  vec3u(0, 0, 10),
  vec3u(1, 10, 11),
  vec3u(1, 0, 10),
);
const SAME_BITS: vec2u = vec2u(0, 0xffe00000);

const BINS: u32 = 2048;
const BINS_EACH: u32 = BINS / WORKGROUP_SIZE;
var<workgroup> bins: array<atomic<u32>, BINS>;
var<workgroup> partial: array<u32, WORKGROUP_SIZE>;
var<workgroup> reached: vec3u; // a bin, how much of it is needed, and how much it holds
var<workgroup> highestKey: atomic<u32>;
var<workgroup> highestRank: atomic<u32>;
var<workgroup> drawn: atomic<u32>;
var<workgroup> isDecided: bool;

var<private> id: u32; // of this invocation
var<private> text: u32;
var<private> highest: f32; // score
var<private> total: f32; // weight of the tokens that top-p looks at

// Makes tokens that are among the last ones less likely.
// only if PENALTY
fn penalize(last: u32) {
  let row = text * sizes.W;
  let out = text * sizes.V;
  for (var v = id; v < sizes.V; v += WORKGROUP_SIZE) {
    penalized[out + v] = f32(logits[row + v]);
  }
  storageBarrier();
  let length = last + 1;
  for (var i = length - min(length, sizes.window) + id; i < length; i += WORKGROUP_SIZE) {
    let token = tokens[text * sizes.N + i];
    let logit = f32(logits[row + token]);
    // a token that is there twice gets the same value twice
    penalized[out + token] = select(logit * options.penalty, logit / options.penalty, logit > 0);
  }
  storageBarrier();
}

// Scores of the tokens v, v + WORKGROUP_SIZE, …; past the end the last one again.
fn scoresFrom(v: u32) -> vec4f {
  var four: vec4f;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let token = min(v + i * WORKGROUP_SIZE, sizes.V - 1);
    // unless PENALTY
    four[i] = f32(logits[text * sizes.W + token]);
    // only if PENALTY
    four[i] = penalized[text * sizes.V + token];
  }
  return four;
}

// An integer for every score, in the same order; both zeros have one.
fn keyOf(score: f32) -> u32 {
  let bits = bitcast<u32>(score);
  if ((bits & 0x7fffffff) > 0x7f800000) { return NOT_A_NUMBER; }
  return select(bits | 0x80000000, 0 - bits, bits >= 0x80000000);
}

fn scoreOf(key: u32) -> f32 {
  return bitcast<f32>(select(0 - key, key & 0x7fffffff, key >= 0x80000000));
}

// A token's place: key of its score, and for the order among equals its number from behind.
fn placeOf(score: f32, token: u32) -> vec2u {
  return vec2u(keyOf(score), ~token);
}

fn reaches(place: vec2u, bar: vec2u) -> bool {
  return place.x > bar.x || (place.x == bar.x && place.y >= bar.y);
}

// The logarithm of how likely a token is, relative to the likeliest.
fn distanceOf(score: f32) -> f32 {
  return (score - highest) * options.inverseTemperature;
}

fn probabilityOf(score: f32) -> u32 {
  return u32(exp(distanceOf(score)) / total * ONE + 0.5);
}

// Sum of exp(distance) over the tokens that reach the bar, in one order.
fn weightAbove(bar: vec2u) -> f32 {
  var weight = 0.0;
  for (var v = id; v < sizes.V; v += STRIDE) {
    let four = scoresFrom(v);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let token = v + i * WORKGROUP_SIZE;
      if (token < sizes.V && reaches(placeOf(four[i], token), bar)) {
        weight += exp(distanceOf(four[i]));
      }
    }
  }
  partial[id] = bitcast<u32>(weight);
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (id < half) {
      partial[id] = bitcast<u32>(bitcast<f32>(partial[id]) + bitcast<f32>(partial[id + half]));
    }
  }
  workgroupBarrier();
  return bitcast<f32>(partial[0]);
}

// Sets `reached` to the bin in which the sum over bins from the highest down comes to `wanted`.
fn findBin(wanted: u32) {
  let top = BINS - 1 - id * BINS_EACH;
  var own = 0u;
  for (var b = 0u; b < BINS_EACH; b++) {
    own += atomicLoad(&bins[top - b]);
  }
  partial[id] = own;
  for (var step = 1u; step < WORKGROUP_SIZE; step *= 2) {
    workgroupBarrier();
    let before = select(0, partial[id - min(step, id)], step <= id);
    workgroupBarrier();
    partial[id] += before;
  }
  var sum = partial[id] - own;
  if (sum >= wanted || sum + own < wanted) { return; }
  for (var b = 0u; b < BINS_EACH; b++) {
    let amount = atomicLoad(&bins[top - b]);
    if (sum < wanted && sum + amount >= wanted) {
      reached = vec3u(top - b, wanted - sum, amount);
    }
    sum += amount;
  }
}

// The highest bar such that the tokens which reach it are `wanted` in number, or have at least the
// probability `wanted` together; never lower than the bar that is there.
fn barAt(wanted: u32, byProbability: bool, lowest: vec2u) -> vec2u {
  var found = SAME_BITS;
  var known = SAME_BITS; // bits of it that are found
  var rest = wanted;
  var everything = lowest; // the bar if all the tokens left do not come to what is wanted
  for (var d = 0u; d < 5; d++) {
    let word = DIGITS[d].x;
    let shift = DIGITS[d].y;
    let mask = (1u << DIGITS[d].z) - 1;
    for (var bin = id; bin < BINS; bin += WORKGROUP_SIZE) {
      atomicStore(&bins[bin], 0);
    }
    if (id == 0) { reached.x = BINS; }
    workgroupBarrier();
    for (var v = id; v < sizes.V; v += STRIDE) {
      let four = scoresFrom(v);
      // unroll
      for (var i = 0u; i < 4u; i++) {
        let token = v + i * WORKGROUP_SIZE;
        let place = placeOf(four[i], token);
        if (token < sizes.V && reaches(place, lowest) && all((place & known) == found)) {
          var amount = 1u;
          if (byProbability && word == 0) { amount = probabilityOf(four[i]); }
          if (amount > 0) { atomicAdd(&bins[(place[word] >> shift) & mask], amount); }
        }
      }
    }
    workgroupBarrier();
    findBin(rest);
    let bin = workgroupUniformLoad(&reached);
    if (bin.x == BINS) { return everything; }
    found[word] |= bin.x << shift;
    known[word] |= mask << shift;
    rest = bin.y;
    if (d == 2) {
      // the tokens left have one score: how many of them are wanted?
      let each = select(1, probabilityOf(scoreOf(found.x)), byProbability);
      rest = (bin.y + each - 1) / each;
      everything = vec2u(found.x, select(0, lowest.y, found.x == lowest.x));
      // every invocation computes the same, which the compiler cannot know: one decides
      if (id == 0) { isDecided = rest * each >= bin.z; }
      if (workgroupUniformLoad(&isDecided)) { return everything; }
    }
  }
  return found;
}

// −log of an exponential variate −log(1 − u). Tokens win by small variates, so 32 bits of u are spent
// there, where floating-point numbers are dense, and small logarithms are summed as a series.
fn gumbel(bits: u32) -> f32 {
  let u = min((f32(bits) + 0.5) / 4294967296.0, 0.99999994);
  let series = u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * (0.25 + u * 0.2))));
  return -log(select(-log(1.0 - u), series, u < 0.0625));
}

// The token with the highest sum of distance and noise of Gumbel's distribution: it is one drawn by the
// probabilities, without their sum being known.
fn draw(bar: vec2u, noise: u32) -> u32 {
  var rank = 0u;
  var best = 0u;
  for (var v = id; v < sizes.V; v += STRIDE) {
    let four = scoresFrom(v);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let token = v + i * WORKGROUP_SIZE;
      let distance = distanceOf(four[i]);
      if (
        token < sizes.V && reaches(placeOf(four[i], token), bar) &&
        (!MIN_P || distance >= options.leastDistance)
      ) {
        var sum = four[i];
        if (!GREEDY) { sum = distance + gumbel(pcgHash(token + noise)); }
        if (keyOf(sum) > rank) {
          rank = keyOf(sum);
          best = token;
        }
      }
    }
  }
  atomicMax(&highestRank, rank);
  if (id == 0) { atomicStore(&drawn, sizes.V - 1); }
  workgroupBarrier();
  if (rank == atomicLoad(&highestRank)) { atomicMin(&drawn, best); }
  workgroupBarrier();
  return atomicLoad(&drawn);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  id = index;
  text = group.x;
  let last = cursors[text].x;
  // only if PENALTY
  penalize(last);

  var key = 0u;
  for (var v = id; v < sizes.V; v += STRIDE) {
    let four = scoresFrom(v);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      key = max(key, keyOf(four[i]));
    }
  }
  atomicMax(&highestKey, key);
  workgroupBarrier();
  key = atomicLoad(&highestKey);
  highest = scoreOf(key);

  var bar = vec2u(); // which all tokens reach
  if (TOP_K) { bar = barAt(options.topK, false, bar); }
  if (TOP_P) {
    total = weightAbove(bar);
    bar = barAt(options.topP, true, bar);
  }
  let token = draw(bar, pcgHash(last + 1 + pcgHash(seeds[text])));

  if (id == 0) {
    let infinite = key >= KEY_OF_INFINITY || key <= KEY_OF_MINUS_INFINITY;
    let problem = select(NOTHING_FINITE, NOT_A_NUMBER, key == NOT_A_NUMBER);
    tokens[text * sizes.N + last + 1] = select(token, problem, infinite);
    cursors[text].x = last + 1;
  }
}
