import assert from "node:assert/strict";
import { type Epilogue, matmul } from "../../kernels/matmul/matmul.ts";
import { layernormForward } from "../../kernels/layernorm/reference.ts";
import * as reference from "../../kernels/matmul/reference.ts";
import { isWorthTrying, preferredTiles } from "../../kernels/matmul/variants.ts";
import { Program } from "../../kernels/program.ts";
import { download, viewTensor } from "../../kernels/tensor.ts";
import {
  assertClose,
  device,
  freshSeed,
  poisoned,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensorOf,
  testRandom,
} from "./harness.ts";

// relative to 1 + |y| with K up to 516 products of order one: f32 sums in another order than the
// reference; f16 rounds y once more to 11 bits
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

/** The device, and the same as if its lanes could not hand each other values. */
const DEVICES = device.subgroupSize === undefined
  ? [device]
  : [device, { ...device, subgroupSize: undefined }];

for (const on of DEVICES) {
  for (const [dtype, [M, K, N]] of REAL_TYPES.flatMap((t) => SIZES.map((s) => [t, s] as const))) {
    for (
      const [transposeA, transposeB] of [[false, false], [false, true], [true, false]] as const
    ) {
      const name = `${transposeA ? "T" : "N"}${transposeB ? "T" : "N"} [${M},${K}]x[${K},${N}]`;
      const how = on.subgroupSize ? "with subgroups" : "without subgroups";
      Deno.test(`matmul() ${name} matches the reference in ${dtype} ${how}`, async () => {
        const seed = freshSeed(), random = testRandom(seed);
        const values = {
          a: randomValues(random, M * K, { dtype }),
          b: randomValues(random, K * N, { dtype }),
          bias: randomValues(random, N),
        };
        const a = tensorOf("a", { shape: transposeA ? [K, M] : [M, K], dtype }, values.a);
        const b = tensorOf("b", { shape: transposeB ? [N, K] : [K, N], dtype }, values.b);
        const bias = tensorOf("bias", { shape: [N], dtype: "f32" }, values.bias);
        const y = poisoned("y", { shape: [M, N], dtype });
        const sum = tensorOf("sum", { shape: [M, N], dtype: "f32" }, new Array(M * N).fill(3));
        using program = new Program(on);
        matmul(program, { a, b, bias }, { y }, { transposeA, transposeB });
        matmul(program, { a, b }, { y: sum }, { transposeA, transposeB, accumulate: true });
        program.run();
        const [yValues, sumValues] = await download(device, y, sum);
        const shape = { M, N, K, transposeA, transposeB };
        assertClose(
          yValues!,
          reference.matmul(values, shape).y,
          TOLERANCE[dtype]!,
          `y, seed ${seed}`,
        );
        const { y: product } = reference.matmul({ a: values.a, b: values.b }, shape);
        assertClose(sumValues!, product.map((v) => v + 3), TOLERANCE.f32!, `sum, seed ${seed}`);
      });
    }
  }
}

