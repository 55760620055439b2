import assert from "node:assert/strict";
import { layernormBackward, layernormForward } from "../../kernels/layernorm/layernorm.ts";
import * as reference from "../../kernels/layernorm/reference.ts";
import { Program } from "../../kernels/program.ts";
import { dropoutFactor } from "../../kernels/dropout/reference.ts";
import { download, type DType } from "../../kernels/tensor.ts";
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
  const seed = freshSeed(), random = testRandom(seed);
  const shape = { M: 3, C: 5 };
  const x = randomValues(random, 15), dy = randomValues(random, 15);
  const weight = randomValues(random, 5), bias = randomValues(random, 5);
  const { dx, dweight, dbias } = reference.layernormBackward({ x, weight, dy }, shape);
  const y = (changed: Partial<Record<"x" | "weight" | "bias", Float32Array>>) =>
    reference.layernormForward({ x, weight, bias, ...changed }, shape).y;
  assertGradient((x) => y({ x }), x, dy, dx, {
    step: 3e-3,
    tolerance: 2e-2,
    what: `dx, seed ${seed}`,
  });
  assertGradient((weight) => y({ weight }), weight, dy, dweight, { what: `dweight, seed ${seed}` });
  assertGradient((bias) => y({ bias }), bias, dy, dbias, { what: `dbias, seed ${seed}` });
});

Deno.test("reference residualBackward() matches central differences", () => {
  const seed = freshSeed(), random = testRandom(seed);
  const x = randomValues(random, 20), z = randomValues(random, 20), dsum = randomValues(random, 20);
  const factor = (i: number) => i % 3 === 0 ? 0 : 1.5;
  const { dz } = reference.residualBackward({ dsum }, factor);
  assertGradient((z) => reference.residualForward({ x, z }, factor).sum, z, dsum, dz, {
    what: `dz, seed ${seed}`,
  });
});

// activations behind an f32 residual stream, and f16 throughout
const TYPES: (readonly [x: DType, y: DType])[] = REAL_TYPES.includes("f16")
  ? [["f32", "f32"], ["f32", "f16"], ["f16", "f16"]]
  : [["f32", "f32"]];

for (const [xType, yType] of TYPES) {
  for (const [M, C] of [[1, 4], [3, 124], [129, 24], [65, 260], [5, 1028]] as const) {
    for (const isCpu of [true, false]) {
      const lanes = isCpu ? "CPU" : "GPU", shape = { xType, yType, M, C, isCpu };
      Deno.test(
        `layernorm for a ${lanes} matches the reference from ${xType} to ${yType} at [${M},${C}]`,
        () => check(shape),
      );
    }
  }
}

for (const dtype of REAL_TYPES) {
  for (const rate of [0, 0.3]) {
    for (const [M, C] of [[1, 4], [67, 132]] as const) {
      const shape = { xType: "f32", yType: dtype, M, C } as const;
      Deno.test(`layernorm of a sum matches the reference in ${dtype} at [${M},${C}], rate ${rate}`, () =>
        check({ ...shape, isCpu: device.isCpu, rate }));
    }
  }
}

