import assert from "node:assert/strict";
import { dryDevice } from "../../kernels/dry_device.ts";
import { dropoutFactor } from "../../kernels/dropout/reference.ts";
import { residualBackward, residualForward } from "../../kernels/layernorm/reference.ts";
import { Program } from "../../kernels/program.ts";
import * as reference from "../../kernels/rmsnorm/reference.ts";
import { rmsnormBackward, rmsnormForward } from "../../kernels/rmsnorm/rmsnorm.ts";
import { createTensor, type DType } from "../../kernels/tensor.ts";
import {
  assertClose,
  assertComputes,
  assertGradient,
  device,
  poisoned,
  randomValues,
  REAL_TYPES,
  rounded,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";

// f32: sums of up to 257 terms in another order; f16: y and dy rounded to 11 bits
const TOLERANCE = { f32: 3e-5, f16: 2e-3 } as Record<string, number>;

Deno.test("reference rmsnormForward() divides a row by its root mean square", () => {
  const x = Float32Array.of(1, -2, 3, 0.5), weight = Float32Array.of(1, 0.5, -1, 2);
  const { y, rstd } = reference.rmsnormForward({ x, weight }, { M: 1, C: 4 });
  const expected = 1 / Math.sqrt(14.25 / 4 + 1e-5);
  assertClose(rstd, [expected], 1e-7, "rstd");
  assertClose(y, [expected, -expected, -3 * expected, expected], 1e-7, "y");
});

Deno.test(
  "reference rmsnormBackward() matches central differences",
  withRandom((random) => {
    const shape = { M: 3, C: 5 };
    const x = randomValues(random, 15), dy = randomValues(random, 15);
    const weight = randomValues(random, 5);
    const { dx, dweight } = reference.rmsnormBackward({ x, weight, dy }, shape);
    const y = (changed: Partial<Record<"x" | "weight", Float32Array>>) =>
      reference.rmsnormForward({ x, weight, ...changed }, shape).y;
    assertGradient((x) => y({ x }), x, dy, dx, { step: 3e-3, tolerance: 2e-2, what: "dx" });
    assertGradient((weight) => y({ weight }), weight, dy, dweight, { what: "dweight" });
  }),
);

const [HALF = "f32"] = REAL_TYPES.filter((dtype) => dtype === "f16");

// activations beside an f32 residual stream, and f16 throughout; rows of one lane to all lanes of a workgroup
const CASES: readonly (readonly [x: DType, y: DType, M: number, C: number])[] = [
  ["f32", "f32", 3, 124],
  ["f32", HALF, 521, 24], // several rows per row of invocations
  [HALF, HALF, 1, 4],
  ["f32", HALF, 65, 260],
  ["f32", "f32", 5, 1028],
];

for (const [xType, yType, M, C] of CASES) {
  for (const isCpu of [true, false]) {
    Deno.test(
      `rmsnorm for a ${
        isCpu ? "CPU" : "GPU"
      } matches the reference from ${xType} to ${yType} at [${M},${C}]`,
      withRandom((random, seed) => check(random, seed, { xType, yType, M, C, isCpu })),
    );
  }
}

Deno.test(
  "rmsnorm for a CPU without subgroups matches the reference",
  withRandom(async (random, seed) => {
    const on = { isCpu: true, hasSubgroups: false };
    await check(random, seed, { xType: "f32", yType: "f32", M: 65, C: 260, ...on });
  }),
);

for (
  const [yType, M, C, rate] of [["f32", 67, 132, 0.3], [HALF, 1, 4, 0], [
    HALF,
    67,
    132,
    0.3,
  ]] as const
) {
  Deno.test(
    `rmsnorm of a sum matches the reference in ${yType} at [${M},${C}], rate ${rate}`,
    withRandom((random, seed) =>
      check(random, seed, { xType: "f32", yType, M, C, isCpu: device.isCpu, rate })
    ),
  );
}

/** Compares forward and backward with the reference; if there is a rate, of the sum with dropout(z). */
async function check(
  random: () => number,
  seed: number,
  { xType, yType, M, C, isCpu, hasSubgroups = true, rate }: {
    xType: DType;
    yType: DType;
    M: number;
    C: number;
    isCpu: boolean;
    hasSubgroups?: boolean;
    rate?: number;
  },
) {
  const site = { rate: rate ?? 0, site: 7 };
  const factor = (index: number) => rate ? dropoutFactor({ ...site, seed, counter: 11, index }) : 1;
  // some rows nearly zero, so that epsilon counts; rstd is up to 316 there, so that dy is small, too, as terms of
  // dx that cancel would otherwise be larger than the tolerance assumes
  const values = (dtype: DType) =>
    rounded(
      randomValues(random, M * C).map((v, i) => Math.floor(i / C) % 3 ? v : 3e-3 * v),
      dtype,
    );
  const x = values(xType), z = values(yType);
  const inputs = {
    x: rate === undefined ? x : residualForward({ x, z }, factor).sum,
    weight: randomValues(random, C),
    dy: values(yType),
  };
  const t = {
    ...tensors({
      x: [[M, C], xType, x],
      weight: [[C], "f32", inputs.weight],
      dy: [[M, C], yType, inputs.dy],
      y: [[M, C], yType],
      statistics: [[M, 1], "f32"],
      dx: [[M, C], "f32"],
      dweight: [[C], "f32"],
    }),
    ...(rate === undefined ? {} : tensors({
      z: [[M, C], yType, z],
      sum: [[M, C], "f32"],
      dz: [[M, C], yType],
      dzBias: [[C], "f32"],
      random: [[2], "u32", [seed, 11]],
    })),
  };
  // what the backward pass of a frozen norm sets
  const frozen = t.sum && tensors({
    dx: [[M, C], "f32"],
    dz: [[M, C], yType],
    dzBias: [[C], "f32"],
  });
  const { y, rstd } = reference.rmsnormForward(inputs, { M, C });
  const gradients = reference.rmsnormBackward(inputs, { M, C });
  const [dx, dweight] = [gradients.dx, gradients.dweight]
    .map((gradient) => gradient.map((v) => 2 * v)); // set, then accumulated
  const { dz, dzBias } = residualBackward({ dsum: dx! }, { M, C }, factor);
  const tolerance = TOLERANCE.f32!;
  await assertComputes(
    (program) => {
      const saved = { ...t, x: t.sum ?? t.x };
      const dropout = t.random && rate ? { ...site, random: t.random } : undefined;
      rmsnormForward(program, t, t, { dropout });
      rmsnormBackward(program, saved, t, { dropout });
      rmsnormBackward(program, saved, t, { dropout, accumulate: true, accumulateDx: true });
      if (frozen) rmsnormBackward(program, saved, frozen, { dropout });
    },
    [
      [t.y, y, TOLERANCE[yType]!],
      [t.statistics, rstd, tolerance],
      [t.dx, dx!, 4 * tolerance],
      [t.dweight, dweight!, 4 * tolerance],
      ...(frozen
        ? [
          [t.sum!, inputs.x, 1e-6],
          [t.dz!, dz, Math.max(4 * tolerance, TOLERANCE[yType]!)],
          [t.dzBias!, dzBias.map((v) => 1.5 * v), 4 * tolerance], // dz was half at first
          [frozen.dx, dx!.map((v) => 0.5 * v), 4 * tolerance],
          [frozen.dzBias, dzBias.map((v) => 0.5 * v), 4 * tolerance],
        ] as const
        : []),
    ],
    { on: { ...device, isCpu, ...(hasSubgroups ? {} : { subgroupSize: undefined }) } },
  );
}

Deno.test(
  "rmsnorm without a weight gives the same as with a weight of ones, and dx the same without dweight",
  withRandom(async (random) => {
    const M = 5, C = 12;
    const t = tensors({
      x: [[M, C], "f32", randomValues(random, M * C)],
      weight: [[C], "f32", 1],
      dy: [[M, C], "f32", randomValues(random, M * C)],
      statistics: [[M, 1], "f32"],
    });
    const outputs = () => tensors({ y: [[M, C], "f32"], dx: [[M, C], "f32"] });
    const ones = outputs(), without = outputs();
    const { weight, ...unweighted } = t;
    const [y, dx, ...same] = await runProgram((program) => {
      rmsnormForward(program, { ...unweighted, weight }, { ...ones, statistics: t.statistics });
      rmsnormBackward(program, { ...unweighted, weight }, {
        dx: ones.dx,
        dweight: poisoned("dweight", { shape: [C], dtype: "f32" }),
      });
      const launches = program.length;
      rmsnormForward(program, unweighted, { ...without, statistics: t.statistics });
      rmsnormBackward(program, unweighted, { dx: without.dx });
      assert.equal(program.length, launches + 2);
    }, [ones.y, ones.dx, without.y, without.dx]);
    assert.deepEqual(same, [y, dx]);
  }),
);

Deno.test("rmsnorm reaches rows beyond one row of workgroups", async () => {
  const M = 32768 * 8 + 5, C = 4; // 8 rows per workgroup
  const row = { x: Float32Array.of(0, 1, 5, 2), weight: Float32Array.of(1, 2, -1, 1) };
  const everywhere = (values: Float32Array) =>
    Float32Array.from({ length: M * C }, (_, i) => values[i % C]!);
  const t = tensors({
    x: [[M, C], "f32", everywhere(row.x)],
    weight: [[C], "f32", row.weight],
    y: [[M, C], "f32"],
    statistics: [[M, 1], "f32"],
  });
  const { y } = reference.rmsnormForward(row, { M: 1, C });
  await assertComputes((program) => rmsnormForward(program, t, t), [
    [t.y, everywhere(y), TOLERANCE.f32!],
  ]);
});

Deno.test("rmsnormForward() throws when weight and x have different widths", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const outputs = { y: like([2, 4]), statistics: like([2, 1]) };
  assert.throws(
    () => rmsnormForward(new Program(device), { x: like([2, 4]), weight: like([3]) }, outputs),
    { name: "RangeError", message: / weight must have shape \[4\]: current shape of "t" is \[3\]/ },
  );
});

