/** y = mean + deviation · z, for element `index` of a tensor; see fillNormal(). */
export function normal(
  { mean, deviation, uniform = false, seed, stream }: {
    mean: number;
    deviation: number;
    uniform?: boolean;
    seed: number;
    stream: number;
  },
  index: number,
): number {
  let [x, y, z] = [seed, stream, index].map((n) => (Math.imul(n, 1664525) + 1013904223) >>> 0) as [
    number,
    number,
    number,
  ];
  const multiplyAndAdd = () => {
    x = (x + Math.imul(y, z)) >>> 0;
    y = (y + Math.imul(z, x)) >>> 0;
    z = (z + Math.imul(x, y)) >>> 0;
  };
  multiplyAndAdd();
  [x, y, z] = [x ^ (x >>> 16), y ^ (y >>> 16), z ^ (z >>> 16)];
  multiplyAndAdd();
  if (uniform) return mean + deviation * Math.sqrt(3) * (2 * (x + 0.5) / 2 ** 32 - 1);
  const radius = Math.sqrt(-2 * Math.log((x + 0.5) / 2 ** 32));
  return mean + deviation * radius * Math.cos(2 * Math.PI * y / 2 ** 32);
}
