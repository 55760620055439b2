// How rows [M,C] are laid out over invocations, and sums over a row: for layernorm, rmsnorm and rope.
//
// LANES invocations share a row, and a workgroup has ROWS rows. A lane keeps QUADS vectors of four of its row in
// registers, those at lane, lane + LANES, lane + 2 · LANES, …, so that memory is read once.
// only if SUBGROUPS
enable subgroups;
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
  workgroupBarrier(); // the previous sums have been read
  shares[place] = values;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.x < half) { shares[place] += shares[place + half]; }
  }
  workgroupBarrier();
  return shares[local.y * LANES];
}

// Sums over the lanes of a row. A subgroup needs no barrier; barriers are expensive on a CPU adapter.
fn rowSums(values: vec2f, local: vec3u) -> vec2f {
  var sums: vec2f;
  // only if SUBGROUPS
  sums = subgroupAdd(values);
  // unless SUBGROUPS
  sums = treeSums(values, local);
  return sums;
}
