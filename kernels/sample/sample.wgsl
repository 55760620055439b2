// tokens[slot, next + 1] = a token drawn from logits[b].   logits: [B,W]; tokens: [slots,N]; cursors: [B,4]
// Needs keyOf() from scores.wgsl, and pcgHash() from ../random.wgsl.
//
// settings: [slots], as samplerSettings() in sample.ts writes them; logprobs: [slots,P,TOP], each a token and the bits of
// its logprob, those for the token at index i in row i % P.
//
// sample.ts says how tokens are drawn. The first V columns of the logits count; penalized: [B,V], scratch. Each
// workgroup draws for one row. Tokens are not sorted but selected by radix: every token has a rank, higher if its
// score is higher or, among equal scores, its number lower. Top-k and top-p allow the tokens whose rank is at least
// a threshold, which thresholdOf() finds digit by digit from histograms. Floating-point sums over tokens have one
// order, so that the same logits and seed give the same token whichever other texts are drawn for.
//
// A workgroup scans the vocabulary several times. For texts without penalties, and without top-k or without top-p,
// drawFromBlocks() needs no threshold if with SUMMARIZED another launch has summarized blocks of tokens.
// summaries: [B,BLOCKS], as summarize.wgsl writes them
enable f16;

alias real = f16; // element type of logits
const PENALTIES: bool = true; // whether a setting may be a penalty
const LOGPROBS: bool = true; // whether logprobs may be wanted
const WORKGROUP_SIZE: u32 = 256; // a power of two
const SUMMARIZED: bool = true; // whether summarize.wgsl has run
const BLOCK: u32 = 1024; // tokens that it summarizes

