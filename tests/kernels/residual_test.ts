import assert from "node:assert/strict";
import { dropoutFactor } from "../../kernels/random.ts";
import { Program } from "../../kernels/program.ts";
import * as reference from "../../kernels/residual/reference.ts";
import { residualBackward, residualForward } from "../../kernels/residual/residual.ts";
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

// one product and one sum: half an ulp of the result each
const TOLERANCE = { f32: 1e-6, f16: 1e-3 } as Record<string, number>;

Deno.test("reference residualBackward() matches central differences", () => {
  const random = testRandom(freshSeed());
  const x = randomValues(random, 20), z = randomValues(random, 20), dy = randomValues(random, 20);
  const factor = (i: number) => i % 3 === 0 ? 0 : 1.5;
  const { dz } = reference.residualBackward({ dy }, factor);
  assertGradient((z) => reference.residualForward({ x, z }, factor).y, z, dy, dz);
});

for (const dtype of REAL_TYPES) {
  for (const N of [1, 3, 127, 129, 1029]) {
    for (const rate of [0, 0.3]) {
      Deno.test(`residual matches the reference in ${dtype} at N = ${N}, rate ${rate}`, async () => {
        const seed = freshSeed(), random = testRandom(seed), draw = { rate, site: 7 };
        const factor = (index: number) =>
          rate === 0 ? 1 : dropoutFactor({ ...draw, seed, counter: 11, index });
        const x = randomValues(random, N), z = randomValues(random, N, { dtype });
        const dy = randomValues(random, N);
        const stream = { shape: [N], dtype: "f32" } as const, branch = { shape: [N], dtype };
        const t = {
          x: tensorOf("x", stream, x),
          z: tensorOf("z", branch, z),
          dy: tensorOf("dy", stream, dy),
          y: poisoned("y", stream),
          dz: poisoned("dz", branch),
          ...(rate > 0
            ? { random: tensorOf("random", { shape: [2], dtype: "u32" }, [seed, 11]) }
            : {}),
        };
        const [y, dz] = await runProgram(
          (program) => {
            residualForward(program, t, t, draw);
            residualBackward(program, t, t, draw);
          },
          t.y,
          t.dz,
        );
        const what = `seed ${seed}`, expected = reference.residualForward({ x, z }, factor);
        assertClose(y!, expected.y, TOLERANCE.f32!, `y, ${what}`);
        const { dz: expectedDz } = reference.residualBackward({ dy }, factor);
        assertClose(dz!, expectedDz, TOLERANCE[dtype]!, `dz, ${what}`);
      });
    }
  }
}

Deno.test("residualForward() reaches every element beyond one row of workgroups", async () => {
  const N = 32768 * 256 + 3;
  const like = { shape: [N], dtype: "f32" } as const;
  const x = tensorOf("x", like, new Float32Array(N).fill(1));
  const y = tensorOf("y", like, new Float32Array(N).fill(NaN));
  const dz = tensorOf("dz", like, new Float32Array(N).fill(NaN));
  const [sum, slope] = await runProgram(
    (program) => {
      residualForward(program, { x, z: x }, { y });
      residualBackward(program, { dy: x }, { dz });
    },
    y,
    dz,
  );
  assert.equal(sum!.findIndex((v) => v !== 2), -1);
  assert.equal(slope!.findIndex((v) => v !== 1), -1);
});

Deno.test("residualForward() throws on dropout without random numbers", () => {
  const x = poisoned("x", { shape: [4], dtype: "f32" });
  assert.throws(
    () => residualForward(new Program(device), { x, z: x }, { y: x }, { rate: 0.1, site: 0 }),
    {
      name: "TypeError",
      message:
        'Cannot run residualForward as dropout needs the tensor "random": current rate is 0.1',
    },
  );
});
