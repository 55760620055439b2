/** y = x · factor.  x, y: [N]; factor(i) is 0 or 1 / (1 − rate). */
export function dropoutForward(
  { x }: { x: Float32Array },
  factor: (index: number) => number,
): { y: Float32Array } {
  return { y: x.map((v, i) => v * factor(i)) };
}

/** dx = dy · factor.  dy, dx: [N] */
export function dropoutBackward(
  { dy }: { dy: Float32Array },
  factor: (index: number) => number,
): { dx: Float32Array } {
  return { dx: dy.map((v, i) => v * factor(i)) };
}
