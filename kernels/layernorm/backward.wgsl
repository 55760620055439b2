// dx = rstd · (g − mean(g) − x̂ · mean(g · x̂)), g = dy · weight, x̂ = (x − mean) · rstd.
// x, dy, dx: [M,C]; weight: [C]; mean, rstd: [M]; dx is set or accumulated
enable f16;

alias xType = f16;
alias dyType = f16;
const M: u32 = 1;
const C: u32 = 1;
const ACCUMULATE: bool = false;
const LANES: u32 = 8;
const ROWS: u32 = 8;

@group(0) @binding(0) var<storage, read> x: array<xType>;
@group(0) @binding(1) var<storage, read> weight: array<f32>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> rstd: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<dyType>;
@group(0) @binding(5) var<storage, read_write> dx: array<f32>;

const SUMS: u32 = LANES * ROWS;
var<workgroup> sums: array<vec2f, SUMS>;

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let m = (group.y * 32768 + group.x) * ROWS + local.y;
  let row = min(m, M - 1);
  let first = row * C;
  let average = mean[row];
  let scale = rstd[row];

  var share = vec2f(); // sums of g and of g · x̂
  for (var c = local.x; c < C; c += LANES) {
    let g = f32(dy[first + c]) * weight[c];
    share += g * vec2f(1.0, (f32(x[first + c]) - average) * scale);
  }
  sums[local.y * LANES + local.x] = share;
  workgroupBarrier();
  var means = vec2f();
  for (var lane = 0u; lane < LANES; lane++) {
    means += sums[local.y * LANES + lane];
  }
  means /= f32(C);

  if (m >= M) { return; }
  for (var c = local.x; c < C; c += LANES) {
    let g = f32(dy[first + c]) * weight[c];
    let normalized = (f32(x[first + c]) - average) * scale;
    var slope = scale * (g - means.x - normalized * means.y);
    if (ACCUMULATE) { slope += dx[first + c]; }
    dx[first + c] = slope;
  }
}