/** Runs forward and backward on the device; with a rate, of the sum with dropout(z). */
async function check(
  { xType, yType, M, C, isCpu, rate }: {
    xType: DType;
    yType: DType;
    M: number;
    C: number;
    isCpu: boolean;
    rate?: number;
  },
) {
  const seed = freshSeed(), random = testRandom(seed);
  const site = { rate: rate ?? 0, site: 7 };
  const factor = (index: number) => rate ? dropoutFactor({ ...site, seed, counter: 11, index }) : 1;
  // most rows far from zero, so that sums cancel; some nearly constant, so that epsilon counts
  const isFlat = (i: number) => Math.floor(i / C) % 3 === 1;
  const far = randomValues(random, M * C).map((v, i) => isFlat(i) ? 3e-3 * v : v + 3);
  const x = xType === "f16" ? new Float32Array(new Float16Array(far)) : far;
  const branchValues = randomValues(random, M * C).map((v, i) => isFlat(i) ? 3e-3 * v : v);
  const z = yType === "f16" ? new Float32Array(new Float16Array(branchValues)) : branchValues;
  const values = {
    x: rate === undefined ? x : reference.residualForward({ x, z }, factor).sum,
    weight: randomValues(random, C),
    bias: randomValues(random, C),
    dy: randomValues(random, M * C, { dtype: yType }),
  };
  const f32 = (shape: readonly number[]) => ({ shape, dtype: "f32" as const });
  const branch = { shape: [M, C], dtype: yType };
  const t = {
    x: tensorOf("x", { shape: [M, C], dtype: xType }, x),
    weight: tensorOf("weight", f32([C]), values.weight),
    bias: tensorOf("bias", f32([C]), values.bias),
    dy: tensorOf("dy", branch, values.dy),
    y: poisoned("y", branch),
    statistics: poisoned("statistics", f32([M, 2])),
    dx: poisoned("dx", f32([M, C])),
    dweight: poisoned("dweight", f32([C])),
    dbias: poisoned("dbias", f32([C])),
    ...(rate === undefined ? {} : {
      z: tensorOf("z", branch, z),
      sum: poisoned("sum", f32([M, C])),
      dz: poisoned("dz", branch),
      random: tensorOf("random", { shape: [2], dtype: "u32" }, [seed, 11]),
    }),
  };
  using program = new Program({ ...device, isCpu });
  layernormForward(program, t, t, site);
  const inputs = { ...t, x: t.sum ?? t.x };
  layernormBackward(program, inputs, t, site);
  layernormBackward(program, inputs, t, { ...site, accumulate: true, accumulateDx: true });
  program.run();
  const [y, statistics, dx, dweight, dbias, sum, dz] = await download(
    device,
    ...[t.y, t.statistics, t.dx, t.dweight, t.dbias],
    ...(t.sum ? [t.sum, t.dz!] : []),
  );
  const forward = reference.layernormForward(values, { M, C });
  const backward = reference.layernormBackward(values, { M, C });
  const twice = (v: Float32Array) => v.map((value) => 2 * value);
  const tolerance = TOLERANCE.f32!;
  assertClose(y!, forward.y, TOLERANCE[yType]!, `y, seed ${seed}`);
  const both = Float32Array.from(
    { length: 2 * M },
    (_, i) => forward[i % 2 ? "rstd" : "mean"][i >> 1]!,
  );
  assertClose(statistics!, both, tolerance, `statistics, seed ${seed}`);
  assertClose(dx!, twice(backward.dx), 4 * tolerance, `dx, seed ${seed}`);
  assertClose(dweight!, twice(backward.dweight), 4 * tolerance, `dweight, seed ${seed}`);
  assertClose(dbias!, twice(backward.dbias), tolerance, `dbias, seed ${seed}`);
  if (rate === undefined) return;
  assertClose(sum!, values.x, 1e-6, `sum, seed ${seed}`);
  const { dz: expected } = reference.residualBackward({ dsum: twice(backward.dx) }, factor);
  assertClose(dz!, expected, Math.max(4 * tolerance, TOLERANCE[yType]!), `dz, seed ${seed}`);
}

Deno.test("layernorm reaches rows beyond one row of workgroups", async () => {
  const M = 32768 * 8 + 5, C = 4; // 8 rows a workgroup
  const f32 = (shape: number[]) => ({ shape, dtype: "f32" as const });
  const row = { x: Float32Array.of(0, 1, 5, 2), weight: Float32Array.of(1, 2, -1, 1) };
  const dyRow = Float32Array.of(1, 0, -2, 1);
  const everywhere = (values: Float32Array) =>
    Float32Array.from({ length: M * C }, (_, i) => values[i % C]!);
  const empty = new Float32Array(M * C).fill(NaN);
  const t = {
    x: tensorOf("x", f32([M, C]), everywhere(row.x)),
    weight: tensorOf("weight", f32([C]), row.weight),
    bias: tensorOf("bias", f32([C]), [0, 0, 0, 0]),
    dy: tensorOf("dy", f32([M, C]), everywhere(dyRow)),
    y: tensorOf("y", f32([M, C]), empty),
    statistics: poisoned("statistics", f32([M, 2])),
    dx: tensorOf("dx", f32([M, C]), empty),
    dweight: poisoned("dweight", f32([C])),
    dbias: poisoned("dbias", f32([C])),
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
  assert.deepEqual([...dbias!], [M, 0, -2 * M, M]); // integers below 2²⁴: exact
});

Deno.test("layernormForward() throws when weight and x have different widths", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const t = { y: like([2, 4]), statistics: like([2, 2]), bias: like([4]) };
  assert.throws(
    () => layernormForward(new Program(device), { x: like([2, 4]), weight: like([3]), ...t }, t),
    { name: "RangeError", message: /"t" must have shape \[4\]: current shape is \[3\]/ },
  );
});

Deno.test("layernormForward() throws on z without sum, and sum without z", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const x = like([2, 4]), row = like([4]);
  const outputs = { y: like([2, 4]), statistics: like([2, 2]) };
  const message = (name: string) => ({ name: "TypeError", message: new RegExp(`${name} alone$`) });
  const inputs = { x, weight: row, bias: row }, program = new Program(device);
  assert.throws(() => layernormForward(program, { ...inputs, z: x }, outputs), message("z"));
  assert.throws(
    () => layernormForward(program, inputs, { ...outputs, sum: like([2, 4]) }),
    message("sum"),
  );
});

Deno.test("layernormForward() throws on dropout without random numbers", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const x = like([2, 4]), row = like([4]);
  assert.throws(
    () =>
      layernormForward(
        new Program(device),
        { x, z: x, weight: row, bias: row },
        { sum: like([2, 4]), y: like([2, 4]), statistics: like([2, 2]) },
        { rate: 0.1 },
      ),
    { name: "TypeError", message: /needs the tensor "random": current rate is 0.1/ },
  );
});
