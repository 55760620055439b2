// y = a · b.   a: [M,K] or [K,M] transposed; b: [K,N] or [N,K] transposed; shape.wgsl: their layout
//
// Each invocation keeps ROWS × COLUMNS sums in registers and walks K once: ROWS + COLUMNS loads feed
// ROWS · COLUMNS multiply-adds. An invocation's columns lie WORKGROUP_X apart, so that neighbours read
// and write neighbouring elements. Past the edge indices are clamped, not tested: the loop has no
// tail, and what it computes there is never stored. This kernel takes any size; where dimensions are
// multiples of four, the others load vectors.
enable f16;

alias aType = f16;
alias bType = f16;
const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false;
const ROWS: u32 = 8;
const COLUMNS: u32 = 8;
const WORKGROUP_X: u32 = 8;
const WORKGROUP_Y: u32 = 8;

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;

const SUMS: u32 = ROWS * COLUMNS;

@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * WORKGROUP_Y + local.y) * ROWS;
  let column = group.x * WORKGROUP_X * COLUMNS + local.x;
  if (row >= shape.M || column >= shape.N) { return; }

  // where each row of a and column of b begins, and how far one step of k goes
  let aStep = select(1u, shape.aStride, TRANSPOSE_A);
  let bStep = select(shape.bStride, 1u, TRANSPOSE_B);
  var aIndex: array<u32, ROWS>;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    aIndex[r] = shape.aStart + min(row + r, shape.M - 1) * select(shape.aStride, 1u, TRANSPOSE_A);
  }
  var bIndex: array<u32, COLUMNS>;
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    bIndex[c] = min(column + c * WORKGROUP_X, shape.N - 1) * select(1u, shape.bStride, TRANSPOSE_B);
  }

  var sums: array<f32, SUMS>;
  for (var k = 0u; k < shape.K; k++) {
    var bs: array<f32, COLUMNS>;
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      bs[c] = f32(b[bIndex[c] + k * bStep]);
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      let ar = f32(a[aIndex[r] + k * aStep]);
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        sums[r * COLUMNS + c] += ar * bs[c];
      }
    }
  }

  // unroll
  for (var r = 0u; r < ROWS; r++) {
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      let n = column + c * WORKGROUP_X;
      if (row + r < shape.M && n < shape.N) { store(row + r, n, sums[r * COLUMNS + c]); }
    }
  }
}
