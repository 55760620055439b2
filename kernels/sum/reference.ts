/** y = sum of x.  x: [N]; y: [1] */
export function sumForward({ x }: { x: Float32Array }): { y: Float32Array } {
  return { y: Float32Array.of(x.reduce((sum, v) => sum + v, 0)) };
}
