// How an invocation reads the rows over which the kernels without tiles loop, and which keys a query sees.
//
// All invocations of a workgroup loop over the same rows of q, k, v or dy, each [HS], at the same time. If they
// form subgroups, each of the LANES of a subgroup loads PARTS vectors of a row and the lanes exchange them;
// kernels/matmul/lanes.wgsl explains why. Otherwise LANES is 1 and an invocation loads the whole row.
const HS: u32 = 32;
const LANES: u32 = 8;
const PARTS: u32 = 1; // vectors of a row that a lane loads: QUADS / LANES, rounded up
const SUBGROUPS: bool = true;
const WINDOW: u32 = 0x80000000; // tokens that a query sees, itself and those before it

const QUADS: u32 = HS / 4; // vectors of four in a row

// The vector of a row that a lane loads as its part p.
fn partOf(p: u32, lane: u32) -> u32 {
  return min(p * LANES + lane, QUADS - 1);
}

// The row of which each lane has loaded its parts. All lanes must call it together.
fn rowOf(parts: array<vec4f, PARTS>) -> array<vec4f, QUADS> {
  var row: array<vec4f, QUADS>;
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    let part = parts[i / LANES];
    // only if SUBGROUPS
    row[i] = subgroupBroadcast(part, i % LANES);
    // unless SUBGROUPS
    row[i] = part;
  }
  return row;
}

// The first key that a query sees.
fn firstSeen(query: u32) -> u32 {
  return select(0u, query - (WINDOW - 1), query >= WINDOW);
}