Deno.test("rmsnormForward() throws on z without sum, and sum without z", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const x = like([2, 4]), outputs = { y: like([2, 4]), statistics: like([2, 1]) };
  const message = (name: string) => ({ name: "TypeError", message: new RegExp(`${name} alone$`) });
  const program = new Program(device);
  assert.throws(() => rmsnormForward(program, { x, z: x }, outputs), message("z"));
  assert.throws(
    () => rmsnormForward(program, { x }, { ...outputs, sum: like([2, 4]) }),
    message("sum"),
  );
});

Deno.test("rmsnormForward() and rmsnormBackward() throw on rows that are no vectors", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const x = like([2, 6]), row = like([6]), statistics = like([2, 1]);
  const program = new Program(device), inputs = { x, weight: row };
  const refusal = (name: string) => ({
    name: "RangeError",
    message: `Cannot run ${name} as rows of x must have a multiple of four elements: ` +
      'current shape of "t" is [2,6]',
  });
  assert.throws(
    () => rmsnormForward(program, inputs, { y: like([2, 6]), statistics }),
    refusal("rmsnormForward"),
  );
  const given = { x, weight: row, statistics, dy: like([2, 6]) };
  assert.throws(
    () => rmsnormBackward(program, given, { dx: like([2, 6]) }),
    refusal("rmsnormBackward"),
  );
});

