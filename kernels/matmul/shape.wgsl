// Sizes and layout of a product, and where its result goes. Completes every kernel of this folder; a
// store*.wgsl then says what becomes of a sum.   bias: [N]; y: [M,N] in rows of yStride
alias value = vec4f; // what is stored at a time: a vector of four columns, or f32
alias yType = vec4<f16>;
const FIRST: u32 = 2; // first binding after those of the kernel
const EXTRA: u32 = 0; // bindings that store*.wgsl adds
const SCALE: f32 = 1.0; // of the product

struct Shape {
  M: u32,
  N: u32,
  K: u32,
  split: u32, // how much of K one workgroup takes
  // strides and starts count elements of the bindings: numbers or vectors of four
  aStride: u32, // from one stored row of a to the next
  aStart: u32, // first element of a
  bStride: u32,
  yStride: u32,
  yStart: u32,
  hasBias: u32,
  accumulate: u32, // add to what y holds
}

@group(0) @binding(FIRST) var<storage, read> bias: array<value>;
@group(0) @binding(FIRST + 1) var<storage, read_write> y: array<yType>;
@group(0) @binding(FIRST + 2 + EXTRA) var<uniform> shape: Shape;

// The sum, or sums, of row m and column n, with bias and the old value of y.
fn completed(m: u32, n: u32, sum: value) -> value {
  var result = SCALE * sum;
  if (shape.hasBias != 0) { result += bias[n]; }
  if (shape.accumulate != 0) { result += value(y[indexOf(m, n)]); }
  return result;
}

fn indexOf(m: u32, n: u32) -> u32 {
  return shape.yStart + m * shape.yStride + n;
}
