// Four elements of f16, fetched ahead and held as the two words in which they lie in memory: of four f16
// that come by one of two ways, NVIDIA's compiler puts the halves together at once, and so waits for them.
alias held = vec2u;

fn widened(four: held) -> vec4f {
  return vec4f(unpack2x16float(four.x), unpack2x16float(four.y));
}
