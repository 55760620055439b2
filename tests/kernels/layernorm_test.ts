import assert from "node:assert/strict";
import { layernormBackward, layernormForward } from "../../kernels/layernorm/layernorm.ts";
import * as reference from "../../kernels/layernorm/reference.ts";
import { Program } from "../../kernels/program.ts";
import { dropoutFactor } from "../../kernels/dropout/reference.ts";
import type { DType, Tensor } from "../../kernels/tensor.ts";
import {
  assertComputes,
  assertGradient,
  device,
  poisoned,
  randomValues,
  REAL_TYPES,
  rounded,
  tensors,
  withRandom,
} from "./harness.ts";

// f32: sums of up to 257 terms in another order; f16: y and dy rounded to 11 bits
const TOLERANCE = { f32: 3e-5, f16: 2e-3 } as Record<string, number>;

Deno.test(
  "reference layernormBackward() matches central differences",
  withRandom((random) => {
    const shape = { M: 3, C: 5 };
    const x = randomValues(random, 15), dy = randomValues(random, 15);
    const weight = randomValues(random, 5), bias = randomValues(random, 5);
    const { dx, dweight, dbias } = reference.layernormBackward({ x, weight, dy }, shape);
    const y = (changed: Partial<Record<"x" | "weight" | "bias", Float32Array>>) =>
      reference.layernormForward({ x, weight, bias, ...changed }, shape).y;
    assertGradient((x) => y({ x }), x, dy, dx, { step: 3e-3, tolerance: 2e-2, what: "dx" });
    assertGradient((weight) => y({ weight }), weight, dy, dweight, { what: "dweight" });
    assertGradient((bias) => y({ bias }), bias, dy, dbias, { what: "dbias" });
  }),
);

Deno.test(
  "reference residualBackward() matches central differences",
  withRandom((random) => {
    const [x, z, dsum] = [1, 2, 3].map(() => randomValues(random, 20));
    const factor = (i: number) => i % 3 === 0 ? 0 : 1.5;
    const { dz, dzBias } = reference.residualBackward({ dsum: dsum! }, { M: 4, C: 5 }, factor);
    const sum = (z: Float32Array) => reference.residualForward({ x: x!, z }, factor).sum;
    assertGradient(sum, z!, dsum!, dz, { what: "dz" });
    const sumOfBias = (bias: Float32Array) => sum(z!.map((v, i) => v + bias[i % 5]!));
    assertGradient(sumOfBias, new Float32Array(5), dsum!, dzBias, { what: "dzBias" });
  }),
);

// activations beside an f32 residual stream, and f16 throughout
const TYPES: (readonly [x: DType, y: DType])[] = REAL_TYPES.includes("f16")
  ? [["f32", "f32"], ["f32", "f16"], ["f16", "f16"]]
  : [["f32", "f32"]];

for (const [xType, yType] of TYPES) {
  for (const [M, C] of [[1, 4], [3, 124], [129, 24], [65, 260], [5, 1028]] as const) {
    for (const isCpu of [true, false]) {
      const lanes = isCpu ? "CPU" : "GPU", shape = { xType, yType, M, C, isCpu };
      Deno.test(
        `layernorm for a ${lanes} matches the reference from ${xType} to ${yType} at [${M},${C}]`,
        withRandom((random, seed) => check(random, seed, shape)),
      );
    }
  }
}

Deno.test(
  "layernorm for a CPU without subgroups matches the reference",
  withRandom(async (random, seed) => {
    const on = { isCpu: true, hasSubgroups: false };
    for (const [M, C] of [[3, 124], [65, 260]] as const) {
      await check(random, seed, { xType: "f32", yType: "f32", M, C, ...on });
    }
  }),
);

