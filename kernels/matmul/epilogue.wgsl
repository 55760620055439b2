// y = scale · sum + bias + addendFactor · addend + diagonal · I: how every kernel of this folder stores y, for sum = a · b.
// Needs value, activation() and activationDerivative() from ../activation.wgsl.
//
// A value has four columns of a row, or one. In a batch, matrix z of y begins at row z · M. An activation function
// can be applied, with GATED that of a gated MLP:
//
//     ACTIVATED           activated = activation(y)
//     ACTIVATED, GATED    activated = activation(gate) · y, as y is up; with PAIRED gate is not read: the kernel
//                         has set gateOfRow
//     BACKWARD            y is multiplied by activation'(hidden): the gradient of hidden
//     BACKWARD, GATED     dgate = y · up · activation'(gate), and y is multiplied by activation(gate): that of up
//
// bias: [N]; y, addend, activated, hidden, gate, up, dgate: [M,N]. Bindings 0 to 3 are those of the kernels.
enable f16;

alias yType = vec4<f16>;
const BIAS: bool = true;
const SCALED: bool = true;
const ADDEND: bool = true;
const DIAGONAL: bool = true;
const FOUR_COLUMNS: bool = true; // whether a value has four columns
const ACTIVATED: bool = true;
const BACKWARD: bool = true;
const GATED: bool = true;
const PAIRED: bool = false; // whether the kernel computes gate, too; only vector.wgsl does
const MAY_ACCUMULATE: bool = true; // whether sizes.accumulate decides; if not, y is set

struct Sizes {
  M: u32,
  N: u32,
  K: u32,
  split: u32, // terms of K over which a workgroup sums
  // strides and starts count elements of the bindings: numbers or vectors of four
  aStride: u32, // from one stored row of a to the next
  aStart: u32, // first element of a
  bStride: u32,
  yStride: u32,
  yStart: u32,
  accumulate: u32, // whether to add to y; a constant only of matrices.wgsl, so that both cases share a pipeline elsewhere
  scale: f32,
  addendFactor: f32,
  diagonal: f32, // added to each element of the diagonal
  // elements from one matrix of a batch to the next; 0 if there is no batch
  aMatrix: u32,
  bMatrix: u32,
}

// only if BIAS
@group(0) @binding(4) var<storage, read> bias: array<value>;
// only if BACKWARD
// unless GATED
@group(0) @binding(5) var<storage, read> hidden: array<yType>;
// only if GATED
// unless PAIRED
@group(0) @binding(6) var<storage, read> gate: array<yType>;
// only if BACKWARD
// only if GATED
@group(0) @binding(7) var<storage, read> up: array<yType>;
// only if ADDEND
@group(0) @binding(8) var<storage, read> addend: array<yType>;
@group(0) @binding(9) var<storage, read_write> y: array<yType>;
// only if ACTIVATED
@group(0) @binding(10) var<storage, read_write> activated: array<yType>;
// only if BACKWARD
// only if GATED
@group(0) @binding(11) var<storage, read_write> dgate: array<yType>;
@group(0) @binding(12) var<uniform> sizes: Sizes;

// only if PAIRED
var<private> gateOfRow: value;

// What is read to store y in one place. A kernel that stores many vectors reads what belongs to several of them first, so
// that the reads overlap.
struct Beside {
  i: u32, // where y is
  // only if MAY_ACCUMULATE
  before: yType, // y as it was, if sizes.accumulate
  // only if BIAS
  bias: value,
  // only if ADDEND
  addend: yType,
  // only if DIAGONAL
  diagonal: value,
  // only if BACKWARD
  // unless GATED
  hidden: yType,
  // only if GATED
  gate: yType,
  // only if BACKWARD
  // only if GATED
  up: yType,
}

// What diagonal · I has in a row and column n, or in the four columns from 4n on.
// only if DIAGONAL
fn diagonalAt(row: u32, n: u32) -> value {
  // only if FOUR_COLUMNS
  return select(value(), value(sizes.diagonal), 4 * n + vec4u(0, 1, 2, 3) == vec4u(row));
  // unless FOUR_COLUMNS
  return select(value(), value(sizes.diagonal), n == row);
}

// What belongs to row m and column n, or to the four columns from 4n on.
fn besideOf(m: u32, n: u32) -> Beside {
  var beside: Beside;
  beside.i = sizes.yStart + m * sizes.yStride + n;
  // only if MAY_ACCUMULATE
  if (sizes.accumulate != 0) { beside.before = y[beside.i]; }
  // only if BIAS
  beside.bias = bias[n];
  // only if ADDEND
  beside.addend = addend[beside.i];
  // only if DIAGONAL
  beside.diagonal = diagonalAt(m % sizes.M, n);
  // only if BACKWARD
  // unless GATED
  beside.hidden = hidden[beside.i];
  // only if PAIRED
  beside.gate = yType(gateOfRow);
  // only if GATED
  // unless PAIRED
  beside.gate = gate[beside.i];
  // only if BACKWARD
  // only if GATED
  beside.up = up[beside.i];
  return beside;
}

// Stores y.
fn storeWith(beside: Beside, sum: value) {
  let i = beside.i;
  var result = sum;
  // only if SCALED
  result *= sizes.scale;
  // only if BIAS
  result += beside.bias;
  // only if ADDEND
  result += sizes.addendFactor * value(beside.addend);
  // only if DIAGONAL
  result += beside.diagonal;
  // only if MAY_ACCUMULATE
  if (sizes.accumulate != 0) { result += value(beside.before); }
  // only if BACKWARD
  // unless GATED
  result *= activationDerivative(value(beside.hidden));
  // only if BACKWARD
  // only if GATED
  {
    let argument = value(beside.gate);
    dgate[i] = yType(result * value(beside.up) * activationDerivative(argument));
    result *= activation(argument);
  }
  let rounded = yType(result);
  y[i] = rounded;
  // of y as the backward pass reads it
  // only if ACTIVATED
  // unless GATED
  activated[i] = yType(activation(value(rounded)));
  // only if ACTIVATED
  // only if GATED
  activated[i] = yType(activation(value(beside.gate)) * value(rounded));
}

// Stores y of row m and column n, or of the four columns from 4n on.
fn store(m: u32, n: u32, sum: value) {
  storeWith(besideOf(m, n), sum);
}
