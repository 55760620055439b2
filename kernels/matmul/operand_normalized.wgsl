// vector.wgsl's a, layer-normalised as in layernorm/forward.wgsl.   scales, offsets: [K]
//
// Every workgroup does that anew: it takes less time than another launch.
const EPSILON: f32 = 1e-5;

@group(0) @binding(2) var<storage, read> scales: array<vec4f>;
@group(0) @binding(3) var<storage, read> offsets: array<vec4f>;

var<workgroup> parts: array<f32, WORKGROUP_SIZE>;
var<private> average: f32;
var<private> inverse: f32; // of the standard deviation

fn prepare(id: u32) {
  var sum = 0.0;
  for (var k4 = id; k4 < shape.K / 4; k4 += WORKGROUP_SIZE) {
    sum += dot(vec4f(a[shape.aStart + k4]), vec4f(1));
  }
  average = sumOfParts(sum, id) / f32(shape.K);
  var squares = 0.0;
  for (var k4 = id; k4 < shape.K / 4; k4 += WORKGROUP_SIZE) {
    let difference = vec4f(a[shape.aStart + k4]) - average;
    squares += dot(difference, difference);
  }
  inverse = inverseSqrt(sumOfParts(squares, id) / f32(shape.K) + EPSILON);
}

fn sumOfParts(part: f32, id: u32) -> f32 {
  workgroupBarrier(); // the sum before has been read
  parts[id] = part;
  for (var left = WORKGROUP_SIZE; left > 1; ) {
    let quarter = (left + 3) / 4;
    workgroupBarrier();
    if (id < quarter) {
      var sum = parts[id];
      // unroll
      for (var i = 1u; i < 4u; i++) {
        if (id + i * quarter < left) { sum += parts[id + i * quarter]; }
      }
      parts[id] = sum;
    }
    left = quarter;
  }
  workgroupBarrier();
  return parts[0];
}

fn operand(k4: u32) -> vec4f {
  return (vec4f(a[shape.aStart + k4]) - average) * inverse * scales[k4] + offsets[k4];
}