// one row, on a CPU and as a GPU has it: more of K than the lanes take in a turn, N clamped
for (const isCpu of [true, false]) {
  for (const dtype of REAL_TYPES) {
    for (const [K, N, transposeB] of [[516, 76, false], [140, 129, true]] as const) {
      const layout = transposeB ? "NT" : "NN", where = isCpu ? "CPU" : "GPU";
      Deno.test(`matmul() ${layout} of one row for a ${where} matches the reference in ${dtype}`, async () => {
        const seed = freshSeed(), random = testRandom(seed);
        const values = {
          a: randomValues(random, K, { dtype }),
          b: randomValues(random, K * N, { dtype }),
          bias: randomValues(random, N),
          weight: randomValues(random, K),
          offset: randomValues(random, K),
        };
        const a = tensorOf("a", { shape: [1, K], dtype }, values.a);
        // nearly constant, so that the epsilon of the normalisation counts
        const flat = randomValues(random, K, { dtype, scale: 3e-3 });
        const flatRow = tensorOf("flat", { shape: [1, K], dtype }, flat);
        const b = tensorOf("b", { shape: transposeB ? [N, K] : [K, N], dtype }, values.b);
        const bias = tensorOf("bias", { shape: [N], dtype: "f32" }, values.bias);
        const y = poisoned("y", { shape: [1, N], dtype });
        const sum = tensorOf("sum", { shape: [1, N + 7], dtype: "f32" }, new Array(N + 7).fill(3));
        const normalized = poisoned("normalized", { shape: [1, N], dtype: "f32" });
        const ofFlat = poisoned("normalized flat", { shape: [1, N], dtype: "f32" });
        const normalize = {
          weight: tensorOf("weight", { shape: [K], dtype: "f32" }, values.weight),
          bias: tensorOf("bias", { shape: [K], dtype: "f32" }, values.offset),
        };
        const options = { transposeB, variant: "vector" };
        using program = new Program({ ...device, isCpu });
        matmul(program, { a, b, bias }, { y: normalized }, { ...options, normalize });
        matmul(program, { a: flatRow, b, bias }, { y: ofFlat }, { ...options, normalize });
        matmul(program, { a, b, bias }, { y }, options);
        matmul(program, { a, b }, { y: sum }, { ...options, firstColumnOfY: 4, accumulate: true });
        program.run();
        const [yValues, sumValues, normalizedValues, flatValues] = await download(
          device,
          ...[y, sum, normalized, ofFlat],
        );
        const shape = { M: 1, N, K, transposeB };
        for (const [row, ofRow] of [[values.a, normalizedValues!], [flat, flatValues!]] as const) {
          const { y: x } = layernormForward(
            { x: row, weight: values.weight, bias: values.offset },
            { M: 1, C: K },
          );
          const expected = reference.matmul({ ...values, a: x }, shape).y;
          // the normalised row has rounding errors of its own
          assertClose(ofRow, expected, 2 * TOLERANCE.f32!, `normalized, seed ${seed}`);
        }
        assertClose(
          yValues!,
          reference.matmul(values, shape).y,
          TOLERANCE[dtype]!,
          `y, seed ${seed}`,
        );
        const product = reference.matmul({ a: values.a, b: values.b }, shape).y.map((v) => v + 3);
        assertClose(
          sumValues!,
          [3, 3, 3, 3, ...product, 3, 3, 3],
          TOLERANCE.f32!,
          `sum, seed ${seed}`,
        );
      });
    }
  }
}

// what a GPU takes: tiles whose edges are clamped; K no multiple of a step, whole steps, split and added up
for (
  const [variant, K] of [
    ["64x64/1", 140],
    ["64x64/1", 144],
    ["64x64/2", 140],
    ["64x64 of 128/2", 144],
    ["128x256/2", 140],
  ] as const
) {
  for (const dtype of REAL_TYPES) {
    for (
      const [transposeA, transposeB] of [[false, false], [false, true], [true, false]] as const
    ) {
      const layout = `${transposeA ? "T" : "N"}${transposeB ? "T" : "N"}`;
      Deno.test(`matmul() ${layout} in tiles ${variant} along ${K} matches the reference in ${dtype}`, async () => {
        const seed = freshSeed(), random = testRandom(seed);
        const M = 76, N = 132;
        const values = {
          a: randomValues(random, M * K, { dtype }),
          b: randomValues(random, K * N, { dtype }),
          bias: randomValues(random, N),
        };
        const a = tensorOf("a", { shape: transposeA ? [K, M] : [M, K], dtype }, values.a);
        const b = tensorOf("b", { shape: transposeB ? [N, K] : [K, N], dtype }, values.b);
        const bias = tensorOf("bias", { shape: [N], dtype: "f32" }, values.bias);
        const y = poisoned("y", { shape: [M, N], dtype });
        const sum = tensorOf("sum", { shape: [M, N], dtype: "f32" }, new Array(M * N).fill(3));
        const options = { transposeA, transposeB, variant };
        const [yValues, sumValues] = await runProgram(
          (program) => {
            matmul(program, { a, b, bias }, { y }, options);
            matmul(program, { a, b }, { y: sum }, { ...options, accumulate: true });
          },
          y,
          sum,
        );
        const shape = { M, N, K, transposeA, transposeB };
        assertClose(
          yValues!,
          reference.matmul(values, shape).y,
          TOLERANCE[dtype]!,
          `y, seed ${seed}`,
        );
        const { y: product } = reference.matmul({ a: values.a, b: values.b }, shape);
        assertClose(sumValues!, product.map((v) => v + 3), TOLERANCE.f32!, `sum, seed ${seed}`);
      });
    }
  }
}

