// losses[m] = −log softmax(logits[m])[targets[m]], smoothed.   logits: [M,columns ≥ V]; targets, losses: [≥M]
//
// With BACKWARD the gradient replaces the logits: dlogits = (softmax(logits) − target distribution) · lossScale /
// number of targets. It is 0 in ignored rows and past V. The target 0xffffffff is ignored.
//
// LANES invocations share a row, and a workgroup has ROWS rows. Each invocation reads every LANES-th vector of
// four and keeps the running maximum and sum of the online softmax (Milakov and Gimelshein 2018,
// https://arxiv.org/abs/1805.02867); a tree reduction merges the lanes. The gradient's pass over the row finds
// it in the cache.
enable f16;

alias real = f16; // element type of the logits
const BACKWARD: bool = true;
const SMOOTHING: f32 = 0.0;
const LANES: u32 = 32;
const ROWS: u32 = 8;

alias real4 = vec4<real>;

struct Sizes {
  M: u32,
  V: u32,
  columns4: u32, // vectors of four per stored row
  firstRow: u32, // index in targets and losses of row 0
}

// unless BACKWARD
@group(0) @binding(0) var<storage, read> logits: array<real4>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
// only if BACKWARD
@group(0) @binding(2) var<storage, read> stepInputs: array<f32>; // of prepare_step.wgsl; [1]: 1 / number of targets
// only if BACKWARD
@group(0) @binding(3) var<storage, read> lossScale: array<f32>;
// only if BACKWARD
@group(0) @binding(4) var<storage, read_write> dlogits: array<real4>; // holds the logits at first
@group(0) @binding(5) var<storage, read_write> losses: array<f32>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const LOWEST: f32 = -3.0e38;
const SHARES: u32 = LANES * ROWS;
var<workgroup> shares: array<vec3f, SHARES>; // maximum, sum of exp, sum of logits

// Four logits as they are stored.
fn logitsAt(i: u32) -> real4 {
  var four: real4;
  // unless BACKWARD
  four = logits[i];
  // only if BACKWARD
  four = dlogits[i];
  return four;
}

// Four logits; those past the vocabulary are LOWEST.
fn fourLogits(row4: u32, v4: u32) -> vec4f {
  let inside = vec4u(0, 1, 2, 3) + 4 * v4 < vec4u(sizes.V);
  return select(vec4f(LOWEST), vec4f(logitsAt(row4 + v4)), inside);
}

// The logits that fourLogits() returned, with 0 past the vocabulary.
fn present(four: vec4f) -> vec4f {
  return select(four, vec4f(), four == vec4f(LOWEST));
}

fn highestOf(four: vec4f) -> f32 {
  return max(max(four.x, four.y), max(four.z, four.w));
}

fn merged(a: vec3f, b: vec3f) -> vec3f {
  let highest = max(a.x, b.x);
  return vec3f(highest, a.y * exp(a.x - highest) + b.y * exp(b.x - highest), a.z + b.z);
}

// Log-sum-exp of the row that starts at vector row4, and the sum of its logits if smoothing needs it.
fn walkRow(row4: u32, local: vec3u) -> vec2f {
  var share = vec3f(LOWEST, 0.0, 0.0);
  var v4 = local.x;
  // four vectors per iteration, loaded together, as long as all four lie within the vocabulary
  for (; v4 + 3 * LANES < sizes.V / 4; v4 += 4 * LANES) {
    let a = vec4f(logitsAt(row4 + v4));
    let b = vec4f(logitsAt(row4 + v4 + LANES));
    let c = vec4f(logitsAt(row4 + v4 + 2 * LANES));
    let d = vec4f(logitsAt(row4 + v4 + 3 * LANES));
    let highest = max(share.x, highestOf(max(max(a, b), max(c, d))));
    let powers = exp(a - highest) + exp(b - highest) + exp(c - highest) + exp(d - highest);
    share.y = share.y * exp(share.x - highest) + dot(powers, vec4f(1.0));
    share.x = highest;
    if (SMOOTHING > 0.0) { share.z += dot(a + b + c + d, vec4f(1.0)); }
  }
  for (; 4 * v4 < sizes.V; v4 += LANES) {
    let four = fourLogits(row4, v4);
    let highest = max(share.x, highestOf(four));
    share.y = share.y * exp(share.x - highest) + dot(exp(four - highest), vec4f(1.0));
    share.x = highest;
    if (SMOOTHING > 0.0) { share.z += dot(present(four), vec4f(1.0)); }
  }
  let place = local.y * LANES + local.x;
  shares[place] = share;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.x < half) { shares[place] = merged(shares[place], shares[place + half]); }
  }
  workgroupBarrier();
  let row = shares[local.y * LANES];
  return vec2f(row.x + log(row.y), row.z);
}

