// y = a · b.   a: [M,K] or [K,M] transposed; b: [K,N]; shape.wgsl: their layout
//
// The case of matmul.wgsl in which every dimension is a multiple of four: four steps of k at a time,
// all loads and stores are vectors of four.
enable f16;

alias aType = vec4<f16>;
alias bType = vec4<f16>;
const TRANSPOSE_A: bool = false;
const ROWS: u32 = 8;
const COLUMNS: u32 = 2; // vectors of four
const WORKGROUP_X: u32 = 8;
const WORKGROUP_Y: u32 = 8;

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;

const SUMS: u32 = ROWS * COLUMNS;

@compute @workgroup_size(WORKGROUP_X, WORKGROUP_Y)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * WORKGROUP_Y + local.y) * ROWS;
  let column = group.x * WORKGROUP_X * COLUMNS + local.x; // of vectors
  let columns = shape.N / 4;
  if (row >= shape.M || column >= columns) { return; }

  // Eight vectors of a for four steps of k: along k one a row, or transposed along the rows two a
  // step. Indices past the edge are clamped, and what comes of them is never stored.
  var aIndex: array<u32, ROWS>;
  // unroll
  for (var i = 0u; i < ROWS; i++) {
    let transposed = i / 2 * shape.aStride + min(row / 4 + i % 2, shape.M / 4 - 1);
    let straight = min(row + i, shape.M - 1) * shape.aStride;
    aIndex[i] = shape.aStart + select(straight, transposed, TRANSPOSE_A);
  }
  let aStep = select(1u, 4 * shape.aStride, TRANSPOSE_A);
  var bIndex: array<u32, COLUMNS>;
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    bIndex[c] = min(column + c * WORKGROUP_X, columns - 1);
  }

  var sums: array<vec4f, SUMS>;
  for (var k4 = 0u; k4 < shape.K / 4; k4++) {
    var as4: array<vec4f, ROWS>;
    // unroll
    for (var i = 0u; i < ROWS; i++) {
      as4[i] = vec4f(a[aIndex[i] + k4 * aStep]);
    }
    // unroll
    for (var k = 0u; k < 4u; k++) {
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let bc = vec4f(b[bIndex[c] + (k4 * 4 + k) * shape.bStride]);
        // unroll
        for (var r = 0u; r < ROWS; r++) {
          const FROM = select(r, 2 * k + r / 4, TRANSPOSE_A);
          const LANE = select(k, r % 4, TRANSPOSE_A);
          sums[r * COLUMNS + c] += as4[FROM][LANE] * bc;
        }
      }
    }
  }

  // unroll
  for (var r = 0u; r < ROWS; r++) {
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      let n = column + c * WORKGROUP_X;
      if (row + r < shape.M && n < columns) { store(row + r, n, sums[r * COLUMNS + c]); }
    }
  }
}
