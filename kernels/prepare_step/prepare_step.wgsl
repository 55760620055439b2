// Prepares one step of the optimizer: gradient norm, whether to skip, clip coefficient, next loss scale, report.
// Needs struct Update from update.wgsl.
// partials: [blocks,2] of gradientNorm(); lossSums: [N]; reports: [R,8].
//
// lossScale and growthTracker change as in torch.amp.GradScaler.
const GRADIENT_CLIP: f32 = 1.0;
const GROWTH_FACTOR: f32 = 2.0;
const BACKOFF_FACTOR: f32 = 0.5;
const GROWTH_INTERVAL: u32 = 2000;
const WORKGROUP_SIZE: u32 = 256;

struct Counters {
  growthTracker: u32, // good steps since the scale last changed
  optimizerSteps: u32, // steps applied
  skippedSteps: u32,
  consecutiveSkips: u32,
  reported: u32, // rows of reports written
}

@group(0) @binding(0) var<storage, read> partials: array<vec2f>; // sum, above 0 if not finite
@group(0) @binding(1) var<storage, read> stepInputs: array<f32>; // learning rate, 1 / number of targets, Muon's rate
@group(0) @binding(2) var<storage, read> lossSums: array<f32>; // of micro-batches
@group(0) @binding(3) var<storage, read_write> lossScale: array<f32>;
@group(0) @binding(4) var<storage, read_write> counters: Counters;
@group(0) @binding(5) var<storage, read_write> update: Update;
@group(0) @binding(6) var<storage, read_write> reports: array<array<u32, 8>>; // floats as their bits

var<workgroup> shares: array<vec3f, WORKGROUP_SIZE>; // sums of both columns of partials, and of losses

fn isFinite(value: f32) -> bool {
  return (bitcast<u32>(value) & 0x7f800000u) != 0x7f800000u;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(local_invocation_id) local: vec3u) {
  var share = vec3f();
  for (var i = local.x; i < arrayLength(&partials); i += WORKGROUP_SIZE) {
    share += vec3f(partials[i], 0.0);
  }
  for (var i = local.x; i < arrayLength(&lossSums); i += WORKGROUP_SIZE) {
    share.z += lossSums[i];
  }
  shares[local.x] = share;
  for (var half = WORKGROUP_SIZE / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.x < half) { shares[local.x] += shares[local.x + half]; }
  }
  if (local.x != 0) { return; }

  let scale = lossScale[0];
  let norm = sqrt(shares[0].x);
  if (shares[0].y > 0.0) {
    lossScale[0] = scale * BACKOFF_FACTOR;
    counters.growthTracker = 0;
    counters.skippedSteps += 1;
    counters.consecutiveSkips += 1;
    update = Update(0.0, 0.0, 0, 1, 0.0);
  } else {
    let clip = min(1.0, GRADIENT_CLIP / (norm + 1e-6));
    counters.optimizerSteps += 1;
    update = Update(stepInputs[0], clip / scale, counters.optimizerSteps, 0, stepInputs[2]);
    counters.consecutiveSkips = 0;
    counters.growthTracker += 1;
    if (counters.growthTracker == GROWTH_INTERVAL) {
      counters.growthTracker = 0;
      if (isFinite(scale * GROWTH_FACTOR)) { lossScale[0] = scale * GROWTH_FACTOR; }
    }
  }

  reports[counters.reported % arrayLength(&reports)] = array<u32, 8>(
    bitcast<u32>(shares[0].z * stepInputs[1]),
    bitcast<u32>(norm),
    bitcast<u32>(scale),
    update.skipped,
    counters.growthTracker,
    counters.consecutiveSkips,
    counters.skippedSteps,
    0u,
  );
  counters.reported += 1;
}
