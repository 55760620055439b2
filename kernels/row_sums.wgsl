// How rows [M,C] are laid out over invocations, and sums over a row: for layernorm, rmsnorm and rope.
//
// LANES invocations share a row, and a workgroup has ROWS rows. A lane keeps QUADS vectors of four of its row in
// registers, those at lane, lane + LANES, lane + 2 · LANES, …, so that memory is read once.
// only if SUBGROUPS
enable subgroups;
const LANES: u32 = 32;
const ROWS: u32 = 8;
const QUADS: u32 = 1;
const LEADERS: u32 = 8; // divides LANES, unless SUBGROUPS
const SUBGROUPS: bool = true; // whether the lanes of a row are a subgroup

// unless SUBGROUPS
const SHARES: u32 = LANES * ROWS;
// unless SUBGROUPS
const TERMS: u32 = LANES / LEADERS; // values that a leader adds up
// unless SUBGROUPS
var<workgroup> shares: array<vec2f, SHARES>;

// The first LEADERS lanes of a row each add up TERMS values, and then every lane adds up the sums of the leaders. A tree
// would need a barrier per level, and each of its loads would wait for the one before.
// unless SUBGROUPS
fn sharedSums(values: vec2f, local: vec3u) -> vec2f {
  let place = local.y * LANES + local.x;
  workgroupBarrier(); // the previous sums have been read
  shares[place] = values;
  workgroupBarrier();
  if (local.x < LEADERS) {
    var sum = values;
    // unroll
    for (var i = 1u; i < TERMS; i++) {
      sum += shares[place + i * LEADERS];
    }
    shares[place] = sum;
  }
  workgroupBarrier();
  var sum = vec2f();
  // unroll
  for (var i = 0u; i < LEADERS; i++) {
    sum += shares[local.y * LANES + i];
  }
  return sum;
}

// Sums over the lanes of a row. A subgroup needs no barrier; barriers are expensive on a CPU adapter.
fn rowSums(values: vec2f, local: vec3u) -> vec2f {
  var sums: vec2f;
  // only if SUBGROUPS
  sums = subgroupAdd(values);
  // unless SUBGROUPS
  sums = sharedSums(values, local);
  return sums;
}
