// adamw.wgsl's store() under autocast: the f32 master and its f16 copy, which the matrix products read.
alias real = f16;

@group(0) @binding(6) var<storage, read_write> copy: array<vec4<real>>;

fn store(i: u32, value: vec4f) {
  parameter[i] = value;
  copy[i] = vec4<real>(value);
}
