// loss = −log softmax(logits)[target], smoothed; logSumExp of every row.
// logits: [M,V]; targets: [M], 0xffffffff for none; losses, logSumExp: [M]
//
// LANES invocations share a row, ROWS rows a workgroup; one walk, with the running maximum and sum
// of the online softmax (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867).
enable f16;

alias real = f16; // element type of logits
const M: u32 = 1;
const V: u32 = 1;
const SMOOTHING: f32 = 0.0;
const LANES: u32 = 32;
const ROWS: u32 = 8;

@group(0) @binding(0) var<storage, read> logits: array<real>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<storage, read_write> logSumExp: array<f32>;

const SHARES: u32 = LANES * ROWS;
var<workgroup> shares: array<vec3f, SHARES>; // maximum, sum of exp, sum of logits

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let m = (group.y * 32768 + group.x) * ROWS + local.y;
  let first = min(m, M - 1) * V; // rows past the end keep the barrier company

  var highest = -3.0e38;
  var total = 0.0;
  var plain = 0.0;
  for (var v = local.x; v < V; v += LANES) {
    let logit = f32(logits[first + v]);
    let raised = max(highest, logit);
    total = total * exp(highest - raised) + exp(logit - raised);
    highest = raised;
    if (SMOOTHING > 0.0) { plain += logit; }
  }
  shares[local.y * LANES + local.x] = vec3f(highest, total, plain);
  workgroupBarrier();
  if (local.x != 0 || m >= M) { return; }

  for (var lane = 1u; lane < LANES; lane++) {
    let share = shares[local.y * LANES + lane];
    let raised = max(highest, share.x);
    total = total * exp(highest - raised) + share.y * exp(share.x - raised);
    highest = raised;
    plain += share.z;
  }
  let lse = highest + log(total);
  logSumExp[m] = lse;
  let label = targets[m];
  var loss = 0.0;
  if (label < V) {
    loss = lse - (1.0 - SMOOTHING) * f32(logits[first + label]) - SMOOTHING * plain / f32(V);
  }
  losses[m] = loss;
}
