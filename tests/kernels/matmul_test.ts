import assert from "node:assert/strict";
import { canMultiplyRows, partsOf } from "../../kernels/matmul/launches.ts";
import { type Epilogue, matmul } from "../../kernels/matmul/matmul.ts";
import { layernormForward } from "../../kernels/layernorm/reference.ts";
import { rmsnormForward } from "../../kernels/rmsnorm/reference.ts";
import * as reference from "../../kernels/matmul/reference.ts";
import {
  MATRIX_TILES,
  matrixTileBytes,
  matrixVariantsToMeasure,
  preferredTiles,
  variantsToMeasure,
} from "../../kernels/matmul/variants.ts";
import type { Device } from "../../kernels/device.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, type DType, viewTensor } from "../../kernels/tensor.ts";
import {
  assertClose,
  assertComputes,
  device,
  poisoned,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";
import { devicesWithMatrices, withEmulatedMatrices } from "./matrix_emulation.ts";

// relative to 1 + |y| with K up to 144 products of order one. f32: each of K partial sums, which grow as √K, is
// rounded, so that the error has a deviation of 1.7e-8 · K, of which this is eight; f16 rounds y once more to 11 bits
const TOLERANCE = { f32: 2e-5, f16: 1e-3 } as Record<string, number>;

// the last three reach the kernels that need multiples of four, with rows and columns to clamp
const SIZES = [
  [1, 1, 1],
  [1, 129, 65],
  [3, 127, 1],
  [127, 3, 129],
  [9, 68, 127],
  [68, 132, 76],
  [12, 4, 4],
] as const;

/** Sizes and layout of a product, and what computes it. */
interface Product {
  M: number;
  K: number;
  N: number;
  transposeA: boolean;
  transposeB: boolean;
  dtype: DType;
  variant?: string;
}

/** Compares a · b + bias, and 3 + a · b, with the reference. */
async function check(
  random: () => number,
  { dtype, variant, ...shape }: Product,
  { on = device } = {},
): Promise<void> {
  const { M, K, N, transposeA, transposeB } = shape;
  const a = randomValues(random, M * K, { dtype }), b = randomValues(random, K * N, { dtype });
  const bias = randomValues(random, N);
  const t = tensors({
    a: [transposeA ? [K, M] : [M, K], dtype, a],
    b: [transposeB ? [N, K] : [K, N], dtype, b],
    bias: [[N], "f32", bias],
    y: [[M, N], dtype],
    sum: [[M, N], "f32", 3],
  });
  const options = { transposeA, transposeB, ...(variant === undefined ? {} : { variant }) };
  await assertComputes(
    (program) => {
      matmul(program, t, { y: t.y }, options);
      matmul(program, { a: t.a, b: t.b }, { y: t.sum }, { ...options, accumulate: true });
    },
    [
      [t.y, reference.matmul({ a, b, bias }, shape).y, TOLERANCE[dtype]!],
      [t.sum, reference.matmul({ a, b }, shape).y.map((v) => v + 3), TOLERANCE.f32!],
    ],
    { on },
  );
}

const LAYOUTS = [
  { layout: "NN", transposeA: false, transposeB: false },
  { layout: "NT", transposeA: false, transposeB: true },
  { layout: "TN", transposeA: true, transposeB: false },
];

/** The device, and the same as if it had no subgroups. */
const DEVICES = device.subgroupSize === undefined
  ? [device]
  : [device, { ...device, subgroupSize: undefined }];

for (const on of DEVICES) {
  for (const [dtype, [M, K, N]] of REAL_TYPES.flatMap((t) => SIZES.map((s) => [t, s] as const))) {
    for (const { layout, ...transposed } of LAYOUTS) {
      const how = on.subgroupSize ? "with subgroups" : "without subgroups";
      Deno.test(
        `matmul() ${layout} [${M},${K}]x[${K},${N}] matches the reference in ${dtype} ${how}`,
        withRandom((random) => check(random, { M, K, N, dtype, ...transposed }, { on })),
      );
    }
  }
}

/** Whether element i of a batch of matrices [M,N] lies on a diagonal. */
const isDiagonal = (i: number, M: number, N: number) => Math.floor(i / N) % M === i % N;

// sizes that are no multiples of tiles and lanes, and odd ones for the simplest kernel
const BATCHES = [
  [3, 68, 36, 76, ["any", "64x64 of 128/1", ...(device.subgroupSize ? ["lanes"] : [])]],
  [2, 5, 3, 1, ["any"]],
] as const;
for (const [batch, M, K, N, variants] of BATCHES) {
  for (const { layout, transposeA, transposeB } of LAYOUTS) {
    Deno.test(
      `matmul() ${layout} of ${batch} times [${M},${K}]x[${K},${N}] with an addend and a diagonal matches the reference`,
      withRandom(async (random) => {
        const a = randomValues(random, batch * M * K), b = randomValues(random, batch * K * N);
        const addend = randomValues(random, batch * M * N);
        const products = Array.from({ length: batch }, (_, z) => {
          const of = (x: Float32Array, size: number) => x.slice(z * size, (z + 1) * size);
          const shape = { M, K, N, transposeA, transposeB };
          return [...reference.matmul({ a: of(a, M * K), b: of(b, K * N) }, shape).y];
        }).flat();
        const t = tensors({
          a: [transposeA ? [batch, K, M] : [batch, M, K], "f32", a],
          b: [transposeB ? [batch, N, K] : [batch, K, N], "f32", b],
          addend: [[batch, M, N], "f32", addend],
        });
        const ys = variants.map((variant) =>
          poisoned(variant, { shape: [batch, M, N], dtype: "f32" })
        );
        const expected = products.map((v, i) =>
          0.5 * v - 2 * addend[i]! + (isDiagonal(i, M, N) ? 3 : 0)
        );
        await assertComputes((program) => {
          for (const y of ys) {
            const options = { transposeA, transposeB, scale: 0.5, diagonal: 3, variant: y.name };
            matmul(program, t, { y }, { ...options, addend: { tensor: t.addend, factor: -2 } });
          }
        }, ys.map((y) => [y, expected, TOLERANCE.f32!]));
      }),
    );
  }
}

for (const variant of ["vector", "any", "64x64 of 128/1", "64x64 of 128/2"]) {
  Deno.test(
    `matmul() as ${variant} adds to the diagonal what no part of K adds a second time`,
    withRandom(async (random) => {
      const M = variant === "vector" ? 1 : 68, K = 140, N = 72;
      const a = randomValues(random, M * K), b = randomValues(random, K * N);
      const t = tensors({ a: [[M, K], "f32", a], b: [[K, N], "f32", b], y: [[M, N], "f32"] });
      const { y } = reference.matmul({ a, b }, { M, K, N });
      const expected = y.map((v, i) => v + (isDiagonal(i, M, N) ? -7 : 0));
      await assertComputes((program) => matmul(program, t, t, { diagonal: -7, variant }), [
        [t.y, expected, TOLERANCE.f32!],
      ]);
    }),
  );
}

Deno.test("matmul() throws on a diagonal of partial sums", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const inputs = { a: like([1, 32]), b: like([32, 4]) }, y = like([2, 1, 4]);
  assert.throws(
    () => matmul(new Program(device), inputs, { y }, { parts: 2, diagonal: 0.5 }),
    {
      name: "RangeError",
      message: "Cannot run matmul as with parts diagonal must be 0: current value is 0.5",
    },
  );
});