Deno.test("isWorthTrying() leaves the largest tile to large products and devices that allow it", () => {
  const large = { M: 4096, N: 50257, K: 256 }, small = { M: 4096, N: 768, K: 256 };
  const limits = {
    maxComputeInvocationsPerWorkgroup: 512,
    maxComputeWorkgroupSizeX: 512,
    maxComputeWorkgroupStorageSize: 32768,
  };
  assert.ok(isWorthTrying("128x256/1", large, limits));
  assert.ok(!isWorthTrying("128x256/1", small, limits));
  for (const [name, limit] of Object.entries(limits)) {
    const lower = { ...limits, [name]: limit / 2 };
    assert.ok(!isWorthTrying("128x256/1", large, lower), name);
    assert.ok(isWorthTrying("64x64/1", small, lower), name);
  }
});

Deno.test("preferredTiles() splits K where a result has few tiles", () => {
  const choices = [
    [[4096, 256, 1024], "64x64 of 128/1"],
    [[4096, 256, 256], "64x64 of 128/1"], // too little of K to split
    [[4096, 1024, 256], "64x64 of 128/2"],
    [[256, 4096, 768], "64x64 of 128/8"],
    [[64, 256, 768], "64x64 of 128/4"], // even little, where most cores would be idle
    [[4, 64, 4], "64x64 of 128/1"],
  ] as const;
  for (const [[M, K, N], variant] of choices) {
    assert.equal(preferredTiles({ M, K, N }), variant, `[${M},${K}]x[${K},${N}]`);
  }
});

// as the head does it: 70 tokens in rows of 72, the rest of a row is padding
for (const variant of ["64x64/1", "64x64/2"]) {
  Deno.test(`matmul() in tiles ${variant} takes a vocabulary that is no multiple of four`, async () => {
    const seed = freshSeed(), random = testRandom(seed);
    const M = 132, V = 130, PADDED = 136, C = 132;
    const like = (shape: number[]) => ({ shape, dtype: "f32" as const });
    const values = {
      x: randomValues(random, M * C),
      wte: randomValues(random, V * C),
      wide: randomValues(random, M * PADDED),
    };
    const t = {
      x: tensorOf("x", like([M, C]), values.x),
      wte: tensorOf("wte", like([V, C]), values.wte),
      logits: poisoned("logits", like([M, PADDED])),
      wide: tensorOf(
        "wide",
        like([M, PADDED]),
        values.wide.map((v, i) => i % PADDED < V ? v : NaN), // padding must not be read
      ),
      dx: poisoned("dx", like([M, C])),
      dwte: poisoned("dwte", like([V, C])),
    };
    const columnsOfA = { start: 0, count: V };
    const [logits, dx, dwte] = await runProgram(
      (program) => {
        matmul(program, { a: t.x, b: t.wte }, { y: t.logits }, {
          transposeB: true,
          firstColumnOfY: 0,
          variant,
        });
        matmul(program, { a: t.wide, b: t.wte }, { y: t.dx }, { columnsOfA, variant });
        matmul(program, { a: t.wide, b: t.x }, { y: t.dwte }, {
          columnsOfA,
          transposeA: true,
          variant,
        });
      },
      t.logits,
      t.dx,
      t.dwte,
    );
    const part = (values: ArrayLike<number>) =>
      Float32Array.from(values).filter((_, i) => i % PADDED < V);
    const wide = part(values.wide);
    const { x, wte } = values;
    const product = reference.matmul({ a: x, b: wte }, { M, N: V, K: C, transposeB: true }).y;
    assertClose(part(logits!), product, TOLERANCE.f32!, `logits, seed ${seed}`);
    assertClose(
      dx!,
      reference.matmul({ a: wide, b: wte }, { M, N: C, K: V }).y,
      TOLERANCE.f32!,
      "dx",
    );
    const dwteExpected =
      reference.matmul({ a: wide, b: x }, { M: V, N: C, K: M, transposeA: true }).y;
    assertClose(dwte!, dwteExpected, TOLERANCE.f32!, `dwte, seed ${seed}`);
  });
}

