// What forward.wgsl and backward.wgsl share: one walk over a row of logits.   logits: [M,COLUMNS ≥ V]
//
// LANES invocations share a row, ROWS rows a workgroup. Each walks its vectors of four with the running
// maximum and sum of the online softmax (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867);
// a tree adds the lanes up.
alias real = f16; // element type of logits
const SMOOTHING: f32 = 0.0;
const LANES: u32 = 32;
const ROWS: u32 = 8;

alias real4 = vec4<real>;

struct Shape {
  M: u32,
  V: u32,
  columns4: u32, // of a stored row, in vectors of four
  first: u32, // which of targets and losses belong to the first row
}

const LOWEST: f32 = -3.0e38;
const SHARES: u32 = LANES * ROWS;
var<workgroup> shares: array<vec3f, SHARES>; // maximum, sum of exp, sum of logits

// Four logits, those past the vocabulary as low as can be.
fn fourLogits(row4: u32, v4: u32) -> vec4f {
  let inside = vec4u(0, 1, 2, 3) + 4 * v4 < vec4u(shape.V);
  return select(vec4f(LOWEST), vec4f(logits[row4 + v4]), inside);
}

// The logits of fourLogits() without those past the vocabulary.
fn present(four: vec4f) -> vec4f {
  return select(four, vec4f(), four == vec4f(LOWEST));
}

fn highestOf(four: vec4f) -> f32 {
  return max(max(four.x, four.y), max(four.z, four.w));
}

fn merged(a: vec3f, b: vec3f) -> vec3f {
  let highest = max(a.x, b.x);
  return vec3f(highest, a.y * exp(a.x - highest) + b.y * exp(b.x - highest), a.z + b.z);
}

// Log-sum-exp of the row that starts at vector row4, and the sum of its logits if smoothing asks for it.
fn walkRow(row4: u32, local: vec3u) -> vec2f {
  var share = vec3f(LOWEST, 0.0, 0.0);
  var v4 = local.x;
  // four vectors a turn, on their way together, while all of them lie within the vocabulary
  for (; v4 + 3 * LANES < shape.V / 4; v4 += 4 * LANES) {
    let a = vec4f(logits[row4 + v4]);
    let b = vec4f(logits[row4 + v4 + LANES]);
    let c = vec4f(logits[row4 + v4 + 2 * LANES]);
    let d = vec4f(logits[row4 + v4 + 3 * LANES]);
    let highest = max(share.x, highestOf(max(max(a, b), max(c, d))));
    let powers = exp(a - highest) + exp(b - highest) + exp(c - highest) + exp(d - highest);
    share.y = share.y * exp(share.x - highest) + dot(powers, vec4f(1.0));
    share.x = highest;
    if (SMOOTHING > 0.0) { share.z += dot(a + b + c + d, vec4f(1.0)); }
  }
  for (; 4 * v4 < shape.V; v4 += LANES) {
    let four = fourLogits(row4, v4);
    let highest = max(share.x, highestOf(four));
    share.y = share.y * exp(share.x - highest) + dot(exp(four - highest), vec4f(1.0));
    share.x = highest;
    if (SMOOTHING > 0.0) { share.z += dot(present(four), vec4f(1.0)); }
  }
  let place = local.y * LANES + local.x;
  shares[place] = share;
  for (var half = LANES / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (local.x < half) { shares[place] = merged(shares[place], shares[place + half]); }
  }
  workgroupBarrier();
  let row = shares[local.y * LANES];
  return vec2f(row.x + log(row.y), row.z);
}

// The loss of a row whose log-sum-exp and sum are known; 0 without a target.
fn lossOf(row: vec2f, row4: u32, label: u32) -> f32 {
  if (label >= shape.V) { return 0.0; }
  let wanted = f32(logits[row4 + label / 4][label % 4]);
  return row.x - (1.0 - SMOOTHING) * wanted - SMOOTHING * row.y / f32(shape.V);
}
