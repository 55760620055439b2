// For each block of BLOCK rows: sums of dy · x̂ and of dy over its rows.
// x, dy: [M,C]; mean, rstd: [M]; partials: [P,2,C], P blocks
enable f16;

alias xType = f16;
alias dyType = f16;
const M: u32 = 1;
const C: u32 = 1;
const BLOCK: u32 = 64;
const WORKGROUP_SIZE: u32 = 64;

@group(0) @binding(0) var<storage, read> x: array<xType>;
@group(0) @binding(1) var<storage, read> mean: array<f32>;
@group(0) @binding(2) var<storage, read> rstd: array<f32>;
@group(0) @binding(3) var<storage, read> dy: array<dyType>;
@group(0) @binding(4) var<storage, read_write> partials: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let c = group.x * WORKGROUP_SIZE + local.x;
  if (c >= C) { return; }
  var dweight = 0.0;
  var dbias = 0.0;
  let first = group.y * BLOCK;
  for (var m = first; m < min(first + BLOCK, M); m++) {
    let slope = f32(dy[m * C + c]);
    dweight += slope * (f32(x[m * C + c]) - mean[m]) * rstd[m];
    dbias += slope;
  }
  partials[group.y * 2 * C + c] = dweight;
  partials[group.y * 2 * C + C + c] = dbias;
}
