// logprobs[slot, place] = tokens and logarithms of their probabilities, of the drawn token and of the likeliest.
// Needs weightAbove() and totalOf() from threshold.wgsl, rankOf() and the state of the row from sample.wgsl.
//
// logprobs: [slots,P,TOP], each a token and the bits of its logprob, those for the token at index i in row i % P.
@group(0) @binding(7) var<storage, read_write> logprobs: array<vec2u>;

var<workgroup> nextKey: atomic<u32>;
var<workgroup> nextToken: atomic<u32>;

// The highest rank below another one.
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
fn storeLogprobs(slot: u32, place: u32, token: u32) {
  isPenalized = false;
  inverseTemperature = 1;
  var rank = rankBelow(vec2u(NOT_A_NUMBER));
  setHighest(rank.x);
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
