// projected[head,row] = head's part of the product after attention.   projected: [NH,B·S,OUT]
// Needs fourInt8() from ../int8.wgsl, result and WORKGROUP_SIZE from decode.wgsl.
//
// weight: [NH·HS,OUT]; scales, projectionBias: [OUT], the latter added by head 0
//
// A workgroup of decode.wgsl computes SLICE columns from the HS results of its head. OUT_LANES invocations share the columns, of
// which each has WIDTH at a time, and TERM_SHARES the terms, whose sums are added up in workgroup memory. The first weights
// are fetched before attention, long before they are used.
enable f16;

const BIAS: bool = true;
const QUANTIZED: bool = true; // whether weight is int8, as [OUT,NH·HS], and its row n counts scales[n] times
alias weightType = vec4u; // a fetch of weights, as words
const WEIGHT_EACH: u32 = 8; // weights in it
const WEIGHT_F16: bool = true; // or else f32, unless QUANTIZED
const OUT: u32 = 4;
const SLICE: u32 = 4; // columns of a workgroup
const WIDTH: u32 = 4; // columns of a lane: WEIGHT_EACH, or 4 if QUANTIZED
const OUT_LANES: u32 = 1; // invocations along the columns
const TERM_SHARES: u32 = 64; // invocations along the terms, which are those of one head
const UNITS: u32 = HS; // of terms that a lane fetches: single ones, or WEIGHT_EACH if QUANTIZED
const UNITS_AHEAD: u32 = 1; // that it fetches at a time
const FETCHES: u32 = 4; // per UNITS_AHEAD, of which a unit has one per row of weight

@group(0) @binding(5) var<storage, read> weight: array<weightType>;
// only if QUANTIZED
@group(0) @binding(6) var<storage, read> scales: array<f32>;
// only if BIAS
@group(0) @binding(7) var<storage, read> projectionBias: array<f32>;
@group(0) @binding(11) var<storage, read_write> projected: array<f32>;

const OUT_FOURS: u32 = WIDTH / 4;
const SLICE_VECTORS: u32 = SLICE / WIDTH;
const WORDS: u32 = WEIGHT_EACH / 4; // vectors of four terms in a fetch of int8
const OUT_COLUMNS: u32 = OUT_LANES * WIDTH;
var<private> fetched: array<weightType, FETCHES>;
var<private> outSums: array<vec4f, OUT_FOURS>;

// Begins to read a lane's weights of a head from a unit on.
fn fetchUnits(head: u32, first: u32, vector: u32) {
  // unroll
  for (var i = 0u; i < UNITS_AHEAD; i++) {
    let unit = min(first + i * TERM_SHARES, UNITS - 1);
    // unless QUANTIZED
    fetched[i] = weight[(head * HS + unit) * (OUT / WIDTH) + vector];
    // only if QUANTIZED
    {
      // unroll
      for (var c = 0u; c < 4u; c++) {
        fetched[4 * i + c] = weight[((4 * vector + c) * NH + head) * UNITS + unit];
      }
    }
  }
}

// Adds the products of what was fetched and the head's result to outSums.
fn multiplyUnits(first: u32) {
  // unroll
  for (var i = 0u; i < UNITS_AHEAD; i++) {
    let unit = first + i * TERM_SHARES;
    if (unit < UNITS) {
      // unless QUANTIZED
      {
        let x = result[unit];
        // unroll
        for (var j = 0u; j < OUT_FOURS; j++) {
          // only if WEIGHT_F16
          outSums[j] += x *
            vec4f(unpack2x16float(fetched[i][2 * j]), unpack2x16float(fetched[i][2 * j + 1]));
          // unless WEIGHT_F16
          outSums[j] += x * bitcast<vec4f>(fetched[i]);
        }
      }
      // only if QUANTIZED
      {
        // unroll
        for (var j = 0u; j < WORDS; j++) {
          let u = unit * WEIGHT_EACH + 4 * j;
          let x = vec4f(result[u], result[u + 1], result[u + 2], result[u + 3]);
          // unroll
          for (var c = 0u; c < 4u; c++) {
            outSums[0][c] += dot(x, fourInt8(fetched[4 * i + c][j]));
          }
        }
      }
    }
  }
}

// Begins to read the first weights of a slice.
fn fetchWeights(head: u32, slice: u32, index: u32) {
  fetchUnits(head, index / OUT_LANES, slice * SLICE_VECTORS + index % OUT_LANES);
}

// Stores what a head adds to a slice of the projection of a row.
fn project(head: u32, slice: u32, row: u32, rows: u32, index: u32) {
  let share = index / OUT_LANES;
  let step = UNITS_AHEAD * TERM_SHARES;
  for (var firstVector = 0u; firstVector < SLICE_VECTORS; firstVector += OUT_LANES) {
    let vector = min(firstVector + index % OUT_LANES, SLICE_VECTORS - 1);
    // unroll
    for (var j = 0u; j < OUT_FOURS; j++) {
      outSums[j] = vec4f();
    }
    for (var first = share; first < UNITS; first += step) {
      if (first > share || firstVector > 0) { fetchUnits(head, first, slice * SLICE_VECTORS + vector); }
      multiplyUnits(first);
    }
    if (firstVector > 0) { workgroupBarrier(); } // until all have read the previous sums
    if (share < TERM_SHARES) {
      // unroll
      for (var j = 0u; j < OUT_FOURS; j++) {
        exchanged[(share * OUT_LANES + index % OUT_LANES) * OUT_FOURS + j] = outSums[j];
      }
    }
    workgroupBarrier();
    for (var c = index; c < OUT_COLUMNS; c += WORKGROUP_SIZE) {
      let column = slice * SLICE + firstVector * WIDTH + c;
      if (firstVector * WIDTH + c < SLICE) {
        var sum = 0.0;
        // unroll
        for (var other = 0u; other < TERM_SHARES; other++) {
          sum += exchanged[other * (OUT_COLUMNS / 4) + c / 4][c % 4];
        }
        // only if QUANTIZED
        sum *= scales[column];
        // only if BIAS
        if (head == 0) { sum += projectionBias[column]; }
        projected[(head * rows + row) * OUT + column] = sum;
      }
    }
  }
}
