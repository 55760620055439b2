// The loss as in forward.wgsl, and its gradient in place of the logits:
// dlogits = (softmax(logits) − target) · lossScale / number of targets, 0 where ignored and past V.
// targets: [≥M], 0xffffffff for none; losses: [≥M]
//
// The second walk over a row finds it in the cache.
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
  let place = shape.first + min(m, shape.M - 1);
  let label = targets[place];
  if (local.x == 0 && m < shape.M) { losses[place] = lossOf(row, row4, label); }
  workgroupBarrier(); // the target's logit has been read
  if (m >= shape.M) { return; }

  if (label >= shape.V) {
    for (var v4 = local.x; v4 < shape.columns4; v4 += LANES) { logits[row4 + v4] = real4(); }
    return;
  }

  let factor = lossScale[0] * stepInputs[1];
  let logSumExp = row.x;
  var v4 = local.x;
  // Four vectors a turn, all read before one is written, and widened one at a time: with 32 registers an
  // invocation, an NVIDIA core has two rows under way.
  for (; v4 + 3 * LANES < shape.V / 4; v4 += 4 * LANES) {
    let a = logits[row4 + v4];
    let b = logits[row4 + v4 + LANES];
    let c = logits[row4 + v4 + 2 * LANES];
    let d = logits[row4 + v4 + 3 * LANES];
    logits[row4 + v4] = slopes(a, v4, logSumExp, label, factor);
    logits[row4 + v4 + LANES] = slopes(b, v4 + LANES, logSumExp, label, factor);
    logits[row4 + v4 + 2 * LANES] = slopes(c, v4 + 2 * LANES, logSumExp, label, factor);
    logits[row4 + v4 + 3 * LANES] = slopes(d, v4 + 3 * LANES, logSumExp, label, factor);
  }
  for (; v4 < shape.columns4; v4 += LANES) {
    let four = slopes(logits[row4 + v4], v4, logSumExp, label, factor);
    logits[row4 + v4] = select(real4(), four, vec4u(0, 1, 2, 3) + 4 * v4 < vec4u(shape.V));
  }
}

// (softmax − target) · factor at four logits.
fn slopes(four: real4, v4: u32, logSumExp: f32, label: u32, factor: f32) -> real4 {
  var slope = exp(vec4f(four) - logSumExp);
  if (SMOOTHING > 0.0) { slope -= SMOOTHING / f32(shape.V); }
  if (v4 == label / 4) {
    slope -= select(vec4f(), vec4f(1.0 - SMOOTHING), vec4u(0, 1, 2, 3) + 4 * v4 == vec4u(label));
  }
  return real4(slope * factor);
}
