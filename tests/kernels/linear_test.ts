import assert from "node:assert/strict";
import { linearBackward, linearForward } from "../../kernels/linear/linear.ts";
import * as reference from "../../kernels/linear/reference.ts";
import { Program } from "../../kernels/program.ts";
import { download } from "../../kernels/tensor.ts";
import {
  assertClose,
  assertGradient,
  device,
  freshSeed,
  poisoned,
  poisonScratch,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensorOf,
  testRandom,
} from "./harness.ts";

// sums of up to 130 products of order one, see matmul_test.ts
const TOLERANCE = { f32: 2e-5, f16: 2e-3 } as Record<string, number>;

Deno.test("reference linearBackward() matches central differences", () => {
  const seed = freshSeed(), random = testRandom(seed);
  const shape = { M: 3, C: 5, N: 4 }, { M, C, N } = shape;
  const x = randomValues(random, M * C), weight = randomValues(random, C * N);
  const bias = randomValues(random, N), dy = randomValues(random, M * N);
  const { dx, dweight, dbias } = reference.linearBackward({ x, weight, dy }, shape);
  const y = (changed: Partial<Record<"x" | "weight" | "bias", Float32Array>>) =>
    reference.linearForward({ x, weight, bias, ...changed }, shape).y;
  assertGradient((x) => y({ x }), x, dy, dx, { what: `dx, seed ${seed}` });
  assertGradient((weight) => y({ weight }), weight, dy, dweight, { what: `dweight, seed ${seed}` });
  assertGradient((bias) => y({ bias }), bias, dy, dbias, { what: `dbias, seed ${seed}` });
});

for (const dtype of REAL_TYPES) {
  for (const [M, C, N] of [[1, 4, 3], [130, 65, 127], [129, 4, 132]] as const) {
    Deno.test(`linear matches the reference in ${dtype} at [${M},${C}]x[${C},${N}]`, async () => {
      const seed = freshSeed(), random = testRandom(seed);
      const values = {
        x: randomValues(random, M * C, { dtype }),
        weight: randomValues(random, C * N, { dtype }),
        bias: randomValues(random, N),
        dy: randomValues(random, M * N, { dtype }),
      };
      const gradient = (name: string, shape: number[]) => poisoned(name, { shape, dtype: "f32" });
      const t = {
        x: tensorOf("x", { shape: [M, C], dtype }, values.x),
        weight: tensorOf("weight", { shape: [C, N], dtype }, values.weight),
        bias: tensorOf("bias", { shape: [N], dtype: "f32" }, values.bias),
        dy: tensorOf("dy", { shape: [M, N], dtype }, values.dy),
        y: poisoned("y", { shape: [M, N], dtype }),
        dx: poisoned("dx", { shape: [M, C], dtype }),
        dweight: gradient("dweight", [C, N]),
        dbias: gradient("dbias", [N]),
      };
      const [y, dx, dweight, dbias] = await runProgram(
        (program) => {
          linearForward(program, t, t);
          linearBackward(program, t, t);
          linearBackward(program, t, t, { accumulate: true });
        },
        t.y,
        t.dx,
        t.dweight,
        t.dbias,
      );
      const shape = { M, C, N }, expected = reference.linearBackward(values, shape);
      const twice = (values: Float32Array) => values.map((v) => 2 * v);
      assertClose(
        y!,
        reference.linearForward(values, shape).y,
        TOLERANCE[dtype]!,
        `y, seed ${seed}`,
      );
      assertClose(dx!, expected.dx, TOLERANCE[dtype]!, `dx, seed ${seed}`);
      assertClose(dweight!, twice(expected.dweight), 2 * TOLERANCE.f32!, `dweight, seed ${seed}`);
      assertClose(dbias!, twice(expected.dbias), 2 * TOLERANCE.f32!, `dbias, seed ${seed}`);
    });
  }
}

// dy is summed in blocks, columns in fours where N allows it
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
    Deno.test(`linearBackward() sums the columns of dy like ${like} in ${dtype} at [${M},${N}]`, async () => {
      const seed = freshSeed(), random = testRandom(seed);
      // integers, whose sums are exact in any order
      const values = Float32Array.from({ length: M * N }, () => Math.floor(17 * random()) - 8);
      const before = Float32Array.from({ length: N }, (_, n) => n);
      const any = (shape: number[]) => poisoned("any", { shape, dtype: "f32" }); // not looked at
      const inputs = {
        x: any([M, 1]),
        weight: any([1, N]),
        dy: tensorOf("dy", { shape: [M, N], dtype }, values),
      };
      const dbias = poisoned("dbias", { shape: [N], dtype: "f32" });
      const accumulated = tensorOf("dbias", { shape: [N], dtype: "f32" }, before);
      using program = new Program({ ...device, isCpu: like === "a CPU" });
      poisonScratch(program);
      linearBackward(program, inputs, { dbias });
      linearBackward(program, inputs, { dbias: accumulated }, { accumulate: true });
      program.run();
      const [set, added] = await download(device, dbias, accumulated);
      const sums = new Float32Array(N);
      values.forEach((v, i) => sums[i % N]! += v);
      assert.deepEqual(set, sums, `seed ${seed}`);
      assert.deepEqual(added, sums.map((v, n) => v + before[n]!), `seed ${seed}`);
    });
  }
}

Deno.test("linearForward() without a bias and linearBackward() of a part give the same as of the whole", async () => {
  const seed = freshSeed(), random = testRandom(seed), M = 5, C = 8, N = 12;
  const like = (shape: number[]) => ({ shape, dtype: "f32" as const });
  const t = {
    x: tensorOf("x", like([M, C]), randomValues(random, M * C)),
    weight: tensorOf("weight", like([C, N]), randomValues(random, C * N)),
    bias: tensorOf("bias", like([N]), new Array(N).fill(0)),
    dy: tensorOf("dy", like([M, N]), randomValues(random, M * N)),
  };
  const { bias, ...unbiased } = t;
  const outputs = () => ({
    y: poisoned("y", like([M, N])),
    dx: poisoned("dx", like([M, C])),
    dweight: poisoned("dweight", like([C, N])),
    dbias: poisoned("dbias", like([N])),
  });
  const whole = outputs(), part = outputs();
  const results = await runProgram(
    (program) => {
      linearForward(program, { ...unbiased, bias }, whole);
      linearForward(program, unbiased, part);
      linearBackward(program, t, whole);
      for (const name of ["dx", "dweight", "dbias"] as const) {
        linearBackward(program, t, { [name]: part[name] });
      }
      const launches = program.length;
      linearBackward(program, t, {});
      assert.equal(program.length, launches);
    },
    ...Object.values(whole),
    ...Object.values(part),
  );
  assert.deepEqual(results.slice(4), results.slice(0, 4), `seed ${seed}`);
});
