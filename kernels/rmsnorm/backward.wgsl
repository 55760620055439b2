// dx = rstd · (g − x̂ · mean(g · x̂)), g = dy · weight, x̂ = x · rstd; set or accumulated.
// Needs rowSums() from ../row_sums.wgsl, columnSum() from ../column_sums.wgsl, fourDropoutFactors() from ../random.wgsl.
//
// If x is a sum with dropout(z), dz = dx · dropout's mask; set. partials: dweight = Σ dy · x̂ and dzBias = Σ dz, summed
// over the rows of each workgroup's block.
// x, dy, dx, dz: [M,C]; weight: [C]; statistics: [M], rstd; partials: [P,SUMS,C]
enable f16;

alias xType = vec4<f16>;
alias dyType = vec4<f16>;
alias zType = vec4<f16>;
const ACCUMULATE: bool = true;
const RESIDUAL: bool = true; // whether dz is computed
const WEIGHT: bool = true; // whether there is a weight
const PARAMETERS: bool = true; // whether dweight is computed
const Z_BIAS: bool = true; // whether dzBias is computed
const PARTIALS: bool = true; // whether anything is summed over rows

struct Sizes {
  M: u32,
  columns4: u32, // C / 4
  block: u32, // rows per workgroup
}

@group(0) @binding(0) var<storage, read> x: array<xType>;
// only if WEIGHT
@group(0) @binding(1) var<storage, read> weight: array<vec4f>;
@group(0) @binding(2) var<storage, read> statistics: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<dyType>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4f>;
// only if RESIDUAL
@group(0) @binding(5) var<storage, read_write> dz: array<zType>;
// only if PARTIALS
@group(0) @binding(6) var<storage, read_write> partials: array<vec4f>;
@group(0) @binding(7) var<uniform> sizes: Sizes;

const SUMS: u32 = select(0u, 1u, PARAMETERS) + select(0u, 1u, Z_BIAS); // sums per block

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let columns4 = sizes.columns4;
  let C = f32(4 * columns4);
  // only if PARAMETERS
  var dweight: array<vec4f, QUADS>;
  // only if Z_BIAS
  var dzBias: array<vec4f, QUADS>;

  for (var row = 0u; row < sizes.block; row += ROWS) {
    let m = group.x * sizes.block + row + local.y;
    let inside = m < sizes.M; // out-of-range rows do no work but must reach every barrier
    let rstd = statistics[min(m, sizes.M - 1)];
    var normalized: array<vec4f, QUADS>; // x̂
    var g: array<vec4f, QUADS>;
    var before: array<vec4f, QUADS>; // dx as it was: all loads of a row together, so that they overlap
    var share = 0.0;
    // unroll
    for (var q = 0u; q < QUADS; q++) {
      let c = local.x + q * LANES;
      normalized[q] = vec4f();
      g[q] = vec4f();
      if (inside && c < columns4) {
        if (ACCUMULATE) { before[q] = dx[m * columns4 + c]; }
        normalized[q] = vec4f(x[m * columns4 + c]) * rstd;
        g[q] = vec4f(dy[m * columns4 + c]);
        // only if PARAMETERS
        dweight[q] += g[q] * normalized[q];
        // only if WEIGHT
        g[q] *= weight[c];
      }
      share += dot(g[q], normalized[q]);
    }
    let mean = rowSums(vec2f(share, 0.0), local).x / C;
    // unroll
    for (var q = 0u; q < QUADS; q++) {
      let c = local.x + q * LANES;
      if (inside && c < columns4) {
        let i = m * columns4 + c;
        var dx4 = rstd * (g[q] - normalized[q] * mean);
        if (ACCUMULATE) { dx4 += before[q]; }
        dx[i] = dx4;
        // only if DROPOUT
        dx4 *= fourDropoutFactors(4 * i);
        // only if RESIDUAL
        dz[i] = zType(dx4);
        // only if Z_BIAS
        dzBias[q] += dx4;
      }
    }
  }

  // sums over the rows of the workgroup, one quad at a time
  // only if PARTIALS
  // unroll
  for (var q = 0u; q < QUADS; q++) {
    let c = local.x + q * LANES;
    let at = group.x * SUMS * columns4 + c;
    // only if PARAMETERS
    let dweightSum = columnSum(dweight[q], local);
    // only if Z_BIAS
    let dzBiasSum = columnSum(dzBias[q], local);
    if (local.y == 0 && c < columns4) {
      // only if PARAMETERS
      partials[at] = dweightSum;
      // only if Z_BIAS
      partials[at + (SUMS - 1) * columns4] = dzBiasSum;
    }
  }
}
