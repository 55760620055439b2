import assert from "node:assert/strict";
import { fillNormal, type NormalOptions } from "../../kernels/normal/normal.ts";
import * as reference from "../../kernels/normal/reference.ts";
import { createTensor, type DType, size } from "../../kernels/tensor.ts";
import {
  assertClose,
  device,
  freshSeed,
  poisoned,
  REAL_TYPES,
  runProgram,
  testRandom,
  withRandom,
} from "./harness.ts";

// f32: an angle of 24 bits up to π is off by 3e-7, times a radius of up to 6.8 and a deviation of 2 by 4e-6,
// and the error of the cosine is as large; f16: half an ulp of the result
const TOLERANCE = { f32: 8e-6, f16: 1e-3 } as Record<string, number>;

/** Largest error of the cosine: WGSL (15.7.4) allows 2⁻¹¹, of which SwiftShader makes use. */
const COSINE_ERROR = /swiftshader/i.test(device.name) ? 2 ** -11 : 0;

/** Largest error of the logarithm of a number near 1 (WGSL, 15.7.4); it is divided by the radius. */
const LOG_ERROR = 2 ** -21;

/** Asserts that values are those of the reference, from the element `first` on. */
function assertNormal(
  values: ArrayLike<number>,
  options: NormalOptions,
  { dtype = "f32", first = 0 }: { dtype?: DType; first?: number } = {},
): void {
  for (let i = 0; i < values.length; i++) {
    const expected = reference.normal(options, first + i);
    const radius = reference.radius(options, first + i);
    const ofRadius = LOG_ERROR / Math.max(radius, Math.sqrt(LOG_ERROR));
    const bound = TOLERANCE[dtype]! * (1 + Math.abs(expected)) +
      options.deviation * (ofRadius + radius * COSINE_ERROR);
    const error = Math.abs(values[i]! - expected);
    const what = `${JSON.stringify(options)}[${first + i}]`;
    assert.ok(error <= bound, `${what} is ${values[i]}, expected ${expected} within ${bound}`);
  }
}

const STANDARD = { mean: 0, deviation: 1 };

async function draw(
  options: NormalOptions,
  { shape, dtype = "f32", on = device }: { shape: number[]; dtype?: DType; on?: typeof device },
): Promise<Float32Array> {
  const y = size(shape) > 1e6 // poisoning a large one takes too long
    ? createTensor(device, "y", { shape, dtype })
    : poisoned("y", { shape, dtype });
  const [values] = await runProgram((program) => fillNormal(program, { y }, options), [y], { on });
  y.buffer.destroy();
  return values as Float32Array;
}

for (const dtype of REAL_TYPES) {
  for (const shape of [[1], [3], [127], [129], [3, 43], [5, 1, 103]]) {
    Deno.test(
      `fillNormal() matches the reference in ${dtype} of [${shape}]`,
      withRandom(async (_, seed) => {
        const options = { mean: 0.5, deviation: 2, seed, stream: ~seed >>> 0 };
        const values = await draw(options, { shape, dtype });
        assert.equal(values.length, size(shape));
        assertNormal(values, options, { dtype });
      }),
    );
  }
}

Deno.test(
  "fillNormal() draws uniform numbers of the same mean and deviation",
  withRandom(async (_, seed) => {
    const options = { mean: 0.5, deviation: 2, uniform: true, seed, stream: 4 };
    const n = 28_000, values = await draw(options, { shape: [n] });
    const expected = Array.from({ length: n }, (_, i) => reference.normal(options, i));
    assertClose(values, expected, TOLERANCE.f32!, "values");
    const bound = 2 * Math.sqrt(3);
    assert.ok(values.every((v) => Math.abs(v - 0.5) <= bound));
    for (const share of [0.1, 0.5, 0.9]) {
      const below = values.filter((v) => v < 0.5 + bound * (2 * share - 1)).length;
      assert.ok(
        Math.abs(below - share * n) < DEVIATIONS * Math.sqrt(n * share * (1 - share)),
        `below ${share}`,
      );
    }
  }),
);

Deno.test({
  name: "fillNormal() draws the same numbers in f32 and f16",
  ignore: !REAL_TYPES.includes("f16"),
  async fn() {
    const options = { ...STANDARD, seed: freshSeed(), stream: 3 };
    const master = await draw(options, { shape: [999] });
    const copy = await draw(options, { shape: [999], dtype: "f16" });
    assert.deepEqual(copy, new Float32Array(new Float16Array(master)), `seed ${options.seed}`);
  },
});

Deno.test(
  "fillNormal() without deviation fills with the mean",
  withRandom(async (_, seed) => {
    for (const mean of [0, 1]) {
      const options = { mean, deviation: 0, seed, stream: 0 };
      const values = await draw(options, { shape: [300] });
      assert.ok(values.every((value) => value === mean), `mean ${mean}`);
    }
  }),
);

Deno.test(
  "fillNormal() draws the same if a binding holds only a part",
  withRandom(async (_, seed) => {
    const options = { ...STANDARD, seed, stream: 1 };
    const on = { ...device, maxBindingBytes: 100 * 24 * 4 };
    const sliced = await draw(options, { shape: [300, 24], on });
    assert.deepEqual(sliced, await draw(options, { shape: [300, 24] }));
  }),
);

