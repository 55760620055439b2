import assert from "node:assert/strict";
import { histogram, HISTOGRAM_LENGTH, histogramOf } from "../../kernels/histogram/histogram.ts";
import * as reference from "../../kernels/histogram/reference.ts";
import { Program } from "../../kernels/program.ts";
import type { DType } from "../../kernels/tensor.ts";
import { device, randomValues, REAL_TYPES, runProgram, tensors, withRandom } from "./harness.ts";

/** The histogram that the kernel makes of numbers. */
async function computed(x: Float32Array, dtype: DType, { on = device } = {}) {
  const t = tensors({ x: [[x.length], dtype, x], counts: [[HISTOGRAM_LENGTH], "u32", 0] });
  const [counts] = await runProgram((program) => histogram(program, t, t), [t.counts], { on });
  return histogramOf(counts!);
}

/** Numbers whose sizes differ by many powers of two. */
function spread(random: () => number, N: number, dtype: DType): Float32Array<ArrayBuffer> {
  const [least, greatest] = dtype === "f16" ? [-26, 17] : [-150, 129];
  return randomValues(random, N, { dtype }).map((value) => {
    const size = value * 2 ** (least + (greatest - least) * random());
    return dtype === "f16" ? new Float32Array(new Float16Array([size]))[0]! : size;
  });
}

Deno.test(
  "histogram() matches the reference for numbers of all sizes",
  withRandom(async (random) => {
    for (const dtype of REAL_TYPES) {
      for (const N of [1, 3, 127, 129, 16_384, 16_385, 50_001]) {
        const x = spread(random, N, dtype);
        assert.deepEqual(await computed(x, dtype), reference.histogram({ x }), `${dtype} [${N}]`);
      }
    }
  }),
);

Deno.test("histogram() finds the bucket of every limit, of subnormal numbers, zeros and what is not finite", async () => {
  for (const dtype of REAL_TYPES) {
    const [least, greatest, digits] = dtype === "f16" ? [-24, 15, 11] : [-149, 127, 24];
    const limits: number[] = [];
    for (let e = least!; e <= greatest!; e++) {
      // the number itself, and the last one below the next power of two
      const step = Math.max(2 ** least!, 2 ** (e + 1 - digits!));
      limits.push(2 ** e, 2 ** (e + 1) - step);
    }
    const odd = [0, -0, NaN, Infinity, -Infinity];
    const x = Float32Array.from([...limits, ...limits.map((value) => -value), ...odd]);
    const found = await computed(x, dtype);
    assert.deepEqual(found, reference.histogram({ x }), dtype);
    assert.deepEqual([found.zeros, found.notFinite, found.max], [2, 3, Math.max(...limits)]);
    const exponents = Object.keys(found.negative).map(Number).sort((a, b) => a - b);
    assert.deepEqual([exponents[0], exponents.at(-1)], [least, greatest]);
  }
});

Deno.test("histogram() has no least and greatest number when none is finite", async () => {
  const none = { min: null, max: null, positive: {}, negative: {} };
  assert.deepEqual(await computed(Float32Array.of(NaN, -Infinity), "f32"), {
    ...{ count: 2, zeros: 0, notFinite: 2, ...none },
  });
  const zero = await computed(Float32Array.of(-0, NaN), "f32");
  assert.deepEqual([zero.min, zero.max, zero.zeros], [-0, -0, 1]);
});

Deno.test(
  "histogram() adds to its counts, in several launches when a binding cannot hold all numbers",
  withRandom(async (random) => {
    const x = spread(random, 40_000, "f32"), on = { ...device, maxBindingBytes: 4 * 16_384 };
    assert.deepEqual(await computed(x, "f32", { on }), reference.histogram({ x }));
    const t = tensors({ x: [[x.length], "f32", x], counts: [[HISTOGRAM_LENGTH], "u32", 0] });
    const [counts] = await runProgram((program) => {
      histogram(program, t, t);
      histogram(program, t, t);
    }, [t.counts]);
    const twice = Float32Array.from([...x, ...x]);
    assert.deepEqual(histogramOf(counts!), reference.histogram({ x: twice }));
  }),
);

Deno.test("histogram() throws on counts of another length", () => {
  const t = tensors({ x: [[4], "f32", 1], counts: [[10], "u32", 0] });
  assert.throws(() => histogram(new Program(device), t, t), { name: "RangeError" });
});
