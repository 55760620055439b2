import assert from "node:assert/strict";
import * as reference from "../../kernels/matmul/reference.ts";
import { matmul } from "../../kernels/matmul/matmul.ts";
import { Program } from "../../kernels/program.ts";
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

// f32: exp differs by a few ulp between drivers; f16: half an ulp of the result
const TOLERANCE = { f32: 2e-6, f16: 1e-3 } as Record<string, number>;

Deno.test("geluForward() reproduces known values", () => {
  const { y } = reference.geluForward({ x: Float32Array.of(-3, -1, -0.1, 0, 0.5, 2) });
  const known = [-0.003637433, -0.158807993, -0.046017248, 0, 0.345714003, 1.954597712];
  assertClose(y, known, 1e-6, "y");
});

Deno.test("reference geluBackward() matches central differences", () => {
  const seed = freshSeed(), random = testRandom(seed);
  const x = randomValues(random, 64), dy = randomValues(random, 64);
  const { dx } = reference.geluBackward({ x, dy });
  assertGradient((x) => reference.geluForward({ x }).y, x, dy, dx, { what: `dx, seed ${seed}` });
});

// products: the kernels for CPUs by layout and size, for one row, and in tiles, with and without splits
const PRODUCTS = [
  { variant: "any", M: 5, K: 3, N: 7 },
  { variant: "any", M: 9, K: 8, N: 13, transposeB: true },
  { variant: "vector", M: 1, K: 8, N: 12 },
  ...(device.subgroupSize ? [{ variant: "lanes", M: 37, K: 8, N: 44 }] : []),
  { variant: "64x64/1", M: 67, K: 20, N: 72 },
  { variant: "64x64/2", M: 5, K: 128, N: 12 },
];

for (const dtype of REAL_TYPES) {
  for (const { variant, M, K, N, transposeB = false } of PRODUCTS) {
    Deno.test(`products store gelu() and gelu'() as the reference has it in ${dtype} by ${variant}`, async () => {
      const seed = freshSeed(), random = testRandom(seed);
      const a = randomValues(random, M * K, { dtype }), b = randomValues(random, K * N, { dtype });
      const hidden = randomValues(random, M * N, { dtype, scale: 3 });
      const like = { shape: [M, N], dtype };
      const t = {
        a: tensorOf("a", { shape: [M, K], dtype }, a),
        b: tensorOf("b", { shape: transposeB ? [N, K] : [K, N], dtype }, b),
        hidden: tensorOf("hidden", like, hidden),
        y: poisoned("y", like),
        plain: poisoned("plain", like),
        activated: poisoned("activated", like),
        dhidden: poisoned("dhidden", like),
      };
      const options = { transposeB, variant };
      const [y, plain, activated, dhidden] = await runProgram(
        (program) => {
          matmul(program, t, { y: t.plain }, options);
          matmul(program, t, t, {
            ...options,
            epilogue: { kind: "gelu", activated: t.activated },
          });
          matmul(program, t, { y: t.dhidden }, {
            ...options,
            epilogue: { kind: "gelu backward", hidden: t.hidden },
          });
        },
        ...[t.y, t.plain, t.activated, t.dhidden],
      );
      assert.deepEqual(y, plain, `seed ${seed}`);
      const x = plain as Float32Array;
      assertClose(
        activated!,
        reference.geluForward({ x }).y,
        TOLERANCE[dtype]!,
        `activated, seed ${seed}`,
      );
      const { dx } = reference.geluBackward({ x: hidden, dy: x });
      assertClose(dhidden!, dx, 2 * TOLERANCE[dtype]!, `dhidden, seed ${seed}`); // dy is rounded here alone
    });
  }
}

Deno.test("gelu() stays finite at both ends", async () => {
  const x = Float32Array.of(-65504, -100, 100, 65504);
  const a = tensorOf("a", { shape: [1, 1], dtype: "f32" }, [1]);
  const b = tensorOf("b", { shape: [1, 4], dtype: "f32" }, x);
  const like = { shape: [1, 4], dtype: "f32" as const };
  const t = { y: poisoned("y", like), hidden: tensorOf("hidden", like, x) };
  const activated = poisoned("activated", like), dhidden = poisoned("dhidden", like);
  const [values, slopes] = await runProgram(
    (program) => {
      matmul(program, { a, b }, { y: t.y }, { epilogue: { kind: "gelu", activated } });
      const ones = tensorOf("ones", { shape: [1, 4], dtype: "f32" }, [1, 1, 1, 1]);
      matmul(program, { a, b: ones }, { y: dhidden }, {
        epilogue: { kind: "gelu backward", hidden: t.hidden },
      });
    },
    activated,
    dhidden,
  );
  assertClose(values!, [0, 0, 100, 65504], 1e-6, "gelu");
  assertClose(slopes!, [0, 0, 1, 1], 1e-6, "slope");
});

Deno.test("matmul() throws on an activation of another shape", () => {
  const like = (shape: number[]) => poisoned("t", { shape, dtype: "f32" });
  const operands = { a: like([2, 3]), b: like([3, 4]) };
  assert.throws(
    () =>
      matmul(new Program(device), operands, { y: like([2, 4]) }, {
        epilogue: { kind: "gelu", activated: like([2, 3]) },
      }),
    { name: "RangeError", message: /"t" must have shape \[2,4\]: current shape is \[2,3\]/ },
  );
});