// one row, on a CPU and as a GPU computes it: K longer than one turn of the lanes, N clamped, several turns of columns
for (const isCpu of [true, false]) {
  for (const dtype of REAL_TYPES) {
    for (
      const [K, N, transposeB] of [[516, 76, false], [140, 129, true], [128, 17001, true]] as const
    ) {
      if (isCpu && N > 129) continue;
      const layout = transposeB ? "NT" : "NN", where = isCpu ? "CPU" : "GPU";
      Deno.test(
        `matmul() ${layout} of one row [1,${K}]x[${K},${N}] for a ${where} matches the reference in ${dtype}`,
        withRandom(async (random) => {
          const a = randomValues(random, K, { dtype }), b = randomValues(random, K * N, { dtype });
          // nearly constant, so that the epsilon of the normalisation counts
          const flat = randomValues(random, K, { dtype, scale: 3e-3 });
          const bias = randomValues(random, N);
          const weight = randomValues(random, K), offset = randomValues(random, K);
          const t = tensors({
            a: [[1, K], dtype, a],
            flat: [[1, K], dtype, flat],
            b: [transposeB ? [N, K] : [K, N], dtype, b],
            bias: [[N], "f32", bias],
            weight: [[K], "f32", weight],
            offset: [[K], "f32", offset],
            y: [[1, N], dtype],
            sum: [[1, N + 7], "f32", 3],
            normalized: [[1, N], "f32"],
            normalizedFlat: [[1, N], "f32"],
            rmsNormalized: [[1, N], "f32"],
          });
          const shape = { M: 1, N, K, transposeB };
          const normalized = (x: Float32Array) => {
            const { y } = layernormForward({ x, weight, bias: offset }, { M: 1, C: K });
            return reference.matmul({ a: y, b, bias }, shape).y;
          };
          const { y: rms } = rmsnormForward({ x: flat, weight }, { M: 1, C: K });
          const product = reference.matmul({ a, b }, shape).y.map((v) => v + 3);
          const tolerance = TOLERANCE.f32! * Math.max(1, K / 144);
          await assertComputes(
            (program) => {
              const { b, bias } = t, options = { transposeB, variant: "vector" };
              const normalize = { weight: t.weight, bias: t.offset };
              const sum = { ...options, firstColumnOfY: 4, accumulate: true };
              matmul(program, t, { y: t.normalized }, { ...options, normalize });
              matmul(program, { a: t.flat, b, bias }, { y: t.normalizedFlat }, {
                ...options,
                normalize,
              });
              matmul(program, { a: t.flat, b, bias }, { y: t.rmsNormalized }, {
                ...options,
                normalize: { weight: t.weight },
              });
              matmul(program, t, { y: t.y }, options);
              matmul(program, { a: t.a, b }, { y: t.sum }, sum);
            },
            [
              // the normalised row is rounded, too
              [t.normalized, normalized(a), 2 * tolerance],
              [t.normalizedFlat, normalized(flat), 2 * tolerance],
              [t.rmsNormalized, reference.matmul({ a: rms, b, bias }, shape).y, 2 * tolerance],
              [
                t.y,
                reference.matmul({ a, b, bias }, shape).y,
                Math.max(tolerance, TOLERANCE[dtype]!),
              ],
              [t.sum, [3, 3, 3, 3, ...product, 3, 3, 3], tolerance],
            ],
            { on: { ...device, isCpu } },
          );
        }),
      );
    }
  }
}

