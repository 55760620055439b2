import assert from "node:assert/strict";
import {
  layernormBackward,
  layernormForward,
  layernormPartialsShape,
} from "../../kernels/layernorm/layernorm.ts";
import * as reference from "../../kernels/layernorm/reference.ts";
import { Program } from "../../kernels/program.ts";
import type { DType } from "../../kernels/tensor.ts";
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

// activations behind an f32 residual stream, and f16 throughout
const TYPES: (readonly [x: DType, y: DType])[] = REAL_TYPES.includes("f16")
  ? [["f32", "f32"], ["f32", "f16"], ["f16", "f16"]]
  : [["f32", "f32"]];

for (const [xType, yType] of TYPES) {
  for (const [M, C] of [[1, 1], [3, 127], [129, 24], [65, 257]] as const) {
    Deno.test(`layernorm matches the reference from ${xType} to ${yType} at [${M},${C}]`, () =>
      check({ xType, yType, M, C }));
  }
}

async function check(
  { xType, yType, M, C }: { xType: DType; yType: DType; M: number; C: number },
) {
  const seed = freshSeed(), random = testRandom(seed);
  const x = randomValues(random, M * C).map((v) => v + 3); // far from zero, so that sums cancel
  const values = {
    x: xType === "f16" ? new Float32Array(new Float16Array(x)) : x,
    weight: randomValues(random, C),
    bias: randomValues(random, C),
    dy: randomValues(random, M * C, { dtype: yType }),
  };
  const f32 = (shape: readonly number[]) => ({ shape, dtype: "f32" as const });
  const t = {
    x: tensorOf("x", { shape: [M, C], dtype: xType }, values.x),
    weight: tensorOf("weight", f32([C]), values.weight),
    bias: tensorOf("bias", f32([C]), values.bias),
    dy: tensorOf("dy", { shape: [M, C], dtype: yType }, values.dy),
    y: poisoned("y", { shape: [M, C], dtype: yType }),
    mean: poisoned("mean", f32([M])),
    rstd: poisoned("rstd", f32([M])),
    dx: poisoned("dx", f32([M, C])),
    dweight: poisoned("dweight", f32([C])),
    dbias: poisoned("dbias", f32([C])),
    partials: poisoned("partials", f32(layernormPartialsShape(M, C))),
  };
  const [y, mean, rstd, dx, dweight, dbias] = await runProgram(
    (program) => {
      layernormForward(program, t, t);
      layernormBackward(program, t, t);
      layernormBackward(program, t, t, { accumulate: true, accumulateDx: true });
    },
    t.y,
    t.mean,
    t.rstd,
    t.dx,
    t.dweight,
    t.dbias,
  );
  const forward = reference.layernormForward(values, { M, C });
  const backward = reference.layernormBackward(values, { M, C });
  const twice = (v: Float32Array) => v.map((value) => 2 * value);
  const tolerance = TOLERANCE.f32!;
  assertClose(y!, forward.y, TOLERANCE[yType]!, `y, seed ${seed}`);
  assertClose(mean!, forward.mean, tolerance, `mean, seed ${seed}`);
  assertClose(rstd!, forward.rstd, tolerance, `rstd, seed ${seed}`);
  // with one feature 1 / √(0 + ε) = 316 multiplies rounding errors
  if (C > 1) assertClose(dx!, twice(backward.dx), 4 * tolerance, `dx, seed ${seed}`);
  assertClose(dweight!, twice(backward.dweight), 4 * tolerance, `dweight, seed ${seed}`);
  assertClose(dbias!, twice(backward.dbias), tolerance, `dbias, seed ${seed}`);
}

Deno.test("layernorm reaches rows beyond one row of workgroups", async () => {
  const M = 32768 * 8 + 5, C = 3; // 8 rows a workgroup
  const f32 = (shape: number[]) => ({ shape, dtype: "f32" as const });
  const row = { x: Float32Array.of(0, 1, 5), weight: Float32Array.of(1, 2, -1) };
  const dyRow = Float32Array.of(1, 0, -2);
  const everywhere = (values: Float32Array) =>
    Float32Array.from({ length: M * C }, (_, i) => values[i % C]!);
  const empty = new Float32Array(M * C).fill(NaN);
  const t = {
    x: tensorOf("x", f32([M, C]), everywhere(row.x)),
    weight: tensorOf("weight", f32([C]), row.weight),
    bias: tensorOf("bias", f32([C]), [0, 0, 0]),
    dy: tensorOf("dy", f32([M, C]), everywhere(dyRow)),
    y: tensorOf("y", f32([M, C]), empty),
    mean: poisoned("mean", f32([M])),
    rstd: poisoned("rstd", f32([M])),
    dx: tensorOf("dx", f32([M, C]), empty),
    dweight: poisoned("dweight", f32([C])),
    dbias: poisoned("dbias", f32([C])),
    partials: poisoned("partials", f32(layernormPartialsShape(M, C))),
  };
  const [y, dx, dbias] = await runProgram(
    (program) => {
      layernormForward(program, t, t);
      layernormBackward(program, t, t);
    },
    t.y,
    t.dx,
    t.dbias,
  );
  const one = { M: 1, C };
  const forward = reference.layernormForward({ ...row, bias: new Float32Array(C) }, one);
  const backward = reference.layernormBackward({ ...row, dy: dyRow }, one);
  assertClose(y!, everywhere(forward.y), TOLERANCE.f32!, "y");
  assertClose(dx!, everywhere(backward.dx), TOLERANCE.f32!, "dx");
  assert.deepEqual([...dbias!], [M, 0, -2 * M]); // integers below 2²⁴: exact
});

Deno.test("layernormForward() throws when weight and x have different widths", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const t = { y: like([2, 4]), mean: like([2]), rstd: like([2]), bias: like([4]) };
  assert.throws(
    () => layernormForward(new Program(device), { x: like([2, 4]), weight: like([3]), ...t }, t),
    { name: "RangeError", message: /"t" must have shape \[4\]: current shape is \[3\]/ },
  );
});
