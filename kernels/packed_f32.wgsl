// Four f32 elements, under the same names as in packed_f16.wgsl.
alias packed = vec4f;
alias Eight = array<vec4f, 2>;

fn unpacked(four: packed) -> vec4f {
  return four;
}

fn packedEight(low: vec4f, high: vec4f) -> Eight {
  return Eight(low, high);
}

fn lowOf(eight: Eight) -> packed {
  return eight[0];
}

fn highOf(eight: Eight) -> packed {
  return eight[1];
}
