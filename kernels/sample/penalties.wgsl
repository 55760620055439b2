// penalized[b] = logits[b] after the penalties of the text.   logits, penalized: [B,V]
// Needs sizes, settings, tokens and the row from sample.wgsl.
//
// A token has the repetition penalty if it is among the last ones of the text, and the presence and frequency penalties if
// it was drawn. First `penalized` counts the tokens, then it has their logits as bits.
@group(0) @binding(6) var<storage, read_write> penalized: array<atomic<u32>>;

// Flag of a token to which the repetition penalty applies, beside the number of times that it was drawn.
const REPEATED: u32 = 0x80000000;

// Sets penalized to the logits after the penalties.
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
