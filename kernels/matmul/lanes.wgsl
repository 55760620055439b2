// y = a · b.   a: [M,K], or [K,M] transposed; b: [K,N], or [N,K] transposed; y: [M,N]; vectors of four; or a batch
// Needs Sizes and store() from epilogue.wgsl.
//
// For CPUs, where a subgroup's LANES invocations are the lanes of one vector register. A load there costs as much
// as dozens of multiply-adds, because every lane loads separately (lavapipe, Mesa 22.3: four fifths of the time of
// a product), while a broadcast of a value that a lane has loaded costs next to nothing. So a subgroup computes
// ROWS rows of y. Each lane has four columns of all of them and loads these columns of b; the elements of a are
// loaded once, by all lanes together. The STRIPS subgroups of a workgroup have rows below each other. With
// LANES = 4:
//
//          ┌────── 4 · LANES columns ──────┐
//          │lane 0 │lane 1 │lane 2 │lane 3 │  ROWS rows: subgroup 0
//          ├───────┼───────┼───────┼───────┤
//          │lane 0 │lane 1 │lane 2 │lane 3 │  ROWS rows: subgroup 1, up to STRIPS
//          └───────┴───────┴───────┴───────┘
enable f16;
enable subgroups;

alias aType = vec4<f16>;
alias bType = vec4<f16>;
const TRANSPOSE_A: bool = false;
const TRANSPOSE_B: bool = false;
const ROWS: u32 = 32;
const LANES: u32 = 8;
const STRIPS: u32 = 4;

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;

const INVOCATIONS: u32 = LANES * STRIPS;
const ROW_QUADS: u32 = ROWS / 4;
const LOADS: u32 = ROWS / LANES; // vectors of a that a lane loads per four steps of k

@compute @workgroup_size(INVOCATIONS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) index: u32) {
  let lane = index % LANES;
  let row = (group.y * STRIPS + index / LANES) * ROWS;
  let column4 = group.x * LANES + lane;
  let columns4 = (sizes.N + 3) / 4;

  // ROWS vectors of a hold four steps of k: one vector along k per row, or if a is transposed ROW_QUADS vectors
  // along the rows per step. Indices past the edges are clamped, and their sums are not stored.
  let aFirst = sizes.aStart + group.z * sizes.aMatrix;
  let bFirst = group.z * sizes.bMatrix;
  var aIndex: array<u32, LOADS>;
  // unroll
  for (var q = 0u; q < LOADS; q++) {
    let v = q * LANES + lane;
    let transposed = v / ROW_QUADS * sizes.aStride + min(row / 4 + v % ROW_QUADS, (sizes.M - 1) / 4);
    let straight = min(row + v, sizes.M - 1) * sizes.aStride;
    aIndex[q] = aFirst + select(straight, transposed, TRANSPOSE_A);
  }
  let aStep = select(1u, 4 * sizes.aStride, TRANSPOSE_A);
  var bIndex: array<u32, 4>;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let transposed = min(4 * column4 + i, sizes.N - 1) * sizes.bStride;
    bIndex[i] = bFirst + select(i * sizes.bStride + min(column4, columns4 - 1), transposed, TRANSPOSE_B);
  }
  let bStep = select(4 * sizes.bStride, 1u, TRANSPOSE_B);

  var sums: array<vec4f, ROWS>;
  for (var k4 = 0u; k4 < sizes.K / 4; k4++) {
    var loaded: array<vec4f, LOADS>;
    // unroll
    for (var q = 0u; q < LOADS; q++) {
      loaded[q] = vec4f(a[aIndex[q] + k4 * aStep]);
    }
    var bRows: mat4x4f; // [k][column]
    // unroll
    for (var i = 0u; i < 4u; i++) {
      bRows[i] = vec4f(b[bIndex[i] + k4 * bStep]);
    }
    if (TRANSPOSE_B) { bRows = transpose(bRows); }
    // unroll
    for (var v = 0u; v < ROWS; v++) {
      let a4 = subgroupBroadcast(loaded[v / LANES], v % LANES);
      // unroll
      for (var j = 0u; j < 4u; j++) {
        const ROW = select(v, v % ROW_QUADS * 4 + j, TRANSPOSE_A);
        const STEP = select(j, v / ROW_QUADS, TRANSPOSE_A);
        sums[ROW] = fma(vec4f(a4[j]), bRows[STEP], sums[ROW]);
      }
    }
  }

  // unroll
  for (var r = 0u; r < ROWS; r++) {
    if (row + r < sizes.M && column4 < columns4) { store(group.z * sizes.M + row + r, column4, sums[r]); }
  }
}
