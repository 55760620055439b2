/** A matrix, and how Muon moves it. */
export interface MuonMatrix {
  rows: number;
  columns: number;
  /** Factor of the direction of length one. */
  scale: number;
}

/** Settings of Muon. */
export interface MuonOptions {
  momentum: number;
  weightDecay: number;
}

/** One step of Muon for a matrix, in place, in f64.  parameter, gradient, momentum: [rows,columns] */
export function muon(
  { gradient, learningRate }: { gradient: ArrayLike<number>; learningRate: number },
  { parameter, momentum }: { parameter: Float64Array; momentum: Float64Array },
  { rows, columns, scale }: MuonMatrix,
  { momentum: beta, weightDecay }: MuonOptions,
): void {
  const ahead = new Float64Array(rows * columns);
  for (let i = 0; i < ahead.length; i++) {
    momentum[i] = beta * momentum[i]! + (1 - beta) * gradient[i]!;
    ahead[i] = beta * momentum[i]! + (1 - beta) * gradient[i]!;
  }
  const direction = orthogonalize(ahead, { rows, columns });
  for (let i = 0; i < ahead.length; i++) {
    parameter[i]! *= 1 - learningRate * weightDecay;
    parameter[i]! -= learningRate * scale * direction[i]!;
  }
}

/** Five rounds of Newton–Schulz: nearly U · Vᵀ of the singular value decomposition x = U · Σ · Vᵀ.  x: [rows,columns] */
function orthogonalize(
  x: Float64Array,
  { rows, columns }: { rows: number; columns: number },
): Float64Array {
  let norm = 0;
  for (const value of x) norm += value * value;
  norm = Math.max(Math.sqrt(norm), 1e-7);
  let y = x.map((value) => value / norm);
  const at = (r: number, c: number) => r * columns + c;
  for (let round = 0; round < 5; round++) {
    // y · yᵀ, whatever the shape: the kernels use the smaller of y · yᵀ and yᵀ · y, with the same result
    const A = new Float64Array(rows * rows), B = new Float64Array(rows * rows);
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < rows; j++) {
        for (let c = 0; c < columns; c++) A[i * rows + j]! += y[at(i, c)]! * y[at(j, c)]!;
      }
    }
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < rows; j++) {
        let sum = 0;
        for (let k = 0; k < rows; k++) sum += A[i * rows + k]! * A[k * rows + j]!;
        B[i * rows + j] = -4.775 * A[i * rows + j]! + 2.0315 * sum;
      }
    }
    const next = y.map((value) => 3.4445 * value);
    for (let i = 0; i < rows; i++) {
      for (let c = 0; c < columns; c++) {
        for (let k = 0; k < rows; k++) next[at(i, c)]! += B[i * rows + k]! * y[at(k, c)]!;
      }
    }
    y = next;
  }
  return y;
}