struct Sizes {
  W: u32,
  V: u32,
  N: u32,
  P: u32,
  TOP: u32, // tokens per place, the drawn one among them
  BLOCKS: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<real>;
@group(0) @binding(1) var<storage, read> settings: array<Settings>;
// only if SUMMARIZED
@group(0) @binding(2) var<storage, read> summaries: array<vec4u>;
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(5) var<storage, read_write> cursors: array<vec4u>; // next token, token at position 0, slot, end
// only if PENALTIES
@group(0) @binding(6) var<storage, read_write> penalized: array<atomic<u32>>;
// only if LOGPROBS
@group(0) @binding(7) var<storage, read_write> logprobs: array<vec2u>;
@group(0) @binding(8) var<uniform> sizes: Sizes;

const ONE: f32 = 2147483648.0; // probability 1 in fixed point
const LOADS: u32 = 4; // scores that an invocation loads at a time, so that their latencies overlap
const STRIDE: u32 = LOADS * WORKGROUP_SIZE;
const CHECKS: u32 = 8; // the same of drawFromBlocks()
const LOWEST: f32 = -3e38; // no min-p is as low

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
// only if LOGPROBS
var<workgroup> nextKey: atomic<u32>;
// only if LOGPROBS
var<workgroup> nextToken: atomic<u32>;
// What drawFromBlocks() reduces over the invocations: sums, and a drawn token.
// only if SUMMARIZED
struct Drawn {
  amount: u32,
  weight: f32,
  best: vec2u, // key of the sum of logit and noise, token
}

// only if SUMMARIZED
var<workgroup> shares: array<Drawn, WORKGROUP_SIZE>;
// only if SUMMARIZED
var<workgroup> live: atomic<u32>; // number of blocks in `bins`: those that have tokens above the drawn one
// only if SUMMARIZED
var<workgroup> isRejected: bool;
var<workgroup> isDecided: bool;
var<workgroup> rowCursor: vec4u;

var<private> id: u32; // of this invocation
var<private> row: u32;
var<private> inverseTemperature: f32;
// only if PENALTIES
var<private> isPenalized: bool;
var<private> highest: f32; // score
var<private> total: f32; // weight of the tokens among which top-p selects

// Flag of a token to which the repetition penalty applies, beside the number of times that it was drawn.
// only if PENALTIES
const REPEATED: u32 = 0x80000000;

// Sets penalized to the logits after the penalties.
// only if PENALTIES
fn penalize(slot: u32, next: u32) {
  let out = row * sizes.V;
  for (var v = id; v < sizes.V; v += WORKGROUP_SIZE) {
    atomicStore(&penalized[out + v], 0);
  }
  storageBarrier();
  let length = next + 1;
  let first = length - min(length, settings[slot].window);
  for (var i = first + id; i < length; i += WORKGROUP_SIZE) {
    atomicOr(&penalized[out + tokens[slot * sizes.N + i]], REPEATED);
  }
  for (var i = settings[slot].firstDrawn + id; i < length; i += WORKGROUP_SIZE) {
    atomicAdd(&penalized[out + tokens[slot * sizes.N + i]], 1);
  }
  storageBarrier();
  for (var v = id; v < sizes.V; v += WORKGROUP_SIZE) {
    let found = atomicLoad(&penalized[out + v]);
    var logit = f32(logits[row * sizes.W + v]);
    if (found >= REPEATED) {
      let penalty = settings[slot].repetitionPenalty;
      logit = select(logit * penalty, logit / penalty, logit > 0);
    }
    let count = found % REPEATED;
    if (count > 0) {
      logit -= settings[slot].presencePenalty + f32(count) * settings[slot].frequencyPenalty;
    }
    atomicStore(&penalized[out + v], bitcast<u32>(logit));
  }
  storageBarrier();
}

// Scores of the tokens v, v + WORKGROUP_SIZE, …; past the end that of the last token.
fn scoresFrom(v: u32) -> array<f32, LOADS> {
  var scores: array<f32, LOADS>;
  // only if PENALTIES
  if (isPenalized) {
    // unroll
    for (var i = 0u; i < LOADS; i++) {
      let token = min(v + i * WORKGROUP_SIZE, sizes.V - 1);
      scores[i] = bitcast<f32>(atomicLoad(&penalized[row * sizes.V + token]));
    }
    return scores;
  }
  // unroll
  for (var i = 0u; i < LOADS; i++) {
    scores[i] = f32(logits[row * sizes.W + min(v + i * WORKGROUP_SIZE, sizes.V - 1)]);
  }
  return scores;
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
  return (score - highest) * inverseTemperature;
}

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

// The token with the highest sum of logit and Gumbel noise, which is a draw by the tokens' probabilities that
// does not need their sum.
fn draw(threshold: vec2u, noise: u32, leastRelativeLogit: f32) -> u32 {
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

// The highest rank below another one.
// only if LOGPROBS
fn rankBelow(rank: vec2u) -> vec2u {
  var best = vec2u();
  for (var v = id; v < sizes.V; v += STRIDE) {
    let scores = scoresFrom(v);
    // unroll
    for (var i = 0u; i < LOADS; i++) {
      let token = v + i * WORKGROUP_SIZE;
      let own = rankOf(scores[i], token);
      if (token < sizes.V && !reaches(own, rank) && reaches(own, best)) { best = own; }
    }
  }
  workgroupBarrier(); // until all have read the previous result
  if (id == 0) {
    atomicStore(&nextKey, 0);
    atomicStore(&nextToken, 0);
  }
  workgroupBarrier();
  atomicMax(&nextKey, best.x);
  workgroupBarrier();
  if (best.x == atomicLoad(&nextKey)) { atomicMax(&nextToken, best.y); }
  workgroupBarrier();
  return vec2u(atomicLoad(&nextKey), atomicLoad(&nextToken));
}

// Stores the logprobs of the drawn token and of the likeliest, by the logits before the penalties.
// only if LOGPROBS
fn storeLogprobs(slot: u32, place: u32, token: u32) {
  // only if PENALTIES
  isPenalized = false;
  inverseTemperature = 1;
  var rank = rankBelow(vec2u(NOT_A_NUMBER));
  highest = scoreOf(rank.x);
  let logTotal = log(totalOf(weightAbove(vec2u())));
  let out = (slot * sizes.P + place % sizes.P) * sizes.TOP;
  let score = f32(logits[row * sizes.W + token]);
  if (id == 0) { logprobs[out] = vec2u(token, bitcast<u32>(score - highest - logTotal)); }
  let count = settings[slot].logprobs;
  for (var i = 1u; i < count; i++) {
    if (id == 0) {
      logprobs[out + i] = vec2u(~rank.y, bitcast<u32>(scoreOf(rank.x) - highest - logTotal));
    }
    rank = rankBelow(rank);
  }
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

// The highest key of all blocks.
// only if SUMMARIZED
fn highestOfBlocks() -> u32 {
  var key = 0u;
  for (var block = id; block < sizes.BLOCKS; block += WORKGROUP_SIZE) {
    key = max(key, summaries[row * sizes.BLOCKS + block].x);
  }
  partial[id] = key;
  for (var left = WORKGROUP_SIZE; left > 1; ) {
    let quarter = (left + 3) / 4;
    workgroupBarrier();
    if (id < quarter) {
      // unroll
      for (var i = 1u; i < 4u; i++) {
        if (id + i * quarter < left) { partial[id] = max(partial[id], partial[id + i * quarter]); }
      }
    }
    left = quarter;
  }
  workgroupBarrier();
  return partial[0];
}

// Adds up amounts and weights, and chooses the best draw, in one order.
// only if SUMMARIZED
fn reduced(share: Drawn) -> Drawn {
  workgroupBarrier(); // until all have read the previous result
  shares[id] = share;
  for (var left = WORKGROUP_SIZE; left > 1; ) {
    let quarter = (left + 3) / 4; // four values per step, because barriers take time
    workgroupBarrier();
    if (id < quarter) {
      // unroll
      for (var i = 1u; i < 4u; i++) {
        let other = id + i * quarter;
        if (other < left) {
          shares[id].amount += shares[other].amount;
          shares[id].weight += shares[other].weight;
          if (isBefore(shares[other].best, shares[id].best)) { shares[id].best = shares[other].best; }
        }
      }
    }
    left = quarter;
  }
  workgroupBarrier();
  return shares[0];
}

// Key of the sum of a token's logit and noise.
// only if SUMMARIZED
fn drawKey(score: f32, token: u32, noise: u32) -> u32 {
  if (inverseTemperature == 0) { return keyOf(score); }
  return keyOf(relativeLogit(score) + gumbel(pcgHash(token + noise)));
}

// Sets `bins` to the blocks that have tokens of a higher rank, and returns the number of tokens in them.
// only if SUMMARIZED
fn blocksAbove(rank: vec2u) -> u32 {
  if (id == 0) { atomicStore(&live, 0); }
  workgroupBarrier();
  for (var block = id; block < sizes.BLOCKS; block += WORKGROUP_SIZE) {
    if (summaries[row * sizes.BLOCKS + block].x >= rank.x) {
      atomicStore(&bins[atomicAdd(&live, 1)], block);
    }
  }
  workgroupBarrier();
  return atomicLoad(&live) * BLOCK;
}

// The number of a token in the blocks of `bins`.
// only if SUMMARIZED
fn tokenAt(place: u32) -> u32 {
  return atomicLoad(&bins[place / BLOCK]) * BLOCK + place % BLOCK;
}

// The token that draw() draws, without a threshold: a token is drawn of all; if a filter does not allow it, one is
// drawn of those of higher rank, until one is allowed. Top-k allows a token if fewer than k have a higher rank, top-p
// if those of higher rank have less than the probability p.
// only if SUMMARIZED
fn drawFromBlocks(topK: u32, topP: u32, noise: u32, leastRelativeLogit: f32) -> u32 {
  var share = Drawn();
  for (var block = id; block < sizes.BLOCKS; block += WORKGROUP_SIZE) {
    let summary = summaries[row * sizes.BLOCKS + block];
    if (summary.x > KEY_OF_MINUS_INFINITY) {
      share.weight += bitcast<f32>(summary.y) * exp(relativeLogit(scoreOf(summary.x)));
    }
    let drawn = vec2u(drawKey(scoreOf(summary.w), summary.z, noise), summary.z);
    if (isBefore(drawn, share.best)) { share.best = drawn; }
  }
  let all = reduced(share);
  var token = min(all.best.y, sizes.V - 1);
  if (topK == 0 && topP == 0 && leastRelativeLogit < LOWEST) { return token; }
  let byProbability = topP > 0;
  let wanted = select(select(0xffffffff, topK, topK > 0), topP, byProbability);
  loop {
    let score = f32(logits[row * sizes.W + token]);
    let rank = rankOf(score, token);
    let count = blocksAbove(rank);
    share = Drawn();
    for (var first = id; first < count; first += CHECKS * WORKGROUP_SIZE) {
      var scores: array<f32, CHECKS>;
      // unroll
      for (var i = 0u; i < CHECKS; i++) {
        let other = tokenAt(min(first + i * WORKGROUP_SIZE, count - 1));
        scores[i] = f32(logits[row * sizes.W + min(other, sizes.V - 1)]);
      }
      // unroll
      for (var i = 0u; i < CHECKS; i++) {
        let place = first + i * WORKGROUP_SIZE;
        let other = tokenAt(min(place, count - 1));
        if (place < count && other < sizes.V && !reaches(rank, rankOf(scores[i], other))) {
          var amount = 1u;
          if (byProbability) {
            amount = u32(exp(relativeLogit(scores[i])) * (ONE / all.weight) + 0.5);
          }
          share.amount += amount;
        }
      }
    }
    let above = reduced(share);
    if (id == 0) {
      isRejected = above.amount >= wanted || relativeLogit(score) < leastRelativeLogit;
    }
    if (!workgroupUniformLoad(&isRejected)) { break; }
    // noise takes most of the time, so it is computed only now
    share = Drawn();
    for (var first = id; first < count; first += WORKGROUP_SIZE) {
      let other = tokenAt(first);
      let own = f32(logits[row * sizes.W + min(other, sizes.V - 1)]);
      if (other < sizes.V && !reaches(rank, rankOf(own, other))) {
        let drawn = vec2u(drawKey(own, other, noise), other);
        if (isBefore(drawn, share.best)) { share.best = drawn; }
      }
    }
    let next = reduced(share).best;
    if (id == 0) { isRejected = next.x > 0; } // false only if scores are NaN
    if (!workgroupUniformLoad(&isRejected)) { break; }
    token = next.y;
  }
  return token;
}

fn isEnd(slot: u32, token: u32) -> bool {
  for (var i = 0u; i < END_IDS; i++) {
    if (settings[slot].endIds[i] == token) { return true; }
  }
  return false;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  id = index;
  row = group.x;
  if (id == 0) { rowCursor = cursors[row]; }
  let cursor = workgroupUniformLoad(&rowCursor);
  let next = cursor.x;
  let slot = cursor.z;
  if (next >= cursor.w) { return; }
  inverseTemperature = settings[slot].inverseTemperature;
  // only if PENALTIES
  let penalizes = settings[slot].repetitionPenalty != 1 ||
    settings[slot].presencePenalty != 0 || settings[slot].frequencyPenalty != 0;
  // only if PENALTIES
  if (penalizes) { penalize(slot, next); }
  // only if PENALTIES
  isPenalized = penalizes;

  let topK = settings[slot].topK;
  let topP = settings[slot].topP;
  let noise = pcgHash(next + 1 + pcgHash(settings[slot].seed));
  let leastRelativeLogit = settings[slot].leastRelativeLogit;
  var token = 0u;
  var key = 0u;
  // only if SUMMARIZED
  let summarized = topK == 0 || topP == 0;
  // only if SUMMARIZED
  // only if PENALTIES
  let isSummarized = summarized && !penalizes;
  // only if SUMMARIZED
  // unless PENALTIES
  let isSummarized = summarized;
  // unless SUMMARIZED
  let isSummarized = false;
  if (isSummarized) {
    // only if SUMMARIZED
    key = highestOfBlocks();
    highest = scoreOf(key);
    // only if SUMMARIZED
    token = drawFromBlocks(topK, topP, noise, leastRelativeLogit);
  } else {
    atomicMax(&highestKey, highestOfScores());
    workgroupBarrier();
    key = atomicLoad(&highestKey);
    highest = scoreOf(key);
    var threshold = vec2u(); // reached by all tokens
    if (topK > 0) { threshold = thresholdOf(topK, false, threshold); }
    if (topP > 0) {
      total = totalOf(weightAbove(threshold));
      threshold = thresholdOf(topP, true, threshold);
    }
    token = draw(threshold, noise, leastRelativeLogit);
  }

  // only if LOGPROBS
  if (settings[slot].logprobs > 0) { storeLogprobs(slot, next + 1, token); }

  if (id == 0) {
    let infinite = key >= KEY_OF_INFINITY || key <= KEY_OF_MINUS_INFINITY;
    let problem = select(NOTHING_FINITE, NOT_A_NUMBER, key == NOT_A_NUMBER);
    tokens[slot * sizes.N + next + 1] = select(token, problem, infinite);
    cursors[row].x = next + 1;
    if (infinite || isEnd(slot, token)) { cursors[row].w = 0; }
  }
}
