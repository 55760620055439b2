// How the kernels by rows load a row of q, k, v or dy, each [HS].
//
// All invocations of a workgroup need the same row at the same time. If they form subgroups, each of the LANES
// lanes of a subgroup loads LOADS vectors of the row, and the lanes broadcast them to each other;
// kernels/matmul/lanes.wgsl gives the reason. Without subgroups LANES is 1, and an invocation loads the whole row.
// only if SUBGROUPS
enable subgroups;
// only if SUBGROUPS
diagnostic(off, subgroup_uniformity); // loops over rows end at the same iteration in a whole subgroup
const HS: u32 = 32;
const LANES: u32 = 8;
const LOADS: u32 = 1; // vectors of a row that a lane loads: QUADS / LANES, rounded up
const SUBGROUPS: bool = true;

const QUADS: u32 = HS / 4; // vectors of four in a row

// Index of the vector of a row that a lane loads as number i.
fn quadOf(i: u32, lane: u32) -> u32 {
  return min(i * LANES + lane, QUADS - 1);
}

// The row whose vectors the lanes have loaded. All lanes must call it together.
fn rowOf(loaded: array<vec4f, LOADS>) -> array<vec4f, QUADS> {
  var row: array<vec4f, QUADS>;
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    let quad = loaded[i / LANES];
    // only if SUBGROUPS
    row[i] = subgroupBroadcast(quad, i % LANES);
    // unless SUBGROUPS
    row[i] = quad;
  }
  return row;
}
