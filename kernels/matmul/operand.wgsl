// vector.wgsl's a, as it is.
fn prepare(id: u32) {}

fn operand(k4: u32) -> vec4f {
  return vec4f(a[shape.aStart + k4]);
}
