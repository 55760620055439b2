import assert from "node:assert/strict";
import type { Device } from "../../kernels/device.ts";
import { openTestDevice } from "../gpu.ts";
import { Program } from "../../kernels/program.ts";
import {
  createTensor,
  download,
  type DType,
  type HostArray,
  size,
  type Tensor,
  upload,
} from "../../kernels/tensor.ts";
import { freshSeed } from "../seeds.ts";
import { showRaces } from "./races.ts";

export { freshSeed };

/**
 * A test of an op reads as: inputs, op, reference, tolerance.
 *
 *     withRandom(async (random) => {
 *       const x = randomValues(random, 129);
 *       const t = tensors({ x: [[129], "f32", x], y: [[1], "f32"] });
 *       await assertComputes((program) => sumForward(program, t, t), [
 *         [t.y, reference.sumForward({ x }).y, 1e-5],
 *       ]);
 *     })
 *
 * @module
 */

/** The device that all kernel tests of one file share. */
export const device: Device = await openTestDevice();
if (Deno.mainModule.includes("/tests/kernels/")) showRaces(device); // other tests run kernels as they are

// on an H200 files whose last tests left shaders to compile were aborted after them
Deno.test.afterAll(async () => {
  await device.background?.idle();
});

/** Element types to test in: f16 only if the adapter has it. */
export const REAL_TYPES: readonly DType[] = device.features.has("shader-f16")
  ? ["f32", "f16"]
  : ["f32"];

/** Seeds a small generator of test inputs. */
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

/** A test with random inputs, which names the seed if it fails. */
export function withRandom(
  test: (random: () => number, seed: number) => void | Promise<void>,
): () => Promise<void> {
  return async () => {
    const seed = freshSeed();
    try {
      await test(testRandom(seed), seed);
    } catch (cause) {
      throw new Error(`Failed with seed ${seed}: ${(cause as Error).message}`, { cause });
    }
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
  return rounded(values, dtype);
}

/** Values rounded to what `dtype` can hold. */
export function rounded(
  values: Float32Array<ArrayBuffer>,
  dtype: DType,
): Float32Array<ArrayBuffer> {
  return dtype === "f16" ? new Float32Array(new Float16Array(values)) : values;
}

/** Integers from −8 to 8, whose sums are exact in any order. */
export function randomIntegers(random: () => number, count: number): Float32Array<ArrayBuffer> {
  return Float32Array.from({ length: count }, () => Math.floor(17 * random()) - 8);
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

/** An output tensor full of NaN (or 0xffffffff), so that elements that are never written fail. */
export function poisoned(
  name: string,
  { shape, dtype }: { shape: readonly number[]; dtype: DType },
): Tensor {
  const length = size(shape);
  const poison = dtype === "u32"
    ? new Uint32Array(length).fill(0xffffffff)
    : new Float32Array(length).fill(NaN);
  return tensorOf(name, { shape, dtype }, poison);
}

/** A tensor of a test: poisoned if it has no values, full of one value if that is a number. */
export type TensorSpec = readonly [
  shape: readonly number[],
  dtype: DType,
  values?: ArrayLike<number> | number,
];

/** The tensors of a test by name. */
export function tensors<T extends Record<string, TensorSpec>>(
  specs: T,
): { [name in keyof T]: Tensor } {
  const made = Object.entries(specs).map(([name, [shape, dtype, values]]) => {
    if (values === undefined) return [name, poisoned(name, { shape, dtype })];
    const all = typeof values === "number" ? new Float32Array(size(shape)).fill(values) : values;
    return [name, tensorOf(name, { shape, dtype }, all)];
  });
  return Object.fromEntries(made);
}

/** Most elements of scratch tensors that a test needs. */
const MOST_SCRATCH = 2 ** 19;

/** Fills what a program has for intermediate results with NaN, before its launches are recorded; those of slot 0 only. */
function poisonScratch(program: Program): Tensor {
  const scratch = program.scratch([MOST_SCRATCH]);
  upload(device, scratch, new Float32Array(MOST_SCRATCH).fill(NaN));
  return scratch;
}

/** Records and runs one program on poisoned scratch, then returns the tensors' values. */
export async function runProgram(
  record: (program: Program) => void,
  outputs: readonly Tensor[],
  { on = device } = {},
): Promise<HostArray[]> {
  using program = new Program(on);
  const { buffer } = poisonScratch(program);
  record(program);
  assert.equal(program.scratch([1]).buffer, buffer, "a test needs more scratch than is poisoned");
  program.run();
  return await download(device, ...outputs);
}

/** Asserts that a program sets each tensor to the expected values, within the tolerance of its row. */
export async function assertComputes(
  record: (program: Program) => void,
  rows: readonly (readonly [output: Tensor, expected: ArrayLike<number>, tolerance: number])[],
  { on = device } = {},
): Promise<void> {
  const outputs = await runProgram(record, rows.map(([output]) => output), { on });
  rows.forEach(([{ name }, expected, tolerance], i) =>
    assertClose(outputs[i]!, expected, tolerance, name)
  );
}

/** Asserts |actual − expected| ≤ tolerance · (1 + |expected|) for every element, NaN never passing. */
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
