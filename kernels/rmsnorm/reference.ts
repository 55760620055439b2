/** Sizes of an RMS norm: M rows of C features. */
export interface RmsnormShape {
  /** Rows. */
  M: number;
  /** Features of a row. */
  C: number;
}

/** y = x · rstd · weight, rstd = 1 / √(mean(x²) + epsilon).  x, y: [M,C]; weight: [C]; rstd: [M] */
export function rmsnormForward(
  { x, weight }: { x: Float32Array; weight: Float32Array },
  { M, C }: RmsnormShape,
  epsilon = 1e-5,
): { y: Float32Array; rstd: Float32Array } {
  const y = new Float32Array(M * C), rstd = new Float32Array(M);
  for (let m = 0; m < M; m++) {
    let squares = 0;
    for (let c = 0; c < C; c++) squares += x[m * C + c]! ** 2;
    const scale = 1 / Math.sqrt(squares / C + epsilon);
    for (let c = 0; c < C; c++) y[m * C + c] = x[m * C + c]! * scale * weight[c]!;
    rstd[m] = scale;
  }
  return { y, rstd };
}

/** Gradients of `rmsnormForward()`.  x, dy, dx: [M,C]; weight, dweight: [C] */
export function rmsnormBackward(
  { x, weight, dy }: { x: Float32Array; weight: Float32Array; dy: Float32Array },
  { M, C }: RmsnormShape,
  epsilon = 1e-5,
): { dx: Float32Array; dweight: Float32Array } {
  const { rstd } = rmsnormForward({ x, weight }, { M, C }, epsilon);
  const dx = new Float32Array(M * C), dweight = new Float32Array(C);
  for (let m = 0; m < M; m++) {
    const normalized = (c: number) => x[m * C + c]! * rstd[m]!;
    let mean = 0;
    for (let c = 0; c < C; c++) {
      const gradient = dy[m * C + c]!;
      mean += gradient * weight[c]! * normalized(c) / C;
      dweight[c]! += gradient * normalized(c);
    }
    for (let c = 0; c < C; c++) {
      dx[m * C + c] = rstd[m]! * (dy[m * C + c]! * weight[c]! - normalized(c) * mean);
    }
  }
  return { dx, dweight };
}
