// y = a · b for a single row a.   a: [K]; b: [K,N], or [N,K] transposed; shape.wgsl: their layout
// operand*.wgsl says what becomes of a first
//
// What generation runs, one token at a time: each element of b is read once, and that is all there is to
// do. A workgroup has QUADS vectors of four columns of y. LANES invocations share each: one takes four
// steps of k at a time, that is four rows of b that hold four columns each, or transposed four columns
// that hold four steps each. Neighbours read neighbouring vectors of b, and the lanes' sums meet in
// workgroup memory.
enable f16;

alias aType = vec4<f16>;
alias bType = vec4<f16>;
const TRANSPOSE_B: bool = false;
const QUADS: u32 = 4;
const LANES: u32 = 64;

@group(0) @binding(0) var<storage, read> a: array<aType>;
@group(0) @binding(1) var<storage, read> b: array<bType>;

const WORKGROUP_SIZE: u32 = QUADS * LANES;
var<workgroup> sums: array<vec4f, WORKGROUP_SIZE>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) id: u32) {
  let lane = select(id / QUADS, id % LANES, TRANSPOSE_B);
  let quad = select(id % QUADS, id / LANES, TRANSPOSE_B);
  let column = (group.x * QUADS + quad) * 4;

  prepare(id);
  var sum = vec4f();
  for (var k4 = lane; k4 < shape.K / 4; k4 += LANES) {
    let ak = operand(k4);
    // unroll
    for (var i = 0u; i < 4u; i++) {
      if (TRANSPOSE_B) {
        let row = min(column + i, shape.N - 1);
        sum[i] += dot(ak, vec4f(b[row * shape.bStride + k4]));
      } else {
        let columns = min(column, shape.N - 1) / 4;
        sum += ak[i] * vec4f(b[(4 * k4 + i) * shape.bStride + columns]);
      }
    }
  }

  // by fours, as every barrier takes its time
  let place = lane * QUADS + quad;
  sums[place] = sum;
  for (var left = LANES; left > 1; ) {
    let quarter = (left + 3) / 4;
    workgroupBarrier();
    if (lane < quarter) {
      // unroll
      for (var i = 1u; i < 4u; i++) {
        if (lane + i * quarter < left) { sum += sums[place + i * quarter * QUADS]; }
      }
      sums[place] = sum;
    }
    left = quarter;
  }
  if (lane != 0) { return; }
  // unroll
  for (var i = 0u; i < 4u; i++) {
    if (column + i < shape.N) { store(0, column + i, sum[i]); }
  }
}
