// Four elements of f32; held_f16.wgsl says why they have names of their own.
alias held = vec4f;

fn widened(four: held) -> vec4f {
  return four;
}
