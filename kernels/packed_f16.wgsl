// Four elements of f16 as the two words in which they lie in memory, for blocks that are fetched ahead.
//
// If one of two branches loads a vec4<f16>, NVIDIA's compiler packs the halves at once, and so waits for them.
alias packed = vec2u;

fn unpacked(four: packed) -> vec4f {
  return vec4f(unpack2x16float(four.x), unpack2x16float(four.y));
}
