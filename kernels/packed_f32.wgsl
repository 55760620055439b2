// Four f32 elements, under the same names as in packed_f16.wgsl.
alias packed = vec4f;

fn unpacked(four: packed) -> vec4f {
  return four;
}
