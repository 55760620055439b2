// The rotation of the new token's q and k before attention, after a norm if NORM, as ../rope/forward.wgsl computes it.
// Needs query, newKey and the place of the invocation from decode.wgsl.
//
// rotation: [maxT,HS/2,2], cosine and sine; qWeight, kWeight: [HS]

const NORM: bool = true;
const EPSILON: f32 = 1e-6;

@group(0) @binding(2) var<storage, read> rotation: array<vec2f>;
// only if NORM
@group(0) @binding(3) var<storage, read> qWeight: array<f32>;
// only if NORM
@group(0) @binding(4) var<storage, read> kWeight: array<f32>;

const HALF: u32 = HS / 2;
const RAW: u32 = 2 * HS;
var<workgroup> raw: array<f32, RAW>; // q and k of the new token before the norm and the rotation

// Component c of a head in raw, normalised if rstd is 1 / RMS. q is the head from 0 on, k that from HS on.
fn component(first: u32, c: u32, rstd: f32) -> f32 {
  var x = raw[first + c];
  // only if NORM
  x *= rstd * select(kWeight[c], qWeight[c], first == 0);
  return x;
}

// 1 / RMS of a head in raw.
fn rstdOf(first: u32) -> f32 {
  var squares = 0.0;
  // only if NORM
  {
    // unroll
    for (var i = 0u; i < HS; i++) {
      squares += raw[first + i] * raw[first + i];
    }
  }
  return inverseSqrt(squares / f32(HS) + EPSILON);
}

// Four components of a head in raw, normalised and rotated.
fn rotated(first: u32, c4: u32, rstd: f32, angles: mat4x2f) -> vec4f {
  var four: vec4f;
  // unroll
  for (var i = 0u; i < 4u; i++) {
    let c = c4 + i;
    let isFirst = c < HALF; // of its pair
    let x = component(first, c, rstd);
    let other = component(first, select(c - HALF, c + HALF, isFirst), rstd);
    four[i] = x * angles[i].x + select(other, -other, isFirst) * angles[i].y;
  }
  return four;
}

// Normalises and rotates `query` and `newKey`, the pieces of a share, and rounds them as they would be stored.
fn rotate(position: u32) {
  var angles: array<mat4x2f, FOURS>; // cosine, sine
  // unroll
  for (var j = 0u; j < FOURS; j++) {
    // unroll
    for (var i = 0u; i < 4u; i++) {
      let c = piece * EACH + 4 * j + i;
      angles[j][i] = rotation[position * HALF + c % HALF];
    }
  }
  if (share == 0) {
    // unroll
    for (var j = 0u; j < FOURS; j++) {
      // unroll
      for (var i = 0u; i < 4u; i++) {
        raw[piece * EACH + 4 * j + i] = query[j][i];
        raw[HS + piece * EACH + 4 * j + i] = newKey[j][i];
      }
    }
  }
  workgroupBarrier();
  let queryRstd = rstdOf(0);
  let keyRstd = rstdOf(HS);
  // unroll
  for (var j = 0u; j < FOURS; j++) {
    let c4 = piece * EACH + 4 * j;
    query[j] = vec4f(real4(rotated(0, c4, queryRstd, angles[j])));
    newKey[j] = vec4f(real4(rotated(HS, c4, keyRstd, angles[j])));
  }
}
