// Four elements of f32, fetched ahead; held_f16.wgsl says why there is a name for them.
alias held = vec4f;

fn widened(four: held) -> vec4f {
  return four;
}
