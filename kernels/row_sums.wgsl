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
const LEADERS: u32 = 8;
// unless SUBGROUPS
const LED: u32 = LANES / LEADERS; // lanes whose values a leader adds up, with its own

// The first lanes of a row each add up the values of some lanes, and then every lane adds up theirs. This needs fewer
// barriers than a tree, and loads that wait for nothing.
// unless SUBGROUPS
fn sharedSums(values: vec2f, local: vec3u) -> vec2f {
  let place = local.y * LANES + local.x;
  workgroupBarrier(); // the previous sums have been read
  shares[place] = values;
  workgroupBarrier();
  if (local.x < LEADERS) {
    var sum = values;
    // unroll
    for (var i = 1u; i < LED; i++) {
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