// rows that do not fill a workgroup's, K in several turns and parts, N clamped, fetches of eight and of four elements
const FEW_ROWS = [
  { M: 2, K: 528, N: 76, transposeB: false, dtype: "f32" },
  { M: 3, K: 144, N: 24, transposeB: false, dtype: REAL_TYPES.at(-1)! },
  { M: 5, K: 288, N: 37, transposeB: true, dtype: REAL_TYPES.at(-1)! }, // 36 lanes have one fetch each
] as const;
for (const { dtype, ...shape } of FEW_ROWS) {
  const { M, K, N, transposeB } = shape, layout = transposeB ? "NT" : "NN";
  Deno.test(
    `matmul() ${layout} [${M},${K}]x[${K},${N}] of ${dtype} adds addends, normalises and stores partial sums`,
    withRandom(async (random) => {
      const [weight, offset] = [1, 2].map(() => randomValues(random, K)), addendCount = 11;
      const a = randomValues(random, M * K), b = randomValues(random, K * N, { dtype });
      const addends = randomValues(random, addendCount * M * K, { scale: 0.3 });
      const bias = randomValues(random, N), parts = K % 16 === 0 ? 3 : 1;
      const total = a.map((value, i) => {
        for (let p = 0; p < addendCount; p++) value += addends[p * M * K + i]!;
        return value;
      });
      const t = tensors({
        a: [[M, K], "f32", a],
        b: [transposeB ? [N, K] : [K, N], dtype, b],
        bias: [[N], "f32", bias],
        addends: [[addendCount, M, K], "f32", addends],
        total: [[M, K], "f32"],
        weight: [[K], "f32", weight!],
        offset: [[K], "f32", offset!],
        layernorm: [[M, N], "f32"],
        rmsnorm: [[M, N], "f32"],
        partial: [[parts, M, N], "f32"],
      });
      const on = { ...device, isCpu: false };
      const [layernorm, rmsnorm, partial, stored] = await runProgram(
        (program) => {
          const normalize = { weight: t.weight, addends: t.addends };
          matmul(program, t, { y: t.layernorm }, {
            transposeB,
            normalize: { ...normalize, bias: t.offset, total: t.total },
          });
          matmul(program, t, { y: t.rmsnorm }, { transposeB, normalize });
          matmul(program, t, { y: t.partial }, { transposeB, parts, scale: 0.5 });
        },
        [t.layernorm, t.rmsnorm, t.partial, t.total],
        { on },
      );
      const tolerance = 2 * TOLERANCE.f32! * Math.max(1, K / 144), norms = { M, C: K };
      const product = (a: Float32Array) => reference.matmul({ a, b, bias }, shape).y;
      assertClose(stored!, total, 1e-5, "total");
      const { y } = layernormForward({ x: total, weight: weight!, bias: offset! }, norms);
      assertClose(layernorm!, product(y), tolerance, "layernorm");
      const { y: rms } = rmsnormForward({ x: total, weight: weight! }, norms);
      assertClose(rmsnorm!, product(rms), tolerance, "rmsnorm");
      const sums = Float32Array.from({ length: M * N }, (_, i) => {
        let sum = 0;
        for (let p = 0; p < parts; p++) sum += partial![p * M * N + i]!;
        return 2 * (sum - bias[i % N]!) + bias[i % N]!;
      });
      assertClose(sums, product(a), tolerance, "partial sums");
    }),
  );
}

// tiles with clamped edges; K no multiple of a step, in whole steps, or split
for (
  const [variant, K, type] of [
    ["128x96/1", 140, "f16"], // an invocation has three vectors of columns
    ["64x64/1", 140],
    ["64x64/1", 144],
    ["64x64/2", 140],
    ["64x64 of 128/2", 144],
    ["64x64 by 2/2", 140],
    ["128x256/2", 140],
  ] as const
) {
  for (const dtype of type ? REAL_TYPES.filter((real) => real === type) : REAL_TYPES) {
    for (const { layout, ...transposed } of LAYOUTS) {
      Deno.test({
        name: `matmul() ${layout} in tiles ${variant} along ${K} matches the reference in ${dtype}`,
        // the largest tile has 512 invocations; SwiftShader allows 256
        ignore: variant === "128x256/2" &&
          device.gpu.limits.maxComputeInvocationsPerWorkgroup < 512,
        fn: withRandom((random) =>
          check(random, { M: 76, K, N: 132, dtype, variant, ...transposed })
        ),
      });
    }
  }
}

const WITH_MATRICES = devicesWithMatrices(device);

// a tile that only tests use, as it compiles fast: three matrices of columns per subgroup, as the widest tile has
Object.assign(MATRIX_TILES, {
  "matrix 16x96x32": {
    X: 2,
    Y: 1,
    ROWS: 1,
    COLUMNS: 3,
    TILE_K: 32,
    perCore: 1,
    nsPerTerm: Infinity,
  },
});

