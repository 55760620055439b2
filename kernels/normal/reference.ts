/** Which random numbers are drawn. */
interface Draw {
  seed: number;
  stream: number;
}

/** y = mean + deviation · z, for element `index` of a tensor, as `fillNormal()` draws it. */
export function normal(
  { mean, deviation, uniform = false, ...draw }: Draw & {
    mean: number;
    deviation: number;
    uniform?: boolean;
  },
  index: number,
): number {
  const [x, y] = hash(draw, index);
  if (uniform) return mean + deviation * Math.sqrt(3) * (2 * (x + 0.5) / 2 ** 32 - 1);
  return mean + deviation * radius(draw, index) * Math.cos(2 * Math.PI * y / 2 ** 32);
}

/** √(−2 · log u), which times the cosine of a uniform angle is a normal number. */
export function radius(draw: Draw, index: number): number {
  const [x] = hash(draw, index);
  return Math.sqrt(-2 * Math.log((x + 0.5) / 2 ** 32));
}

function hash({ seed, stream }: Draw, index: number): [x: number, y: number] {
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
  return [x >>> 0, y >>> 0];
}
