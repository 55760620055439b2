// adamw.wgsl's store() in f32 training: the parameter alone.
fn store(i: u32, value: vec4f) {
  parameter[i] = value;
}
