/** M tokens with NH heads of q and KH heads each of k and v, all of HS components. */
export interface RopeShape {
  M: number;
  NH: number;
  KH: number;
  HS: number;
}

/** The weights by which normalised heads of q and of k are multiplied, each [HS]; epsilon is added to the mean square. */
export interface QkNorm {
  qWeight: ArrayLike<number>;
  kWeight: ArrayLike<number>;
  epsilon: number;
}

/** Where the heads of q and k of all tokens begin in qkv, and what concerns each. */
function* headsOf({ M, NH, KH, HS }: RopeShape) {
  for (let m = 0; m < M; m++) {
    for (let h = 0; h < NH + KH; h++) {
      yield { m, isKey: h >= NH, at: (m * (NH + 2 * KH) + h) * HS };
    }
  }
}

/** qkv with each head of q and k divided by the root of its mean square, and multiplied by a weight. */
export function qkNormForward(
  { qkv, qWeight, kWeight, epsilon }: QkNorm & { qkv: ArrayLike<number> },
  shape: RopeShape,
): { qkv: Float64Array } {
  const { HS } = shape, y = Float64Array.from(qkv);
  for (const { at, isKey } of headsOf(shape)) {
    let squares = 0;
    for (let c = 0; c < HS; c++) squares += qkv[at + c]! ** 2;
    const rms = Math.sqrt(squares / HS + epsilon), weight = isKey ? kWeight : qWeight;
    for (let c = 0; c < HS; c++) y[at + c] = qkv[at + c]! / rms * weight[c]!;
  }
  return { qkv: y };
}

/** Gradients of `qkNormForward()` for dqkv, that of its result. */
export function qkNormBackward(
  { qkv, dqkv, qWeight, kWeight, epsilon }:
    & QkNorm
    & Readonly<Record<"qkv" | "dqkv", ArrayLike<number>>>,
  shape: RopeShape,
): { dqkv: Float64Array; dqWeight: Float64Array; dkWeight: Float64Array } {
  const { HS } = shape, dx = Float64Array.from(dqkv);
  const dqWeight = new Float64Array(HS), dkWeight = new Float64Array(HS);
  for (const { at, isKey } of headsOf(shape)) {
    const [weight, dweight] = isKey ? [kWeight, dkWeight] : [qWeight, dqWeight];
    let squares = 0, products = 0;
    for (let c = 0; c < HS; c++) {
      squares += qkv[at + c]! ** 2;
      products += qkv[at + c]! * weight[c]! * dqkv[at + c]!;
    }
    const rms = Math.sqrt(squares / HS + epsilon);
    for (let c = 0; c < HS; c++) {
      dweight[c]! += dqkv[at + c]! * qkv[at + c]! / rms;
      dx[at + c] = weight[c]! * dqkv[at + c]! / rms - qkv[at + c]! * products / HS / rms ** 3;
    }
  }
  return { dqkv: dx, dqWeight, dkWeight };
}

/** The heads of q and k, each pair of components i and i + HS/2 turned by an angle. */
function turned(x: ArrayLike<number>, shape: RopeShape, angleOf: (m: number, i: number) => number) {
  const { HS } = shape, y = Float64Array.from(x);
  for (const { m, at } of headsOf(shape)) {
    for (let i = 0; i < HS / 2; i++) {
      const angle = angleOf(m, i), a = at + i, b = at + i + HS / 2;
      y[a] = x[a]! * Math.cos(angle) - x[b]! * Math.sin(angle);
      y[b] = x[a]! * Math.sin(angle) + x[b]! * Math.cos(angle);
    }
  }
  return y;
}

/** Radians by which pair i is turned at a position. */
const angleAt = (position: number, i: number, HS: number, base: number) =>
  position * base ** (-2 * i / HS);

/** Rotated q and k beside v.  qkv: [M,(NH+2·KH)·HS]; positions: [M] */
export function ropeForward(
  { qkv, positions }: Readonly<Record<"qkv" | "positions", ArrayLike<number>>>,
  shape: RopeShape,
  base = 10000,
): { qkv: Float64Array } {
  return { qkv: turned(qkv, shape, (m, i) => angleAt(positions[m]!, i, shape.HS, base)) };
}

/** dqkv of the argument of `ropeForward()` for that of its result. */
export function ropeBackward(
  { dqkv, positions }: Readonly<Record<"dqkv" | "positions", ArrayLike<number>>>,
  shape: RopeShape,
  base = 10000,
): { dqkv: Float64Array } {
  return { dqkv: turned(dqkv, shape, (m, i) => -angleAt(positions[m]!, i, shape.HS, base)) };
}
