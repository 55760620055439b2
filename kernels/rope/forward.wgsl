// q and k of every head are rotated by the position of their token, in place; with NORM x · rstd · weight is.
// Needs rowSums() from ../row_sums.wgsl, positionOf() from ../positions.wgsl.
//
// qkv: [M,(NH+2·KH)·HS], of which the columns of v stay; rotation: [maxT,HS/2,2], cosine and sine; cursors: [B,4];
// qWeight, kWeight: [HS]; qk: [M,(NH+KH)·HS], q and k before the norm
//
// Component i of a head and component i + HS/2 are a complex number, which is multiplied by cos + i · sin. LANES
// invocations share a head, and a lane has PAIRS such pairs, those at lane, lane + LANES, …
enable f16;

alias real = f16; // element of qkv and qk
const NH: u32 = 1;
const KH: u32 = 1;
const HS: u32 = 32;
const PAIRS: u32 = 1; // HS / 2 / LANES, rounded up
const NORM: bool = true;
const KEEP_QK: bool = true; // whether qk is written
const CACHED: bool = true; // whether rows continue cached texts
const EPSILON: f32 = 1e-6;

struct Sizes {
  M: u32,
  T: u32, // rows of a text
  maxT: u32,
}

@group(0) @binding(0) var<storage, read> rotation: array<vec2f>;
// only if CACHED
@group(0) @binding(1) var<storage, read> cursors: array<vec4u>; // first new token, token at position 0
// only if NORM
@group(0) @binding(2) var<storage, read> qWeight: array<f32>;
// only if NORM
@group(0) @binding(3) var<storage, read> kWeight: array<f32>;
@group(0) @binding(4) var<storage, read_write> qkv: array<real>;
// only if KEEP_QK
@group(0) @binding(5) var<storage, read_write> qk: array<real>;
@group(0) @binding(6) var<uniform> sizes: Sizes;

const WORKGROUPS_PER_ROW: u32 = 32768; // see splitWorkgroups() in program.ts
const HALF: u32 = HS / 2;
const HEADS: u32 = NH + KH; // of q and k

// Index of the angles of row m. Padding after the last position repeats it.
fn anglesOf(m: u32) -> u32 {
  var position = positionOf(m, sizes.T);
  // only if CACHED
  position += cursors[m / sizes.T].x - cursors[m / sizes.T].y;
  return min(position, sizes.maxT - 1) * HALF;
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) local: vec3u) {
  let row = (group.y * WORKGROUPS_PER_ROW + group.x) * ROWS + local.y; // of [M,HEADS]
  let rows = sizes.M * HEADS;
  let inside = row < rows; // out-of-range rows do no work but must reach every barrier
  let m = row / HEADS;
  let h = row % HEADS;
  let head = (m * (HEADS + KH) + h) * HS; // first component in qkv

  var x: array<vec2f, PAIRS>;
  var squares = 0.0;
  // unroll
  for (var j = 0u; j < PAIRS; j++) {
    let i = local.x + j * LANES;
    if (inside && i < HALF) { x[j] = vec2f(f32(qkv[head + i]), f32(qkv[head + i + HALF])); }
    squares += dot(x[j], x[j]);
  }
  // only if NORM
  let rstd = inverseSqrt(rowSums(vec2f(squares, 0.0), local).x / f32(HS) + EPSILON);

  if (!inside) { return; }
  let angles = anglesOf(m);
  // unroll
  for (var j = 0u; j < PAIRS; j++) {
    let i = local.x + j * LANES;
    if (i < HALF) {
      // only if KEEP_QK
      {
        qk[row * HS + i] = real(x[j].x);
        qk[row * HS + i + HALF] = real(x[j].y);
      }
      // only if NORM
      {
        var weight = vec2f(qWeight[i], qWeight[i + HALF]);
        if (h >= NH) { weight = vec2f(kWeight[i], kWeight[i + HALF]); }
        x[j] *= rstd * weight;
      }
      let angle = rotation[angles + i]; // cosine, sine
      qkv[head + i] = real(x[j].x * angle.x - x[j].y * angle.y);
      qkv[head + i + HALF] = real(x[j].y * angle.x + x[j].x * angle.y);
    }
  }
}