// K in whole steps, or not, or split; rows and columns that end inside a tile, or with it, where y is overwritten
for (const { on, how } of WITH_MATRICES) {
  for (
    const [variant, { M, K, N }] of [
      ["matrix 32x32x32/1", { M: 72, K: 152, N: 64 }],
      ["matrix 32x32x32/2", { M: 64, K: 280, N: 72 }],
      ["matrix 16x96x32/1", { M: 24, K: 64, N: 120 }],
      ["matrix 32x32x32/1", { M: 64, K: 64, N: 32 }],
    ] as const
  ) {
    // the layouts differ in nothing but what is clamped and masked
    for (const { layout, transposeA, transposeB } of K === 64 ? LAYOUTS.slice(0, 1) : LAYOUTS) {
      Deno.test({
        name: `matmul() ${layout} as ${variant} along ${K} matches the reference with ${how}`,
        ignore: !REAL_TYPES.includes("f16"),
        fn: withRandom(async (random) => {
          const dtype = "f16", shape = { M, N, K, transposeA, transposeB }, accumulate = M !== 64;
          const a = randomValues(random, M * K, { dtype });
          const b = randomValues(random, K * N, { dtype }), bias = randomValues(random, N);
          const t = tensors({
            a: [transposeA ? [K, M] : [M, K], dtype, a],
            b: [transposeB ? [N, K] : [K, N], dtype, b],
            bias: [[N], "f32", bias],
            y: [[M, N], "f32", 3],
          });
          const { y } = reference.matmul({ a, b, bias }, shape);
          await assertComputes(
            (program) => matmul(program, t, t, { transposeA, transposeB, variant, accumulate }),
            [[t.y, accumulate ? y.map((v) => v + 3) : y, 2 * TOLERANCE.f32!]],
            { on },
          );
        }),
      });
    }
  }

  Deno.test({
    name: `matmul() as matrix 32x32x32/1 adds a batch of products and an addend with ${how}`,
    ignore: !REAL_TYPES.includes("f16"),
    fn: withRandom(async (random) => {
      // rows past the edge would be added to those of the next matrix
      const batch = 3, M = 24, K = 40, N = 32, dtype = "f16", factor = -2, scale = 0.5;
      const values = (count: number) => randomValues(random, batch * count, { dtype });
      const a = values(M * K), b = values(K * N), addend = values(M * N);
      const t = tensors({
        a: [[batch, M, K], dtype, a],
        b: [[batch, N, K], dtype, b],
        addend: [[batch, M, N], dtype, addend],
        y: [[batch, M, N], dtype, 1],
      });
      const expected = Array.from({ length: batch }, (_, z) => {
        const of = (x: Float32Array, size: number) => x.slice(z * size, (z + 1) * size);
        const operands = { a: of(a, M * K), b: of(b, K * N) };
        return [...reference.matmul(operands, { M, K, N, transposeB: true }).y];
      }).flat().map((v, i) => 1 + scale * v + factor * addend[i]!);
      await assertComputes(
        (program) =>
          matmul(program, { a: t.a, b: t.b }, t, {
            transposeB: true,
            scale,
            addend: { tensor: t.addend, factor },
            accumulate: true,
            variant: "matrix 32x32x32/1",
          }),
        [[t.y, expected, TOLERANCE.f16!]],
        { on },
      );
    }),
  });

  Deno.test({
    name: `matmul() computes half of a symmetric product with ${how}`,
    ignore: !REAL_TYPES.includes("f16"),
    fn: withRandom(async (random) => {
      const batch = 2, M = 72, K = 40, dtype = "f16", size = M * M, factor = -2;
      const a = randomValues(random, batch * M * K, { dtype });
      const half = randomValues(random, batch * size, { dtype });
      const addend = half.map((_, i) => { // the lower half, mirrored
        const z = Math.floor(i / size), m = Math.floor(i % size / M), n = i % M;
        return half[z * size + Math.max(m, n) * M + Math.min(m, n)]!;
      });
      const t = tensors({
        a: [[batch, K, M], dtype, a],
        addend: [[batch, M, M], dtype, addend],
        y: [[batch, M, M], dtype],
      });
      const expected = Array.from({ length: batch }, (_, z) => {
        const one = a.slice(z * M * K, (z + 1) * M * K);
        return [...reference.matmul({ a: one, b: one }, { M, N: M, K, transposeA: true }).y];
      }).flat().map((v, i) => v + factor * addend[i]! + (isDiagonal(i, M, M) ? 5 : 0));
      await assertComputes(
        (program) =>
          matmul(program, { a: t.a, b: t.a }, t, {
            transposeA: true,
            symmetric: true,
            diagonal: 5,
            addend: { tensor: t.addend, factor },
            variant: "matrix 64x64x32/1",
          }),
        [[t.y, expected, TOLERANCE.f16!]],
        { on },
      );
    }),
  });
}

for (const { on, how } of devicesWithMatrices(device)) {
  // rows and columns past the edges, and terms past the end of the last turn; several steps; several groups of columns
  for (
    const { M, K, N, transposeB, parts } of [
      { M: 19, K: 72, N: 40, transposeB: false, parts: 3 },
      { M: 10, K: 320, N: 12, transposeB: true, parts: 2 },
      { M: 33, K: 64, N: 72, transposeB: false, parts: 1 },
    ]
  ) {
    const layout = transposeB ? "NT" : "NN";
    Deno.test({
      name:
        `matmul() ${layout} [${M},${K}]x[${K},${N}] adds addends, normalises and stores partial sums with ${how}`,
      ignore: !REAL_TYPES.includes("f16"),
      fn: withRandom(async (random) => {
        const [weight, offset] = [1, 2].map(() => randomValues(random, K)), addendCount = 3;
        const x = randomValues(random, M * K), b = randomValues(random, K * N, { dtype: "f16" });
        const a = randomValues(random, M * (K + 8), { dtype: "f16" });
        const addends = randomValues(random, addendCount * M * K, { scale: 0.3 });
        const bias = randomValues(random, N);
        const total = x.map((value, i) => {
          for (let p = 0; p < addendCount; p++) value += addends[p * M * K + i]!;
          return value;
        });
        const t = tensors({
          a: [[M, K + 8], "f16", a],
          x: [[M, K], "f32", x],
          b: [transposeB ? [N, K] : [K, N], "f16", b],
          bias: [[N], "f32", bias],
          addends: [[addendCount, M, K], "f32", addends],
          total: [[M, K], "f32"],
          weight: [[K], "f32", weight!],
          offset: [[K], "f32", offset!],
          layernorm: [[M, N], "f16"],
          activated: [[M, N], "f16"],
          rmsnorm: [[M, N + 4], "f32", 3],
          partial: [[parts, M, N], "f32"],
        });
        const variant = "matrix rows";
        const product = (a: Float32Array) =>
          reference.matmul({ a, b, bias }, { M, N, K, transposeB }).y;
        const norms = { M, C: K };
        const rounded = (y: Float32Array) => Float32Array.from(Float16Array.from(y));
        const layernorm = product(
          rounded(layernormForward({ x: total, weight: weight!, bias: offset! }, norms).y),
        );
        const rms = product(rounded(rmsnormForward({ x: total, weight: weight! }, norms).y));
        // two norms between f16 neighbours, which lie 2⁻⁹ apart below four, may be rounded to the other one
        const tolerance = TOLERANCE.f16! + 2 * 2 ** -9;
        const [partial] = await runProgram(
          (program) =>
            matmul(program, { a: t.a, b: t.b, bias: t.bias }, { y: t.partial }, {
              transposeB,
              variant,
              parts,
              scale: 0.5,
              columnsOfA: { start: 4, count: K },
            }),
          [t.partial],
          { on },
        );
        const columns = Float32Array.from(
          { length: M * K },
          (_, i) => a[Math.floor(i / K) * (K + 8) + 4 + i % K]!,
        );
        const sums = Float32Array.from({ length: M * N }, (_, i) => {
          let sum = 0;
          for (let p = 0; p < parts; p++) sum += partial![p * M * N + i]!;
          return 2 * sum - bias[i % N]!; // the bias is not scaled
        });
        assertClose(
          sums,
          product(columns),
          4 * TOLERANCE.f32! * Math.max(1, K / 144),
          "partial sums",
        );
        await assertComputes(
          (program) => {
            const normalize = { weight: t.weight, addends: t.addends };
            matmul(program, { ...t, a: t.x }, { y: t.layernorm }, {
              transposeB,
              variant,
              normalize: { ...normalize, bias: t.offset, total: t.total },
              epilogue: { kind: "forward", activation: "relu", activated: t.activated },
            });
            matmul(program, { ...t, a: t.x }, { y: t.rmsnorm }, {
              transposeB,
              variant,
              normalize,
              firstColumnOfY: 4,
              accumulate: true,
            });
          },
          [
            [t.total, total, 1e-5],
            [t.layernorm, layernorm, tolerance],
            [t.activated, layernorm.map((v) => Math.max(v, 0)), tolerance],
            [
              t.rmsnorm,
              Float32Array.from({ length: M * (N + 4) }, (_, i) => {
                const column = i % (N + 4) - 4;
                return 3 + (column < 0 ? 0 : rms[Math.floor(i / (N + 4)) * N + column]!);
              }),
              tolerance,
            ],
          ],
          { on },
        );
      }),
    });
  }
}

