// Which invocation has which elements of rows [M,C], and sums over a row: shared by forward and backward.
//
// LANES invocations share a row, ROWS rows a workgroup. A lane has the vectors of four lane, lane + LANES,
// lane + 2 · LANES, … of its row, QUADS of them, and keeps them in registers: memory is read once.
const LANES: u32 = 32;
const ROWS: u32 = 8;
const QUADS: u32 = 1;
const SUBGROUPS: bool = true; // whether the lanes of a row are a subgroup

// unless SUBGROUPS
const SHARES: u32 = LANES * ROWS;
// unless SUBGROUPS
var<workgroup> shares: array<vec2f, SHARES>;

// unless SUBGROUPS
fn treeSums(values: vec2f, local: vec3u) -> vec2f {
  let place = local.y * LANES + local.x;
  workgroupBarrier(); // the sums before have been read
  shares[place] = values;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.x < half) { shares[place] += shares[place + half]; }
  }
  workgroupBarrier();
  return shares[local.y * LANES];
}

// Sums over the lanes of a row. A subgroup needs no barrier, which a CPU adapter pays dearly.
fn rowSums(values: vec2f, local: vec3u) -> vec2f {
  var sums: vec2f;
  // only if SUBGROUPS
  sums = subgroupAdd(values);
  // unless SUBGROUPS
  sums = treeSums(values, local);
  return sums;
}
