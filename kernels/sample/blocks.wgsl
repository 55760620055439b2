// The token that is drawn of a row whose blocks of tokens summarize.wgsl has summarized, without a threshold.
// Needs rankOf() and the state of the row from sample.wgsl, partial from threshold.wgsl, keyOf() from scores.wgsl, pcgHash() from ../random.wgsl.
//
// A token is drawn of all. If a filter does not allow it, one is drawn of those of higher rank, until one is allowed: top-k
// allows a token if fewer than k have a higher rank, top-p if those of higher rank have less than the probability p. Both
// are found in a scan over the blocks that have tokens of a higher rank.
//
// In the scan BLOCK_LANES invocations share a block, of which each has four tokens. Their number or weight is added up in
// f32 in one order, and then as an integer, so that the order of the blocks does not matter.
// summaries: [B,BLOCKS], as summarize.wgsl writes them

struct Drawn {
  weight: f32,
  key: u32, // of the best token's score
  best: vec2u, // key of the sum of logit and noise, token
}

@group(0) @binding(2) var<storage, read> summaries: array<vec4u>;
@group(0) @binding(9) var<storage, read> logits4: array<vec4<real>>; // the logits in fours

const LOWEST: f32 = -3e38; // no min-p is as low
const BLOCK_LANES: u32 = BLOCK / 4;
const AT_ONCE: u32 = WORKGROUP_SIZE / BLOCK_LANES; // blocks that the workgroup scans at the same time
const CHECKS: u32 = 2; // blocks of which an invocation loads its tokens at a time
const FAN: u32 = 8; // values per step of a reduction, because barriers take time
const WARP: u32 = 32; // sums that are left after the first step of sumOf()

var<private> ownSummary: vec4u; // of the block with the number of the invocation
var<workgroup> shares: array<Drawn, WORKGROUP_SIZE>;
var<workgroup> live: atomic<u32>; // number of blocks in `bins`
var<workgroup> isRejected: bool;

fn summaryOf(block: u32) -> vec4u {
  if (block == id) { return ownSummary; }
  return summaries[row * sizes.BLOCKS + block];
}

// The highest key of all blocks, of which the first `count` invocations have some.
fn highestOfBlocks(count: u32) -> u32 {
  var key = 0u;
  for (var block = id; block < sizes.BLOCKS; block += WORKGROUP_SIZE) {
    key = max(key, summaryOf(block).x);
  }
  partial[id] = key;
  for (var left = count; left > 1; ) {
    let part = (left + FAN - 1) / FAN;
    workgroupBarrier();
    if (id < part) {
      // unroll
      for (var i = 1u; i < FAN; i++) {
        key = max(key, partial[min(id + i * part, left - 1)]);
      }
      partial[id] = key;
    }
    left = part;
  }
  workgroupBarrier();
  return partial[0];
}

// Adds up weights, and chooses the best draw, of the first `count` invocations in one order. Between two calls there must be
// a barrier.
fn reduced(share: Drawn, count: u32) -> Drawn {
  shares[id] = share;
  for (var left = count; left > 1; ) {
    let part = (left + FAN - 1) / FAN;
    workgroupBarrier();
    if (id < part) {
      var sum = shares[id];
      // unroll
      for (var i = 1u; i < FAN; i++) {
        if (id + i * part < left) {
          let other = shares[id + i * part];
          let weight = sum.weight + other.weight;
          if (isBefore(other.best, sum.best)) { sum = other; }
          sum.weight = weight;
        }
      }
      shares[id] = sum;
    }
    left = part;
  }
  workgroupBarrier();
  return shares[0];
}

// The sum of one number per invocation, for the first invocation. Before it there must be a barrier.
fn sumOf(part: u32) -> u32 {
  partial[id] = part;
  workgroupBarrier();
  if (id < WARP) {
    var sum = 0u;
    // unroll
    for (var i = 0u; i < WORKGROUP_SIZE; i += WARP) {
      sum += partial[i + id];
    }
    partial[id] = sum;
  }
  workgroupBarrier();
  var sum = 0u;
  if (id == 0) {
    // unroll
    for (var i = 0u; i < WARP; i++) {
      sum += partial[i];
    }
  }
  return sum;
}

// Key of the sum of a token's logit and noise.
fn drawKey(score: f32, token: u32, noise: u32) -> u32 {
  if (inverseTemperature == 0) { return keyOf(score); }
  return keyOf(relativeLogit(score) + gumbel(pcgHash(token + noise)));
}

fn tokenOf(drawn: Drawn) -> u32 {
  return min(drawn.best.y, sizes.V - 1);
}

fn logitOf(token: u32) -> f32 {
  return f32(logits[row * sizes.W + min(token, sizes.V - 1)]);
}

// Sets `bins` to the blocks that have tokens of a higher rank, and returns their number.
fn blocksAbove(key: u32) -> u32 {
  if (id == 0) { atomicStore(&live, 0); }
  workgroupBarrier();
  for (var block = id; block < sizes.BLOCKS; block += WORKGROUP_SIZE) {
    if (summaryOf(block).x >= key) {
      atomicStore(&bins[atomicAdd(&live, 1)], block);
    }
  }
  workgroupBarrier();
  return atomicLoad(&live);
}

