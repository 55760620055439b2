// tokens[b, last + 1] = a token drawn from logits[b].   logits: [B,W]; tokens: [B,N]; cursors, seeds: [B]
// Needs pcgHash() from ../random.wgsl.
//
// sample.ts says how tokens are drawn. The first V columns of the logits count; penalized: [B,V], scratch. Each
// workgroup draws for one text. Tokens are not sorted but selected by radix: every token has a rank, higher if its
// score is higher or, among equal scores, its number lower. Top-k and top-p allow the tokens whose rank is at least
// a threshold, which thresholdOf() finds digit by digit from histograms. Floating-point sums over tokens have one
// order, so that the same logits and seed give the same token whichever other texts are drawn for.
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
  window: u32, // last tokens that are penalised
}

struct Options {
  penalty: f32,
  inverseTemperature: f32,
  topK: u32,
  topP: u32, // in parts of ONE
  leastRelativeLogit: f32, // log of min-p
}

@group(0) @binding(0) var<storage, read> logits: array<real>;
@group(0) @binding(1) var<storage, read> seeds: array<u32>;
@group(0) @binding(2) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(3) var<storage, read_write> cursors: array<vec2u>; // indices of the last token and of the token at position 0
// only if PENALTY
@group(0) @binding(4) var<storage, read_write> penalized: array<f32>;
@group(0) @binding(5) var<uniform> sizes: Sizes;
@group(0) @binding(6) var<uniform> options: Options;

const ONE: f32 = 2147483648.0; // probability 1 in fixed point
const KEY_OF_INFINITY: u32 = 0xff800000;
const KEY_OF_MINUS_INFINITY: u32 = 0x00800000;
const NOT_A_NUMBER: u32 = 0xffffffff; // key of every NaN, and what is appended if a score is NaN
const NOTHING_FINITE: u32 = 0xfffffffe; // what is appended if the highest score is infinite

// Scores are loaded four at a time, so that their latencies overlap.
const STRIDE: u32 = 4 * WORKGROUP_SIZE;

// A rank is two words, the key of the score and the complemented number of the token, of which only the lower 21
// bits differ. Histograms are of one digit at a time, the highest first:
//
//     word      rank.x, the key        rank.y, the token
//     bits      31…21  20…10  9…0      20…10  9…0
//
// A row of DIGITS is word, lowest bit, and number of bits.
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
var<workgroup> reached: vec3u; // a bin, the part of it that is needed, and what it holds
var<workgroup> highestKey: atomic<u32>;
var<workgroup> highestDraw: atomic<u32>;
var<workgroup> drawn: atomic<u32>;
var<workgroup> isDecided: bool;

var<private> id: u32; // of this invocation
var<private> text: u32;
var<private> highest: f32; // score
var<private> total: f32; // weight of the tokens among which top-p selects

// Applies the repetition penalty to the last tokens.
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
    // a token that occurs twice is written twice with the same value
    penalized[out + token] = select(logit * options.penalty, logit / options.penalty, logit > 0);
  }
  storageBarrier();
}

// Scores of the four tokens v, v + WORKGROUP_SIZE, …; past the end that of the last token.
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

// An integer for every score, in the same order; both zeros have the same.
fn keyOf(score: f32) -> u32 {
  let bits = bitcast<u32>(score);
  if ((bits & 0x7fffffff) > 0x7f800000) { return NOT_A_NUMBER; }
  return select(bits | 0x80000000, 0 - bits, bits >= 0x80000000);
}

fn scoreOf(key: u32) -> f32 {
  return bitcast<f32>(select(0 - key, key & 0x7fffffff, key >= 0x80000000));
}

// A token's rank: the key of its score, then its complemented number.
fn rankOf(score: f32, token: u32) -> vec2u {
  return vec2u(keyOf(score), ~token);
}

fn reaches(rank: vec2u, threshold: vec2u) -> bool {
  return rank.x > threshold.x || (rank.x == threshold.x && rank.y >= threshold.y);
}

// Logarithm of a token's probability divided by the likeliest token's.
fn relativeLogit(score: f32) -> f32 {
  return (score - highest) * options.inverseTemperature;
}

fn probabilityOf(score: f32) -> u32 {
  return u32(exp(relativeLogit(score)) / total * ONE + 0.5);
}

