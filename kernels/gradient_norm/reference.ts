/** Norm of gradient / lossScale, and whether every element is finite.  gradient: [N] */
export function gradientNorm(
  { gradient, lossScale }: { gradient: Float32Array; lossScale: number },
): { norm: number; finite: boolean } {
  let squares = 0, finite = true;
  for (const value of gradient) {
    squares += (value / lossScale) ** 2;
    finite &&= Number.isFinite(value);
  }
  return { norm: Math.sqrt(squares), finite };
}
