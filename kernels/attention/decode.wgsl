// Attention of one new token over a cache of keys and values, which it joins.
// qkv: [3C], C = NH · HS; cursor: [token, position]; keys, values: [NH,L,HS]; y: [C]
//
// One workgroup a head: its invocations share the cached positions for the scores, and the
// components of the head for the weighted sum of values.
enable f16;

alias real = f16; // element type of qkv, keys, values and y
const L: u32 = 1;
const NH: u32 = 1;
const HS: u32 = 4;
const WORKGROUP_SIZE: u32 = 64;

const C: u32 = NH * HS;
const SCALE: f32 = 1.0 / sqrt(f32(HS));

@group(0) @binding(0) var<storage, read> qkv: array<real>;
@group(0) @binding(1) var<storage, read> cursor: array<u32>;
@group(0) @binding(2) var<storage, read_write> keys: array<real>;
@group(0) @binding(3) var<storage, read_write> values: array<real>;
@group(0) @binding(4) var<storage, read_write> y: array<real>;

var<workgroup> scores: array<f32, L>;
var<workgroup> partial: array<f32, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let position = cursor[1];
  let head = group.x * HS; // of qkv and y
  let cache = group.x * L * HS;

  for (var i = local.x; i < HS; i += WORKGROUP_SIZE) {
    keys[cache + position * HS + i] = qkv[head + C + i];
    values[cache + position * HS + i] = qkv[head + 2 * C + i];
  }
  storageBarrier();

  var highest = -3.0e38;
  for (var s = local.x; s <= position; s += WORKGROUP_SIZE) {
    var score = 0.0;
    for (var i = 0u; i < HS; i++) {
      score += f32(qkv[head + i]) * f32(keys[cache + s * HS + i]);
    }
    scores[s] = SCALE * score;
    highest = max(highest, SCALE * score);
  }
  partial[local.x] = highest;
  workgroupBarrier();
  for (var i = 0u; i < WORKGROUP_SIZE; i++) {
    highest = max(highest, partial[i]);
  }

  var total = 0.0;
  for (var s = 0u; s <= position; s++) {
    total += exp(scores[s] - highest);
  }
  for (var i = local.x; i < HS; i += WORKGROUP_SIZE) {
    var sum = 0.0;
    for (var s = 0u; s <= position; s++) {
      sum += exp(scores[s] - highest) * f32(values[cache + s * HS + i]);
    }
    y[head + i] = real(sum / total);
  }
}
