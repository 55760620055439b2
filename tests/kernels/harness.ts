import assert from "node:assert/strict";
export { freshSeed } from "../seeds.ts";
import { type Device, openDevice } from "../../kernels/device.ts";
import { Program } from "../../kernels/program.ts";
import {
  createTensor,
  download,
  type DType,
  size,
  type Tensor,
  upload,
} from "../../kernels/tensor.ts";

/** The device that all kernel tests of one file share. */
export const device: Device = await openDevice();

/** Element types to test in: f16 only where the adapter has it. */
export const REAL_TYPES: readonly DType[] = device.features.has("shader-f16")
  ? ["f32", "f16"]
  : ["f32"];

/** Seeds a small generator of test inputs; a failing test prints its seed. */
export function testRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let z = state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Normally distributed values, rounded to what `dtype` can hold. */
export function randomValues(
  random: () => number,
  count: number,
  { dtype = "f32" as DType, scale = 1 } = {},
): Float32Array<ArrayBuffer> {
  const values = Float32Array.from({ length: count }, () => {
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    return scale * radius * Math.cos(2 * Math.PI * random());
  });
  return dtype === "f16" ? new Float32Array(new Float16Array(values)) : values;
}

/** A tensor that holds these values. */
export function tensorOf(
  name: string,
  { shape, dtype }: { shape: readonly number[]; dtype: DType },
  values: ArrayLike<number>,
): Tensor {
  const tensor = createTensor(device, name, { shape, dtype });
  upload(device, tensor, values);
  return tensor;
}

/** An output tensor full of NaN (or 0xffffffff), so that an element never written shows. */
export function poisoned(
  name: string,
  { shape, dtype }: { shape: readonly number[]; dtype: DType },
): Tensor {
  const fill = dtype === "u32" ? 0xffffffff : NaN;
  return tensorOf(name, { shape, dtype }, new Array(size(shape)).fill(fill));
}

/** Fills what a program has for intermediate results with NaN, before its launches are recorded. */
export function poisonScratch(program: Program): void {
  const length = 2 ** 17; // more than any test needs: what is asked for later is a part of it
  upload(device, program.scratch([length]), new Float32Array(length).fill(NaN));
}

/** Records and runs one program, then returns the tensors' values and frees its uniforms. */
export async function runProgram(
  record: (program: Program) => void,
  ...outputs: readonly Tensor[]
): Promise<(Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>)[]> {
  using program = new Program(device);
  record(program);
  program.run();
  const values = await download(device, ...outputs);
  return values;
}

/** Asserts ‖actual − expected‖∞ ≤ tolerance · (1 + ‖expected‖∞) elementwise, NaN never passing. */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  what: string,
): void {
  assert.equal(actual.length, expected.length, `${what}: length`);
  for (let i = 0; i < actual.length; i++) {
    const error = Math.abs(actual[i]! - expected[i]!) / (1 + Math.abs(expected[i]!));
    if (!(error <= tolerance)) {
      assert.fail(
        `${what}[${i}] is ${actual[i]}, expected ${
          expected[i]
        } within ${tolerance} (error ${error})`,
      );
    }
  }
}

/**
 * Asserts that `gradient` is the derivative of sum(weights · f(x)) by central differences.
 *
 * The reference computes in f32 arrays, so pass `f` in a form that keeps f64 where it matters.
 */
export function assertGradient(
  f: (x: Float32Array<ArrayBuffer>) => ArrayLike<number>,
  x: Float32Array<ArrayBuffer>,
  weights: ArrayLike<number>,
  gradient: ArrayLike<number>,
  { step = 1e-2, tolerance = 2e-3, what = "gradient" } = {},
): void {
  const dot = (y: ArrayLike<number>) => {
    let sum = 0;
    for (let i = 0; i < y.length; i++) sum += y[i]! * weights[i]!;
    return sum;
  };
  const numeric = Float64Array.from(x, (v, i) => {
    const up = x.slice(), down = x.slice();
    up[i] = v + step;
    down[i] = v - step;
    return (dot(f(up)) - dot(f(down))) / (up[i]! - down[i]!);
  });
  assertClose(gradient, numeric, tolerance, what);
}
