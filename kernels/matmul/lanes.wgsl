// y = a · b.   a: [M,K] or [K,M] transposed; b: [K,N] or [N,K] transposed; shape.wgsl: their layout
//
// For CPUs whose invocations compute in lanes of one vector register, LANES of them a subgroup. There a
// load costs as much as dozens of multiply-adds, since each lane fetches for itself (lavapipe, Mesa 22.3:
// four fifths of a product's time), but what a lane has fetched it can broadcast for next to nothing. So
// the lanes have a vector of four columns each and the same ROWS rows: of b every lane loads its own, of
// a together they load each element once.
enable f16;

alias aType = vec4<f16>;
alias bType = vec4<f16>;
const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false;
const ROWS: u32 = 32;
const LANES: u32 = 8;
const STRIPS: u32 = 4; // subgroups of a workgroup, one below the other

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;

const INVOCATIONS: u32 = LANES * STRIPS;
const ROW_QUADS: u32 = ROWS / 4;
const LOADS: u32 = ROWS / LANES;

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let lane = index % LANES;
  let row = (group.y * STRIPS + index / LANES) * ROWS;
  let column4 = group.x * LANES + lane;
  let columns4 = (shape.N + 3) / 4;

  // ROWS vectors of a hold four steps of k: along k one a row, or transposed along the rows ROW_QUADS a
  // step. Indices past the edge are clamped, and what comes of them is never stored.
  var aIndex: array<u32, LOADS>;
  // unroll
  for (var q = 0u; q < LOADS; q++) {
    let v = q * LANES + lane;
    let transposed = v / ROW_QUADS * shape.aStride + min(row / 4 + v % ROW_QUADS, (shape.M - 1) / 4);
    let straight = min(row + v, shape.M - 1) * shape.aStride;
    aIndex[q] = shape.aStart + select(straight, transposed, TRANSPOSE_A);
  }
  let aStep = select(1u, 4 * shape.aStride, TRANSPOSE_A);
  var bIndex: array<u32, 4>;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let transposed = min(4 * column4 + i, shape.N - 1) * shape.bStride;
    bIndex[i] = select(i * shape.bStride + min(column4, columns4 - 1), transposed, TRANSPOSE_B);
  }
  let bStep = select(4 * shape.bStride, 1u, TRANSPOSE_B);

  var sums: array<vec4f, ROWS>;
  for (var k4 = 0u; k4 < shape.K / 4; k4++) {
    var mine: array<vec4f, LOADS>;
    // unroll
    for (var q = 0u; q < LOADS; q++) {
      mine[q] = vec4f(a[aIndex[q] + k4 * aStep]);
    }
    var rowsOfB: mat4x4f; // [k][column]
    // unroll
    for (var i = 0u; i < 4u; i++) {
      rowsOfB[i] = vec4f(b[bIndex[i] + k4 * bStep]);
    }
    if (TRANSPOSE_B) { rowsOfB = transpose(rowsOfB); }
    // unroll
    for (var v = 0u; v < ROWS; v++) {
      let shared4 = subgroupBroadcast(mine[v / LANES], v % LANES);
      // unroll
      for (var j = 0u; j < 4u; j++) {
        const ROW = select(v, v % ROW_QUADS * 4 + j, TRANSPOSE_A);
        const STEP = select(j, v / ROW_QUADS, TRANSPOSE_A);
        sums[ROW] = fma(vec4f(shared4[j]), rowsOfB[STEP], sums[ROW]);
      }
    }
  }

  // unroll
  for (var r = 0u; r < ROWS; r++) {
    if (row + r < shape.M && column4 < columns4) { store(row + r, column4, sums[r]); }
  }
}
