import assert from "node:assert/strict";
import * as reference from "../../kernels/sum/reference.ts";
import { sumForward } from "../../kernels/sum/sum.ts";
import {
  assertClose,
  freshSeed,
  poisoned,
  randomValues,
  runProgram,
  tensorOf,
  testRandom,
} from "./harness.ts";

Deno.test("sumForward() matches the reference at odd lengths", async () => {
  const seed = freshSeed(), random = testRandom(seed);
  for (const N of [1, 3, 127, 129, 8193]) {
    const values = randomValues(random, N),
      f32 = (N: number) => ({ shape: [N], dtype: "f32" as const });
    const x = tensorOf("x", f32(N), values), y = poisoned("y", f32(1));
    const [sum] = await runProgram((program) => sumForward(program, { x }, { y }), y);
    // sums of up to 8,193 terms in another order
    assertClose(sum!, reference.sumForward({ x: values }).y, 3e-5, `y of ${N} terms, seed ${seed}`);
  }
});

Deno.test("sumForward() sums at odd lengths, and where it is told to", async () => {
  for (const N of [1, 3, 255, 257, 8192, 8193, 100_003]) {
    const x = tensorOf(
      "x",
      { shape: [N], dtype: "f32" },
      Float32Array.from({ length: N }, () => 0.5),
    );
    const y = poisoned("y", { shape: [1], dtype: "f32" });
    const place = tensorOf("place", { shape: [1], dtype: "u32" }, [2]);
    const ys = tensorOf("ys", { shape: [4], dtype: "f32" }, [1, 2, 3, 4]);
    const [sum, sums] = await runProgram(
      (program) => {
        sumForward(program, { x }, { y });
        sumForward(program, { x, place }, { y: ys });
      },
      y,
      ys,
    );
    assert.equal(sum![0], N / 2);
    assert.deepEqual([...sums!], [1, 2, N / 2, 4]);
  }
});

Deno.test("sumForward() loses less than a millionth of a long sum of equal terms", async () => {
  // terms whose running sums round the same way for a long time
  const N = 2 ** 20, term = Math.fround(7.056);
  const x = tensorOf("x", { shape: [N], dtype: "f32" }, new Float32Array(N).fill(term));
  const y = poisoned("y", { shape: [1], dtype: "f32" });
  const [sum] = await runProgram((program) => sumForward(program, { x }, { y }), y);
  assert.ok(Math.abs(sum![0]! / (N * term) - 1) < 1e-6, `${sum![0]} of ${N * term}`);
});
