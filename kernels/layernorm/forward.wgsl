// y = (x − mean) · rstd · weight + bias over each row.   x, y: [M,C]; weight, bias: [C]; mean, rstd: [M]
//
// LANES invocations share a row, ROWS rows a workgroup. The variance is that of the differences from
// the mean, in a second walk: the mean of squares minus the square of the mean would cancel.
enable f16;

alias xType = f16;
alias yType = f16;
const M: u32 = 1;
const C: u32 = 1;
const EPSILON: f32 = 1e-5;
const LANES: u32 = 8;
const ROWS: u32 = 8;

@group(0) @binding(0) var<storage, read> x: array<xType>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<yType>;
@group(0) @binding(4) var<storage, read_write> mean: array<f32>;
@group(0) @binding(5) var<storage, read_write> rstd: array<f32>;

const SUMS: u32 = LANES * ROWS;
var<workgroup> sums: array<f32, SUMS>;

// Sum of one value of each lane of the row.
fn rowSum(value: f32, local: vec3u) -> f32 {
  sums[local.y * LANES + local.x] = value;
  workgroupBarrier();
  var sum = 0.0;
  for (var lane = 0u; lane < LANES; lane++) {
    sum += sums[local.y * LANES + lane];
  }
  workgroupBarrier();
  return sum;
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let m = (group.y * 32768 + group.x) * ROWS + local.y;
  let first = min(m, M - 1) * C; // rows past the end keep the barriers company

  var sum = 0.0;
  for (var c = local.x; c < C; c += LANES) {
    sum += f32(x[first + c]);
  }
  let average = rowSum(sum, local) / f32(C);
  var squares = 0.0;
  for (var c = local.x; c < C; c += LANES) {
    let difference = f32(x[first + c]) - average;
    squares += difference * difference;
  }
  let scale = inverseSqrt(rowSum(squares, local) / f32(C) + EPSILON);

  if (m >= M) { return; }
  for (var c = local.x; c < C; c += LANES) {
    y[first + c] = yType((f32(x[first + c]) - average) * scale * weight[c] + bias[c]);
  }
  if (local.x == 0) {
    mean[m] = average;
    rstd[m] = scale;
  }
}
