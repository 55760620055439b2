// norm(a), of the rows that a workgroup needs.   a: [M,K]; normWeight, normBias: [K]; M = ROW_COUNT, K = ROW_LENGTH
//
// Layer-norm if CENTERED, or else RMS norm. With ADDED a is first replaced by total = a + Σ addends.
// addends: [ADDENDS,M,K]; total: [M,K]
//
// A kernel calls readRows() before its other loads, as these would arrive first otherwise, and normalizeRows() after them. Each
// workgroup computes the norm of its rows again, which takes less time than another launch.
enable f16;

alias rowType = vec4<f16>;
const ROW_COUNT: u32 = 1;
const ROW_LENGTH: u32 = 4;
const ROW_STRIDE: u32 = 1; // vectors from one stored row of a to the next
const ROW_START: u32 = 0; // first vector of a
const ROW_INVOCATIONS: u32 = 256; // of the workgroup
const ROWS_AT_ONCE: u32 = 1; // a power of two
const ROW_TURNS: u32 = 1; // vectors of four of a row that an invocation normalises
const ROW_GROUP: u32 = 16; // invocations whose sums are added up first
const CENTERED: bool = true; // whether the mean is subtracted and normBias added
const ROW_EPSILON: f32 = 1e-5;
const ADDED: bool = true; // whether there are addends
const ADDENDS: u32 = 4;
const ADDENDS_AT_ONCE: u32 = 4; // addends that are loaded at the same time
const STORES_TOTAL: bool = true;

@group(0) @binding(20) var<storage, read> a: array<rowType>;
@group(0) @binding(21) var<storage, read> normWeight: array<vec4f>;
// only if CENTERED
@group(0) @binding(22) var<storage, read> normBias: array<vec4f>;
// only if ADDED
@group(0) @binding(23) var<storage, read> addends: array<vec4f>;
// only if STORES_TOTAL
@group(0) @binding(24) var<storage, read_write> total: array<vec4f>;

const ROW_LENGTH4: u32 = ROW_LENGTH / 4;
const LANES_OF_ROW: u32 = ROW_INVOCATIONS / ROWS_AT_ONCE; // an invocation has each LANES_OF_ROW-th vector of a row
const ROW_PARTS: u32 = LANES_OF_ROW / ROW_GROUP;
const ALL_ROW_PARTS: u32 = ROWS_AT_ONCE * ROW_PARTS;
var<workgroup> rowTerms: array<vec2f, ROW_INVOCATIONS>;
var<workgroup> rowParts: array<vec2f, ALL_ROW_PARTS>;
var<private> ownRow: array<vec4f, ROW_TURNS>; // an invocation's part of a row
var<private> near: f32; // a number of the row, or 0 for an RMS norm
var<private> rowFactor: array<vec4f, ROW_TURNS>;
// only if CENTERED
var<private> rowShift: array<vec4f, ROW_TURNS>;

// The sums of two numbers per invocation over those that have the same row, in two steps, because barriers take time.
fn rowSums(terms: vec2f, index: u32) -> vec2f {
  rowTerms[index] = terms;
  workgroupBarrier();
  if (index < ALL_ROW_PARTS) {
    var part = vec2f();
    // unroll
    for (var i = 0u; i < ROW_GROUP; i++) {
      part += rowTerms[ROW_GROUP * index + i];
    }
    rowParts[index] = part;
  }
  workgroupBarrier();
  var sums = vec2f();
  // unroll
  for (var i = 0u; i < ROW_PARTS; i++) {
    sums += rowParts[index / LANES_OF_ROW * ROW_PARTS + i];
  }
  return sums;
}

// Reads the rows from firstRow on.
fn readRows(firstRow: u32, isFirst: bool, index: u32) {
  let lane = index % LANES_OF_ROW;
  let row = min(firstRow + index / LANES_OF_ROW, ROW_COUNT - 1);
  // only if CENTERED
  near = f32(a[ROW_START + row * ROW_STRIDE].x);
  // unroll
  for (var i = 0u; i < ROW_TURNS; i++) {
    let k4 = lane + i * LANES_OF_ROW;
    if (k4 < ROW_LENGTH4) {
      ownRow[i] = vec4f(a[ROW_START + row * ROW_STRIDE + k4]);
      rowFactor[i] = normWeight[k4];
      // only if CENTERED
      rowShift[i] = normBias[k4];
      // only if ADDED
      for (var p = 0u; p < ADDENDS; p += ADDENDS_AT_ONCE) {
        var batch: array<vec4f, ADDENDS_AT_ONCE>; // loaded at the same time
        // unroll
        for (var q = 0u; q < ADDENDS_AT_ONCE; q++) {
          batch[q] = addends[(min(p + q, ADDENDS - 1) * ROW_COUNT + row) * ROW_LENGTH4 + k4];
        }
        // unroll
        for (var q = 0u; q < ADDENDS_AT_ONCE; q++) {
          if (p + q < ADDENDS) { ownRow[i] += batch[q]; }
        }
      }
      // only if STORES_TOTAL
      if (isFirst) { total[row * ROW_LENGTH4 + k4] = ownRow[i]; }
    }
  }
}

// Normalises ownRow, in f32; the kernel keeps it where all invocations find it. Mean and variance are computed at once,
// from the differences to a number near the mean: without it the squares could cancel.
fn normalizeRows(index: u32) {
  let lane = index % LANES_OF_ROW;
  var terms = vec2f();
  // unroll
  for (var i = 0u; i < ROW_TURNS; i++) {
    if (lane + i * LANES_OF_ROW < ROW_LENGTH4) {
      let difference = ownRow[i] - near;
      terms += vec2f(dot(difference, vec4f(1)), dot(difference, difference));
    }
  }
  let moments = rowSums(terms, index) / f32(ROW_LENGTH);
  var mean = 0.0;
  var variance = moments.y;
  // only if CENTERED
  mean = near + moments.x;
  // only if CENTERED
  variance = max(variance - moments.x * moments.x, 0);
  let rstd = inverseSqrt(variance + ROW_EPSILON);
  // unroll
  for (var i = 0u; i < ROW_TURNS; i++) {
    ownRow[i] = (ownRow[i] - mean) * rstd * rowFactor[i]; // past the end of a row zeros
    // only if CENTERED
    ownRow[i] += rowShift[i];
  }
}
