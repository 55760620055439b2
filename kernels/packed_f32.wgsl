// Four elements of f32, under the names that packed_f16.wgsl explains.
alias packed = vec4f;

fn unpacked(four: packed) -> vec4f {
  return four;
}
