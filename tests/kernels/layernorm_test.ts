import assert from "node:assert/strict";
import {
  layernormBackward,
  layernormForward,
  layernormPartialsShape,
} from "../../kernels/layernorm/layernorm.ts";
import * as reference from "../../kernels/layernorm/reference.ts";
import { Program } from "../../kernels/program.ts";
import {
  assertClose,
  assertGradient,
  device,
  freshSeed,
  poisoned,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensorOf,
  testRandom,
} from "./harness.ts";

// f32: sums of up to 257 terms in another order; f16: y and dy rounded to 11 bits
const TOLERANCE = { f32: 3e-5, f16: 2e-3 } as Record<string, number>;

Deno.test("reference layernormBackward() matches central differences", () => {
  const random = testRandom(freshSeed());
  const shape = { M: 3, C: 5 };
  const x = randomValues(random, 15), dy = randomValues(random, 15);
  const weight = randomValues(random, 5), bias = randomValues(random, 5);
  const { dx, dweight, dbias } = reference.layernormBackward({ x, weight, dy }, shape);
  const y = (changed: Partial<Record<"x" | "weight" | "bias", Float32Array>>) =>
    reference.layernormForward({ x, weight, bias, ...changed }, shape).y;
  assertGradient((x) => y({ x }), x, dy, dx, { step: 3e-3, tolerance: 2e-2, what: "dx" });
  assertGradient((weight) => y({ weight }), weight, dy, dweight, { what: "dweight" });
  assertGradient((bias) => y({ bias }), bias, dy, dbias, { what: "dbias" });
});

for (const dtype of REAL_TYPES) {
  for (const [M, C] of [[1, 1], [3, 127], [129, 24], [65, 257]] as const) {
    Deno.test(`layernorm matches the reference in ${dtype} at [${M},${C}]`, async () => {
      const seed = freshSeed(), random = testRandom(seed);
      const values = {
        x: randomValues(random, M * C).map((v) => v + 3), // far from zero, so that sums cancel
        weight: randomValues(random, C),
        bias: randomValues(random, C),
        dy: randomValues(random, M * C, { dtype }),
      };
      const f32 = (shape: readonly number[]) => ({ shape, dtype: "f32" as const });
      const t = {
        x: tensorOf("x", f32([M, C]), values.x),
        weight: tensorOf("weight", f32([C]), values.weight),
        bias: tensorOf("bias", f32([C]), values.bias),
        dy: tensorOf("dy", { shape: [M, C], dtype }, values.dy),
        y: poisoned("y", { shape: [M, C], dtype }),
        mean: poisoned("mean", f32([M])),
        rstd: poisoned("rstd", f32([M])),
        dx: poisoned("dx", f32([M, C])),
        dweight: poisoned("dweight", f32([C])),
        dbias: poisoned("dbias", f32([C])),
        partials: poisoned("partials", f32(layernormPartialsShape(M, C))),
      };
      const [y, mean, dx, dweight, dbias] = await runProgram(
        (program) => {
          layernormForward(program, t, t);
          layernormBackward(program, t, t);
          layernormBackward(program, t, t, { accumulate: true, accumulateDx: true });
        },
        t.y,
        t.mean,
        t.dx,
        t.dweight,
        t.dbias,
      );
      const forward = reference.layernormForward(values, { M, C });
      const backward = reference.layernormBackward(values, { M, C });
      const twice = (v: Float32Array) => v.map((value) => 2 * value);
      const f32Tolerance = TOLERANCE.f32!;
      assertClose(y!, forward.y, TOLERANCE[dtype]!, `y, seed ${seed}`);
      assertClose(mean!, forward.mean, f32Tolerance, `mean, seed ${seed}`);
      // with one feature 1 / √(0 + ε) = 316 multiplies rounding errors
      if (C > 1) assertClose(dx!, twice(backward.dx), 4 * f32Tolerance, `dx, seed ${seed}`);
      assertClose(dweight!, twice(backward.dweight), 4 * f32Tolerance, `dweight, seed ${seed}`);
      assertClose(dbias!, twice(backward.dbias), f32Tolerance, `dbias, seed ${seed}`);
    });
  }
}

Deno.test("layernormForward() reaches rows beyond one row of workgroups", async () => {
  const M = 32768 * 16 + 5, C = 2;
  const f32 = (shape: number[]) => ({ shape, dtype: "f32" as const });
  const x = tensorOf("x", f32([M, C]), Float32Array.from({ length: M * C }, (_, i) => i % 2));
  const t = {
    weight: tensorOf("weight", f32([C]), [1, 1]),
    bias: tensorOf("bias", f32([C]), [0, 0]),
    y: poisoned("y", f32([M, C])),
    mean: poisoned("mean", f32([M])),
    rstd: poisoned("rstd", f32([M])),
  };
  const [mean] = await runProgram((program) => layernormForward(program, { x, ...t }, t), t.mean);
  assert.equal(mean!.findIndex((v) => v !== 0.5), -1);
});

Deno.test("layernormForward() throws when weight and x have different widths", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const t = { y: like([2, 4]), mean: like([2]), rstd: like([2]), bias: like([4]) };
  assert.throws(
    () => layernormForward(new Program(device), { x: like([2, 4]), weight: like([3]), ...t }, t),
    { name: "RangeError", message: /"t" must have shape \[4\]: current shape is \[3\]/ },
  );
});
