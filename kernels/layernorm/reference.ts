/** Sizes of a layer-norm: M rows of C features. */
export interface LayernormShape {
  /** Rows. */
  M: number;
  /** Features of a row. */
  C: number;
}

/** y = (x − mean) · rstd · weight + bias.  x, y: [M,C]; weight, bias: [C]; mean, rstd: [M] */
export function layernormForward(
  { x, weight, bias }: { x: Float32Array; weight: Float32Array; bias: Float32Array },
  { M, C }: LayernormShape,
  epsilon = 1e-5,
): { y: Float32Array; mean: Float32Array; rstd: Float32Array } {
  const y = new Float32Array(M * C), mean = new Float32Array(M), rstd = new Float32Array(M);
  for (let m = 0; m < M; m++) {
    const row = Array.from(x.subarray(m * C, (m + 1) * C));
    const average = row.reduce((sum, v) => sum + v, 0) / C;
    const variance = row.reduce((sum, v) => sum + (v - average) ** 2, 0) / C;
    const scale = 1 / Math.sqrt(variance + epsilon);
    row.forEach((v, c) => y[m * C + c] = (v - average) * scale * weight[c]! + bias[c]!);
    mean[m] = average;
    rstd[m] = scale;
  }
  return { y, mean, rstd };
}

/** Gradients of `layernormForward()`.  x, dy, dx: [M,C]; weight, dweight, dbias: [C] */
export function layernormBackward(
  { x, weight, dy }: { x: Float32Array; weight: Float32Array; dy: Float32Array },
  { M, C }: LayernormShape,
  epsilon = 1e-5,
): { dx: Float32Array; dweight: Float32Array; dbias: Float32Array } {
  const zero = new Float32Array(C);
  const { mean, rstd } = layernormForward({ x, weight, bias: zero }, { M, C }, epsilon);
  const dx = new Float32Array(M * C), dweight = new Float32Array(C), dbias = new Float32Array(C);
  for (let m = 0; m < M; m++) {
    let meanG = 0, meanGX = 0;
    const normalized = (c: number) => (x[m * C + c]! - mean[m]!) * rstd[m]!;
    for (let c = 0; c < C; c++) {
      const gradient = dy[m * C + c]!;
      meanG += gradient * weight[c]! / C;
      meanGX += gradient * weight[c]! * normalized(c) / C;
      dweight[c]! += gradient * normalized(c);
      dbias[c]! += gradient;
    }
    for (let c = 0; c < C; c++) {
      dx[m * C + c] = rstd[m]! * (dy[m * C + c]! * weight[c]! - meanG - normalized(c) * meanGX);
    }
  }
  return { dx, dweight, dbias };
}

/** sum = x + z · factor.  x, z: [M,C]; factor(i) is 1 without dropout, else 0 or 1 / (1 − rate) */
export function residualForward(
  { x, z }: { x: Float32Array; z: Float32Array },
  factor: (index: number) => number,
): { sum: Float32Array } {
  return { sum: x.map((v, i) => v + z[i]! * factor(i)) };
}

/** dz = dsum · factor; dzBias is the sum of its rows, in f64.  dsum, dz: [M,C]; dzBias: [C] */
export function residualBackward(
  { dsum }: { dsum: Float32Array },
  { M, C }: LayernormShape,
  factor: (index: number) => number,
): { dz: Float32Array; dzBias: Float64Array } {
  const dz = dsum.map((v, i) => v * factor(i)), dzBias = new Float64Array(C);
  for (let m = 0; m < M; m++) for (let c = 0; c < C; c++) dzBias[c]! += dz[m * C + c]!;
  return { dz, dzBias };
}
