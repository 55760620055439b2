// y = s · rstd · weight over each row of s, rstd = 1 / √(mean(s²) + EPSILON).
// Needs rowSums() from ../row_sums.wgsl and fourDropoutFactors() from ../random.wgsl.
//
// s = x, or with RESIDUAL s = sum = x + dropout(z).
// x, z, sum, y: [M,C]; weight: [C]; statistics: [M], rstd of each row
enable f16;

alias xType = vec4<f16>;
alias zType = vec4<f16>;
alias yType = vec4<f16>;
const EPSILON: f32 = 1e-5;
const RESIDUAL: bool = true; // whether z is added
const WEIGHT: bool = true; // whether there is a weight

struct Sizes {
  M: u32,
  columns4: u32, // C / 4
}

@group(0) @binding(0) var<storage, read> x: array<xType>;
// only if RESIDUAL
@group(0) @binding(1) var<storage, read> z: array<zType>;
// only if WEIGHT
@group(0) @binding(2) var<storage, read> weight: array<vec4f>;
// only if RESIDUAL
@group(0) @binding(3) var<storage, read_write> sum: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<yType>;
@group(0) @binding(5) var<storage, read_write> statistics: array<f32>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts

// Four elements of s.
fn input(i: u32) -> vec4f {
  var value = vec4f(x[i]);
  // only if RESIDUAL
  {
    var added = vec4f(z[i]);
    // only if DROPOUT
    added *= fourDropoutFactors(4 * i);
    value += added;
    sum[i] = value;
  }
  return value;
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let m = (group.y * WORKGROUPS_PER_ROW + group.x) * ROWS + local.y;
  let columns4 = sizes.columns4;
  let C = f32(4 * columns4);
  let inside = m < sizes.M; // out-of-range rows do no work but must reach every barrier

  var values: array<vec4f, QUADS>;
  var squares = 0.0;
  // unroll
  for (var q = 0u; q < QUADS; q++) {
    let c = local.x + q * LANES;
    if (inside && c < columns4) { values[q] = input(m * columns4 + c); }
    squares += dot(values[q], values[q]);
  }
  let rstd = inverseSqrt(rowSums(vec2f(squares, 0.0), local).x / C + EPSILON);

  if (!inside) { return; }
  // unroll
  for (var q = 0u; q < QUADS; q++) {
    let c = local.x + q * LANES;
    if (c < columns4) {
      var y4 = values[q] * rstd;
      // only if WEIGHT
      y4 *= weight[c];
      y[m * columns4 + c] = yType(y4);
    }
  }
  if (local.x == 0) { statistics[m] = rstd; }
}