// Sum of exp(relativeLogit) over the tokens that reach the threshold, in one order.
fn weightAbove(threshold: vec2u) -> f32 {
  var weight = 0.0;
  for (var v = id; v < sizes.V; v += STRIDE) {
    let four = scoresFrom(v);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let token = v + i * WORKGROUP_SIZE;
      if (token < sizes.V && reaches(rankOf(four[i], token), threshold)) {
        weight += exp(relativeLogit(four[i]));
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

// Sets `reached` to the bin at which the sum over bins, from the highest down, reaches `wanted`.
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

// The highest threshold that `wanted` tokens reach, or tokens with the total probability `wanted`; not below
// `lowest`.
fn thresholdOf(wanted: u32, byProbability: bool, lowest: vec2u) -> vec2u {
  var found = SAME_BITS;
  var known = SAME_BITS; // mask of the bits that are found
  var rest = wanted;
  var everything = lowest; // the threshold if all the tokens left have less than `wanted`
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
        let rank = rankOf(four[i], token);
        if (token < sizes.V && reaches(rank, lowest) && all((rank & known) == found)) {
          var amount = 1u;
          if (byProbability && word == 0) { amount = probabilityOf(four[i]); }
          if (amount > 0) { atomicAdd(&bins[(rank[word] >> shift) & mask], amount); }
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
      // the tokens left have one score; `rest` becomes how many of them are wanted
      let each = select(1, probabilityOf(scoreOf(found.x)), byProbability);
      rest = (bin.y + each - 1) / each;
      everything = vec2u(found.x, select(0, lowest.y, found.x == lowest.x));
      // every invocation computes the same, but the compiler cannot know it, so one decides
      if (id == 0) { isDecided = rest * each >= bin.z; }
      if (workgroupUniformLoad(&isDecided)) { return everything; }
    }
  }
  return found;
}

// Gumbel noise: −log of an exponential variate −log(1 − u). Small variates win the draw, so u has its 32 bits near
// 0, where floating-point numbers are dense, and there the logarithm is computed as a series.
fn gumbel(bits: u32) -> f32 {
  let u = min((f32(bits) + 0.5) / 4294967296.0, 0.99999994);
  let series = u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * (0.25 + u * 0.2))));
  return -log(select(-log(1.0 - u), series, u < 0.0625));
}

// The token with the highest sum of logit and Gumbel noise, which is a draw by the tokens' probabilities that
// does not need their sum.
fn draw(threshold: vec2u, noise: u32) -> u32 {
  var bestKey = 0u;
  var best = 0u;
  for (var v = id; v < sizes.V; v += STRIDE) {
    let four = scoresFrom(v);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let token = v + i * WORKGROUP_SIZE;
      let relative = relativeLogit(four[i]);
      if (
        token < sizes.V && reaches(rankOf(four[i], token), threshold) &&
        (!MIN_P || relative >= options.leastRelativeLogit)
      ) {
        var sum = four[i];
        if (!GREEDY) { sum = relative + gumbel(pcgHash(token + noise)); }
        if (keyOf(sum) > bestKey) {
          bestKey = keyOf(sum);
          best = token;
        }
      }
    }
  }
  atomicMax(&highestDraw, bestKey);
  if (id == 0) { atomicStore(&drawn, sizes.V - 1); }
  workgroupBarrier();
  if (bestKey == atomicLoad(&highestDraw)) { atomicMin(&drawn, best); }
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

  var threshold = vec2u(); // reached by all tokens
  if (TOP_K) { threshold = thresholdOf(options.topK, false, threshold); }
  if (TOP_P) {
    total = weightAbove(threshold);
    threshold = thresholdOf(options.topP, true, threshold);
  }
  let token = draw(threshold, pcgHash(last + 1 + pcgHash(seeds[text])));

  if (id == 0) {
    let infinite = key >= KEY_OF_INFINITY || key <= KEY_OF_MINUS_INFINITY;
    let problem = select(NOTHING_FINITE, NOT_A_NUMBER, key == NOT_A_NUMBER);
    tokens[text * sizes.N + last + 1] = select(token, problem, infinite);
    cursors[text].x = last + 1;
  }
}
