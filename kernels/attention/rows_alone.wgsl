// How the kernels in rows read what all invocations of a workgroup need: each for itself.
const LANES: u32 = 1;
const PARTS: u32 = QUADS;

// Which vector of a row an invocation reads in turn p.
fn partOf(p: u32, lane: u32) -> u32 {
  return p;
}

fn together(parts: array<vec4f, PARTS>) -> array<vec4f, QUADS> {
  return parts;
}
