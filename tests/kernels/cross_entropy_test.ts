import assert from "node:assert/strict";
import {
  crossEntropyBackward,
  crossEntropyForward,
} from "../../kernels/cross_entropy/cross_entropy.ts";
import * as reference from "../../kernels/cross_entropy/reference.ts";
import { sumForward } from "../../kernels/sum/sum.ts";
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

// f32: exp and sums of up to 50,257 terms in another order; f16: dlogits rounded to 11 bits
const TOLERANCE = { f32: 2e-5, f16: 1e-3 } as Record<string, number>;

Deno.test("reference crossEntropyBackward() matches central differences", () => {
  const random = testRandom(freshSeed());
  const targets = Uint32Array.of(1, reference.IGNORED, 4), logits = randomValues(random, 15);
  const ones = new Float32Array(3).fill(1);
  for (const labelSmoothing of [0, 0.2]) {
    const shape = { M: 3, V: 5, labelSmoothing };
    const { dlogits } = reference.crossEntropyBackward({ logits, targets, factor: 1 }, shape);
    const losses = (logits: Float32Array) =>
      reference.crossEntropyForward({ logits, targets }, shape).losses;
    assertGradient(losses, logits, ones, dlogits);
  }
});

/** Runs forward and backward on the device. */
async function run(
  { logits, targets, scale = 1 }: { logits: Float32Array; targets: Uint32Array; scale?: number },
  { M, V, labelSmoothing = 0 }: reference.CrossEntropyShape,
  dtype: "f32" | "f16" = "f32",
) {
  const counted = targets.filter((t) => t !== reference.IGNORED).length;
  const inverseCount = counted === 0 ? 0 : 1 / counted;
  const f32 = (length: number) => ({ shape: [length], dtype: "f32" as const });
  const t = {
    logits: tensorOf("logits", { shape: [M, V], dtype }, logits),
    targets: tensorOf("targets", { shape: [M], dtype: "u32" }, targets),
    stepInputs: tensorOf("stepInputs", f32(4), [0, inverseCount, 0, 0]),
    lossScale: tensorOf("lossScale", f32(1), [scale]),
    losses: poisoned("losses", f32(M)),
    logSumExp: poisoned("logSumExp", f32(M)),
    sum: poisoned("sum", f32(1)),
  };
  const [losses, logSumExp, dlogits, sum] = await runProgram(
    (program) => {
      crossEntropyForward(program, t, t, { labelSmoothing });
      crossEntropyBackward(program, t, { dlogits: t.logits }, { labelSmoothing });
      sumForward(program, { x: t.losses }, { y: t.sum });
    },
    t.losses,
    t.logSumExp,
    t.logits,
    t.sum,
  );
  return {
    losses: losses!,
    logSumExp: logSumExp!,
    dlogits: dlogits!,
    loss: sum![0]! * inverseCount,
  };
}

for (const dtype of REAL_TYPES as ("f32" | "f16")[]) {
  for (const [M, V] of [[1, 1], [3, 127], [129, 3], [9, 129], [2, 50257]] as const) {
    for (const labelSmoothing of [0, 0.1]) {
      const name = `[${M},${V}]${labelSmoothing ? " with smoothing" : ""}`;
      Deno.test(`cross-entropy matches the reference in ${dtype} at ${name}`, async () => {
        const seed = freshSeed(), random = testRandom(seed), shape = { M, V, labelSmoothing };
        const logits = randomValues(random, M * V, { dtype, scale: 3 });
        const targets = Uint32Array.from({ length: M }, () => Math.floor(random() * V));
        if (M > 1) targets[1] = reference.IGNORED;
        const { losses, logSumExp, dlogits } = await run(
          { logits, targets, scale: 8 },
          shape,
          dtype,
        );
        const expected = reference.crossEntropyForward({ logits, targets }, shape);
        assertClose(losses, expected.losses, TOLERANCE.f32!, `losses, seed ${seed}`);
        assertClose(logSumExp, expected.logSumExp, TOLERANCE.f32!, `logSumExp, seed ${seed}`);
        const factor = 8 / targets.filter((t) => t !== reference.IGNORED).length;
        const gradient = reference.crossEntropyBackward({ logits, targets, factor }, shape);
        assertClose(dlogits, gradient.dlogits, TOLERANCE[dtype]!, `dlogits, seed ${seed}`);
      });
    }
  }
}

Deno.test("cross-entropy gives PyTorch's numbers", async () => {
  const logits = Float32Array.of(1, 2, 3, 3, 2, 1, 0, 0, 5);
  const targets = Uint32Array.of(0, reference.IGNORED, 2);
  const plain = await run({ logits, targets }, { M: 3, V: 3 });
  assertClose([plain.loss], [1.210495949], 1e-6, "loss");
  const smoothed = await run({ logits, targets }, { M: 3, V: 3, labelSmoothing: 0.1 });
  assertClose([smoothed.loss], [1.327162623], 1e-6, "smoothed loss");
  const rows = [-0.4217, 0.1057, 0.316, 0, 0, 0, -0.0133, -0.0133, 0.0267];
  assertClose(smoothed.dlogits, rows, 6e-5, "smoothed gradient"); // given to four places
});

Deno.test("cross-entropy with all targets ignored is loss 0 and gradient 0", async () => {
  const logits = Float32Array.of(1, 2, 3, 4);
  const targets = new Uint32Array(2).fill(reference.IGNORED);
  const { loss, losses, dlogits } = await run({ logits, targets }, { M: 2, V: 2 });
  assert.equal(loss, 0);
  assert.deepEqual([...losses, ...dlogits], [0, 0, 0, 0, 0, 0]);
});

Deno.test("sumForward() sums and accumulates at odd lengths", async () => {
  for (const N of [1, 3, 255, 257, 100_003]) {
    const x = tensorOf(
      "x",
      { shape: [N], dtype: "f32" },
      Float32Array.from({ length: N }, () => 0.5),
    );
    const y = poisoned("y", { shape: [1], dtype: "f32" });
    const [sum] = await runProgram((program) => {
      sumForward(program, { x }, { y });
      sumForward(program, { x }, { y }, { accumulate: true });
    }, y);
    assert.equal(sum![0], N);
  }
});
