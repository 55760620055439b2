// dweight, dbias = sums of the blocks' partials; set or accumulated.   dweight, dbias: [C]
// partials: [P,2,C], or without BIAS [P,1,C]
//
// A workgroup sums COLUMNS vectors of four columns of dweight or dbias, and SHARES invocations share one vector.
const ACCUMULATE: bool = true;
const BIAS: bool = true; // whether there is dbias
const COLUMNS: u32 = 8;
const SHARES: u32 = 32;

struct Sizes {
  P: u32,
  columns4: u32, // C / 4
}

@group(0) @binding(0) var<storage, read> partials: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> dweight: array<vec4f>;
// only if BIAS
@group(0) @binding(2) var<storage, read_write> dbias: array<vec4f>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

const STRIDE: u32 = 4 * SHARES;
const SUMS: u32 = COLUMNS * SHARES;
var<workgroup> sums: array<vec4f, SUMS>;

@compute @workgroup_size(COLUMNS, SHARES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let c = group.x * COLUMNS + local.x; // column of dweight and dbias side by side
  let columns = select(1u, 2u, BIAS) * sizes.columns4;
  let inside = c < columns;
  var sum = vec4f();
  if (inside) {
    for (var p = local.y; p < sizes.P; p += STRIDE) {
      // four are loaded together, so that their latencies overlap
      // unroll
      for (var i = 0u; i < 4u; i++) {
        let block = p + i * SHARES;
        sum += select(vec4f(), partials[min(block, sizes.P - 1) * columns + c], block < sizes.P);
      }
    }
  }
  let place = local.y * COLUMNS + local.x;
  sums[place] = sum;
  for (var half = SHARES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.y < half) { sums[place] += sums[place + half * COLUMNS]; }
  }
  if (local.y != 0) { return; }
  sum = sums[place];
  if (c < sizes.columns4) {
    if (ACCUMULATE) { sum += dweight[c]; }
    dweight[c] = sum;
  } else if (inside) {
    // only if BIAS
    {
      let at = c - sizes.columns4;
      if (ACCUMULATE) { sum += dbias[at]; }
      dbias[at] = sum;
    }
  }
}