Deno.test(
  "fillNormal() reaches every element beyond one row of workgroups",
  withRandom(async (_, seed) => {
    const options = { ...STANDARD, seed, stream: 2 };
    const N = 32768 * 256 + 3;
    const values = await draw(options, { shape: [N] });
    assertNormal(values.subarray(-100), options, { first: N - 100 });
    // a logarithm rounds to 0 once in 33 million draws
    const zeros = values.filter((z) => z === 0).length;
    assert.ok(zeros < 10, `${zeros} elements are not drawn`);
  }),
);

Deno.test("fillNormal() is finite if the bits of a draw are all zeros or all ones", async () => {
  const [least, greatest] = [0, 0xffffffff].map(countersOf);
  for (const [{ seed, stream, index }, size] of [[least!, 6.764], [greatest!, 0]] as const) {
    const options = { ...STANDARD, seed, stream };
    const z = (await draw(options, { shape: [index + 1] }))[index]!;
    const what = `seed ${seed}, stream ${stream}, element ${index} is ${z}`;
    assert.ok(Math.abs(z) <= size + 1e-3, what);
    const error = Math.abs(z - reference.normal(options, index));
    assert.ok(error <= 1e-4 + size * COSINE_ERROR, what);
  }
});

/** Inverts the hash: seed, stream and a small index for which the first word drawn is `word`. */
function countersOf(word: number): { seed: number; stream: number; index: number } {
  const random = testRandom(1);
  const inverse = 4276115653; // of 1664525, modulo 2³²
  assert.equal(Math.imul(1664525, inverse), 1);
  for (;;) {
    let [x, y, z] = [word, random() * 2 ** 32 >>> 0, random() * 2 ** 32 >>> 0];
    const undo = () => {
      z -= Math.imul(x, y);
      y -= Math.imul(z, x);
      x -= Math.imul(y, z);
    };
    undo();
    [x, y, z] = [x ^ (x >>> 16), y ^ (y >>> 16), z ^ (z >>> 16)];
    undo();
    const [seed, stream, index] = [x, y, z].map((n) => Math.imul(n - 1013904223, inverse) >>> 0);
    if (index! < 1e6) return { seed: seed!, stream: stream!, index: index! };
  }
}

// elements per check, of which one in 10¹¹ fails by chance: limits are this many standard deviations
const LENGTH = 200_000, DEVIATIONS = 7;

function assertUncorrelated(a: Float32Array, b: Float32Array, what: string): void {
  // of the values, and of their squares
  for (const f of [(z: number) => z, (z: number) => (z * z - 1) / Math.SQRT2]) {
    const n = Math.min(a.length, b.length);
    let sum = 0;
    for (let i = 0; i < n; i++) sum += f(a[i]!) * f(b[i]!);
    assert.ok(Math.abs(sum) < DEVIATIONS * Math.sqrt(n), `${what}: ${sum / n}`);
  }
}

Deno.test(
  "fillNormal() has the moments and tails of a normal distribution",
  withRandom(async (_, seed) => {
    const options = { ...STANDARD, seed, stream: 4 };
    const values = await draw(options, { shape: [LENGTH] });
    const within = (f: (z: number) => number, expected: number, variance: number, what: string) => {
      const mean = values.reduce((sum, z) => sum + f(z), 0) / LENGTH;
      const limit = DEVIATIONS * Math.sqrt(variance / LENGTH);
      assert.ok(
        Math.abs(mean - expected) < limit,
        `${what} is ${mean}, expected ${expected} within ${limit}`,
      );
    };
    within((z) => z, 0, 1, "the mean");
    within((z) => z ** 2, 1, 2, "the variance");
    within((z) => z ** 3, 0, 15, "the third moment");
    within((z) => z ** 4, 3, 96, "the fourth moment");
    for (const [bound, share] of [[1, 0.317311], [2, 0.0455003], [3, 0.0026998]] as const) {
      within(
        (z) => Math.abs(z) > bound ? 1 : 0,
        share,
        share * (1 - share),
        `the share beyond ${bound}`,
      );
    }
  }),
);

Deno.test(
  "fillNormal() draws elements that are independent of each other",
  withRandom(async (_, seed) => {
    const values = await draw({ ...STANDARD, seed, stream: 5 }, { shape: [LENGTH] });
    for (const shift of [1, 2, 3, 64, 768, 4096]) {
      assertUncorrelated(values, values.subarray(shift), `at a distance of ${shift}`);
    }
  }),
);

Deno.test(
  "fillNormal() draws different numbers for every seed and stream",
  withRandom(async (_, seed) => {
    const of = (seed: number, stream: number) =>
      draw({ ...STANDARD, seed, stream }, { shape: [LENGTH] });
    const first = await of(seed, 6);
    assertUncorrelated(first, await of((seed + 1) >>> 0, 6), `the next seed`);
    assertUncorrelated(first, await of(seed, 7), `the next stream`);
    assertUncorrelated(first, await of(6, seed), `seed and stream exchanged`);
  }),
);
