// y = a · bᵀ.   a: [M,K]; b: [N,K]; shape.wgsl: their layout
//
// The case of matmul.wgsl in which both operands lie along K: four steps of k at a time come
// in one vector. N need not be a multiple of anything, since y is written number by number.
enable f16;

alias aType = vec4<f16>;
alias bType = vec4<f16>;
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

  var aIndex: array<u32, ROWS>;
  // unroll
  for (var r = 0u; r < ROWS; r++) {
    aIndex[r] = shape.aStart + min(row + r, shape.M - 1) * shape.aStride;
  }
  var bIndex: array<u32, COLUMNS>;
  // unroll
  for (var c = 0u; c < COLUMNS; c++) {
    bIndex[c] = min(column + c * WORKGROUP_X, shape.N - 1) * shape.bStride;
  }

  var sums: array<f32, SUMS>;
  for (var k = 0u; k < shape.K / 4; k++) {
    var bs: array<vec4f, COLUMNS>;
    // unroll
    for (var c = 0u; c < COLUMNS; c++) {
      bs[c] = vec4f(b[bIndex[c] + k]);
    }
    // unroll
    for (var r = 0u; r < ROWS; r++) {
      let ar = vec4f(a[aIndex[r] + k]);
      // unroll
      for (var c = 0u; c < COLUMNS; c++) {
        let i = r * COLUMNS + c;
        var sum = fma(ar.x, bs[c].x, sums[i]);
        sum = fma(ar.y, bs[c].y, sum);
        sum = fma(ar.z, bs[c].z, sum);
        sums[i] = fma(ar.w, bs[c].w, sum);
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
