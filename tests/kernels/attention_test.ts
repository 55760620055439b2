import assert from "node:assert/strict";
import { attentionBackward, attentionForward } from "../../kernels/attention/attention.ts";
import { attentionDecode } from "../../kernels/attention/decode.ts";
import { attentionWeights } from "../../kernels/attention/weights.ts";
import * as reference from "../../kernels/attention/reference.ts";
import { matmul } from "../../kernels/matmul/reference.ts";
import type { Device } from "../../kernels/device.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import {
  backwardMatrixVariants,
  forwardMatrixVariants,
  isWithin,
} from "../../kernels/attention/variants.ts";
import { hasMatrices, MATRIX_SIDE, MATRIX_SUBGROUP } from "../../kernels/matrices.ts";
import { Program } from "../../kernels/program.ts";
import { dropoutFactor } from "../../kernels/dropout/reference.ts";
import { ropeForward } from "../../kernels/rope/rope.ts";
import { rotationTable } from "../../kernels/rope/rotation.ts";
import { createTensor, download, type DType, type Tensor } from "../../kernels/tensor.ts";
import {
  assertClose,
  assertComputes,
  assertGradient,
  device,
  randomValues,
  REAL_TYPES,
  rounded,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";
import { withEmulatedMatrices } from "./matrix_emulation.ts";

// f32: exp and up to 129 terms in another order; f16: inputs are exact, outputs rounded to 11 bits,
// and the backward pass reads the rounded y
const TOLERANCE = { f32: 5e-5, f16: 4e-3 } as Record<string, number>;

const REFERENCES = [
  ...[{}, { scale: 0.8 }, { window: 2 }, { KH: 1 }],
  { positions: [0, 0, 1, 0, 0, 1, 2, 0] },
  { positions: [0, 1, 2, 3, 0, 0, 1, 2], window: 2 },
].map((options) => ({
  ...{ B: 2, T: 4, NH: 2, HS: 4 },
  ...options,
}));
const everyThird = (i: number) => i % 3 === 0 ? 0 : 1.5; // drops every third probability

Deno.test(
  "reference attentionBackward() matches central differences",
  withRandom((random) => {
    const dy = randomValues(random, 2 * 4 * 8);
    for (const shape of REFERENCES) {
      const qkv = randomValues(random, 2 * 4 * ("KH" in shape ? 16 : 24));
      const { dqkv } = reference.attentionBackward({ qkv, dy }, shape, everyThird);
      const forward = (qkv: Float32Array) =>
        reference.attentionForward({ qkv }, shape, everyThird).y;
      assertGradient(forward, qkv, dy, dqkv, { what: "dqkv" });
    }
  }),
);

Deno.test(
  "reference attentionBackwardByPairs() returns the same dqkv as attentionBackward()",
  withRandom((random) => {
    const dy = randomValues(random, 2 * 4 * 8);
    for (const shape of REFERENCES) {
      const qkv = randomValues(random, 2 * 4 * ("KH" in shape ? 16 : 24));
      const forward = reference.attentionForward({ qkv }, shape, everyThird);
      const { dqkv } = reference.attentionBackward({ qkv, dy }, shape, everyThird);
      const inputs = { qkv, dy, ...forward };
      const pairs = reference.attentionBackwardByPairs(inputs, shape, everyThird);
      assertClose(pairs.dqkv, dqkv, 1e-5, "dqkv"); // y, logSumExp and delta are rounded to f32
    }
  }),
);

/** The positions of a row of documents. */
function positionsIn(lengths: readonly number[]): number[] {
  return lengths.flatMap((length) => [...Array(length).keys()]);
}

/** Sizes, options and kernels of a comparison with the reference. */
interface Case extends Omit<reference.AttentionShape, "positions"> {
  /** Lengths of the documents in each row. */
  documents?: readonly (readonly number[])[];
  dtype: DType;
  variant: "rows" | "tiles";
  rate?: number;
  /** Largest error of y; by default `TOLERANCE`. */
  tolerance?: number;
}

/** Forward and backward with random inputs, and what the reference computes. */
function comparisonOf(
  random: () => number,
  seed: number,
  { B, T, NH, KH = NH, HS, dtype, variant, rate = 0, ...options }:
    & Omit<Case, "variant">
    & Partial<Case>,
) {
  const { tolerance = TOLERANCE[dtype]!, documents, ...scores } = options;
  const C = NH * HS, row = (NH + 2 * KH) * HS, site = 5;
  const positions = documents?.flatMap(positionsIn);
  const qkv = randomValues(random, B * T * row, { dtype });
  const dy = randomValues(random, B * T * C, { dtype });
  const t = tensors({
    qkv: [[B * T, row], dtype, qkv],
    dy: [[B * T, C], dtype, dy],
    random: [[2], "u32", [seed, 3]],
    positions: [[B * T], "u32", positions ?? 0],
    y: [[B * T, C], dtype],
    logSumExp: [[B, NH, T], "f32"],
    delta: [[B, NH, T], "f32"],
    dqkv: [[B * T, row], dtype],
  });
  const dropout = rate > 0 ? { rate, site, random: t.random } : undefined;
  const layer = {
    ...{ T, heads: NH, dropout, ...scores },
    ...(KH === NH ? {} : { keyHeads: KH }),
    ...(variant ? { variant } : {}),
  };
  const shape = { B, T, NH, KH, HS, positions, ...scores };
  const draw = { seed, counter: 3, rate, site };
  const factor = (index: number) =>
    rate === 0 ? 1 : dropoutFactor({ ...draw, row: Math.floor(index / T), index: index % T });
  const { y, logSumExp } = reference.attentionForward({ qkv }, shape, factor);
  const { dqkv } = reference.attentionBackward({ qkv, dy }, shape, factor);
  const stored = { y: rounded(Float32Array.from(y), dtype), logSumExp }; // what the backward pass reads
  const { delta } = reference.attentionBackwardByPairs({ qkv, dy, ...stored }, shape, factor);
  const record = (program: Program) => {
    const inputs = { ...t, positions: positions && t.positions };
    attentionForward(program, inputs, t, layer);
    attentionBackward(program, inputs, t, layer);
  };
  const rows = [
    [t.y, y, tolerance],
    [t.logSumExp, logSumExp, TOLERANCE.f32!],
    [t.dqkv, dqkv, 2 * tolerance],
    [t.delta, delta, 2 * tolerance],
  ] as const;
  return { record, rows };
}

/** Compares forward and backward with the reference. */
async function check(
  random: () => number,
  seed: number,
  shape: Omit<Case, "variant"> & Partial<Case>,
  on = device,
): Promise<void> {
  const { record, rows } = comparisonOf(random, seed, shape);
  await assertComputes(record, rows, { on });
}

/** Compares the variants among which the tuner chooses with the reference, or those of them that are to be tested. */
async function checkVariants(
  random: () => number,
  seed: number,
  shape: Omit<Case, "variant">,
  { on, isTested = () => true }: { on: Device; isTested?: (variant: string) => boolean },
): Promise<void> {
  const gpu = { ...on, choices: new Map<string, string>() };
  const tested = [...variantsOf(comparisonOf(random, seed, shape).record, gpu)].map((
    [key, variants],
  ) => [key, variants.filter(isTested)] as const);
  assert.equal(tested.length, 2); // forward and backward
  for (let i = 0; i < Math.max(...tested.map(([, variants]) => variants.length)); i++) {
    for (const [key, variants] of tested) {
      assert.ok(variants.length > 0, `there are no variants of ${key} to test`);
      gpu.choices.set(key, variants[i % variants.length]!);
    }
    await check(random, seed, shape, gpu);
  }
}

/** The variants among which the tuner chooses on a device, by the key of their work. */
function variantsOf(
  record: (program: Program) => void,
  on: Device,
): Map<string, readonly string[]> {
  const program = new Program(dryDevice(on));
  record(program);
  return new Map([...program.tunables.values()].map(({ key, variants }) => [key, variants]));
}

const DOCUMENTS = [[1, 63, 2, 1, 32, 32], [63, 68]];

const CASES: readonly (Omit<Case, "dtype"> & { dtypes?: readonly DType[] })[] = [
  { variant: "rows", B: 1, T: 1, NH: 1, HS: 4 },
  { variant: "rows", B: 2, T: 3, NH: 6, KH: 3, HS: 8 },
  { variant: "rows", B: 1, T: 129, NH: 2, HS: 32 },
  { variant: "rows", B: 2, T: 67, NH: 4, KH: 1, HS: 12, rate: 0.3 },
  { variant: "rows", B: 1, T: 66, NH: 1, HS: 128, dtypes: ["f32"] }, // seconds to compile
  { variant: "tiles", B: 1, T: 1, NH: 1, HS: 32 },
  { variant: "tiles", B: 2, T: 3, NH: 6, KH: 3, HS: 64 },
  { variant: "tiles", B: 2, T: 65, NH: 1, HS: 64 },
  { variant: "tiles", B: 1, T: 129, NH: 2, HS: 32, rate: 0.3 },
  { variant: "tiles", B: 1, T: 65, NH: 2, HS: 128 },
  { variant: "tiles", B: 1, T: 40, NH: 1, HS: 96, dtypes: ["f32"] },
  // GPT-Neo does not divide scores by √HS, and every other layer has a window
  { variant: "rows", B: 2, T: 130, NH: 1, HS: 8, scale: 0.7, window: 1, dtypes: ["f32"] },
  { variant: "rows", B: 1, T: 131, NH: 2, HS: 4, window: 37, rate: 0.3 },
  { variant: "rows", B: 1, T: 70, NH: 6, KH: 2, HS: 20, scale: 1, window: 70, dtypes: ["f32"] },
  { variant: "rows", B: 1, T: 5, NH: 1, HS: 4, window: 2 ** 40, dtypes: ["f32"] },
  { variant: "tiles", B: 2, T: 130, NH: 1, HS: 32, scale: 0.7, window: 1, dtypes: ["f32"] },
  { variant: "tiles", B: 1, T: 195, NH: 4, KH: 2, HS: 32, window: 37, rate: 0.3, dtypes: ["f32"] },
  { variant: "tiles", B: 1, T: 131, NH: 1, HS: 32, scale: 0.5, window: 66, dtypes: ["f32"] },
  // several documents in a row, of one token to several tiles
  { variant: "rows", B: 2, T: 131, NH: 4, KH: 2, HS: 8, rate: 0.3, documents: DOCUMENTS },
  {
    ...{ variant: "rows", B: 2, T: 131, NH: 1, HS: 4, window: 5, documents: DOCUMENTS },
    dtypes: ["f32"],
  },
  { variant: "tiles", B: 2, T: 131, NH: 4, KH: 2, HS: 32, rate: 0.3, documents: DOCUMENTS },
  {
    ...{ variant: "tiles", B: 2, T: 131, NH: 1, HS: 32, window: 5, documents: DOCUMENTS },
    dtypes: ["f32"],
  },
];

// a device without subgroups, whether it has them or not
const ALONE = { ...device, subgroupSize: undefined };

for (const { dtypes = REAL_TYPES, ...shape } of CASES) {
  for (const dtype of REAL_TYPES.filter((type) => dtypes.includes(type))) {
    const { variant, ...sizes } = shape;
    const size = Object.entries(sizes).map(([name, value]) => `${name} ${JSON.stringify(value)}`)
      .join(", ");
    for (const on of variant === "rows" && device.subgroupSize ? [device, ALONE] : [ALONE]) {
      const how = on.subgroupSize ? " and subgroups" : "";
      Deno.test(
        `attention in ${variant}${how} matches the reference in ${dtype} at ${size}`,
        withRandom((random, seed) => check(random, seed, { ...shape, dtype }, on)),
      );
    }
  }
}

for (
  const [dtype, scores] of [
    ["f32", { window: 33 }],
    ["f16", { documents: [[63, 40, 2, 90]] }],
  ] as const
) {
  Deno.test({
    name:
      `attention in every tile that the tuner may choose matches the reference in ${dtype} with ${
        JSON.stringify(scores)
      }`,
    ignore: !REAL_TYPES.includes(dtype),
    fn: withRandom((random, seed) =>
      checkVariants(random, seed, { B: 1, T: 195, NH: 2, KH: 1, HS: 32, dtype, ...scores }, {
        on: { ...device, isCpu: false },
      })
    ),
  });
}

// A device without matrices emulates them. It takes a minute to compile the tiles that are fast on a GPU, and three
// seconds for the smallest, so these are tested with the same constants.
const HAS_MATRICES = hasMatrices(device);
const MATRIX_DEVICE = HAS_MATRICES ? device : withEmulatedMatrices(device);
const MATRIX_SHAPE = { NH: 2, KH: 1, scale: 0.4, window: 37, rate: 0.3 };
const MATRIX_TOLERANCE = 2 * TOLERANCE.f16!; // p and ds are rounded, too
const MATRIX_CASES: readonly (readonly [
  sizes: Pick<Case, "B" | "T" | "HS" | "window" | "documents">,
  maxBindingBytes: number,
])[] = [
  [{ B: 1, T: 1, HS: 32 }, Infinity],
  [{ B: 2, T: 70, HS: 32 }, Infinity],
  [{ B: 1, T: 99, HS: 32 }, 128 * 2 * 32 * 4], // one partial sum of dq, to which several blocks of keys are added
  // with documents, heads of two matrices take seven seconds longer to compile
  [{ B: 2, T: 99, HS: 16, window: 70, documents: [[40, 1, 58], [99]] }, Infinity],
  [{ B: 1, T: 99, HS: 16, window: 70, documents: [[1, 64, 34]] }, 128 * 2 * 16 * 4],
];
const isTested = (variant: string) =>
  /^matrix /.test(variant) && (HAS_MATRICES || / 32x(16|32) by/.test(variant));

Deno.test("attention in matrices has tiles of whole matrices, and isWithin() takes those that just fit", () => {
  for (const HS of [16, 48, 64, 96, 128]) {
    const forward = forwardMatrixVariants({ T: 64, HS }), of = { T: 64, HS };
    for (const variant of [...forward, ...backwardMatrixVariants(of)]) {
      const { QUERIES, KEYS, invocations, bytes } = variant;
      const [queries, keys] = [QUERIES / MATRIX_SIDE, KEYS / MATRIX_SIDE];
      const subgroups = invocations / MATRIX_SUBGROUP;
      assert.ok([queries, keys, subgroups].every(Number.isInteger), `${QUERIES}x${KEYS}`);
      const within = (invocations: number, bytes: number) =>
        isWithin({
          maxComputeInvocationsPerWorkgroup: invocations,
          maxComputeWorkgroupStorageSize: bytes,
        }, variant);
      assert.ok(within(invocations, bytes));
      assert.ok(!within(invocations - 1, bytes) && !within(invocations, bytes - 1));
    }
    assert.ok(forward.length > 0, `${HS}`);
  }
});

for (const [sizes, maxBindingBytes] of MATRIX_CASES) {
  Deno.test({
    name: `attention in matrices matches the reference at ${JSON.stringify(sizes)}`,
    ignore: !device.features.has("shader-f16"),
    fn: withRandom((random, seed) =>
      checkVariants(random, seed, {
        ...MATRIX_SHAPE,
        ...sizes,
        dtype: "f16",
        tolerance: MATRIX_TOLERANCE,
      }, {
        on: { ...MATRIX_DEVICE, maxBindingBytes },
        isTested,
      })
    ),
  });
}

// further sizes where matrices need not be emulated
for (const HS of HAS_MATRICES ? [64, 112, 128] : []) {
  Deno.test(
    `attention in every variant that the tuner may choose matches the reference with heads of ${HS}`,
    withRandom((random, seed) =>
      checkVariants(random, seed, {
        B: 2,
        T: 195,
        NH: 2,
        HS,
        dtype: "f16",
        tolerance: MATRIX_TOLERANCE,
      }, { on: device })
    ),
  );
}

Deno.test({
  name: "attentionForward() in matrices matches the reference wherever the highest score is",
  ignore: !device.features.has("shader-f16"),
  async fn() {
    const B = 1,
      T = 80,
      NH = 2,
      KH = 1,
      HS = 48, // q in two parts, which are not equal
      row = (NH + 2 * KH) * HS,
      options = { T, heads: NH };
    const on = { ...MATRIX_DEVICE, choices: new Map<string, string>() };
    for (const highest of [3, 35, 72]) { // the last is seen by a quarter of a tile's queries alone
      // SCALE · q · k = ±12,711, but for one key: exp2 of the difference is beyond f16 and f32
      const qkv = Float32Array.from({ length: T * row }, (_, i) => {
        const t = Math.floor(i / row), head = Math.floor(i % row / HS);
        if (head < NH) return i % HS < 32 ? 43 : 42; // the second part of q differs
        if (head === NH + KH) return t + Math.floor(i % HS / 16) / 4; // nor is a part of v like another
        return t === highest ? 43 : -43;
      });
      const t = tensors({
        qkv: [[T, row], "f16", qkv],
        y: [[T, NH * HS], "f16"],
        logSumExp: [[B, NH, T], "f32"],
      });
      const record = (program: Program) =>
        attentionForward(program, t, t, { ...options, keyHeads: KH });
      const { y, logSumExp } = reference.attentionForward({ qkv }, { B, T, NH, KH, HS });
      for (const [key, variants] of variantsOf(record, on)) {
        for (const variant of variants.filter(isTested)) {
          on.choices.set(key, variant);
          await assertComputes(record, [[t.y, y, 1e-3], [t.logSumExp, logSumExp, 1e-6]], { on });
        }
      }
    }
  },
});

for (
  const scores of [
    { window: 33, rate: 0.3 },
    { NH: 2, KH: 1, documents: [[100, 5, 125], [31, 1, 198], [230]] },
  ]
) {
  Deno.test(
    `attentionBackward() in tiles computes heads in parts if a binding holds two of three, with ${
      JSON.stringify(scores)
    }`,
    withRandom(async (random, seed) => {
      for (const dtype of REAL_TYPES) {
        const shape = { B: 3, T: 230, NH: 1, HS: 32, dtype, variant: "tiles", ...scores } as const;
        const tiles = "window" in scores ? 7 : 2 * 10; // of 64 x 64 scores; two heads of q read one of k
        const maxBindingBytes = 2 * 2 * tiles * 64 * 64 * (dtype === "f16" ? 2 : 4);
        const on = { ...ALONE, maxBindingBytes };
        assert.equal(launchesOf(shape, on).length, 1 + 1 + 2 * 2); // forward, delta, two parts
        await check(random, seed, shape, on);
      }
    }),
  );
}

/** Paths of the kernels of both passes. */
function launchesOf(shape: Omit<Case, "variant"> & Partial<Case>, on: Device): string[] {
  const program = new Program(dryDevice(on));
  comparisonOf(() => 0, 1, shape).record(program);
  return program.labels;
}

Deno.test("attentionBackward() is by rows if a GPU cannot bind the tiles of a head, or not start as many workgroups", () => {
  const shape = { B: 1, T: 130, NH: 2, KH: 1, HS: 32, dtype: "f32" } as const, tiles = 6;
  const kernels = (maxBindingBytes: number, most = tiles) => {
    const limits = new Proxy(ALONE.gpu.limits, {
      get: (limits, name) =>
        name === "maxComputeWorkgroupsPerDimension" ? most : Reflect.get(limits, name, limits),
    });
    return launchesOf(shape, {
      ...{ ...ALONE, isCpu: false, maxBindingBytes },
      gpu: { limits } as GPUDevice,
    }).map((path) => path.replace(/.*\/(.*)\.wgsl/, "$1"));
  };
  const tileBytes = 2 * 2 * tiles * 64 * 64 * 4, byRows = ["backward_query", "backward_key"];
  const byTiles = ["backward_delta", "backward_scores", "backward_products"];
  assert.deepEqual(kernels(tileBytes), ["forward_tiles", ...byTiles]);
  assert.deepEqual(kernels(tileBytes - 4), ["forward_tiles", ...byRows]);
  assert.deepEqual(kernels(tileBytes, tiles - 1), ["forward_tiles", ...byRows]);
});

Deno.test("attentionBackward() is by rows if f16 could not hold f · p", () => {
  for (const dtype of REAL_TYPES) {
    const shape = { B: 1, T: 130, NH: 1, HS: 32, dtype } as const;
    const isByRows = (rate: number) =>
      launchesOf({ ...shape, rate }, { ...ALONE, isCpu: false })
        .includes("kernels/attention/backward_query.wgsl");
    assert.deepEqual([0.95, 0.96].map(isByRows), [false, dtype === "f16"]);
  }
});

Deno.test("attentionBackward() in tiles stores scores of at most 256 MiB, or of one head", () => {
  for (const [T, NH, parts] of [[1024, 12, 2], [8192, 2, 2]] as const) {
    const on = dryDevice({ ...ALONE, isCpu: false, maxBindingBytes: 2 ** 31 });
    const program = new Program(on), B = 8192 / T, C = NH * 64;
    const tensor = (name: string, shape: number[]) =>
      createTensor(on, name, { shape, dtype: "f32" });
    const t = {
      ...{ qkv: tensor("qkv", [8192, 3 * C]), dqkv: tensor("dqkv", [8192, 3 * C]) },
      ...{ y: tensor("y", [8192, C]), dy: tensor("dy", [8192, C]) },
      ...{ logSumExp: tensor("logSumExp", [B, NH, T]), delta: tensor("delta", [B, NH, T]) },
    };
    attentionBackward(program, t, t, { T, heads: NH });
    assert.equal(program.length, 1 + 2 * parts);
    const headBytes = T * (T + 64) * 4; // two tensors of little more than half of all pairs
    assert.equal(program.scratchBytes, headBytes * B * NH / parts);
  }
});

for (const variant of ["rows", "tiles"] as const) {
  Deno.test(`attention in ${variant} stays finite for scores beyond 1e4 in f16`, async () => {
    if (!device.features.has("shader-f16")) return;
    // q · k / √32 = ±10,460: exp of it overflows, while the operands fit in f16
    const T = 3, HS = 32, keys = [43, -43, 42];
    const values = keys.flatMap((key, s) =>
      [43, key, 5 + s].flatMap((value) => new Array<number>(HS).fill(value))
    );
    const t = tensors({
      qkv: [[T, 3 * HS], "f16", values],
      dy: [[T, HS], "f16", 1],
      y: [[T, HS], "f16"],
      logSumExp: [[1, 1, T], "f32"],
      delta: [[1, 1, T], "f32"],
      dqkv: [[T, 3 * HS], "f16"],
    });
    const [y, lse, dqkv] = await runProgram(
      (program) => {
        attentionForward(program, t, t, { T, heads: 1, variant });
        attentionBackward(program, t, t, { T, heads: 1, variant });
      },
      [t.y, t.logSumExp, t.dqkv],
    );
    assert.deepEqual([...y!], new Array(T * HS).fill(5)); // the first key's value
    assertClose(lse!, new Array(T).fill(43 * 43 * Math.sqrt(HS)), 1e-6, "logSumExp");
    assert.ok(dqkv!.every(Number.isFinite), `dqkv is ${dqkv}`);
  });
}

for (const dtype of REAL_TYPES) {
  for (const { KH = 3, ...scores } of [{}, { scale: 0.6, window: 1 }, { window: 41, KH: 1 }]) {
    Deno.test(
      `attentionWeights() are those of the reference in ${dtype} with ${
        JSON.stringify({ ...scores, KH })
      }`,
      withRandom(async (random) => {
        const B = 2, T = 71, NH = 3, HS = 12, shape = { B, T, NH, KH, HS, ...scores };
        const row = (NH + 2 * KH) * HS, qkv = randomValues(random, B * T * row, { dtype });
        const { logSumExp } = reference.attentionForward({ qkv }, shape);
        const t = tensors({
          qkv: [[B * T, row], dtype, qkv],
          logSumExp: [[B, NH, T], "f32", logSumExp],
          p: [[B, NH, T, T], "f32"],
        });
        const options = { T, heads: NH, keyHeads: KH, ...scores };
        await assertComputes((program) => attentionWeights(program, t, t, options), [
          [t.p, reference.attentionWeights({ qkv }, shape).p, 1e-5],
        ]);
      }),
    );
  }
}

const DECODED = REAL_TYPES.flatMap((dtype) =>
  [32, 64, 256].flatMap((workgroups) =>
    [{}, { scale: 0.6, window: 1 }, { NH: 6, KH: 3, window: 41 }].map((
      { NH = 2, KH = NH, ...scores },
    ) => ({ dtype, workgroups, NH, KH, scores }))
  )
);

for (const { dtype, workgroups, NH, KH, scores } of DECODED) {
  const isCpu = workgroups === 32, kernelRows = workgroups === 64 ? 2 ** 15 : 1;
  const how = JSON.stringify({ NH, KH, ...scores });
  Deno.test(
    `attentionDecode() in workgroups of ${workgroups} matches the reference in ${dtype} with ${how}`,
    withRandom(async (random) => {
      const B = 2,
        T = 71,
        HS = 12,
        C = NH * HS,
        row = C + 2 * KH * HS,
        tokens = 70,
        starts = [0, 9];
      const passes = [1, 32, 4, 32, 1, 32]; // new tokens; the last are padding, most past the cache
      const qkv = starts.map(() => randomValues(random, 102 * row, { dtype }));
      const { keys, values } = tensors({
        keys: [[B, KH, T, HS], dtype],
        values: [[B, KH, T, HS], dtype],
      });
      const ys = starts.map(() => [] as number[]);
      let first = 0;
      for (const S of passes) {
        const rows = qkv.flatMap((of) => [...of.subarray(first * row, (first + S) * row)]);
        const t = tensors({
          qkv: [[B * S, row], dtype, rows],
          cursors: [
            [B, 4],
            "u32",
            starts.flatMap((start, b) => [start + first, start, 1 - b, 999]),
          ],
          y: [[B * S, C], dtype],
        });
        const [y] = await runProgram(
          (program) => {
            const { dispatch } = program;
            program.dispatch = (launch) => {
              assert.equal(launch.constants?.WORKGROUP_SIZE, workgroups);
              dispatch.call(program, launch);
            };
            attentionDecode(program, t, { y: t.y, keys, values }, { ...scores, kernelRows });
          },
          [t.y],
          { on: { ...device, isCpu } },
        );
        ys.forEach((list, b) => list.push(...y!.subarray(b * S * C, (b + 1) * S * C)));
        first += S;
      }
      const [cached] = await download(device, values);
      for (const [b, of] of qkv.entries()) {
        const shape = { B: 1, T: tokens, NH, KH, HS, ...scores };
        const { y } = reference.attentionForward({ qkv: of }, shape);
        assertClose(ys[b]!.slice(0, tokens * C), y, TOLERANCE[dtype]!, `y of text ${b}`);
        for (let h = 0; h < KH; h++) {
          const head = ((1 - b) * KH + h) * T * HS, v = C + (KH + h) * HS;
          assert.deepEqual([...cached!.subarray(head, head + HS)], [...of.subarray(v, v + HS)]);
        }
      }
    }),
  );
}

const ROTATED = ([["f32", true], [REAL_TYPES.at(-1)!, false]] as const).flatMap(([dtype, isCpu]) =>
  [true, false].map((withNorm) => ({ dtype, isCpu, withNorm }))
);

for (const { dtype, isCpu, withNorm } of ROTATED) {
  const workgroups = isCpu ? 32 : 256, how = withNorm ? "normalises and rotates" : "rotates";
  Deno.test(
    `attentionDecode() in workgroups of ${workgroups} ${how} in ${dtype} as ropeForward() before it`,
    withRandom(async (random) => {
      // head sizes whose halves are whole vectors, and are not
      for (const [NH, KH, HS] of [[6, 3, 12], [2, 2, 32]] as const) {
        const B = 3, T = 40, row = (NH + 2 * KH) * HS, on = { ...device, isCpu };
        const rotation = rotationTable({ contextLength: T + 2, headSize: HS, base: 100 });
        const cached = randomValues(random, 2 * B * KH * T * HS, { dtype });
        const inputs = tensors({
          cursors: [[B, 4], "u32", [0, 0, 0, 999, 31, 9, 1, 999, 139, 100, 2, 999]],
          rotation: [[T + 2, HS / 2, 2], "f32", rotation],
          qWeight: [[HS], "f32", randomValues(random, HS)],
          kWeight: [[HS], "f32", randomValues(random, HS)],
        });
        const norm = withNorm ? { ...inputs, epsilon: 1e-3 } : undefined;
        const qkv = randomValues(random, B * row, { dtype });
        const [plain, fused] = [0, 1].map(() =>
          tensors({
            qkv: [[B, row], dtype, qkv],
            keys: [[B, KH, T, HS], dtype, cached.subarray(0, B * KH * T * HS)],
            values: [[B, KH, T, HS], dtype, cached.subarray(B * KH * T * HS)],
            y: [[B, NH * HS], dtype],
          })
        ) as [Plain, Plain];
        const { cursors } = inputs, options = { T: 1, heads: NH, keyHeads: KH };
        const expected = await runProgram(
          (program) => {
            ropeForward(program, { ...inputs, norm }, plain, options);
            attentionDecode(program, { qkv: plain.qkv, cursors }, plain);
          },
          [plain.y, plain.keys, plain.values],
          { on },
        );
        const tolerance = dtype === "f32" ? 1e-5 : 2e-3; // an element may be rounded the other way
        await assertComputes(
          (program) => attentionDecode(program, { ...inputs, qkv: fused.qkv, norm }, fused),
          [
            [fused.y, expected[0]!, tolerance],
            [fused.keys, expected[1]!, tolerance],
            [fused.values, expected[2]!, 0],
            [fused.qkv, qkv, 0],
          ],
          { on },
        );
      }
    }),
  );
}

type Plain = Record<"qkv" | "keys" | "values" | "y", Tensor>;

Deno.test(
  "attentionDecode() computes nothing from the end of a text on",
  withRandom(async (random) => {
    const T = 6, S = 4, NH = 2, HS = 4, C = NH * HS;
    const qkv = randomValues(random, S * 3 * C);
    const { y: whole } = reference.attentionForward({ qkv }, { B: 1, T: S, NH, HS });
    for (const end of [0, 3]) {
      const t = tensors({
        qkv: [[S, 3 * C], "f32", qkv],
        cursors: [[1, 4], "u32", [0, 0, 0, end]],
        keys: [[1, NH, T, HS], "f32"],
        values: [[1, NH, T, HS], "f32"],
        y: [[S, C], "f32"],
      });
      const [y, keys] = await runProgram(
        (program) => attentionDecode(program, t, t),
        [t.y, t.keys],
      );
      assertClose(y!.subarray(0, end * C), whole.slice(0, end * C), TOLERANCE.f32!, "y");
      assert.ok(y!.subarray(end * C).every(Number.isNaN));
      for (let s = 0; s < T; s++) {
        assert.equal(keys!.subarray(s * HS, s * HS + HS).every(Number.isNaN), s >= end);
      }
    }
  }),
);

// 48 workgroups share no row of the projection, whose vectors are then more than a workgroup's invocations
for (const [dtype, C, NH] of [["f32", 36, 4], [REAL_TYPES.at(-1)!, 2056, 16]] as const) {
  Deno.test(
    `attentionDecode() stores what every head adds to a projection of ${C} columns in ${dtype}`,
    withRandom(async (random) => {
      const B = 3, KH = 2, HS = 20, T = 9, row = (NH + 2 * KH) * HS;
      const weight = randomValues(random, NH * HS * C, { dtype }), bias = randomValues(random, C);
      const cached = () => randomValues(random, B * KH * T * HS, { dtype });
      const t = tensors({
        qkv: [[B, row], dtype, randomValues(random, B * row, { dtype })],
        cursors: [[B, 4], "u32", [5, 0, 2, 99, 0, 0, 1, 99, 17, 9, 0, 99]],
        keys: [[B, KH, T, HS], dtype, cached()],
        values: [[B, KH, T, HS], dtype, cached()],
        y: [[B, NH * HS], dtype],
        weight: [[NH * HS, C], dtype, weight],
        bias: [[C], "f32", bias],
        projected: [[NH, B, C], "f32"],
      });
      const { qkv, cursors, keys, values, y, projected } = t;
      const [heads, parts] = await runProgram(
        (program) => {
          attentionDecode(program, { qkv, cursors }, { keys, values, y });
          const outputs = { keys, values, projected };
          attentionDecode(program, { qkv, cursors, projection: t }, outputs);
        },
        [y, projected],
        { on: { ...device, isCpu: false } },
      );
      const shape = { M: 1, K: HS, N: C };
      const rounding = dtype === "f16" ? 2 ** -11 : 0; // of y, which is projected as it was before
      for (let h = 0; h < NH; h++) {
        for (let b = 0; b < B; b++) {
          const a = Float32Array.from(heads!.subarray((b * NH + h) * HS, (b * NH + h + 1) * HS));
          const rows = weight.slice(h * HS * C, (h + 1) * HS * C);
          const { y: product } = matmul({ a, b: rows, ...(h === 0 ? { bias } : {}) }, shape);
          const { y: sizes } = matmul({ a: a.map(Math.abs), b: rows.map(Math.abs) }, shape);
          const part = parts!.subarray((h * B + b) * C, (h * B + b + 1) * C);
          for (const [n, value] of part.entries()) {
            const expected = product[n]!;
            const bound = TOLERANCE.f32! * (1 + Math.abs(expected)) + rounding * sizes[n]!;
            const what = `head ${h} of text ${b}, column ${n}`;
            assert.ok(Math.abs(value - expected) <= bound, `${what}: ${value}, not ${expected}`);
          }
        }
      }
    }),
  );
}

Deno.test("attentionDecode() throws if it is to rotate several tokens per text, or to normalise alone", () => {
  const t = tensors({
    qkv: [[2, 24], "f32"],
    cursors: [[1, 4], "u32", [0, 0, 0, 999]],
    keys: [[1, 2, 5, 4], "f32"],
    values: [[1, 2, 5, 4], "f32"],
    y: [[2, 8], "f32"],
    rotation: [[5, 2, 2], "f32"],
    weight: [[4], "f32"],
  });
  const program = new Program(device);
  assert.throws(() => attentionDecode(program, t, t), {
    name: "RangeError",
    message: /one new token, below position 5: current numbers are 2 new tokens and 5 positions/,
  });
  const norm = { qWeight: t.weight, kWeight: t.weight, epsilon: 0 };
  assert.throws(
    () => attentionDecode(program, { qkv: t.qkv, cursors: t.cursors, norm }, t),
    { name: "TypeError", message: /norm must be given with rotation/ },
  );
});

Deno.test(
  "attentionDecode() matches the reference if a head has more vectors than a workgroup of 32 has invocations",
  withRandom(async (random) => {
    const T = 5, NH = 2, HS = 132, C = NH * HS, qkv = randomValues(random, T * 3 * C);
    const t = tensors({
      qkv: [[T, 3 * C], "f32", qkv],
      cursors: [[1, 4], "u32", [0, 0, 0, 999]],
      keys: [[1, NH, T, HS], "f32"],
      values: [[1, NH, T, HS], "f32"],
      y: [[T, C], "f32"],
    });
    const { y } = reference.attentionForward({ qkv }, { B: 1, T, NH, HS });
    await assertComputes((program) => attentionDecode(program, t, t), [[t.y, y, TOLERANCE.f32!]]);
  }),
);

Deno.test("attentionDecode() finds the highest score wherever it is", async () => {
  const T = 300, HS = 32;
  for (const isCpu of [true, false]) {
    for (const highest of [3, 42, 110, 171, 250, 299]) {
      // q · k / √32 = ±10,460: exp of the difference to a lower score than the highest overflows
      const qkv = Float32Array.from({ length: T * 3 * HS }, (_, i) => {
        const t = Math.floor(i / (3 * HS)), kind = Math.floor(i / HS) % 3;
        return kind === 0 ? 43 : kind === 2 ? t : t === highest ? 43 : -43;
      });
      const t = tensors({
        qkv: [[T, 3 * HS], "f32", qkv],
        cursors: [[1, 4], "u32", [0, 0, 0, 999]],
        keys: [[1, 1, T, HS], "f32"],
        values: [[1, 1, T, HS], "f32"],
        y: [[T, HS], "f32"],
      });
      const [y] = await runProgram((program) => attentionDecode(program, t, t), [t.y], {
        on: { ...device, isCpu },
      });
      const last = y!.subarray((T - 1) * HS);
      assert.deepEqual([...last], new Array(HS).fill(highest), `${isCpu ? "CPU" : "GPU"}`);
    }
  }
});

Deno.test("attentionDecode() throws if y has no whole number of rows per text", () => {
  const t = tensors({
    qkv: [[4, 24], "f32"],
    cursors: [[3, 4], "u32"],
    keys: [[3, 2, 5, 4], "f32"],
    values: [[3, 2, 5, 4], "f32"],
    y: [[4, 8], "f32"],
  });
  assert.throws(
    () => attentionDecode(new Program(device), t, t),
    {
      name: "RangeError",
      message: /y must have shape \[3S,4NH\]: current shape of "y" is \[4,8\]/,
    },
  );
});

Deno.test("attentionForward() throws if the number of heads does not divide the width", () => {
  const t = tensors({ qkv: [[4, 30], "f32"], y: [[4, 10], "f32"], logSumExp: [[1, 3, 4], "f32"] });
  assert.throws(
    () => attentionForward(new Program(device), t, t, { T: 4, heads: 3 }),
    {
      name: "RangeError",
      message: /qkv must have shape \[4B,9HS\]: current shape of "qkv" is \[4,30\]/,
    },
  );
});

Deno.test("attentionForward() throws if the number of key heads does not divide that of the heads", () => {
  const t = tensors({ qkv: [[4, 28], "f32"], y: [[4, 12], "f32"], logSumExp: [[1, 3, 4], "f32"] });
  assert.throws(
    () => attentionForward(new Program(device), t, t, { T: 4, heads: 3, keyHeads: 2 }),
    { name: "RangeError", message: /key heads must divide the 3 heads: current value is 2/ },
  );
});

Deno.test("attentionForward() throws on a scale that is out of its range, and on a window without tokens", () => {
  const t = tensors({ qkv: [[4, 12], "f32"], y: [[4, 4], "f32"], logSumExp: [[1, 1, 4], "f32"] });
  for (const scores of [{ scale: 0 }, { scale: -1 }, { scale: 1e20 }, { window: 0 }]) {
    const [[name, value]] = Object.entries(scores) as [[string, number]];
    assert.throws(
      () => attentionForward(new Program(device), t, t, { T: 4, heads: 1, ...scores }),
      { name: "RangeError", message: new RegExp(`the ${name} must be .* value is ${value}$`) },
    );
  }
});

Deno.test("attentionForward() throws if no tile fits the head size that it is to compute in tiles", () => {
  const t = tensors({ qkv: [[4, 60], "f32"], y: [[4, 20], "f32"], logSumExp: [[1, 1, 4], "f32"] });
  assert.throws(
    () => attentionForward(new Program(device), t, t, { T: 4, heads: 1, variant: "tiles" }),
    { name: "RangeError", message: /multiple of 32: current value is 20/ },
  );
});