Deno.test("partsOf() gives tens of rows as many parts of K as keep a GPU busy and fit a workgroup", () => {
  const parts = (K: number, N: number, rows: number, isInvariant = false) =>
    partsOf({ K, N, rows, isInvariant });
  assert.deepEqual([parts(1024, 256, 1), parts(1024, 256, 8)], [8, 8]);
  assert.equal(parts(1024, 256, 8, true), 2);
  assert.deepEqual([parts(1024, 256, 64), parts(1024, 256, 64, true)], [4, 4]);
  assert.equal(parts(256, 256, 64), 2); // of 128 terms at least
  assert.equal(parts(3072, 768, 64), 4); // of 768 terms at most
  assert.equal(parts(2048, 512, 40), 4); // not 3, which does not divide it, nor 2, as 1024 terms do not fit
  assert.equal(parts(96, 64, 9), 1);
});

Deno.test("canMultiplyRows() counts the memory of a workgroup, and whole vectors of b and y", () => {
  const on = withEmulatedMatrices(device);
  const can = (kibibytes: number, sizes: Partial<Parameters<typeof canMultiplyRows>[1]>) => {
    const limits = { maxComputeWorkgroupStorageSize: kibibytes * 1024 } as GPUSupportedLimits;
    return canMultiplyRows({ ...on, gpu: { limits } as GPUDevice }, { N: 16, K: 64, ...sizes });
  };
  const normed = { K: 256, isNormalized: true }; // 32,000 bytes
  assert.deepEqual([16, 32].map((size) => can(size, normed)), [false, true]);
  assert.deepEqual([32, 48].map((size) => can(size, { K: 768, isNormalized: true })), [
    false,
    true,
  ]);
  assert.deepEqual([can(48, { K: 3072 }), can(48, { K: 3072, parts: 4 })], [false, true]);
  assert.ok(!can(48, { K: 256, isNormalized: true, parts: 2 }));
  assert.ok(!can(48, { K: 100 }));
  assert.deepEqual([can(48, { N: 12 }), can(48, { N: 12, transposeB: true })], [false, true]);
  assert.ok(!can(48, { N: 10, transposeB: true }));
  assert.ok(!canMultiplyRows({ ...on, matrixShapes: [] }, { N: 16, K: 64 }));
});

Deno.test("variantsToMeasure() has the largest tile only for large products on devices that allow it", () => {
  const large = { M: 4096, N: 50257, K: 256 }, small = { M: 4096, N: 768, K: 256 };
  const limits = {
    maxComputeInvocationsPerWorkgroup: 512,
    maxComputeWorkgroupSizeX: 512,
    maxComputeWorkgroupStorageSize: 32768,
  };
  const tilesOf = (product: typeof large, on: typeof limits) =>
    new Set(variantsToMeasure(product, on).map((name) => name.split("/")[0]!));
  const others = new Set(["64x64 of 128", "64x64"]);
  assert.deepEqual(tilesOf(large, limits), new Set([...others, "128x256"]));
  assert.deepEqual(tilesOf(small, limits), new Set([...others, "128x96"]));
  const batch = variantsToMeasure({ ...small, batch: 16 }, limits);
  assert.deepEqual(batch, ["64x64 of 128/1", "64x64/1", "128x256/1"]); // K of a batch is not split
  for (const [name, limit] of Object.entries(limits)) {
    assert.deepEqual(tilesOf(large, { ...limits, [name]: limit / 2 }), others, name);
  }
});

Deno.test("variantsToMeasure() has tiles for a single round of workgroups where they occupy nearly all cores", () => {
  const limits = device.gpu.limits;
  const offered = (M: number, K: number, N: number) =>
    variantsToMeasure({ M, K, N }, limits).filter((name) =>
      /^(64x64 by 2|128x96|128x256)\//.test(name)
    );
  assert.deepEqual(offered(4096, 768, 256), ["64x64 by 2/1"]);
  assert.deepEqual(offered(4096, 256, 768), ["128x96/1"]);
  assert.deepEqual(offered(4096, 256, 1024), ["128x256/1"]);
  assert.deepEqual(offered(2048, 768, 512), ["64x64 by 2/1"]);
});

