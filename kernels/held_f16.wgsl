// Four elements of f16, fetched ahead and held as the two words in which they lie in memory.
//
// If one of two branches loads four f16, NVIDIA's compiler packs the halves at once, and so waits for them.
alias held = vec2u;

fn widened(four: held) -> vec4f {
  return vec4f(unpack2x16float(four.x), unpack2x16float(four.y));
}
