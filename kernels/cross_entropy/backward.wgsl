// dlogits = (softmax(logits) − target) · lossScale / number of targets, in place; 0 where ignored.
// dlogits: [M,V], holds the logits; targets: [M], 0xffffffff for none; logSumExp: [M]
enable f16;

alias real = f16; // element type of logits and dlogits
const M: u32 = 1;
const V: u32 = 1;
const SMOOTHING: f32 = 0.0;
const WORKGROUP_SIZE: u32 = 256;

@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> logSumExp: array<f32>;
@group(0) @binding(2) var<storage, read> stepInputs: array<f32>; // learning rate, 1 / number of targets
@group(0) @binding(3) var<storage, read> lossScale: array<f32>;
@group(0) @binding(4) var<storage, read_write> dlogits: array<real>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let i = (group.y * 32768 + group.x) * WORKGROUP_SIZE + local.x;
  if (i >= M * V) { return; }
  let m = i / V;
  let v = i % V;
  let label = targets[m];
  var slope = 0.0;
  if (label < V) {
    let wanted = select(0.0, 1.0 - SMOOTHING, v == label) + SMOOTHING / f32(V);
    slope = (exp(f32(dlogits[i]) - logSumExp[m]) - wanted) * (lossScale[0] * stepInputs[1]);
  }
  dlogits[i] = real(slope);
}