Deno.test("preferredTiles() splits K if a result has few tiles", () => {
  const choices = [
    [[4096, 256, 1024], "64x64 of 128/1"],
    [[4096, 256, 256], "64x64 of 128/1"], // K is too short to split
    [[4096, 1024, 256], "64x64 of 128/2"],
    [[256, 4096, 768], "64x64 of 128/8"],
    [[64, 256, 768], "64x64 of 128/4"], // even a small K, if most cores would be idle otherwise
    [[4, 64, 4], "64x64 of 128/1"],
  ] as const;
  for (const [[M, K, N], variant] of choices) {
    assert.equal(preferredTiles({ M, K, N }), variant, `[${M},${K}]x[${K},${N}]`);
  }
});

Deno.test("matrixVariantsToMeasure() splits K where this fills the rounds of workgroups", () => {
  const fastest = [ // as measured on an H200
    [[4096, 4096, 4096], "matrix 128x128x32/1"],
    [[8192, 768, 2304], "matrix 128x128x32/1"],
    [[8192, 768, 768], "matrix 128x192x32/1"],
    [[8192, 2304, 768], "matrix 128x192x32/1"],
    [[768, 8192, 2304], "matrix 128x128x32/2"],
    [[768, 8192, 768], "matrix 128x128x32/7"],
    [[5248, 768, 50257], "matrix 128x128x32/1"],
  ] as const;
  for (const [[M, K, N], variant] of fastest) {
    const [first, ...others] = matrixVariantsToMeasure({ M, K, N });
    assert.equal(first, variant, `[${M},${K}]x[${K},${N}]`);
    assert.ok(others.length <= 8, `${others}`);
  }
  const symmetric = matrixVariantsToMeasure({ M: 768, K: 768, N: 768, batch: 24, symmetric: true });
  assert.ok(!symmetric.includes("matrix 128x192x32/1"), `${symmetric}`); // whose tiles are not square
  const batch = matrixVariantsToMeasure({ M: 768, K: 8192, N: 768, batch: 2 });
  assert.ok(batch.every((name) => name.endsWith("/1")), `${batch}`); // K of a batch is not split
  const small = matrixVariantsToMeasure({ M: 8, K: 64, N: 8 });
  assert.ok(small.every((name) => name.endsWith("/1")), `${small}`); // K is too short for parts
});

Deno.test("matrixTileBytes() is at most what GPUs have, and each invocation fetches as many vectors", () => {
  for (const [name, tile] of Object.entries(MATRIX_TILES)) {
    const { X, Y, ROWS, COLUMNS, TILE_K } = tile, invocations = 32 * X * Y;
    for (const side of [16 * Y * ROWS, 16 * X * COLUMNS]) {
      const [width, fetches] = [side / 8, side * TILE_K / 8 / invocations];
      assert.ok(Number.isInteger(fetches), `${name}: ${fetches} fetches`);
      const together = invocations % width === 0 ? width : invocations / TILE_K;
      assert.equal(width % together, 0, `${name}: ${together} of the ${width} vectors of a row`);
    }
    for (const { layout, ...transposed } of LAYOUTS) {
      const bytes = matrixTileBytes(tile, transposed);
      assert.ok(bytes <= 48 * 2 ** 10, `${name} ${layout}: ${bytes}`);
    }
  }
});

Deno.test("matmul() offers subgroup matrices of f16 if rows are multiples of eight", () => {
  const dry = dryDevice(WITH_MATRICES[0]!.on);
  const offered = (
    a: readonly number[],
    b: readonly number[],
    { dtype = "f16" as DType, on = dry, ...options } = {},
  ) => {
    const like = (shape: readonly number[], dtype: DType) =>
      createTensor(on, "t", { shape, dtype });
    using program = new Program(on);
    const { M, N } = { M: 64, N: 72 };
    const inputs = { a: like(a, dtype), b: like(b, dtype) };
    matmul(program, inputs, { y: like([M, N], "f32") }, options);
    const [tunable] = [...program.tunables.values()];
    const { variants, preferred } = tunable!;
    assert.ok(variants.includes(preferred), preferred);
    return variants.every((name) => name.startsWith("matrix "));
  };
  assert.equal(offered([64, 40], [40, 72]), true);
  assert.equal(offered([64, 40], [40, 72], { dtype: "f32" }), false);
  assert.equal(offered([64, 44], [44, 72]), false);
  assert.equal(offered([64, 40], [40, 72], { on: { ...dry, matrixShapes: [] } }), false);
});

