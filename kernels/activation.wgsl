// Activation functions and their derivatives, by element.   x: [N], as one vector of four or one number
alias value = vec4f; // four elements, or f32: one
const ACTIVATION: u32 = GELU_NEW; // the function: GELU_NEW, GELU, RELU, RELU2 or SILU

const GELU_NEW = 0u;
const GELU = 1u;
const RELU = 2u;
const SILU = 3u;
const RELU2 = 4u;

const SQRT_2_OVER_PI: f32 = 0.7978845608028654;
const SQRT_HALF: f32 = 0.7071067811865476;
const LARGEST_EXPONENT: f32 = 80.0; // exp() of it and of its negative are normal f32 numbers

// sqrt(2/π) · (x + 0.044715 · x³), clamped so that exp stays finite where f32 would overflow
fn geluArgument(x: value) -> value {
  return clamp(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x), value(-40.0), value(40.0));
}

// GELU, tanh approximation: (1 + tanh u) / 2 = 1 / (1 + exp(-2u)), without the cancellation near tanh u = -1
fn geluNew(x: value) -> value {
  return x / (1.0 + exp(-2.0 * geluArgument(x)));
}

fn geluNewDerivative(x: value) -> value {
  let decay = exp(-2.0 * geluArgument(x));
  let gate = 1.0 / (1.0 + decay);
  let du = SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * x * x);
  return gate + x * 2.0 * gate * (decay * gate) * du;
}

// Φ(x) = erfc(-x / sqrt(2)) / 2, the cumulative distribution of the standard normal one: for x < 0 by a Chebyshev
// fit of erfc with a relative error of 1.2e-7 (Press et al., Numerical Recipes in C, section 6.2), and for x ≥ 0
// by Φ(x) = 1 - Φ(-x).
fn normalCdf(x: value) -> value {
  let z = min(abs(x) * SQRT_HALF, value(9.0)); // exp(-81) is a normal f32 number
  let t = 1.0 / (1.0 + 0.5 * z);
  var fit = 0.17087277 * t - 0.82215223;
  fit = fit * t + 1.48851587;
  fit = fit * t - 1.13520398;
  fit = fit * t + 0.27886807;
  fit = fit * t - 0.18628806;
  fit = fit * t + 0.09678418;
  fit = fit * t + 0.37409196;
  fit = fit * t + 1.00002368;
  fit = fit * t - 1.26551223;
  let below = 0.5 * t * exp(fit - z * z);
  return select(1.0 - below, below, x < value());
}

// GELU as it is defined, x · Φ(x)
fn gelu(x: value) -> value {
  return x * normalCdf(x);
}

fn geluDerivative(x: value) -> value {
  let density = 0.5 * SQRT_2_OVER_PI * exp(-min(0.5 * x * x, value(LARGEST_EXPONENT)));
  return normalCdf(x) + x * density;
}

// x · sigmoid(x) is x / (1 + e) with e = exp(-x)
fn siluDecay(x: value) -> value {
  return exp(clamp(-x, value(-LARGEST_EXPONENT), value(LARGEST_EXPONENT)));
}

fn siluDerivative(x: value) -> value {
  let decay = siluDecay(x);
  let gate = 1.0 / (1.0 + decay);
  return gate + x * gate * (decay * gate);
}

// not max(x, 0): a driver for NVIDIA makes 0 of NaN there, also if it is written with select()
fn relu(x: value) -> value {
  return x - min(x, value());
}

fn relu2(x: value) -> value {
  let positive = relu(x);
  return positive * positive;
}

fn activation(x: value) -> value {
  if (ACTIVATION == GELU) { return gelu(x); }
  if (ACTIVATION == RELU) { return relu(x); }
  if (ACTIVATION == RELU2) { return relu2(x); }
  if (ACTIVATION == SILU) { return x / (1.0 + siluDecay(x)); }
  return geluNew(x);
}

fn activationDerivative(x: value) -> value {
  if (ACTIVATION == GELU) { return geluDerivative(x); }
  if (ACTIVATION == RELU) { return select(value(1.0), value(), x <= value()); }
  if (ACTIVATION == RELU2) { return 2.0 * relu(x); }
  if (ACTIVATION == SILU) { return siluDerivative(x); }
  return geluNewDerivative(x);
}
