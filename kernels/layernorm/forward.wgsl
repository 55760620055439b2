// y = (x − mean) · rstd · weight + bias over each row.   x, y: [M,C]; weight, bias: [C]
// statistics: [M], mean and rstd of each row
//
// input() reads x, or with residual.wgsl adds what a block gives to the residual stream. The variance is that
// of the differences from the mean: the mean of squares minus the square of the mean would cancel.
enable f16;

alias xType = vec4<f16>;
alias yType = vec4<f16>;
const EPSILON: f32 = 1e-5;
const UNIFORM: u32 = 5;

@group(0) @binding(0) var<storage, read> x: array<xType>;
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read> bias: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> y: array<yType>;
@group(0) @binding(4) var<storage, read_write> statistics: array<vec2f>;
@group(0) @binding(UNIFORM) var<uniform> sizes: Sizes;

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let m = (group.y * 32768 + group.x) * ROWS + local.y;
  let columns4 = sizes.columns4;
  let C = f32(4 * columns4);
  let here = m < sizes.M; // rows past the end keep the barriers company

  var values: array<vec4f, QUADS>;
  var sum = vec4f();
  // unroll
  for (var q = 0u; q < QUADS; q++) {
    let c = local.x + q * LANES;
    if (here && c < columns4) { values[q] = input(m * columns4 + c); }
    sum += values[q];
  }
  let average = rowSums(vec2f(dot(sum, vec4f(1.0)), 0.0), local).x / C;
  var squares = 0.0;
  // unroll
  for (var q = 0u; q < QUADS; q++) {
    values[q] = select(vec4f(), values[q] - average, local.x + q * LANES < columns4);
    squares += dot(values[q], values[q]);
  }
  let scale = inverseSqrt(rowSums(vec2f(squares, 0.0), local).x / C + EPSILON);

  if (!here) { return; }
  // unroll
  for (var q = 0u; q < QUADS; q++) {
    let c = local.x + q * LANES;
    if (c < columns4) { y[m * columns4 + c] = yType(values[q] * scale * weight[c] + bias[c]); }
  }
  if (local.x == 0) { statistics[m] = vec2f(average, scale); }
}
