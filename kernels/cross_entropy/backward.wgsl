// The loss as in forward.wgsl, and its gradient in place of the logits:
// dlogits = (softmax(logits) − target) · lossScale / number of targets, 0 where ignored and past V.
// targets: [M], 0xffffffff for none; losses: [M]
//
// The second walk over a row finds it in the cache. Vectors come in pairs, both read before one is written.
enable f16;

@group(0) @binding(0) var<storage, read> targets: array<u32>;
@group(0) @binding(1) var<storage, read> stepInputs: array<f32>; // learning rate, 1 / number of targets
@group(0) @binding(2) var<storage, read> lossScale: array<f32>;
@group(0) @binding(3) var<storage, read_write> logits: array<real4>; // and then dlogits
@group(0) @binding(4) var<storage, read_write> losses: array<f32>;
@group(0) @binding(5) var<uniform> shape: Shape;

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let m = (group.y * 32768 + group.x) * ROWS + local.y;
  let row4 = min(m, shape.M - 1) * shape.columns4; // rows past the end keep the barriers company
  let row = walkRow(row4, local);
  let label = targets[min(m, shape.M - 1)];
  if (local.x == 0 && m < shape.M) { losses[m] = lossOf(row, row4, label); }
  workgroupBarrier(); // the target's logit has been read
  if (m >= shape.M) { return; }

  let factor = lossScale[0] * stepInputs[1];
  for (var v4 = local.x; v4 < shape.columns4; v4 += 2 * LANES) {
    let a = slopes(row4, v4, row.x, label) * factor;
    let b = slopes(row4, v4 + LANES, row.x, label) * factor;
    logits[row4 + v4] = real4(a);
    if (v4 + LANES < shape.columns4) { logits[row4 + v4 + LANES] = real4(b); }
  }
}

// softmax − target at four logits; 0 past the vocabulary, and everywhere without a target.
fn slopes(row4: u32, v4: u32, logSumExp: f32, label: u32) -> vec4f {
  let v = vec4u(0, 1, 2, 3) + 4 * v4;
  var four = exp(fourLogits(row4, v4) - logSumExp);
  if (SMOOTHING > 0.0) {
    four -= select(vec4f(), vec4f(SMOOTHING / f32(shape.V)), v < vec4u(shape.V));
  }
  if (v4 == label / 4) { four -= select(vec4f(), vec4f(1.0 - SMOOTHING), v == vec4u(label)); }
  return select(vec4f(), four, label < shape.V);
}