Deno.test("matmul() reads and writes columns of wider matrices", async () => {
  const seed = freshSeed(), random = testRandom(seed);
  const M = 5, K = 7, N = 9, WIDE = 20, FIRST = 6;
  const wide = randomValues(random, M * WIDE), b = randomValues(random, K * N);
  const a = wide.filter((_, i) => i % WIDE >= FIRST && i % WIDE < FIRST + K);
  const like = (shape: number[]) => ({ shape, dtype: "f32" as const });
  const t = {
    a: tensorOf("a", like([M, WIDE]), wide),
    b: tensorOf("b", like([K, N]), b),
    y: tensorOf("y", like([M, WIDE]), new Array(M * WIDE).fill(-1)),
    yt: poisoned("yt", like([K, WIDE])),
    wide: tensorOf("wide", like([M, WIDE]), wide),
  };
  const [y, yt] = await runProgram(
    (program) => {
      matmul(program, t, t, { columnsOfA: { start: FIRST, count: K }, firstColumnOfY: 4 });
      matmul(program, { a: t.a, b: t.wide }, { y: t.yt }, {
        columnsOfA: { start: FIRST, count: K },
        transposeA: true,
      });
    },
    t.y,
    t.yt,
  );
  const product = reference.matmul({ a, b }, { M, N, K }).y;
  for (let m = 0; m < M; m++) {
    for (let column = 0; column < WIDE; column++) {
      const n = column - 4;
      const expected = n >= 0 && n < N ? product[m * N + n]! : -1;
      assertClose(
        [y![m * WIDE + column]!],
        [expected],
        TOLERANCE.f32!,
        `y[${m},${column}], seed ${seed}`,
      );
    }
  }
  const expected = reference.matmul({ a, b: wide }, { M: K, N: WIDE, K: M, transposeA: true }).y;
  assertClose(yt!, expected, TOLERANCE.f32!, `yt, seed ${seed}`);
});