// An invocation's part of the tokens that have a higher rank than one: `unit` times their number, or their weight.
fn amountAbove(score: f32, token: u32, blocks: u32, byProbability: bool, unit: f32) -> u32 {
  let lane = id % BLOCK_LANES;
  var amount = 0u;
  for (var first = id / BLOCK_LANES; first < blocks; first += CHECKS * AT_ONCE) {
    var block: array<u32, CHECKS>;
    var scores: array<vec4f, CHECKS>;
    // unroll
    for (var i = 0u; i < CHECKS; i++) {
      block[i] = atomicLoad(&bins[min(first + i * AT_ONCE, blocks - 1)]);
      let four = min(block[i] * BLOCK_LANES + lane, sizes.W / 4 - 1);
      scores[i] = vec4f(logits4[row * (sizes.W / 4) + four]);
    }
    // unroll
    for (var i = 0u; i < CHECKS; i++) {
      let others = 4 * (block[i] * BLOCK_LANES + lane) + vec4u(0, 1, 2, 3);
      let isAbove = (scores[i] > vec4f(score)) |
        ((scores[i] == vec4f(score)) & (others < vec4u(token)));
      var amounts = vec4f(1);
      if (byProbability) { amounts = exp((scores[i] - highest) * inverseTemperature); }
      let counted = select(vec4f(), amounts, isAbove & (others < vec4u(sizes.V)));
      if (first + i * AT_ONCE < blocks) { amount += u32(dot(counted, vec4f(1)) * unit + 0.5); }
    }
  }
  return amount;
}

// The better of two draws: that in `share`, and a token whose score has this key.
fn withDraw(share: Drawn, key: u32, token: u32, noise: u32) -> Drawn {
  let best = vec2u(drawKey(scoreOf(key), token, noise), token);
  if (isBefore(best, share.best)) { return Drawn(share.weight, key, best); }
  return share;
}

// The best draw among the tokens that have a higher rank than one. If the draw of a whole block is among them, it is the
// best of the block's; only the other blocks are scanned for theirs.
fn drawAboveRank(rank: vec2u, noise: u32) -> Drawn {
  var share = Drawn();
  if (id == 0) { atomicStore(&live, 0); }
  workgroupBarrier();
  for (var block = id; block < sizes.BLOCKS; block += WORKGROUP_SIZE) {
    let summary = summaryOf(block);
    if (!reaches(rank, vec2u(summary.w, ~summary.z))) {
      share = withDraw(share, summary.w, summary.z, noise);
    } else if (summary.x >= rank.x) {
      atomicStore(&bins[atomicAdd(&live, 1)], block);
    }
  }
  workgroupBarrier();
  let blocks = atomicLoad(&live);
  for (var place = id; place < blocks * BLOCK; place += WORKGROUP_SIZE) {
    let token = atomicLoad(&bins[place / BLOCK]) * BLOCK + place % BLOCK;
    let other = rankOf(logitOf(token), token);
    if (token < sizes.V && !reaches(rank, other)) {
      share = withDraw(share, other.x, token, noise);
    }
  }
  return reduced(share, WORKGROUP_SIZE);
}

// The token that drawFromAll() draws, for a text without top-k or without top-p.
fn drawFromBlocks(topK: u32, topP: u32, noise: u32, leastRelativeLogit: f32) -> u32 {
  let count = min(sizes.BLOCKS, WORKGROUP_SIZE); // invocations that have some
  setHighest(highestOfBlocks(count));
  var share = Drawn();
  for (var block = id; block < sizes.BLOCKS; block += WORKGROUP_SIZE) {
    let summary = summaryOf(block);
    if (summary.x > KEY_OF_MINUS_INFINITY) {
      share.weight += bitcast<f32>(summary.y) * exp(relativeLogit(scoreOf(summary.x)));
    }
    share = withDraw(share, summary.w, summary.z, noise);
  }
  let all = reduced(share, count);
  var drawn = all;
  if (topK == 0 && topP == 0 && leastRelativeLogit < LOWEST) { return tokenOf(drawn); }
  let byProbability = topP > 0;
  let wanted = select(select(0xffffffff, topK, topK > 0), topP, byProbability);
  let unit = select(1, ONE / all.weight, byProbability);
  loop {
    let token = tokenOf(drawn);
    let score = scoreOf(drawn.key);
    let rank = vec2u(drawn.key, ~token);
    let blocks = blocksAbove(rank.x);
    let amount = sumOf(amountAbove(score, token, blocks, byProbability, unit));
    if (id == 0) { isRejected = amount >= wanted || relativeLogit(score) < leastRelativeLogit; }
    if (!workgroupUniformLoad(&isRejected)) { break; }
    let next = drawAboveRank(rank, noise);
    if (id == 0) { isRejected = next.best.x > 0; } // false only if scores are NaN
    if (!workgroupUniformLoad(&isRejected)) { break; }
    drawn = next;
  }
  return tokenOf(drawn);
}
