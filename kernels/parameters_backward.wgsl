// first, second, third = Σ partials over the P blocks, each the gradient of a parameter; set or accumulated.
// partials: [P,SUMS,C]; first, second, third: [C]
//
// A workgroup sums COLUMNS vectors of four columns, and SHARES invocations share one vector.
const ACCUMULATE: bool = true;
const SECOND: bool = true; // whether there is a second sum
const THIRD: bool = true; // whether there is a third one
const COLUMNS: u32 = 8;
const SHARES: u32 = 32;

struct Sizes {
  P: u32,
  columns4: u32, // C / 4
}

@group(0) @binding(0) var<storage, read> partials: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> first: array<vec4f>;
// only if SECOND
@group(0) @binding(2) var<storage, read_write> second: array<vec4f>;
// only if THIRD
@group(0) @binding(3) var<storage, read_write> third: array<vec4f>;
@group(0) @binding(4) var<uniform> sizes: Sizes;

const SUMS: u32 = 1 + select(0u, 1u, SECOND) + select(0u, 1u, THIRD);
const STRIDE: u32 = 4 * SHARES;
const INVOCATIONS: u32 = COLUMNS * SHARES;
var<workgroup> sums: array<vec4f, INVOCATIONS>;

@compute @workgroup_size(COLUMNS, SHARES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let c = group.x * COLUMNS + local.x; // column of all sums side by side
  let columns = SUMS * sizes.columns4;
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
  if (local.y != 0 || !inside) { return; }
  sum = sums[place];
  let number = c / sizes.columns4; // of the sum
  let at = c % sizes.columns4;
  if (number == 0) {
    if (ACCUMULATE) { sum += first[at]; }
    first[at] = sum;
  }
  // only if SECOND
  if (number == 1) {
    if (ACCUMULATE) { sum += second[at]; }
    second[at] = sum;
  }
  // only if THIRD
  if (number == 2) {
    if (ACCUMULATE) { sum += third[at]; }
    third[at] = sum;
  }
}
