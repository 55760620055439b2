import assert from "node:assert/strict";
import * as reference from "../../kernels/matmul/reference.ts";
import type { ActivationFunction } from "../../kernels/activation.ts";
import { matmul } from "../../kernels/matmul/matmul.ts";
import { Program } from "../../kernels/program.ts";
import {
  assertClose,
  assertGradient,
  device,
  poisoned,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";
import { withEmulatedMatrices } from "./matrix_emulation.ts";

// f32: exp differs by a few ulp between drivers; f16: half an ulp of the result
const TOLERANCE = { f32: 2e-6, f16: 1e-3 } as Record<string, number>;

const ACTIVATIONS: readonly ActivationFunction[] = ["gelu_new", "gelu", "relu", "relu2", "silu"];

/** What PyTorch gives for each function at these places, and transformers for relu2. */
const PLACES = [-3, -1, -0.1, 0, 0.5, 2];
const KNOWN: Record<ActivationFunction, number[]> = {
  gelu_new: [-0.003637433, -0.158807993, -0.046017248, 0, 0.345714003, 1.954597712],
  gelu: [-0.004049694, -0.158655254, -0.046017216, 0, 0.345731231, 1.954499736],
  relu: [0, 0, 0, 0, 0.5, 2],
  relu2: [0, 0, 0, 0, 0.25, 4],
  silu: [-0.142277620, -0.268941421, -0.047502081, 0, 0.311229666, 1.761594156],
};

for (const activation of ACTIVATIONS) {
  Deno.test(`reference activationForward() of ${activation} reproduces PyTorch's values`, () => {
    const { y } = reference.activationForward({ x: Float32Array.from(PLACES) }, activation);
    assertClose(y, KNOWN[activation], 1e-6, "y");
  });

  Deno.test(
    `reference activationBackward() of ${activation} matches central differences`,
    withRandom((random) => {
      // relu has no derivative at 0, so no difference may reach over it
      const x = randomValues(random, 64).map((v) => v + 0.1 * Math.sign(v));
      const dy = randomValues(random, 64);
      const { dx } = reference.activationBackward({ x, dy }, activation);
      const forward = (x: Float32Array) => reference.activationForward({ x }, activation).y;
      assertGradient(forward, x, dy, dx, { what: "dx" });
    }),
  );
}

// products: the kernels for CPUs by layout and size, for one row, and in tiles, with and without splits, and in tiles of
// matrices; those that compile slowly in one type
const PRODUCTS = [
  { variant: "any", types: ["f32"], M: 5, K: 3, N: 7 },
  { variant: "any", types: ["f16"], M: 9, K: 8, N: 13, transposeB: true },
  { variant: "vector", types: REAL_TYPES, M: 1, K: 8, N: 12 },
  ...(device.subgroupSize ? [{ variant: "lanes", types: ["f16"], M: 37, K: 8, N: 44 }] : []),
  { variant: "64x64/1", types: ["f32"], M: 67, K: 20, N: 72 },
  { variant: "64x64/2", types: REAL_TYPES, M: 5, K: 128, N: 12 },
  { variant: "matrix 32x32x32/1", types: ["f16"], M: 37, K: 24, N: 44, transposeB: true },
];

const withMatrices = device.matrixShapes.length > 0 ? device : withEmulatedMatrices(device);

for (const dtype of REAL_TYPES) {
  // every kernel stores with the same functions, of numbers or of vectors of four
  const cases = PRODUCTS.filter(({ types }) => types.includes(dtype)).flatMap((product) =>
    ACTIVATIONS.filter((activation) =>
      activation === "gelu_new" || product.variant === "vector" ||
      (product.variant === "64x64/2" && dtype === "f32")
    ).map((activation) => ({ activation, ...product }))
  );
  for (const { activation, variant, M, K, N, transposeB = false } of cases) {
    Deno.test(
      `products store ${activation} and its derivative as the reference does in ${dtype} by ${variant} [${M},${N}]`,
      withRandom(async (random) => {
        const hidden = randomValues(random, M * N, { dtype, scale: 3 });
        const t = tensors({
          a: [[M, K], dtype, randomValues(random, M * K, { dtype })],
          b: [transposeB ? [N, K] : [K, N], dtype, randomValues(random, K * N, { dtype })],
          hidden: [[M, N], dtype, hidden],
          y: [[M, N], dtype],
          plain: [[M, N], dtype],
          activated: [[M, N], dtype],
          dhidden: [[M, N], dtype],
        });
        const options = { transposeB, variant };
        const on = variant.startsWith("matrix ") ? withMatrices : device;
        const forward = { kind: "forward", activation, activated: t.activated } as const;
        const backward = { kind: "backward", activation, hidden: t.hidden } as const;
        const [y, plain, activated, dhidden] = await runProgram(
          (program) => {
            matmul(program, t, { y: t.plain }, options);
            matmul(program, t, { y: t.y }, { ...options, epilogue: forward });
            matmul(program, t, { y: t.dhidden }, { ...options, epilogue: backward });
          },
          [t.y, t.plain, t.activated, t.dhidden],
          { on },
        );
        assert.deepEqual(y, plain);
        const x = plain as Float32Array, tolerance = TOLERANCE[dtype]!;
        const { y: expected } = reference.activationForward({ x }, activation);
        assertClose(activated!, expected, tolerance, "activated");
        const { dx } = reference.activationBackward({ x: hidden, dy: x }, activation);
        assertClose(dhidden!, dx, 2 * tolerance, "dhidden"); // only the reference's dy is rounded
      }),
    );
  }
}

for (const activation of ACTIVATIONS) {
  Deno.test(`${activation} stays finite at both ends, and NaN stays NaN`, async () => {
    const x = [-65504, -100, 100, 65504, 0, NaN], shape = [1, x.length];
    const column = (values: number[]) => values.flatMap((v) => [v, 0, 0, 0]);
    const t = tensors({
      one: [[1, 4], "f32", column([1])], // of four, for the kernel that compiles fast
      x: [[x.length, 4], "f32", column(x)],
      ones: [[x.length, 4], "f32", column(x.map(() => 1))],
      hidden: [shape, "f32", x],
      y: [shape, "f32"],
      activated: [shape, "f32"],
      dhidden: [shape, "f32"],
    });
    const [values, derivatives] = await runProgram((program) => {
      const { one: a, activated, hidden } = t, transposeB = true;
      matmul(program, { a, b: t.x }, { y: t.y }, {
        transposeB,
        epilogue: { kind: "forward", activation, activated },
      });
      matmul(program, { a, b: t.ones }, { y: t.dhidden }, {
        transposeB,
        epilogue: { kind: "backward", activation, hidden },
      });
    }, [t.activated, t.dhidden]);
    assert.ok(Number.isNaN(values!.at(-1)));
    const [ends, slopes] = activation === "relu2"
      ? [[0, 0, 100 ** 2, 65504 ** 2, 0], [0, 0, 200, 131008, 0]]
      : [[0, 0, 100, 65504, 0], [0, 0, 1, 1, activation === "relu" ? 0 : 0.5]];
    assertClose(values!.slice(0, -1), ends, 1e-6, "activated");
    assertClose(derivatives!.slice(0, -1), slopes, 1e-6, "dhidden");
  });
}

Deno.test("matmul() throws on an activation of another shape", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const operands = { a: like([2, 3]), b: like([3, 4]) };
  assert.throws(
    () =>
      matmul(new Program(device), operands, { y: like([2, 4]) }, {
        epilogue: { kind: "forward", activation: "relu", activated: like([2, 3]) },
      }),
    {
      name: "RangeError",
      message: / activated must have shape \[2,4\]: current shape of "t" is \[2,3\]/,
    },
  );
});
