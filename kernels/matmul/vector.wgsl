// y = a · b, or norm(a) · b, for a single row a.   a: [K]; b: [K,N], or [N,K] transposed; y: [N]
// Needs Sizes and store() from epilogue.wgsl with value = f32, yType = f16.
//
// For generation of one token at a time, whose speed is that of reading b: each element is read once. A workgroup
// computes QUADS vectors of four columns of y, and LANES invocations share each vector. A lane reads four steps of
// k at a time: four rows of b with four columns each, or if b is transposed four columns with four steps each.
// Neighbours read neighbouring vectors of b. With QUADS = 2 and LANES = 4, invocations 0 to 7 are
//
//     b                 b transposed         (quad,lane)
//     0,0 1,0 0,1 1,1   0,0 0,1 0,2 0,3
//     0,2 1,2 0,3 1,3   1,0 1,1 1,2 1,3
//
// The sums of the lanes are added up in workgroup memory. Every workgroup computes the norm of a again, which takes
// less time than another launch: layer-norm if CENTERED, or else RMS norm.   normWeight, normBias: [K]
//
// With PAIRED y is the up of a gated MLP, and the kernel also computes its gate, norm(a) · gateWeight.
// gateWeight: as b
enable f16;

alias aType = vec4<f16>;
alias bType = vec4<f16>;
const TRANSPOSE_B: bool = false;
const QUADS: u32 = 4;
const LANES: u32 = 64;
const NORMALIZE: bool = true;
const CENTERED: bool = true; // whether the mean is subtracted and normBias added
const EPSILON: f32 = 1e-5;

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;
// only if NORMALIZE
@group(0) @binding(2) var<storage, read> normWeight: array<vec4f>;
// only if NORMALIZE
// only if CENTERED
@group(0) @binding(3) var<storage, read> normBias: array<vec4f>;
// only if PAIRED
@group(0) @binding(13) var<storage, read> gateWeight: array<bType>;

const WORKGROUP_SIZE: u32 = QUADS * LANES;
var<workgroup> sums: array<vec4f, WORKGROUP_SIZE>;
// only if NORMALIZE
var<workgroup> shares: array<f32, WORKGROUP_SIZE>;

// The sum of one value per invocation of the workgroup.
// only if NORMALIZE
fn workgroupSum(share: f32, index: u32) -> f32 {
  workgroupBarrier(); // until all have read the previous sum
  shares[index] = share;
  for (var left = WORKGROUP_SIZE; left > 1; ) {
    let quarter = (left + 3) / 4;
    workgroupBarrier();
    if (index < quarter) {
      var sum = shares[index];
      // unroll
      for (var i = 1u; i < 4u; i++) {
        if (index + i * quarter < left) { sum += shares[index + i * quarter]; }
      }
      shares[index] = sum;
    }
    left = quarter;
  }
  workgroupBarrier();
  return shares[0];
}

// Mean and rstd of a; the mean counts as 0 unless CENTERED.
// only if NORMALIZE
fn statistics(index: u32) -> vec2f {
  var mean = 0.0;
  // only if CENTERED
  {
    var sum = 0.0;
    for (var k4 = index; k4 < sizes.K / 4; k4 += WORKGROUP_SIZE) {
      sum += dot(vec4f(a[sizes.aStart + k4]), vec4f(1));
    }
    mean = workgroupSum(sum, index) / f32(sizes.K);
  }
  var squares = 0.0;
  for (var k4 = index; k4 < sizes.K / 4; k4 += WORKGROUP_SIZE) {
    let difference = vec4f(a[sizes.aStart + k4]) - mean;
    squares += dot(difference, difference);
  }
  return vec2f(mean, inverseSqrt(workgroupSum(squares, index) / f32(sizes.K) + EPSILON));
}

// The sum over the lanes of a quad, for lane 0: a tree that adds four sums per step, because barriers take time.
fn laneSum(share: vec4f, lane: u32, quad: u32) -> vec4f {
  let place = lane * QUADS + quad;
  var sum = share;
  // only if PAIRED
  workgroupBarrier(); // until all have read the previous sums
  sums[place] = sum;
  for (var left = LANES; left > 1; ) {
    let quarter = (left + 3) / 4;
    workgroupBarrier();
    if (lane < quarter) {
      // unroll
      for (var i = 1u; i < 4u; i++) {
        if (lane + i * quarter < left) { sum += sums[place + i * quarter * QUADS]; }
      }
      sums[place] = sum;
    }
    left = quarter;
  }
  return sum;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let lane = select(index / QUADS, index % LANES, TRANSPOSE_B);
  let quad = select(index % QUADS, index / LANES, TRANSPOSE_B);
  let column = (group.x * QUADS + quad) * 4;

  // only if NORMALIZE
  let norm = statistics(index);
  var sum = vec4f();
  // only if PAIRED
  var gateSum = vec4f();
  for (var k4 = lane; k4 < sizes.K / 4; k4 += LANES) {
    var a4 = vec4f(a[sizes.aStart + k4]);
    // only if NORMALIZE
    a4 = (a4 - norm.x) * norm.y * normWeight[k4];
    // only if NORMALIZE
    // only if CENTERED
    a4 += normBias[k4];
    // unroll
    for (var i = 0u; i < 4u; i++) {
      if (TRANSPOSE_B) {
        let at = min(column + i, sizes.N - 1) * sizes.bStride + k4;
        sum[i] += dot(a4, vec4f(b[at]));
        // only if PAIRED
        gateSum[i] += dot(a4, vec4f(gateWeight[at]));
      } else {
        let at = (4 * k4 + i) * sizes.bStride + min(column, sizes.N - 1) / 4;
        sum += a4[i] * vec4f(b[at]);
        // only if PAIRED
        gateSum += a4[i] * vec4f(gateWeight[at]);
      }
    }
  }

  sum = laneSum(sum, lane, quad);
  // only if PAIRED
  gateSum = laneSum(gateSum, lane, quad);
  if (lane != 0) { return; }
  // unroll
  for (var i = 0u; i < 4u; i++) {
    // only if PAIRED
    gateOfRow = gateSum[i];
    if (column + i < sizes.N) { store(0, column + i, sum[i]); }
  }
}
