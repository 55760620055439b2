import assert from "node:assert/strict";
import { dropoutBackward, dropoutForward } from "../../kernels/dropout/dropout.ts";
import * as dropoutReference from "../../kernels/dropout/reference.ts";
import { dropoutFactor, dropoutUniforms } from "../../kernels/random.ts";
import * as residualReference from "../../kernels/residual/reference.ts";
import { residualBackward, residualForward } from "../../kernels/residual/residual.ts";
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

// one product or sum: half an ulp of the result
const TOLERANCE = { f32: 1e-6, f16: 1e-3 } as Record<string, number>;

Deno.test("reference dropout and residual gradients match central differences", () => {
  const random = testRandom(freshSeed());
  const x = randomValues(random, 20), dy = randomValues(random, 20);
  const factor = (i: number) => i % 3 === 0 ? 0 : 1.5;
  const { dx } = dropoutReference.dropoutBackward({ dy }, factor);
  assertGradient((x) => dropoutReference.dropoutForward({ x }, factor).y, x, dy, dx);
  const { dz } = residualReference.residualBackward({ dy }, factor);
  assertGradient((z) => residualReference.residualForward({ x, z }, factor).y, x, dy, dz);
});

for (const dtype of REAL_TYPES) {
  for (const N of [1, 3, 127, 1029]) {
    Deno.test(`dropout and residual match the reference in ${dtype} at N = ${N}`, async () => {
      const seed = freshSeed(), random = testRandom(seed);
      const draw = { rate: 0.3, site: 7 };
      const factor = (index: number) => dropoutFactor({ ...draw, seed, counter: 11, index });
      const x = randomValues(random, N), z = randomValues(random, N, { dtype });
      const real = { shape: [N], dtype }, f32 = { shape: [N], dtype: "f32" as const };
      const t = {
        x: tensorOf("x", f32, x),
        z: tensorOf("z", real, z),
        random: tensorOf("random", { shape: [2], dtype: "u32" }, [seed, 11]),
        dropped: poisoned("dropped", f32),
        mask: poisoned("mask", real),
        joined: poisoned("joined", f32),
        dz: poisoned("dz", real),
        plain: poisoned("plain", f32),
        plainDz: poisoned("plainDz", real),
      };
      const [dropped, mask, joined, dz, plain, plainDz] = await runProgram(
        (program) => {
          dropoutForward(program, { x: t.z, random: t.random }, { y: t.dropped }, draw);
          dropoutBackward(program, { dy: t.x, random: t.random }, { dx: t.mask }, draw);
          residualForward(program, t, { y: t.joined }, draw);
          residualBackward(program, { dy: t.x, random: t.random }, { dz: t.dz }, draw);
          residualForward(program, { x: t.x, z: t.z }, { y: t.plain });
          residualBackward(program, { dy: t.x }, { dz: t.plainDz });
        },
        t.dropped,
        t.mask,
        t.joined,
        t.dz,
        t.plain,
        t.plainDz,
      );
      const tolerance = TOLERANCE[dtype]!, what = `seed ${seed}`;
      const backward = dropoutReference.dropoutBackward({ dy: x }, factor).dx;
      assertClose(
        dropped!,
        dropoutReference.dropoutForward({ x: z }, factor).y,
        1e-6,
        `y, ${what}`,
      );
      assertClose(mask!, backward, tolerance, `dx, ${what}`);
      assertClose(joined!, residualReference.residualForward({ x, z }, factor).y, 1e-6, what);
      assertClose(dz!, backward, tolerance, `dz, ${what}`);
      assertClose(plain!, residualReference.residualForward({ x, z }, () => 1).y, 1e-6, what);
      assertClose(plainDz!, x, tolerance, `plain dz, ${what}`);
    });
  }
}

Deno.test("dropout drops its share, elsewhere at every seed, counter and site", async () => {
  const N = 20_000, rate = 0.2;
  const ones = tensorOf("x", { shape: [N], dtype: "f32" }, new Float32Array(N).fill(1));
  const masks = [[1, 1, 1], [2, 1, 1], [1, 2, 1], [1, 1, 2]].map(async ([seed, counter, site]) => {
    const y = poisoned("y", ones);
    const random = tensorOf("random", { shape: [2], dtype: "u32" }, [seed!, counter!]);
    const [values] = await runProgram(
      (program) => dropoutForward(program, { x: ones, random }, { y }, { rate, site: site! }),
      y,
    );
    return values!;
  });
  const [first, ...others] = await Promise.all(masks);
  for (const mask of [first!, ...others]) {
    const share = mask.filter((v) => v === 0).length / N;
    assert.ok(Math.abs(share - rate) < 6 * Math.sqrt(rate * (1 - rate) / N), `share ${share}`);
  }
  for (const other of others) {
    const equal = other.filter((v, i) => v === first![i]).length / N;
    // two independent masks agree with probability 0.2² + 0.8²
    assert.ok(Math.abs(equal - 0.68) < 0.03, `equal share ${equal}`);
  }
});

Deno.test("dropoutUniforms() throws on a rate of one", () => {
  assert.throws(() => dropoutUniforms({ rate: 1, site: 0 }), {
    name: "RangeError",
    message: "Cannot drop elements as the rate must be at least 0 and below 1: current value is 1",
  });
});
