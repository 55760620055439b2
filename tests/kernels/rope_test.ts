import assert from "node:assert/strict";
import { Program } from "../../kernels/program.ts";
import * as reference from "../../kernels/rope/reference.ts";
import { ropeBackward, ropeForward } from "../../kernels/rope/rope.ts";
import { frequenciesOf, rotationTable } from "../../kernels/rope/rotation.ts";
import { type DType, size } from "../../kernels/tensor.ts";
import golden from "../golden/rotations.json" with { type: "json" };
import {
  assertClose,
  assertComputes,
  assertGradient,
  device,
  randomValues,
  REAL_TYPES,
  tensors,
  testRandom,
  withRandom,
} from "./harness.ts";

// f32: angles are rounded to f32, sums of up to 256 terms in another order; f16: results rounded to 11 bits
const TOLERANCE = { f32: 3e-5, f16: 1e-3 } as Record<string, number>;

/** The last positions are past the last one that the kernels have a rotation for. */
const MAX_POSITIONS = 40;

const BASE = 1000;

Deno.test("rotationTable() and frequenciesOf() are transformers' for every kind of scaling", () => {
  for (const { frequencies, cosines, sines, ...options } of golden.cases) {
    const { headSize, base } = options;
    const rotation = { headSize, base, scaling: options.scaling as never };
    assert.deepEqual([...frequenciesOf(rotation)], frequencies);
    const table = rotationTable({ ...rotation, contextLength: 1024 });
    for (const [i, t] of golden.positions.entries()) {
      const row = table.subarray(t * headSize, (t + 1) * headSize);
      const expected = cosines[i]!.flatMap((cosine, pair) => [cosine, sines[i]![pair]!]);
      assertClose(row, expected, 1e-7, `cosines and sines of position ${t}`); // rounding of f32
    }
  }
});

const SMALL = { M: 3, NH: 4, KH: 2, HS: 6 }, SMALL_SIZE = 3 * 8 * 6;
const smallNorm = (random: () => number) => ({
  qWeight: randomValues(random, 6),
  kWeight: randomValues(random, 6),
  epsilon: 1e-3,
});

Deno.test(
  "reference ropeBackward() matches central differences",
  withRandom((random) => {
    const qkv = randomValues(random, SMALL_SIZE), dy = randomValues(random, SMALL_SIZE);
    const positions = [0, 1, 5];
    const { dqkv } = reference.ropeBackward({ dqkv: dy, positions }, SMALL);
    const forward = (qkv: Float32Array) => reference.ropeForward({ qkv, positions }, SMALL).qkv;
    assertGradient(forward, qkv, dy, dqkv, { what: "dqkv" });
  }),
);

Deno.test(
  "reference qkNormBackward() matches central differences",
  withRandom((random) => {
    const qkv = randomValues(random, SMALL_SIZE), dy = randomValues(random, SMALL_SIZE);
    const norm = smallNorm(random);
    const gradients = reference.qkNormBackward({ qkv, dqkv: dy, ...norm }, SMALL);
    const y = (changed: Partial<Record<"qkv" | "qWeight" | "kWeight", Float32Array>>) =>
      reference.qkNormForward({ qkv, ...norm, ...changed }, SMALL).qkv;
    const options = { step: 1e-3, tolerance: 2e-2 }; // the curvature is high if a head is near zero
    assertGradient((qkv) => y({ qkv }), qkv, dy, gradients.dqkv, { ...options, what: "dqkv" });
    for (const name of ["qWeight", "kWeight"] as const) {
      const gradient = gradients[`d${name}`];
      assertGradient((weight) => y({ [name]: weight }), norm[name], dy, gradient, { what: name });
    }
  }),
);

/** Sizes of a comparison with the reference: B texts of T rows. */
interface Case extends Omit<reference.RopeShape, "M"> {
  B: number;
  T: number;
  dtype: DType;
  withNorm: boolean;
  isCpu?: boolean;
  hasSubgroups?: boolean;
  /** Whether positions are given, those of several documents in each text. */
  apart?: boolean;
}

