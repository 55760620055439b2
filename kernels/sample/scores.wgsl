// What every kernel of this folder knows of a score and of the settings of a text, which samplerSettings() in sample.ts
// writes.
const END_IDS: u32 = 16;

struct Settings {
  seed: u32,
  firstDrawn: u32, // index of the first token that was drawn
  window: u32, // last tokens to which the repetition penalty applies
  repetitionPenalty: f32,
  presencePenalty: f32,
  frequencyPenalty: f32,
  inverseTemperature: f32, // 0: the likeliest token is drawn
  topK: u32, // 0: all
  topP: u32, // in parts of ONE; 0: all
  leastRelativeLogit: f32, // log of min-p
  logprobs: u32, // tokens whose logprobs are wanted: the drawn one and the likeliest
  endIds: array<u32, END_IDS>,
}

const KEY_OF_INFINITY: u32 = 0xff800000;
const KEY_OF_MINUS_INFINITY: u32 = 0x00800000;
const NOT_A_NUMBER: u32 = 0xffffffff; // key of every NaN, and what is appended if a score is NaN
const NOTHING_FINITE: u32 = 0xfffffffe; // what is appended if the highest score is infinite

// An integer for every score, in the same order; both zeros have the same.
fn keyOf(score: f32) -> u32 {
  let bits = bitcast<u32>(score);
  if ((bits & 0x7fffffff) > 0x7f800000) { return NOT_A_NUMBER; }
  return select(bits | 0x80000000, 0 - bits, bits >= 0x80000000);
}

fn scoreOf(key: u32) -> f32 {
  return bitcast<f32>(select(0 - key, key & 0x7fffffff, key >= 0x80000000));
}

// Gumbel noise: −log of an exponential variate −log(1 − u). Small variates win the draw, so u has its 32 bits near
// 0, where floating-point numbers are dense, and there the logarithm is computed as a series.
fn gumbel(bits: u32) -> f32 {
  let u = min((f32(bits) + 0.5) / 4294967296.0, 0.99999994);
  let series = u * (1.0 + u * (0.5 + u * (1.0 / 3.0 + u * (0.25 + u * 0.2))));
  return -log(select(-log(1.0 - u), series, u < 0.0625));
}

// Whether a draw chooses the first of two tokens, each with the key of its sum of logit and noise.
fn isBefore(a: vec2u, b: vec2u) -> bool {
  return a.x > b.x || (a.x == b.x && a.y < b.y);
}
