// dweight, dbias = sums of the blocks' partials; set or accumulated.   partials: [P,2,C]; dweight, dbias: [C]
const P: u32 = 1;
const C: u32 = 1;
const ACCUMULATE: bool = false;
const WORKGROUP_SIZE: u32 = 64;

@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read_write> dweight: array<f32>;
@group(0) @binding(2) var<storage, read_write> dbias: array<f32>;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let c = id.x;
  if (c >= C) { return; }
  var sums = vec2f();
  for (var p = 0u; p < P; p++) {
    sums += vec2f(partials[p * 2 * C + c], partials[p * 2 * C + C + c]);
  }
  if (ACCUMULATE) { sums += vec2f(dweight[c], dbias[c]); }
  dweight[c] = sums.x;
  dbias[c] = sums.y;
}
