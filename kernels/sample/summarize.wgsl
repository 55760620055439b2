// summaries[b,block] = highest score and weight of a block of tokens; noises[b,v] = Gumbel noise of token v.
// Needs keyOf() from scores.wgsl, and pcgHash() from ../random.wgsl.
//
// logits: [B,W]; settings: [slots]; cursors: [B,4]; summaries: [B,BLOCKS], as sample.wgsl reads them; noises: [B,V]
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
@group(0) @binding(3) var<storage, read_write> summaries: array<vec2u>;
@group(0) @binding(4) var<storage, read_write> noises: array<f32>;
@group(0) @binding(5) var<uniform> sizes: Sizes;

var<workgroup> highestKey: atomic<u32>;
var<workgroup> weights: array<f32, WORKGROUP_SIZE>;

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
    let token = first + i * WORKGROUP_SIZE;
    key = max(key, keyOf(scores[i]));
    if (token < sizes.V) { noises[row * sizes.V + token] = gumbel(pcgHash(token + noise)); }
  }
  atomicMax(&highestKey, key);
  workgroupBarrier();
  key = atomicLoad(&highestKey);
  var weight = 0.0;
  // unroll
  for (var i = 0u; i < EACH; i++) {
    if (first + i * WORKGROUP_SIZE < sizes.V) {
      weight += exp((scores[i] - scoreOf(key)) * inverseTemperature);
    }
  }
  weights[index] = weight;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (index < half) { weights[index] += weights[index + half]; }
  }
  if (index == 0) { summaries[row * groups.x + group.x] = vec2u(key, bitcast<u32>(weights[0])); }
}
