/** y = x + z · factor.  x, z, y: [N]; factor(i) is 1 without dropout, else 0 or 1 / (1 − rate). */
export function residualForward(
  { x, z }: { x: Float32Array; z: Float32Array },
  factor: (index: number) => number,
): { y: Float32Array } {
  return { y: x.map((v, i) => v + z[i]! * factor(i)) };
}

/** dz = dy · factor.  dy, dz: [N] */
export function residualBackward(
  { dy }: { dy: Float32Array },
  factor: (index: number) => number,
): { dz: Float32Array } {
  return { dz: dy.map((v, i) => v * factor(i)) };
}
