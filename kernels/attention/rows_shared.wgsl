// How the kernels in rows read what all invocations of a workgroup need: each of the LANES of a subgroup
// some vectors, which they then broadcast. kernels/matmul/lanes.wgsl says why. All lanes come together.
const LANES: u32 = 8;
const PARTS: u32 = 1; // vectors that a lane reads of a row: QUADS / LANES, rounded up

// Which vector of a row an invocation reads in turn p.
fn partOf(p: u32, lane: u32) -> u32 {
  return min(p * LANES + lane, QUADS - 1);
}

fn together(parts: array<vec4f, PARTS>) -> array<vec4f, QUADS> {
  var row: array<vec4f, QUADS>;
  // unroll
  for (var i = 0u; i < QUADS; i++) {
    row[i] = subgroupBroadcast(parts[i / LANES], i % LANES);
  }
  return row;
}