/** The tensors of a case, whose norm has weights far from one. */
function prepare(random: () => number, { B, T, NH, KH, HS, dtype }: Omit<Case, "withNorm">) {
  const M = B * T, qkvShape = [M, (NH + 2 * KH) * HS];
  const values = {
    qkv: randomValues(random, size(qkvShape), { dtype }),
    dqkv: randomValues(random, size(qkvShape), { dtype }),
    qWeight: randomValues(random, HS),
    kWeight: randomValues(random, HS),
  };
  // some heads are so small that epsilon counts
  for (let i = 0; i < values.qkv.length; i++) {
    if (Math.floor(i / HS) % 5 === 1) values.qkv[i]! *= 1 / 64;
  }
  if (dtype === "f16") values.qkv = new Float32Array(new Float16Array(values.qkv));
  const contextLength = MAX_POSITIONS;
  const t = tensors({
    qkv: [qkvShape, dtype, values.qkv],
    dqkv: [qkvShape, dtype, values.dqkv],
    qk: [[M, (NH + KH) * HS], dtype],
    qWeight: [[HS], "f32", values.qWeight],
    kWeight: [[HS], "f32", values.kWeight],
    dqWeight: [[HS], "f32"],
    dkWeight: [[HS], "f32"],
    rotation: [
      [contextLength, HS / 2, 2],
      "f32",
      rotationTable({ contextLength, headSize: HS, base: BASE }),
    ],
  });
  const norm = { qWeight: t.qWeight, kWeight: t.kWeight, epsilon: 1e-3 };
  return { t, values, norm, shape: { M, NH, KH, HS } };
}

/** Compares forward and backward with the plain path: the norm of the heads, then the rotation. */
async function check(random: () => number, { withNorm, ...sizes }: Case): Promise<void> {
  const { B, T, NH, KH, HS, dtype, isCpu = device.isCpu, hasSubgroups = true } = sizes;
  const { t, values, norm, shape } = prepare(random, sizes);
  const positions = Array.from({ length: B * T }, (_, m) => m % T);
  if (sizes.apart) {
    positions.forEach((position, m) => {
      if (position > 0) positions[m] = random() < 0.2 ? 0 : positions[m - 1]! + 1;
    });
  }
  const given = sizes.apart && tensors({ positions: [[B * T], "u32", positions] });
  const weights = { ...values, epsilon: norm.epsilon };
  const normalized = withNorm ? reference.qkNormForward(weights, shape).qkv : values.qkv;
  const { qkv } = reference.ropeForward({ qkv: normalized, positions }, shape, BASE);
  const { dqkv } = reference.ropeBackward({ dqkv: values.dqkv, positions }, shape, BASE);
  const gradients = reference.qkNormBackward({ ...weights, dqkv }, shape);
  const qk = values.qkv.filter((_, i) => i % ((NH + 2 * KH) * HS) < (NH + KH) * HS);
  const tolerance = TOLERANCE[dtype]!;
  // small heads are divided by a small root, so that errors grow
  const inputs = { ...t, ...given, ...(withNorm ? { norm } : {}) };
  const backwards = withNorm ? 30 * tolerance : tolerance;
  await assertComputes(
    (program) => {
      const options = { T, heads: NH, ...(KH === NH ? {} : { keyHeads: KH }) };
      ropeForward(program, inputs, { qkv: t.qkv, qk: withNorm ? t.qk : undefined }, options);
      ropeBackward(program, inputs, HS % 4 === 0 ? t : { dqkv: t.dqkv }, options);
    },
    [
      [t.qkv, qkv, tolerance],
      [t.dqkv, withNorm ? gradients.dqkv : dqkv, backwards],
      ...(withNorm
        ? [
          [t.qk, qk, 0],
        ] as const
        : []),
      ...(withNorm && HS % 4 === 0
        ? [
          [t.dqWeight, gradients.dqWeight, 30 * TOLERANCE.f32!],
          [t.dkWeight, gradients.dkWeight, 30 * TOLERANCE.f32!],
        ] as const
        : []),
    ],
    { on: { ...device, isCpu, ...(hasSubgroups ? {} : { subgroupSize: undefined }) } },
  );
}

const SIZES = [
  { B: 1, T: 1, NH: 1, KH: 1, HS: 2 },
  { B: 3, T: 7, NH: 6, KH: 3, HS: 12 },
  { B: 2, T: 11, NH: 4, KH: 1, HS: 20 },
  { B: 1, T: 33, NH: 3, KH: 3, HS: 64 },
  { B: 2, T: 33, NH: 2, KH: 1, HS: 8, apart: true },
];

for (const [dtype, isCpu] of [["f32", true], [REAL_TYPES.at(-1)!, false]] as const) {
  for (const withNorm of [false, true]) {
    for (const sizes of SIZES) {
      const what = Object.entries(sizes).map(([name, value]) => `${name} ${value}`).join(", ");
      Deno.test(
        `rope ${withNorm ? "with" : "without"} a norm for a ${isCpu ? "CPU" : "GPU"} matches the ` +
          `reference in ${dtype} at ${what}`,
        withRandom((random) => check(random, { ...sizes, dtype, withNorm, isCpu })),
      );
    }
  }
}

const LARGEST = { B: 2, T: 2, NH: 2, KH: 1, HS: 256 };

Deno.test(
  "rope for a CPU without subgroups matches the reference",
  withRandom((random) =>
    check(random, { ...LARGEST, dtype: "f32", withNorm: true, isCpu: true, hasSubgroups: false })
  ),
);

