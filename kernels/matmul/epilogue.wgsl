// y = scale · sum + bias, of one element of sum = a · b or of four: how every kernel of this folder ends.
//
// bias: [N]; y, activated, hidden: [M,N]. In the forward pass activated = gelu(y) can be stored beside y; in
// the backward pass y can be multiplied by gelu'(hidden). Bindings 0 to 3 are those of the kernels.
enable f16;

alias value = vec4f; // what is stored at a time: four columns of a row, or one column: f32
alias yType = vec4<f16>;
const BIAS: bool = true;
const SCALED: bool = true;
const GELU: bool = true; // whether activated is stored
const GELU_BACKWARD: bool = true; // whether y is multiplied by gelu'(hidden)

struct Sizes {
  M: u32,
  N: u32,
  K: u32,
  split: u32, // the part of K over which one workgroup sums
  // strides and starts count elements of the bindings: numbers or vectors of four
  aStride: u32, // from one stored row of a to the next
  aStart: u32, // first element of a
  bStride: u32,
  yStride: u32,
  yStart: u32,
  accumulate: u32, // whether to add to what y holds: at run time, so that both cases share a pipeline
  scale: f32,
}

// only if BIAS
@group(0) @binding(4) var<storage, read> bias: array<value>;
// only if GELU_BACKWARD
@group(0) @binding(5) var<storage, read> hidden: array<yType>;
@group(0) @binding(6) var<storage, read_write> y: array<yType>;
// only if GELU
@group(0) @binding(7) var<storage, read_write> activated: array<yType>;
@group(0) @binding(8) var<uniform> sizes: Sizes;

const SQRT_2_OVER_PI: f32 = 0.7978845608028654;

// sqrt(2/π) · (x + 0.044715 · x³), clamped so that exp stays finite where f32 would overflow
fn geluArgument(x: value) -> value {
  return clamp(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x), value(-40.0), value(40.0));
}

// GELU, tanh approximation: (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), without the cancellation near tanh u = -1
fn gelu(x: value) -> value {
  return x / (1.0 + exp(-2.0 * geluArgument(x)));
}

fn geluDerivative(x: value) -> value {
  let decay = exp(-2.0 * geluArgument(x));
  let gate = 1.0 / (1.0 + decay);
  let du = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * x * x);
  return gate + x * 2.0 * gate * (decay * gate) * du;
}

// Stores what becomes of the sum of row m and column n, or of four columns from 4n.
fn store(m: u32, n: u32, sum: value) {
  let i = sizes.yStart + m * sizes.yStride + n;
  var result = sum;
  // only if SCALED
  result *= sizes.scale;
  // only if BIAS
  result += bias[n];
  if (sizes.accumulate != 0) { result += value(y[i]); }
  // only if GELU_BACKWARD
  result *= geluDerivative(value(hidden[i]));
  let rounded = yType(result);
  y[i] = rounded;
  // only if GELU
  activated[i] = yType(gelu(value(rounded))); // of y as the backward pass will read it
}