Deno.test("rmsnormBackward() throws on dzBias without dz", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const x = like([2, 4]), row = like([4]);
  const inputs = { x, weight: row, statistics: like([2, 1]), dy: x };
  assert.throws(() => rmsnormBackward(new Program(device), inputs, { dx: x, dzBias: row }), {
    name: "TypeError",
    message: "Cannot run rmsnormBackward as dzBias needs dz: current dz is undefined",
  });
});

Deno.test("rmsnormBackward() takes as many rows on a CPU as its loop over them has iterations", () => {
  const on = { ...device, isCpu: true, subgroupSize: undefined, maxBindingBytes: 2 ** 30 };
  const rows = 32768 * 8 * 32; // iterations, rows of each, and blocks
  const record = (M: number) => {
    const dry = dryDevice(on);
    const like = (shape: number[]) => createTensor(dry, "t", { shape, dtype: "f32" });
    const x = like([M, 4]), row = like([4]);
    const inputs = { x, weight: row, statistics: like([M, 1]), dy: x };
    const outputs = { dx: like([M, 4]), dz: like([M, 4]), dweight: like([4]), dzBias: like([4]) };
    rmsnormBackward(new Program(dry), inputs, outputs);
  };
  record(rows);
  assert.throws(() => record(rows + 1), { name: "LimitError", message: /bound is 32769$/ });
});