Deno.test(
  "rope adds up the gradients of more heads than there are workgroups",
  withRandom((random) =>
    check(random, { B: 350, T: 8, NH: 3, KH: 3, HS: 4, dtype: "f32", withNorm: true })
  ),
);

Deno.test(
  "ropeBackward() adds to the weights' gradients with accumulate, and leaves them out if they are not given",
  withRandom(async (random) => {
    const sizes = { B: 2, T: 5, NH: 2, KH: 1, HS: 8, dtype: "f32" } as const;
    const { t, values, norm, shape } = prepare(random, sizes);
    const options = { T: 5, heads: 2, keyHeads: 1 };
    const positions = Array.from({ length: 10 }, (_, m) => m % 5);
    const weights = { ...values, epsilon: norm.epsilon };
    const backward = (dqkv: ArrayLike<number>) =>
      reference.qkNormBackward(
        { ...weights, ...reference.ropeBackward({ dqkv, positions }, shape, BASE) },
        shape,
      );
    const first = backward(values.dqkv), second = backward(first.dqkv);
    const third = backward(second.dqkv);
    await assertComputes((program) => {
      const inputs = { ...t, norm };
      ropeForward(program, inputs, t, options);
      ropeBackward(program, inputs, t, options);
      ropeBackward(program, inputs, t, { ...options, accumulate: true });
      ropeBackward(program, inputs, { dqkv: t.dqkv }, options);
    }, [
      [t.dqWeight, first.dqWeight.map((v, i) => v + second.dqWeight[i]!), 1e-2],
      [t.dkWeight, first.dkWeight.map((v, i) => v + second.dkWeight[i]!), 1e-2],
      [t.dqkv, third.dqkv, 1e-2],
    ]);
  }),
);

Deno.test(
  "ropeForward() rotates by the cursors of cached texts, and padding as the last position",
  withRandom(async (random) => {
    const sizes = { B: 3, T: 4, NH: 3, KH: 1, HS: 12, dtype: "f32" } as const;
    const { t, values, norm, shape } = prepare(random, sizes);
    const [starts, cached] = [[0, 100, 7], [0, 13, MAX_POSITIONS - 2]];
    const { cursors } = tensors({
      cursors: [[3, 4], "u32", starts.flatMap((start, b) => [start + cached[b]!, start, 0, 0])],
    });
    const positions = cached.flatMap((first) =>
      [0, 1, 2, 3].map((i) => Math.min(first + i, MAX_POSITIONS - 1))
    );
    const weights = { ...values, epsilon: norm.epsilon };
    const { qkv } = reference.ropeForward(
      { ...reference.qkNormForward(weights, shape), positions },
      shape,
      BASE,
    );
    await assertComputes(
      (program) => {
        const inputs = { rotation: t.rotation, cursors, norm };
        ropeForward(program, inputs, { qkv: t.qkv }, { T: 4, heads: 3, keyHeads: 1 });
      },
      [[t.qkv, qkv, TOLERANCE.f32!]],
    );
  }),
);

Deno.test("ropeForward() throws if the table is that of heads of another size", () => {
  const t = tensors({ qkv: [[4, 3 * 12], "f32"], rotation: [[9, 4, 2], "f32"] });
  assert.throws(
    () => ropeForward(new Program(device), t, t, { T: 4, heads: 1 }),
    {
      name: "RangeError",
      message: /qkv must have shape \[4B,24\]: current shape of "qkv" is \[4,36\]/,
    },
  );
});

Deno.test("ropeForward() and ropeBackward() throw if a text is longer than the table", () => {
  const t = tensors({ x: [[10, 3 * 8], "f32"], rotation: [[9, 4, 2], "f32"] });
  const message = /as T must be 1 to 9, the positions of "rotation": current value is 10$/;
  const program = new Program(device), sizes = { T: 10, heads: 1 };
  assert.throws(() => ropeForward(program, t, { qkv: t.x }, sizes), {
    name: "RangeError",
    message,
  });
  assert.throws(() => ropeBackward(program, t, { dqkv: t.x }, sizes), { message });
});

Deno.test("ropeBackward() throws if the gradient of a weight is alone, or no multiple of four elements", () => {
  const { t, norm } = prepare(testRandom(1), { B: 1, T: 2, NH: 1, KH: 1, HS: 6, dtype: "f32" });
  assert.throws(
    () => ropeBackward(new Program(device), { ...t, norm }, t, { T: 2, heads: 1 }),
    { name: "RangeError", message: /rows of dqWeight must have a multiple of four elements/ },
  );
  const { dqkv, dqWeight } = t;
  assert.throws(
    () => ropeBackward(new Program(device), { ...t, norm }, { dqkv, dqWeight }, { T: 2, heads: 1 }),
    { name: "TypeError", message: /dqWeight and dkWeight must be given together/ },
  );
});