for (const dtype of REAL_TYPES) {
  for (const rate of [0, 0.3]) {
    for (const [M, C] of [[1, 4], [67, 132]] as const) {
      const shape = { xType: "f32", yType: dtype, M, C } as const;
      Deno.test(
        `layernorm of a sum matches the reference in ${dtype} at [${M},${C}], rate ${rate}`,
        withRandom((random, seed) => check(random, seed, { ...shape, isCpu: device.isCpu, rate })),
      );
    }
  }
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
  // most rows far from zero, so that sums cancel, and never nearly constant; others are, so that epsilon counts
  const isFlat = (i: number) => Math.floor(i / C) % 3 === 1;
  const flattened = (v: number, i: number) => isFlat(i) ? 3e-3 * v : v;
  const drawn = () => randomValues(random, M * C);
  const x = rounded(drawn().map((v, i) => isFlat(i) ? 3e-3 * v : v + 6 * (i % 2)), xType);
  const z = rounded(drawn().map(flattened), yType);
  const values = {
    x: rate === undefined ? x : reference.residualForward({ x, z }, factor).sum,
    weight: randomValues(random, C),
    bias: randomValues(random, C),
    // rstd is up to 316 in nearly constant rows; with a small dy, dx is of order one there as elsewhere, and
    // its terms, which may cancel, are not larger than the tolerance assumes
    dy: rounded(drawn().map(flattened), yType),
  };
  const t = {
    ...tensors({
      x: [[M, C], xType, x],
      weight: [[C], "f32", values.weight],
      bias: [[C], "f32", values.bias],
      dy: [[M, C], yType, values.dy],
      y: [[M, C], yType],
      statistics: [[M, 2], "f32"],
      dx: [[M, C], "f32"],
      dweight: [[C], "f32"],
      dbias: [[C], "f32"],
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
  const { y, mean, rstd } = reference.layernormForward(values, { M, C });
  const statistics = Float32Array.from({ length: 2 * M }, (_, i) => (i % 2 ? rstd : mean)[i >> 1]!);
  const gradients = reference.layernormBackward(values, { M, C });
  const [dx, dweight, dbias] = [gradients.dx, gradients.dweight, gradients.dbias]
    .map((gradient) => gradient.map((v) => 2 * v)); // set, then accumulated
  const { dz, dzBias } = reference.residualBackward({ dsum: dx! }, { M, C }, factor);
  const tolerance = TOLERANCE.f32!;
  await assertComputes(
    (program) => {
      const inputs = { ...t, x: t.sum ?? t.x };
      const dropout = t.random && rate ? { ...site, random: t.random } : undefined;
      layernormForward(program, t, t, { dropout });
      layernormBackward(program, inputs, t, { dropout });
      layernormBackward(program, inputs, t, { dropout, accumulate: true, accumulateDx: true });
      if (frozen) layernormBackward(program, inputs, frozen, { dropout });
    },
    [
      [t.y, y, TOLERANCE[yType]!],
      [t.statistics, statistics, tolerance],
      [t.dx, dx!, 4 * tolerance],
      [t.dweight, dweight!, 4 * tolerance],
      [t.dbias, dbias!, tolerance],
      ...(frozen
        ? [
          [t.sum!, values.x, 1e-6],
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

Deno.test("layernorm reaches rows beyond one row of workgroups", async () => {
  const M = 32768 * 8 + 5, C = 4; // 8 rows per workgroup
  const row = { x: Float32Array.of(0, 1, 5, 2), weight: Float32Array.of(1, 2, -1, 1) };
  const dyRow = Float32Array.of(1, 0, -2, 1);
  const everywhere = (values: Float32Array) =>
    Float32Array.from({ length: M * C }, (_, i) => values[i % C]!);
  const t = tensors({
    x: [[M, C], "f32", everywhere(row.x)],
    weight: [[C], "f32", row.weight],
    bias: [[C], "f32", 0],
    dy: [[M, C], "f32", everywhere(dyRow)],
    y: [[M, C], "f32"],
    statistics: [[M, 2], "f32"],
    dx: [[M, C], "f32"],
    dweight: [[C], "f32"],
    dbias: [[C], "f32"],
  });
  const one = { M: 1, C };
  const forward = reference.layernormForward({ ...row, bias: new Float32Array(C) }, one);
  const backward = reference.layernormBackward({ ...row, dy: dyRow }, one);
  await assertComputes((program) => {
    layernormForward(program, t, t);
    layernormBackward(program, t, t);
  }, [
    [t.y, everywhere(forward.y), TOLERANCE.f32!],
    [t.dx, everywhere(backward.dx), TOLERANCE.f32!],
    [t.dbias, [M, 0, -2 * M, M], 0], // integers below 2²⁴: exact
  ]);
});

Deno.test("layernormForward() throws when weight and x have different widths", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const t = { y: like([2, 4]), statistics: like([2, 2]), bias: like([4]) };
  assert.throws(
    () => layernormForward(new Program(device), { x: like([2, 4]), weight: like([3]), ...t }, t),
    { name: "RangeError", message: / weight must have shape \[4\]: current shape of "t" is \[3\]/ },
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

Deno.test("layernormForward() and layernormBackward() throw on rows that are no vectors", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const x = like([2, 6]), row = like([6]), statistics = like([2, 2]);
  const program = new Program(device), inputs = { x, weight: row, bias: row };
  const refusal = (name: string) => ({
    name: "RangeError",
    message: `Cannot run ${name} as rows of x must have a multiple of four elements: ` +
      'current shape of "t" is [2,6]',
  });
  assert.throws(
    () => layernormForward(program, inputs, { y: like([2, 6]), statistics }),
    refusal("layernormForward"),
  );
  const given = { x, weight: row, statistics, dy: like([2, 6]) };
  assert.throws(
    () => layernormBackward(program, given, { dx: like([2, 6]) }),
    refusal("layernormBackward"),
  );
});

Deno.test("layernormForward() and layernormBackward() throw on tensors without those that they need", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const x = like([2, 4]), row = like([4]), statistics = like([2, 2]), program = new Program(device);
  const refusal = (message: string) => ({ name: "TypeError", message: `Cannot run ${message}` });
  assert.throws(
    () => layernormForward(program, { x, z: x, weight: row, bias: row }, { y: x, statistics }),
    refusal("layernormForward as z and sum must be given together: current is z alone"),
  );
  const backward = (gradients: { dbias?: Tensor; dzBias?: Tensor }) =>
    layernormBackward(program, { x, weight: row, statistics, dy: x }, { dx: x, ...gradients });
  assert.throws(
    () => backward({ dbias: row }),
    refusal(
      "layernormBackward as dweight and dbias must be given together: current is dbias alone",
    ),
  );
  assert.throws(
    () => backward({ dzBias: row }),
    refusal("layernormBackward as dzBias needs dz: current dz is undefined"),
  );
});
