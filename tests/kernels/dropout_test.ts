import assert from "node:assert/strict";
import { dropoutBackward, dropoutForward } from "../../kernels/dropout/dropout.ts";
import * as reference from "../../kernels/dropout/reference.ts";
import { dropoutFactor } from "../../kernels/dropout/reference.ts";
import { dropoutUniforms } from "../../kernels/random.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, upload, viewTensor } from "../../kernels/tensor.ts";
import {
  assertComputes,
  assertGradient,
  device,
  freshSeed,
  poisoned,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensorOf,
  tensors,
  withRandom,
} from "./harness.ts";

// one product: half an ulp of the result
const TOLERANCE = { f32: 1e-6, f16: 1e-3 } as Record<string, number>;

const RANDOM = { shape: [2], dtype: "u32" } as const;

/** Standard deviations by which a share may be off: one check in 10¹¹ fails by chance. */
const DEVIATIONS = 7;

Deno.test(
  "reference dropoutBackward() matches central differences",
  withRandom((random) => {
    const x = randomValues(random, 20), dy = randomValues(random, 20);
    const factor = (i: number) => i % 3 === 0 ? 0 : 1.5;
    const { dx } = reference.dropoutBackward({ dy }, factor);
    assertGradient((x) => reference.dropoutForward({ x }, factor).y, x, dy, dx, { what: "dx" });
  }),
);

for (const xType of REAL_TYPES) {
  for (const yType of REAL_TYPES) {
    for (const N of [4, 12, 128, 132, 1028]) {
      Deno.test(
        `dropout matches the reference from ${xType} to ${yType} at N = ${N}`,
        withRandom(async (random, seed) => {
          const draw = { rate: 0.3, site: 7 };
          const factor = (index: number) => dropoutFactor({ ...draw, seed, counter: 11, index });
          const x = randomValues(random, N, { dtype: xType });
          const dy = randomValues(random, N, { dtype: yType });
          const t = tensors({
            x: [[N], xType, x],
            dy: [[N], yType, dy],
            random: [[2], "u32", [seed, 11]],
            y: [[N], yType],
            dx: [[N], xType],
          });
          await assertComputes((program) => {
            dropoutForward(program, t, t, { ...draw, random: t.random });
            dropoutBackward(program, t, t, { ...draw, random: t.random });
          }, [
            [t.y, reference.dropoutForward({ x }, factor).y, TOLERANCE[yType]!],
            [t.dx, reference.dropoutBackward({ dy }, factor).dx, TOLERANCE[xType]!],
          ]);
        }),
      );
    }
  }
}

Deno.test("dropout drops its share, other elements at every seed, counter and site", async () => {
  const N = 40_000, rate = 0.2, seed = freshSeed();
  const { ones } = tensors({ ones: [[N], "f32", 1] });
  const mask = async ([seed, counter, site]: [number, number, number]) => {
    const random = tensorOf("random", RANDOM, [seed, counter]), y = poisoned("y", ones);
    const [values] = await runProgram(
      (program) => dropoutForward(program, { x: ones }, { y }, { random, rate, site }),
      [y],
    );
    return values!;
  };
  const first = await mask([seed, 1, 1]);
  const others = [
    await mask([(seed + 1) >>> 0, 1, 1]),
    await mask([seed, 2, 1]),
    await mask([seed, 1, 2]),
  ];
  const within = (share: number, expected: number, what: string) => {
    const deviation = Math.sqrt(expected * (1 - expected) / N);
    assert.ok(
      Math.abs(share - expected) < DEVIATIONS * deviation,
      `${what} is ${share}, seed ${seed}`,
    );
  };
  for (const mask of [first, ...others]) {
    within(mask.filter((v) => v === 0).length / N, rate, "the share dropped");
  }
  for (const other of others) {
    const equal = other.filter((v, i) => v === first[i]).length / N;
    within(equal, rate ** 2 + (1 - rate) ** 2, "the share in which two masks agree");
  }
});