// as in the head: rows of logits are longer than the vocabulary, and the rest of a row is padding
const HEADS: { variant: string; dtype: DType; on: Device; how: string }[] = [
  { variant: "64x64/1", dtype: "f32", on: device, how: "" },
  { variant: "64x64/2", dtype: "f32", on: device, how: "" },
  ...WITH_MATRICES.map(({ on, how }) => (
    { variant: "matrix 32x32x32/1", dtype: "f16" as const, on, how: ` with ${how}` }
  )),
];
for (const { variant, dtype, on, how } of HEADS) {
  Deno.test({
    name: `matmul() as ${variant} computes with a vocabulary that is no multiple of four${how}`,
    ignore: !REAL_TYPES.includes(dtype),
    fn: withRandom(async (random) => {
      const M = 132, V = 131, PADDED = 136, C = 136;
      const x = randomValues(random, M * C, { dtype });
      const wte = randomValues(random, V * C, { dtype });
      const dlogits = randomValues(random, M * PADDED, { dtype })
        .map((v, i) => i % PADDED < V ? v : NaN); // padding must not be read
      const t = tensors({
        x: [[M, C], dtype, x],
        wte: [[V, C], dtype, wte],
        dlogits: [[M, PADDED], dtype, dlogits],
        logits: [[M, PADDED], dtype],
        dx: [[M, C], dtype],
        dwte: [[V, C], "f32"],
      });
      const columnsOfA = { start: 0, count: V };
      const [logits, dx, dwte] = await runProgram(
        (program) => {
          const ofLogits = { transposeB: true, firstColumnOfY: 0, variant };
          matmul(program, { a: t.x, b: t.wte }, { y: t.logits }, ofLogits);
          const dweight = { columnsOfA, transposeA: true, variant };
          matmul(program, { a: t.dlogits, b: t.wte }, { y: t.dx }, { columnsOfA, variant });
          matmul(program, { a: t.dlogits, b: t.x }, { y: t.dwte }, dweight);
        },
        [t.logits, t.dx, t.dwte],
        { on },
      );
      const unpadded = (values: ArrayLike<number>) =>
        Float32Array.from(values).filter((_, i) => i % PADDED < V);
      const rest = Float32Array.from(logits!).filter((_, i) => i % PADDED >= 132);
      assert.ok(rest.every(Number.isNaN), "columns after the next multiple of four are written");
      const tolerance = TOLERANCE[dtype]!;
      const product = reference.matmul({ a: x, b: wte }, { M, N: V, K: C, transposeB: true });
      assertClose(unpadded(logits!), product.y, tolerance, "logits");
      const a = unpadded(dlogits);
      assertClose(dx!, reference.matmul({ a, b: wte }, { M, N: C, K: V }).y, tolerance, "dx");
      const transposed = reference.matmul({ a, b: x }, { M: V, N: C, K: M, transposeA: true });
      assertClose(dwte!, transposed.y, TOLERANCE.f32!, "dwte");
    }),
  });
}

Deno.test(
  "matmul() reads and writes columns of wider matrices",
  withRandom(async (random) => {
    const M = 5, K = 7, N = 9, WIDE = 20, start = 6, firstColumnOfY = 4;
    const wide = randomValues(random, M * WIDE), b = randomValues(random, K * N);
    const a = wide.filter((_, i) => i % WIDE >= start && i % WIDE < start + K);
    const t = tensors({
      a: [[M, WIDE], "f32", wide],
      b: [[K, N], "f32", b],
      y: [[M, WIDE], "f32", -1],
      transposed: [[K, WIDE], "f32"],
    });
    const product = reference.matmul({ a, b }, { M, N, K }).y;
    const y = Float32Array.from({ length: M * WIDE }, (_, i) => {
      const m = Math.floor(i / WIDE), n = i % WIDE - firstColumnOfY;
      return n >= 0 && n < N ? product[m * N + n]! : -1;
    });
    const shape = { M: K, N: WIDE, K: M, transposeA: true };
    await assertComputes((program) => {
      const columnsOfA = { start, count: K };
      matmul(program, t, { y: t.y }, { columnsOfA, firstColumnOfY });
      matmul(program, { a: t.a, b: t.a }, { y: t.transposed }, { columnsOfA, transposeA: true });
    }, [
      [t.y, y, TOLERANCE.f32!],
      [t.transposed, reference.matmul({ a, b: wide }, shape).y, TOLERANCE.f32!],
    ]);
  }),
);

// products of adapters: few columns and a scale, on a CPU, of one row, and as a GPU computes them
for (const isCpu of [true, false]) {
  for (const [M, K, N] of [[1, 132, 8], [70, 132, 8], [5, 7, 3]] as const) {
    const where = isCpu ? "CPU" : "GPU";
    Deno.test(
      `matmul() scales a product of [${M},${K}]x[${K},${N}] for a ${where}, but not bias and y`,
      withRandom(async (random) => {
        const values = { a: randomValues(random, M * K), b: randomValues(random, N * K) };
        const bias = randomValues(random, N), scale = -2.5;
        const t = tensors({
          a: [[M, K], "f32", values.a],
          b: [[N, K], "f32", values.b],
          bias: [[N], "f32", bias],
          y: [[M, N], "f32"],
          sum: [[M, N], "f32", 3],
        });
        const product = reference.matmul(values, { M, N, K, transposeB: true }).y
          .map((v) => scale * v);
        await assertComputes(
          (program) => {
            const options = { transposeB: true, scale };
            matmul(program, { a: t.a, b: t.b }, { y: t.y }, options);
            matmul(program, t, { y: t.sum }, { ...options, accumulate: true });
          },
          [
            [t.y, product, 2.5 * TOLERANCE.f32!],
            [t.sum, product.map((v, i) => v + bias[i % N]! + 3), 2.5 * TOLERANCE.f32!],
          ],
          { on: { ...device, isCpu, choices: new Map() } },
        );
      }),
    );
  }
}

Deno.test("matmul() throws on a kernel that cannot compute the product", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  using program = new Program({ ...device, subgroupSize: undefined });
  assert.throws(
    () =>
      matmul(program, { a: like([5, 7]), b: like([7, 3]) }, { y: like([5, 3]) }, {
        variant: "lanes",
      }),
    {
      name: "RangeError",
      message:
        'Cannot run matmul as for this product the kernel must be one of any: current value is "lanes"',
    },
  );
  const on = dryDevice(withEmulatedMatrices(device));
  using recorded = new Program(on);
  /** Records a product of rows that are normalised, if one of its sizes differs. */
  const normalize = ({ N = 16, K = 64, M = 9, dtype = "f16", scaled = false }) => {
    const t = (shape: number[], dtype: DType) => createTensor(on, "t", { shape, dtype });
    const b = t([N, K], scaled ? "i8" : dtype as DType), y = t([M, 24], "f32");
    const scales = scaled ? t([N], "f32") : undefined;
    matmul(recorded, { a: t([M, K], "f32"), b }, { y }, {
      ...{ transposeB: true, firstColumnOfY: 0, scales, variant: "matrix rows" },
      normalize: { weight: t([K], "f32") },
    });
  };
  normalize({});
  // columns that are no vectors would overwrite what follows them; and a few rows, other types, a long row
  for (const other of [{ N: 10 }, { M: 8 }, { dtype: "f32" }, { scaled: true }, { K: 2048 }]) {
    assert.throws(() => normalize(other), {
      name: "RangeError",
      message: /must be one of vector: current value is "matrix rows"$/,
    }, JSON.stringify(other));
  }
});

