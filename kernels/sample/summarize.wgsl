// summaries[b,block] = what a block of tokens contributes to a draw without top-k, or without top-p.
// Needs keyOf() from scores.wgsl, and pcgHash() from ../random.wgsl.
//
// logits: [B,W]; settings: [slots]; cursors: [B,4]; summaries: [B,BLOCKS], as sample.wgsl reads them: key of the highest
// score, bits of the weight relative to that, and the token that a draw among those of the block chooses, with its key
enable f16;

alias real = f16; // element type of logits
const WORKGROUP_SIZE: u32 = 256; // a power of two
const EACH: u32 = 4; // tokens per invocation

struct Sizes {
  W: u32,
  V: u32,
}

@group(0) @binding(0) var<storage, read> logits: array<real>;
@group(0) @binding(1) var<storage, read> settings: array<Settings>;
@group(0) @binding(2) var<storage, read> cursors: array<vec4u>;
@group(0) @binding(3) var<storage, read_write> summaries: array<vec4u>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

const PARTS: u32 = 16; // groups of neighbours that are reduced first, because barriers take time
const PART: u32 = WORKGROUP_SIZE / PARTS;

var<workgroup> keys: array<u32, WORKGROUP_SIZE>;
var<workgroup> partKeys: array<u32, PARTS>;
var<workgroup> weights: array<f32, WORKGROUP_SIZE>;
var<workgroup> draws: array<vec3u, WORKGROUP_SIZE>; // key of the sum with noise, token, key of its score

// The highest of one key per invocation.
fn highestOf(key: u32, index: u32) -> u32 {
  keys[index] = key;
  workgroupBarrier();
  var highest = 0u;
  if (index < PARTS) {
    // unroll
    for (var i = 0u; i < PART; i++) {
      highest = max(highest, keys[PARTS * i + index]);
    }
    partKeys[index] = highest;
  }
  workgroupBarrier();
  // unroll
  for (var i = 0u; i < PARTS; i++) {
    highest = max(highest, partKeys[i]);
  }
  return highest;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) index: u32,
) {
  let row = group.y;
  let first = group.x * EACH * WORKGROUP_SIZE + index;
  var scores: array<f32, EACH>;
  // unroll
  for (var i = 0u; i < EACH; i++) {
    scores[i] = f32(logits[row * sizes.W + min(first + i * WORKGROUP_SIZE, sizes.V - 1)]);
  }
  let slot = cursors[row].z;
  let inverseTemperature = settings[slot].inverseTemperature;
  let noise = pcgHash(cursors[row].x + 1 + pcgHash(settings[slot].seed));
  var key = 0u;
  // unroll
  for (var i = 0u; i < EACH; i++) {
    key = max(key, keyOf(scores[i]));
  }
  key = highestOf(key, index);
  var weight = 0.0;
  var best = vec3u();
  // unroll
  for (var i = 0u; i < EACH; i++) {
    let token = first + i * WORKGROUP_SIZE;
    if (token < sizes.V) {
      let relative = (scores[i] - scoreOf(key)) * inverseTemperature;
      weight += exp(relative);
      var sum = scores[i];
      if (inverseTemperature > 0) { sum = relative + gumbel(pcgHash(token + noise)); }
      if (keyOf(sum) > best.x) { best = vec3u(keyOf(sum), token, keyOf(scores[i])); }
    }
  }
  weights[index] = weight;
  draws[index] = best;
  workgroupBarrier();
  if (index < PARTS) {
    // unroll
    for (var i = 1u; i < PART; i++) {
      weight += weights[PARTS * i + index];
      let other = draws[PARTS * i + index];
      if (isBefore(other.xy, best.xy)) { best = other; }
    }
    weights[index] = weight;
    draws[index] = best;
  }
  workgroupBarrier();
  if (index == 0) {
    // unroll
    for (var i = 1u; i < PARTS; i++) {
      weight += weights[i];
      if (isBefore(draws[i].xy, best.xy)) { best = draws[i]; }
    }
    summaries[row * groups.x + group.x] = vec4u(key, bitcast<u32>(weight), best.y, best.z);
  }
}
