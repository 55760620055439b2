// The token that is drawn among those whose ranks reach a threshold, in scans over all tokens of a row.
// Needs scoresFrom(), rankOf() and the state of the row from sample.wgsl, keyOf() from scores.wgsl, pcgHash() from ../random.wgsl.
//
// Tokens are not sorted but selected by radix: top-k and top-p allow the tokens whose rank is at least a threshold, which
// thresholdOf() finds digit by digit from histograms. Floating-point sums over tokens have one order.

const ONE: f32 = 2147483648.0; // probability 1 in fixed point

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

const BINS_EACH: u32 = BINS / WORKGROUP_SIZE;
var<workgroup> partial: array<u32, WORKGROUP_SIZE>;
var<workgroup> reached: vec3u; // a bin, the part of it that is needed, and what it holds
var<workgroup> isDecided: bool;
var<workgroup> highestScore: atomic<u32>;
var<workgroup> highestDraw: atomic<u32>;
var<workgroup> drawn: atomic<u32>;

var<private> total: f32; // weight of the tokens among which top-p selects

fn probabilityOf(score: f32) -> u32 {
  return u32(exp(relativeLogit(score)) / total * ONE + 0.5);
}

// An invocation's part of the sum of exp(relativeLogit) over the tokens that reach the threshold.
fn weightAbove(threshold: vec2u) -> f32 {
  var weight = 0.0;
  for (var v = id; v < sizes.V; v += STRIDE) {
    let scores = scoresFrom(v);
    // unroll
    for (var i = 0u; i < LOADS; i++) {
      let token = v + i * WORKGROUP_SIZE;
      if (token < sizes.V && reaches(rankOf(scores[i], token), threshold)) {
        weight += exp(relativeLogit(scores[i]));
      }
    }
  }
  return weight;
}

// The sum of one part per invocation, in one order.
fn totalOf(part: f32) -> f32 {
  partial[id] = bitcast<u32>(part);
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
      let scores = scoresFrom(v);
      // unroll
      for (var i = 0u; i < LOADS; i++) {
        let token = v + i * WORKGROUP_SIZE;
        let rank = rankOf(scores[i], token);
        if (token < sizes.V && reaches(rank, lowest) && all((rank & known) == found)) {
          var amount = 1u;
          if (byProbability && word == 0) { amount = probabilityOf(scores[i]); }
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

// The token with the highest sum of logit and Gumbel noise among those that reach the threshold: a draw by the tokens'
// probabilities that does not need their sum.
fn drawAbove(threshold: vec2u, noise: u32, leastRelativeLogit: f32) -> u32 {
  var bestKey = 0u;
  var best = 0u;
  for (var v = id; v < sizes.V; v += STRIDE) {
    let scores = scoresFrom(v);
    // unroll
    for (var i = 0u; i < LOADS; i++) {
      let token = v + i * WORKGROUP_SIZE;
      let relative = relativeLogit(scores[i]);
      if (
        token < sizes.V && reaches(rankOf(scores[i], token), threshold) &&
        relative >= leastRelativeLogit
      ) {
        var sum = scores[i];
        if (inverseTemperature > 0) { sum = relative + gumbel(pcgHash(token + noise)); }
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

// The highest key of the scores that an invocation reads.
fn highestOfScores() -> u32 {
  var key = 0u;
  for (var v = id; v < sizes.V; v += STRIDE) {
    let scores = scoresFrom(v);
    // unroll
    for (var i = 0u; i < LOADS; i++) {
      key = max(key, keyOf(scores[i]));
    }
  }
  return key;
}

// The token that is drawn of those that top-k, then top-p, and min-p allow.
fn drawFromAll(topK: u32, topP: u32, noise: u32, leastRelativeLogit: f32) -> u32 {
  atomicMax(&highestScore, highestOfScores());
  workgroupBarrier();
  setHighest(atomicLoad(&highestScore));
  var threshold = vec2u(); // reached by all tokens
  if (topK > 0) { threshold = thresholdOf(topK, false, threshold); }
  if (topP > 0) {
    total = totalOf(weightAbove(threshold));
    threshold = thresholdOf(topP, true, threshold);
  }
  return drawAbove(threshold, noise, leastRelativeLogit);
}