Deno.test("matmul() has no type for an epilogue that stores an activation and multiplies by its derivative", () => {
  const tensor = poisoned("t", { shape: [1, 1], dtype: "f32" });
  const activation = "gelu";
  const forward: Epilogue = { kind: "forward", activation, activated: tensor };
  const backward: Epilogue = { kind: "backward", activation, hidden: tensor };
  // @ts-expect-error: a product is part of one pass
  const both: Epilogue = { kind: "forward", activation, activated: tensor, hidden: tensor };
  assert.equal(new Set([forward, backward, both]).size, 3);
});

for (const isCpu of [true, false]) {
  for (const dtype of REAL_TYPES) {
    const kernels = isCpu ? "a CPU's kernels" : "a GPU's kernels";
    Deno.test(`matmul() without a bias multiplies matrices of four elements with ${kernels} in ${dtype}`, async () => {
      const a = [1, 2, 0, 5], b = [1, 2, 3, 4];
      const t = tensors({ a: [[1, 4], dtype, a], b: [[1, 4], dtype, b], y: [[4, 4], dtype] });
      await assertComputes(
        (program) => matmul(program, t, { y: t.y }, { transposeA: true }),
        [[t.y, a.flatMap((v) => b.map((w) => v * w)), 0]],
        { on: { ...device, isCpu, choices: new Map() } },
      );
    });
  }
}

Deno.test(
  "matmul() writes a view of a larger tensor and nothing around it",
  withRandom(async (random) => {
    const t = tensors({
      a: [[2, 8], "f32", randomValues(random, 16)],
      b: [[8, 64], "f32", randomValues(random, 512)],
      whole: [[6, 64], "f32", 7],
    });
    const y = viewTensor(t.whole, { offset: 128, shape: [2, 64] });
    const [values] = await runProgram((program) => matmul(program, t, { y }), [t.whole]);
    values!.forEach((v, i) => assert.equal(v === 7, i < 128 || i >= 256, `element ${i} is ${v}`));
  }),
);

Deno.test("matmul() computes with non-finite operands", async () => {
  const t = tensors({
    a: [[2, 2], "f32", [Infinity, 0, 1, 1]],
    b: [[2, 2], "f32", [1, 2, 3, 4]],
    y: [[2, 2], "f32"],
  });
  const [values] = await runProgram((program) => matmul(program, t, { y: t.y }), [t.y]);
  assert.deepEqual([...values!], [Infinity, Infinity, 4, 6]);
});

Deno.test("matmul() throws on a normalisation of rows that are no whole vectors", () => {
  const t = tensors({
    a: [[2, 6], "f32"],
    b: [[6, 4], "f32"],
    row: [[6], "f32"],
    y: [[2, 4], "f32"],
  });
  const normalize = { weight: t.row, bias: t.row };
  using program = new Program(device);
  assert.throws(() => matmul(program, t, { y: t.y }, { normalize }), {
    name: "RangeError",
    message:
      "Cannot run matmul as with a norm, a paired product, parts or scales the sizes must be multiples of four, " +
      "and of eight for i8: current shapes are [2,6] and [6,4]",
  });
});

Deno.test(
  "matmul() gives a row the same bits among many if the kernel is chosen for the same number of rows",
  withRandom(async (random) => {
    const K = 96, N = 40, M = 70, onGpu = { ...device, isCpu: false };
    const a = randomValues(random, M * K), b = randomValues(random, K * N);
    const row = randomValues(random, K);
    const cases: {
      kernel: string;
      kernelRows: number;
      isNormalized: boolean;
      dtype?: DType;
      on?: Device;
    }[] = [
      { kernel: "vector", kernelRows: 8, isNormalized: true },
      { kernel: "tiles", kernelRows: 64, isNormalized: false },
      ...(REAL_TYPES.includes("f16") ? devicesWithMatrices(device) : []).map(({ on }) => (
        { kernel: "matrix_rows", kernelRows: 64, isNormalized: true, dtype: "f16", on } as const
      )),
    ];
    for (const { kernel, kernelRows, isNormalized, dtype = "f32", on = onGpu } of cases) {
      const rows = async (count: number) => {
        const t = tensors({
          a: [[count, K], "f32", a.subarray(0, count * K)],
          b: [[K, N], dtype, b],
          row: [[K], "f32", row],
          y: [[count, N], "f32"],
        });
        const normalize = isNormalized ? { weight: t.row, bias: t.row } : undefined;
        const [y] = await runProgram(
          (program) => {
            matmul(program, t, { y: t.y }, { normalize, kernelRows });
            assert.equal(program.labels[0], `kernels/matmul/${kernel}.wgsl`);
          },
          [t.y],
          { on },
        );
        assert.ok(y!.every(Number.isFinite));
        return y!.subarray(0, N);
      };
      assert.deepEqual(await rows(1), await rows(M));
    }
  }),
);

Deno.test("matmul() throws on shapes that do not match and on a sum that is too long", () => {
  using program = new Program({ ...device, isCpu: true }); // on a GPU a sum has no bound
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  assert.throws(
    () => matmul(program, { a: like([2, 3]), b: like([4, 5]) }, { y: like([2, 5]) }),
    { name: "RangeError", message: / b must have shape \[3,N\]: current shape of "t" is \[4,5\]/ },
  );
  assert.throws(
    () => matmul(program, { a: like([2, 40000]), b: like([40000, 1]) }, { y: like([2, 1]) }),
    { name: "LimitError", message: /may loop at most 32768 times: current bound is 40000/ },
  );
  assert.equal(program.length, 0);
});
