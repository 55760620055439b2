// GELU, tanh approximation, and its slope, of a number or a vector of them. Functions only: the products
// before and after it compute it as they store their results (kernels/matmul/store_gelu*.wgsl).
const SQRT_2_OVER_PI: f32 = 0.7978845608028654;

// sqrt(2/π) · (x + 0.044715 · x³), clamped so that exp stays finite where f32 would overflow
fn geluArgument(x: value) -> value {
  return clamp(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x), value(-40.0), value(40.0));
}

// (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), without the cancellation near tanh u = -1
fn gelu(x: value) -> value {
  return x / (1.0 + exp(-2.0 * geluArgument(x)));
}

fn geluSlope(x: value) -> value {
  let decay = exp(-2.0 * geluArgument(x));
  let gate = 1.0 / (1.0 + decay);
  let du = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * x * x);
  return gate + x * 2.0 * gate * (decay * gate) * du;
}