// The loss of a row whose log-sum-exp and sum are known; 0 without a target.
fn lossOf(row: vec2f, row4: u32, label: u32) -> f32 {
  if (label >= sizes.V) { return 0.0; }
  let wanted = f32(logitsAt(row4 + label / 4)[label % 4]);
  return row.x - (1.0 - SMOOTHING) * wanted - SMOOTHING * row.y / f32(sizes.V);
}

// (softmax − target distribution) · factor at four logits.
fn gradientAt(four: real4, v4: u32, logSumExp: f32, label: u32, factor: f32) -> real4 {
  var gradient = exp(vec4f(four) - logSumExp);
  if (SMOOTHING > 0.0) { gradient -= SMOOTHING / f32(sizes.V); }
  if (v4 == label / 4) {
    gradient -= select(vec4f(), vec4f(1.0 - SMOOTHING), vec4u(0, 1, 2, 3) + 4 * v4 == vec4u(label));
  }
  return real4(gradient * factor);
}

// Replaces the logits of a row by their gradient.
// only if BACKWARD
fn writeGradient(row4: u32, logSumExp: f32, label: u32, local: vec3u) {
  if (label >= sizes.V) {
    for (var v4 = local.x; v4 < sizes.columns4; v4 += LANES) { dlogits[row4 + v4] = real4(); }
    return;
  }
  let factor = lossScale[0] * stepInputs[1];
  var v4 = local.x;
  // Four vectors per iteration: all are read before the first is written, and they are converted to f32 one at
  // a time, so that an invocation needs at most 32 registers and an NVIDIA core runs two rows at a time.
  for (; v4 + 3 * LANES < sizes.V / 4; v4 += 4 * LANES) {
    let a = dlogits[row4 + v4];
    let b = dlogits[row4 + v4 + LANES];
    let c = dlogits[row4 + v4 + 2 * LANES];
    let d = dlogits[row4 + v4 + 3 * LANES];
    dlogits[row4 + v4] = gradientAt(a, v4, logSumExp, label, factor);
    dlogits[row4 + v4 + LANES] = gradientAt(b, v4 + LANES, logSumExp, label, factor);
    dlogits[row4 + v4 + 2 * LANES] = gradientAt(c, v4 + 2 * LANES, logSumExp, label, factor);
    dlogits[row4 + v4 + 3 * LANES] = gradientAt(d, v4 + 3 * LANES, logSumExp, label, factor);
  }
  for (; v4 < sizes.columns4; v4 += LANES) {
    let four = gradientAt(dlogits[row4 + v4], v4, logSumExp, label, factor);
    dlogits[row4 + v4] = select(real4(), four, vec4u(0, 1, 2, 3) + 4 * v4 < vec4u(sizes.V));
  }
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let m = (group.y * WORKGROUPS_PER_ROW + group.x) * ROWS + local.y;
  let inside = m < sizes.M; // out-of-range rows do no work but must reach every barrier
  let row4 = min(m, sizes.M - 1) * sizes.columns4;
  let row = walkRow(row4, local);
  let place = sizes.firstRow + min(m, sizes.M - 1);
  let label = targets[place];
  if (local.x == 0 && inside) { losses[place] = lossOf(row, row4, label); }
  // only if BACKWARD
  {
    workgroupBarrier(); // the target's logit has been read
    if (inside) { writeGradient(row4, row.x, label, local); }
  }
}