// what adapters ask for: few columns, scaled, on a CPU, one row, and as a GPU has it
for (const isCpu of [true, false]) {
  for (const [M, K, N] of [[1, 132, 8], [70, 132, 8], [5, 7, 3]] as const) {
    const where = isCpu ? "CPU" : "GPU";
    Deno.test(`matmul() scales a product of [${M},${K}]x[${K},${N}] for a ${where}, and neither bias nor y`, async () => {
      const seed = freshSeed(), random = testRandom(seed);
      const values = { a: randomValues(random, M * K), b: randomValues(random, N * K) };
      const biasValues = randomValues(random, N);
      const like = (shape: number[]) => ({ shape, dtype: "f32" as const });
      const a = tensorOf("a", like([M, K]), values.a), b = tensorOf("b", like([N, K]), values.b);
      const bias = tensorOf("bias", like([N]), biasValues);
      const y = poisoned("y", like([M, N]));
      const sum = tensorOf("sum", like([M, N]), new Array(M * N).fill(3));
      using program = new Program({ ...device, isCpu, choices: new Map() });
      const options = { transposeB: true, scale: -2.5 };
      matmul(program, { a, b }, { y }, options);
      matmul(program, { a, b, bias }, { y: sum }, { ...options, accumulate: true });
      program.run();
      const [scaled, added] = await download(device, y, sum);
      const product = reference.matmul(values, { M, N, K, transposeB: true }).y;
      const expected = product.map((v) => -2.5 * v);
      assertClose(scaled!, expected, 2.5 * TOLERANCE.f32!, `y, seed ${seed}`);
      assertClose(
        added!,
        expected.map((v, i) => v + biasValues[i % N]! + 3),
        2.5 * TOLERANCE.f32!,
        `sum, seed ${seed}`,
      );
    });
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
  Deno.test(`matmul() without a bias takes matrices of eight bytes with a ${isCpu ? "CPU" : "GPU"}'s kernels`, async () => {
    for (const dtype of REAL_TYPES) {
      const a = tensorOf("a", { shape: [1, 4], dtype }, [1, 2, 0, 5]);
      const b = tensorOf("b", { shape: [1, 4], dtype }, [1, 2, 3, 4]);
      const y = poisoned("y", { shape: [4, 4], dtype });
      using program = new Program({ ...device, isCpu, choices: new Map() });
      matmul(program, { a, b }, { y }, { transposeA: true });
      program.run();
      const [values] = await download(device, y);
      assert.deepEqual([...values!], [1, 2, 0, 5].flatMap((v) => [v, 2 * v, 3 * v, 4 * v]));
    }
  });
}

Deno.test("matmul() writes a view of a larger tensor and nothing around it", async () => {
  const seed = freshSeed(), random = testRandom(seed);
  const a = tensorOf("a", { shape: [2, 8], dtype: "f32" }, randomValues(random, 16));
  const b = tensorOf("b", { shape: [8, 64], dtype: "f32" }, randomValues(random, 512));
  const whole = tensorOf("whole", { shape: [6, 64], dtype: "f32" }, new Array(384).fill(7));
  const [values] = await runProgram(
    (program) =>
      matmul(program, { a, b }, { y: viewTensor(whole, { offset: 128, shape: [2, 64] }) }),
    whole,
  );
  assert.deepEqual([...values!.slice(0, 128)], new Array(128).fill(7));
  assert.deepEqual([...values!.slice(256)], new Array(128).fill(7));
  assert.ok(values!.slice(128, 256).every((v) => v !== 7), `seed ${seed}`);
});

Deno.test("matmul() takes non-finite operands for what they are", async () => {
  const a = tensorOf("a", { shape: [2, 2], dtype: "f32" }, [Infinity, 0, 1, 1]);
  const b = tensorOf("b", { shape: [2, 2], dtype: "f32" }, [1, 2, 3, 4]);
  const y = poisoned("y", { shape: [2, 2], dtype: "f32" });
  const [values] = await runProgram((program) => matmul(program, { a, b }, { y }), y);
  assert.deepEqual([...values!], [Infinity, Infinity, 4, 6]);
});

Deno.test("matmul() normalises a single row alone", () => {
  const ones = (shape: number[]) =>
    tensorOf("ones", { shape, dtype: "f32" }, new Array(shape.reduce((a, b) => a * b)).fill(1));
  const normalize = { weight: ones([8]), bias: ones([8]) }, b = ones([8, 4]);
  using program = new Program(device);
  assert.throws(() => matmul(program, { a: ones([2, 8]), b }, { y: ones([2, 4]) }, { normalize }), {
    name: "RangeError",
    message:
      "Cannot run matmul as only a single row is normalised, and sizes must be multiples of " +
      "four: current shapes are [2,8] and [8,4]",
  });
});

Deno.test("matmul() throws on shapes that do not fit and on too long a sum", async () => {
  using program = new Program({ ...device, isCpu: true }); // GPUs sum as much as one likes
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  assert.throws(
    () => matmul(program, { a: like([2, 3]), b: like([4, 5]) }, { y: like([2, 5]) }),
    { name: "RangeError", message: /"t" must have shape \[3,N\]: current shape is \[4,5\]/ },
  );
  assert.throws(
    () => matmul(program, { a: like([2, 40000]), b: like([40000, 1]) }, { y: like([2, 1]) }),
    { name: "LimitError", message: /may loop at most 32768 times: current bound is 40000/ },
  );
  assert.equal(program.length, 0);
  await download(device, like([1]));
});
