// Four f16 elements as the two words in which they are stored, for blocks that are fetched before they are used.
//
// If one of two branches loads a vec4<f16>, NVIDIA's compiler repacks the halves there and so waits for the load.
alias packed = vec2u;
alias Eight = vec4u; // two vectors of four

fn unpacked(four: packed) -> vec4f {
  return vec4f(unpack2x16float(four.x), unpack2x16float(four.y));
}

// Eight f16 elements as the four words in which they are stored.
fn packedEight(low: vec4f, high: vec4f) -> Eight {
  return Eight(
    pack2x16float(low.xy),
    pack2x16float(low.zw),
    pack2x16float(high.xy),
    pack2x16float(high.zw),
  );
}

fn lowOf(eight: Eight) -> packed {
  return eight.xy;
}

fn highOf(eight: Eight) -> packed {
  return eight.zw;
}
