import assert from "node:assert/strict";
import { linearBackward, linearForward } from "../../kernels/linear/linear.ts";
import * as reference from "../../kernels/linear/reference.ts";
import {
  assertComputes,
  assertGradient,
  device,
  randomIntegers,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";

// sums of up to 130 products of order one, see matmul_test.ts
const TOLERANCE = { f32: 2e-5, f16: 2e-3 } as Record<string, number>;

Deno.test(
  "reference linearBackward() matches central differences",
  withRandom((random) => {
    const shape = { M: 3, C: 5, N: 4 }, { M, C, N } = shape;
    const x = randomValues(random, M * C), weight = randomValues(random, C * N);
    const bias = randomValues(random, N), dy = randomValues(random, M * N);
    const { dx, dweight, dbias } = reference.linearBackward({ x, weight, dy }, shape);
    const y = (changed: Partial<Record<"x" | "weight" | "bias", Float32Array>>) =>
      reference.linearForward({ x, weight, bias, ...changed }, shape).y;
    assertGradient((x) => y({ x }), x, dy, dx, { what: "dx" });
    assertGradient((weight) => y({ weight }), weight, dy, dweight, { what: "dweight" });
    assertGradient((bias) => y({ bias }), bias, dy, dbias, { what: "dbias" });
  }),
);

for (const dtype of REAL_TYPES) {
  for (const [M, C, N] of [[1, 4, 3], [130, 65, 127], [129, 4, 132]] as const) {
    Deno.test(
      `linear matches the reference in ${dtype} at [${M},${C}]x[${C},${N}]`,
      withRandom(async (random) => {
        const values = {
          x: randomValues(random, M * C, { dtype }),
          weight: randomValues(random, C * N, { dtype }),
          bias: randomValues(random, N),
          dy: randomValues(random, M * N, { dtype }),
        };
        const t = tensors({
          x: [[M, C], dtype, values.x],
          weight: [[C, N], dtype, values.weight],
          bias: [[N], "f32", values.bias],
          dy: [[M, N], dtype, values.dy],
          y: [[M, N], dtype],
          dx: [[M, C], dtype],
          dweight: [[C, N], "f32"],
          dbias: [[N], "f32"],
        });
        const { y } = reference.linearForward(values, { M, C, N });
        const { dx, dweight, dbias } = reference.linearBackward(values, { M, C, N });
        await assertComputes((program) => {
          linearForward(program, t, t);
          linearBackward(program, t, t);
          linearBackward(program, t, t, { accumulate: true, accumulateDx: true });
        }, [
          [t.y, y, TOLERANCE[dtype]!],
          [t.dx, dx.map((v) => 2 * v), 2 * TOLERANCE[dtype]!],
          [t.dweight, dweight.map((v) => 2 * v), 2 * TOLERANCE.f32!],
          [t.dbias, dbias.map((v) => 2 * v), 2 * TOLERANCE.f32!],
        ]);
      }),
    );
  }
}

// dy is summed in blocks, and columns in fours if N allows it
const SUMMED = [
  { like: "a CPU", shapes: [[256, 3], [257, 132], [1100, 127], [1100, 68]] },
  { like: "a GPU", shapes: [[1, 4], [257, 132], [1100, 127], [16390, 5], [16449, 8], [3, 2308]] },
] as const;
for (const dtype of REAL_TYPES) {
  for (
    const { like, M, N } of SUMMED.flatMap(({ like, shapes }) =>
      shapes.map(([M, N]) => ({ like, M, N }))
    )
  ) {
    Deno.test(
      `linearBackward() sums the columns of dy like ${like} in ${dtype} at [${M},${N}]`,
      withRandom(async (random) => {
        const dy = randomIntegers(random, M * N);
        const before = Float32Array.from({ length: N }, (_, n) => n);
        const t = tensors({
          x: [[M, 1], "f32"], // not read, and neither is weight
          weight: [[1, N], "f32"],
          dy: [[M, N], dtype, dy],
          dbias: [[N], "f32"],
          accumulated: [[N], "f32", before],
        });
        const sums = new Float32Array(N);
        dy.forEach((v, i) => sums[i % N]! += v);
        await assertComputes(
          (program) => {
            linearBackward(program, t, { dbias: t.dbias });
            linearBackward(program, t, { dbias: t.accumulated }, { accumulate: true });
          },
          [[t.dbias, sums, 0], [t.accumulated, sums.map((v, n) => v + before[n]!), 0]],
          { on: { ...device, isCpu: like === "a CPU" } },
        );
      }),
    );
  }
}

Deno.test(
  "linearForward() without a bias and linearBackward() of a part give the same as of the whole",
  withRandom(async (random) => {
    const M = 5, C = 8, N = 12;
    const t = tensors({
      x: [[M, C], "f32", randomValues(random, M * C)],
      weight: [[C, N], "f32", randomValues(random, C * N)],
      bias: [[N], "f32", 0],
      dy: [[M, N], "f32", randomValues(random, M * N)],
    });
    const { bias, ...unbiased } = t;
    const outputs = () =>
      tensors({
        y: [[M, N], "f32"],
        dx: [[M, C], "f32"],
        dweight: [[C, N], "f32"],
        dbias: [[N], "f32"],
      });
    const whole = outputs(), part = outputs();
    const results = await runProgram((program) => {
      linearForward(program, { ...unbiased, bias }, whole);
      linearForward(program, unbiased, part);
      linearBackward(program, t, whole);
      for (const name of ["dx", "dweight", "dbias"] as const) {
        linearBackward(program, t, { [name]: part[name] });
      }
      const launches = program.length;
      linearBackward(program, t, {});
      assert.equal(program.length, launches);
    }, [...Object.values(whole), ...Object.values(part)]);
    assert.deepEqual(results.slice(4), results.slice(0, 4));
  }),
);
