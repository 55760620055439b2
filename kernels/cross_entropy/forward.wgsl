// loss = −log softmax(logits)[target], smoothed.   targets: [≥M], 0xffffffff for none; losses: [≥M]
enable f16;

@group(0) @binding(0) var<storage, read> logits: array<real4>;
@group(0) @binding(1) var<storage, read> targets: array<u32>;
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;
@group(0) @binding(3) var<uniform> shape: Shape;

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let m = (group.y * 32768 + group.x) * ROWS + local.y;
  let row4 = min(m, shape.M - 1) * shape.columns4; // rows past the end keep the barriers company
  let row = walkRow(row4, local);
  if (local.x == 0 && m < shape.M) {
    let place = shape.first + m;
    losses[place] = lossOf(row, row4, targets[place]);
  }
}
