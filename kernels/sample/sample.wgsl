// tokens[slot, next + 1] = a token drawn from logits[b].   logits: [B,W]; tokens: [slots,N]; cursors: [B,4]
// Needs keyOf() from scores.wgsl, penalize() from penalties.wgsl, drawFromAll() from threshold.wgsl, drawFromBlocks() from blocks.wgsl, storeLogprobs() from logprobs.wgsl, pcgHash() from ../random.wgsl.
//
// settings: [slots], as samplerSettings() in sample.ts writes them. sample.ts says how tokens are drawn. The first V columns
// of the logits count. Each workgroup draws for one row:
//
//     penalize()                            if the text has penalties: other logits
//     drawFromBlocks() or drawFromAll()     the token
//     storeLogprobs()                       if the text has them
//
// Every token has a rank, higher if its score is higher or, among equal scores, its number lower. The same logits and seed
// give the same token whichever other texts are drawn for.
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
@group(0) @binding(4) var<storage, read_write> tokens: array<u32>;
@group(0) @binding(5) var<storage, read_write> cursors: array<vec4u>; // next token, token at position 0, slot, end
@group(0) @binding(8) var<uniform> sizes: Sizes;

const LOADS: u32 = 4; // scores that an invocation loads at a time, so that their latencies overlap
const STRIDE: u32 = LOADS * WORKGROUP_SIZE;
const BINS: u32 = 2048;

var<workgroup> bins: array<atomic<u32>, BINS>; // a histogram, or a list of blocks
var<workgroup> rowCursor: vec4u;
var<workgroup> isEnd: atomic<u32>; // whether the drawn token ends the text

var<private> id: u32; // of this invocation
var<private> row: u32;
var<private> inverseTemperature: f32;
var<private> isPenalized: bool;
var<private> highestKey: u32; // of the row's scores
var<private> highest: f32;

fn setHighest(key: u32) {
  highestKey = key;
  highest = scoreOf(key);
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

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  id = index;
  row = group.x;
  // only if SUMMARIZED
  ownSummary = summaries[row * sizes.BLOCKS + min(id, sizes.BLOCKS - 1)]; // long before it is used
  if (id == 0) { rowCursor = cursors[row]; }
  let cursor = workgroupUniformLoad(&rowCursor);
  let next = cursor.x;
  let slot = cursor.z;
  if (next >= cursor.w) { return; }
  inverseTemperature = settings[slot].inverseTemperature;
  let penalizes = settings[slot].repetitionPenalty != 1 ||
    settings[slot].presencePenalty != 0 || settings[slot].frequencyPenalty != 0;
  // only if PENALTIES
  if (penalizes) { penalize(slot, next); }
  isPenalized = penalizes;

  let endId = settings[slot].endIds[min(id, END_IDS - 1)];
  let topK = settings[slot].topK;
  let topP = settings[slot].topP;
  let noise = pcgHash(next + 1 + pcgHash(settings[slot].seed));
  let leastRelativeLogit = settings[slot].leastRelativeLogit;
  var token: u32;
  // only if SUMMARIZED
  let isSummarized = !penalizes && (topK == 0 || topP == 0);
  // unless SUMMARIZED
  let isSummarized = false;
  if (isSummarized) {
    // only if SUMMARIZED
    token = drawFromBlocks(topK, topP, noise, leastRelativeLogit);
  } else {
    token = drawFromAll(topK, topP, noise, leastRelativeLogit);
  }
  let infinite = highestKey >= KEY_OF_INFINITY || highestKey <= KEY_OF_MINUS_INFINITY;
  let problem = select(NOTHING_FINITE, NOT_A_NUMBER, highestKey == NOT_A_NUMBER);

  // only if LOGPROBS
  if (settings[slot].logprobs > 0) { storeLogprobs(slot, next + 1, token); }

  if (endId == token) { atomicStore(&isEnd, 1); }
  workgroupBarrier();
  if (id == 0) {
    tokens[slot * sizes.N + next + 1] = select(token, problem, infinite);
    cursors[row].x = next + 1;
    if (infinite || atomicLoad(&isEnd) == 1) { cursors[row].w = 0; }
  }
}
