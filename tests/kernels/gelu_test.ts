import assert from "node:assert/strict";
import { geluBackward, geluForward } from "../../kernels/gelu/gelu.ts";
import * as reference from "../../kernels/gelu/reference.ts";
import {
  assertClose,
  assertGradient,
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
  const random = testRandom(freshSeed());
  const x = randomValues(random, 64), dy = randomValues(random, 64);
  const { dx } = reference.geluBackward({ x, dy });
  assertGradient((x) => reference.geluForward({ x }).y, x, dy, dx);
});

for (const dtype of REAL_TYPES) {
  for (const N of [1, 3, 127, 1029]) {
    Deno.test(`gelu matches the reference in ${dtype} at N = ${N}`, async () => {
      const random = testRandom(freshSeed());
      const x = randomValues(random, N, { dtype, scale: 3 });
      const dy = randomValues(random, N, { dtype });
      const like = { shape: [N], dtype };
      const t = {
        x: tensorOf("x", like, x),
        dy: tensorOf("dy", like, dy),
        y: poisoned("y", like),
        dx: poisoned("dx", like),
      };
      const [y, dx] = await runProgram(
        (program) => {
          geluForward(program, t, t);
          geluBackward(program, t, t);
        },
        t.y,
        t.dx,
      );
      assertClose(y!, reference.geluForward({ x }).y, TOLERANCE[dtype]!, "y");
      assertClose(dx!, reference.geluBackward({ x, dy }).dx, TOLERANCE[dtype]!, "dx");
    });
  }
}

Deno.test("geluForward() reaches every element beyond one row of workgroups", async () => {
  const N = 32768 * 256 + 3;
  const x = tensorOf("x", { shape: [N], dtype: "f32" }, new Float32Array(N).fill(100));
  const y = poisoned("y", x);
  const [values] = await runProgram((program) => geluForward(program, { x }, { y }), y);
  assert.equal(values!.findIndex((v) => v !== 100), -1);
});

Deno.test("geluForward() throws on unequal shapes", async () => {
  const like = { shape: [4], dtype: "f32" } as const;
  await assert.rejects(
    () =>
      runProgram((program) =>
        geluForward(program, { x: poisoned("x", like) }, {
          y: poisoned("y", { shape: [3], dtype: "f32" }),
        })
      ),
    {
      name: "RangeError",
      message: 'Cannot run geluForward as "y" must have shape [4]: current shape is [3]',
    },
  );
});
