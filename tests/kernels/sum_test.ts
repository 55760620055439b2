import assert from "node:assert/strict";
import * as reference from "../../kernels/sum/reference.ts";
import { sumForward } from "../../kernels/sum/sum.ts";
import { assertComputes, randomValues, runProgram, tensors, withRandom } from "./harness.ts";

Deno.test(
  "sumForward() matches the reference at odd lengths",
  withRandom(async (random) => {
    for (const N of [1, 3, 127, 129, 8193]) {
      const x = randomValues(random, N);
      const t = tensors({ x: [[N], "f32", x], y: [[1], "f32"] });
      await assertComputes((program) => sumForward(program, t, t), [
        [t.y, reference.sumForward({ x }).y, 3e-5], // up to 8,193 terms in another order
      ]);
    }
  }),
);

Deno.test("sumForward() sets y, or the element of y at a place", async () => {
  for (const N of [1, 3, 255, 257, 8192, 8193, 100_003]) {
    const t = tensors({
      x: [[N], "f32", 0.5],
      place: [[1], "u32", [2]],
      y: [[1], "f32"],
      ys: [[4], "f32", [1, 2, 3, 4]],
    });
    await assertComputes((program) => {
      sumForward(program, { x: t.x }, { y: t.y });
      sumForward(program, { x: t.x, place: t.place }, { y: t.ys });
    }, [[t.y, [N / 2], 0], [t.ys, [1, 2, N / 2, 4], 0]]);
  }
});

Deno.test("sumForward() loses less than a millionth of a long sum of equal terms", async () => {
  // the running sums of these terms round in the same direction for a long time
  const N = 2 ** 20, term = Math.fround(7.056);
  const t = tensors({ x: [[N], "f32", term], y: [[1], "f32"] });
  const [sum] = await runProgram((program) => sumForward(program, t, t), [t.y]);
  assert.ok(Math.abs(sum![0]! / (N * term) - 1) < 1e-6, `${sum![0]} of ${N * term}`);
});
