// Sums over the rows of a workgroup, one vector of four columns per lane: for gradients of parameters.
// Needs LANES and ROWS from row_sums.wgsl.
const COLUMNS: u32 = LANES * ROWS;
var<workgroup> columns: array<vec4f, COLUMNS>;

// Sum over the rows of the workgroup; only the first row gets it.
fn columnSum(value: vec4f, local: vec3u) -> vec4f {
  workgroupBarrier(); // the previous sums have been read
  columns[local.y * LANES + local.x] = value;
  workgroupBarrier();
  var sum = value;
  if (local.y == 0) {
    // all rows are loaded together, so that their latencies overlap
    // unroll
    for (var row = 1u; row < ROWS; row++) {
      sum += columns[row * LANES + local.x];
    }
  }
  return sum;
}