Deno.test("dropoutFactor() of one element is independent of another", () => {
  const N = 40_000, seed = freshSeed();
  // only at a rate of a half are the agreements of overlapping pairs independent
  const draw = { rate: 0.5, site: 1, seed, counter: 1 };
  const mask = Float32Array.from({ length: N }, (_, index) => dropoutFactor({ ...draw, index }));
  for (const shift of [1, 2, 64, 4096]) {
    const equal = mask.filter((v, i) => v === mask[(i + shift) % N]).length / N;
    assert.ok(
      Math.abs(equal - 0.5) < DEVIATIONS * Math.sqrt(0.25 / N),
      `the share that agrees ${shift} further on is ${equal}, seed ${seed}`,
    );
  }
});

Deno.test("dropoutForward() reaches elements beyond one row of workgroups", async () => {
  // 32768 workgroups of 256 vectors, and three vectors more; in f16, as the binding would not hold f32
  const dtype = REAL_TYPES.at(-1)!, row = 4 * 32768 * 256, N = dtype === "f16" ? row + 12 : row;
  const seed = freshSeed(), draw = { rate: 0.5, site: 3 };
  const end = { offset: row - 100, shape: [N - row + 100] };
  const x = createTensor(device, "x", { shape: [N], dtype });
  const y = createTensor(device, "y", { shape: [N], dtype });
  upload(device, viewTensor(x, end), new Array(end.shape[0]).fill(1));
  upload(device, viewTensor(y, end), new Array(end.shape[0]).fill(NaN));
  const random = tensorOf("random", RANDOM, [seed, 5]);
  const [values] = await runProgram(
    (program) => dropoutForward(program, { x }, { y }, { ...draw, random }),
    [viewTensor(y, end)],
  );
  values!.forEach((value, i) => {
    const expected = dropoutFactor({ ...draw, seed, counter: 5, index: end.offset + i });
    assert.equal(value, expected, `seed ${seed}, element ${end.offset + i}`);
  });
});

Deno.test("dropoutForward() keeps every element at rate zero", async () => {
  const t = tensors({
    x: [[4], "f32", [1, 2, 3, 4]],
    random: [[2], "u32", [5, 1]],
    y: [[4], "f32"],
  });
  await assertComputes(
    (program) => dropoutForward(program, t, t, { random: t.random, rate: 0, site: 0 }),
    [
      [t.y, [1, 2, 3, 4], 0],
    ],
  );
});

Deno.test("dropoutForward() throws when random lacks a counter", () => {
  const x = poisoned("x", { shape: [4], dtype: "f32" });
  const random = poisoned("random", { shape: [1], dtype: "u32" });
  assert.throws(
    () => dropoutForward(new Program(device), { x }, { y: x }, { random, rate: 0.1, site: 0 }),
    {
      name: "RangeError",
      message:
        'Cannot run dropoutForward as random must have shape [2]: current shape of "random" is [1]',
    },
  );
});

Deno.test("dropoutForward() throws on a number of elements that is no multiple of four", () => {
  const x = poisoned("x", { shape: [2, 3], dtype: "f32" });
  const random = poisoned("random", RANDOM);
  assert.throws(
    () => dropoutForward(new Program(device), { x }, { y: x }, { random, rate: 0.1, site: 0 }),
    {
      name: "RangeError",
      message:
        'Cannot run dropoutForward as rows of x must have a multiple of four elements: current shape of "x" is [6]',
    },
  );
});

Deno.test("dropoutFactor() draws different masks for rows that lie 2³² elements apart", () => {
  const T = 8192, draw = { seed: freshSeed(), counter: 3, rate: 0.5, site: 1 };
  const mask = (row: number) =>
    Array.from({ length: 64 }, (_, index) => dropoutFactor({ ...draw, row, index }));
  assert.notDeepEqual(mask(5), mask(5 + 2 ** 32 / T), `seed ${draw.seed}`);
});

Deno.test("dropoutUniforms() throws on a rate outside [0, 1)", () => {
  for (const rate of [1, -0.1, NaN]) {
    assert.throws(() => dropoutUniforms({ rate, site: 0 }), {
      name: "RangeError",
      message:
        `Cannot drop elements as the rate must be at least 0 and below 1: current value is ${rate}`,
    });
  }
});
