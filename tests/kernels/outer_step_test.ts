import assert from "node:assert/strict";
import { outerGradient, outerStep } from "../../kernels/outer_step/outer_step.ts";
import * as reference from "../../kernels/outer_step/reference.ts";
import { Program } from "../../kernels/program.ts";
import { download } from "../../kernels/tensor.ts";
import {
  assertClose,
  assertComputes,
  device,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";

const SMALL_BINDINGS = { ...device, maxBindingBytes: 1024 * 16 };

for (const [where, on] of [["", device], [" over several bindings", SMALL_BINDINGS]] as const) {
  Deno.test(
    `outerGradient() matches the reference at odd sizes${where}`,
    withRandom(async (random) => {
      for (const rows of [1, 3, 127, 129]) {
        const N = 64 * rows;
        const [start, weights] = [randomValues(random, N), randomValues(random, N)];
        const t = tensors({ start: [[N], "f32", start], weights: [[N], "f32", weights] });
        const { moved } = reference.outerGradient({ start, weights });
        await assertComputes((program) => outerGradient(program, t, t), [
          [t.weights, moved, 1e-7],
          [t.start, start, 0],
        ], { on });
      }
    }),
  );

  for (const hasCopy of REAL_TYPES.includes("f16") ? [false, true] : [false]) {
    Deno.test(
      `outerStep() matches the reference at odd sizes${hasCopy ? " with an f16 copy" : ""}${where}`,
      withRandom(async (random) => {
        const options = { ranks: 3, outerLearningRate: 0.7, outerMomentum: 0.9 };
        for (const rows of [1, 3, 127, 129]) {
          const N = 64 * rows;
          const [sum, start, momentum] = [0, 1, 2].map(() => randomValues(random, N));
          const t = {
            ...tensors({
              weights: [[N], "f32", sum!],
              start: [[N], "f32", start!],
              momentum: [[N], "f32", momentum!],
            }),
            ...(hasCopy ? tensors({ copy: [[N], "f16"] }) : {}),
          };
          const state = {
            start: Float64Array.from(start!),
            momentum: Float64Array.from(momentum!),
          };
          reference.outerStep({ sum: sum! }, state, options);
          const outputs = [t.weights, t.momentum, t.start];
          const [weights, decayed, next] = await runProgram(
            (program) => outerStep(program, t, options),
            outputs,
            { on },
          );
          assertClose(weights!, state.start, 1e-6, "weights");
          assertClose(decayed!, state.momentum, 1e-6, "momentum");
          assert.deepEqual(next, weights);
          if (!t.copy) continue;
          const [copy] = await download(device, t.copy);
          assert.deepEqual([...copy!], [...new Float16Array(weights!)]);
        }
      }),
    );
  }
}

Deno.test("outerStep() throws on weights that are no multiple of 64", () => {
  const t = tensors({ weights: [[96], "f32"], start: [[96], "f32"], momentum: [[96], "f32"] });
  using program = new Program(device);
  assert.throws(
    () => outerStep(program, t, { ranks: 1, outerLearningRate: 1, outerMomentum: 0 }),
    {
      name: "RangeError",
      message:
        'Cannot run an outer step as weights must have a multiple of 64 elements: current number of "weights" is 96',
    },
  );
});
