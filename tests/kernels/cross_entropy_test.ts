import assert from "node:assert/strict";
import { IGNORED } from "../../files/ignored.ts";
import {
  crossEntropyBackward,
  crossEntropyForward,
} from "../../kernels/cross_entropy/cross_entropy.ts";
import * as reference from "../../kernels/cross_entropy/reference.ts";
import { Program } from "../../kernels/program.ts";
import { sumForward } from "../../kernels/sum/sum.ts";
import {
  assertClose,
  assertGradient,
  device,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";

// f32: exp and sums of up to 50,257 terms in another order; f16: dlogits rounded to 11 bits
const TOLERANCE = { f32: 2e-5, f16: 1e-3 } as Record<string, number>;

Deno.test(
  "reference crossEntropyBackward() matches central differences",
  withRandom((random) => {
    const targets = Uint32Array.of(1, IGNORED, 4), logits = randomValues(random, 15);
    const ones = new Float32Array(3).fill(1);
    for (const labelSmoothing of [0, 0.2]) {
      const shape = { M: 3, V: 5, labelSmoothing };
      const { dlogits } = reference.crossEntropyBackward({ logits, targets, factor: 1 }, shape);
      const losses = (logits: Float32Array) =>
        reference.crossEntropyForward({ logits, targets }, shape).losses;
      assertGradient(losses, logits, ones, dlogits, { what: "dlogits" });
    }
  }),
);

/**
 * Runs forward and backward on the device. Rows have `padding` more vectors of four than the vocabulary
 * needs; what lies past the vocabulary is poison.
 */
async function run(
  { logits, targets, scale = 1 }: { logits: Float32Array; targets: Uint32Array; scale?: number },
  { M, V, labelSmoothing = 0 }: reference.CrossEntropyShape,
  { dtype = "f32", padding = 0, isCpu = device.isCpu }: {
    dtype?: "f32" | "f16";
    padding?: number;
    isCpu?: boolean;
  } = {},
) {
  const counted = targets.filter((t) => t !== IGNORED).length;
  const inverseCount = counted === 0 ? 0 : 1 / counted;
  const columns = (Math.ceil(V / 4) + padding) * 4;
  const stored = new Float32Array(M * columns).fill(NaN);
  for (let m = 0; m < M; m++) stored.set(logits.subarray(m * V, (m + 1) * V), m * columns);
  const t = tensors({
    logits: [[M, columns], dtype, stored],
    targets: [[M], "u32", targets],
    stepInputs: [[3], "f32", [0, inverseCount, 0]],
    lossScale: [[1], "f32", scale],
    losses: [[M], "f32"],
    lossesAgain: [[M], "f32"],
    sum: [[1], "f32"],
  });
  const options = { vocabularySize: V, labelSmoothing };
  const [losses, lossesAgain, rows, sum] = await runProgram(
    (program) => {
      crossEntropyForward(program, t, t, options);
      crossEntropyBackward(program, t, { losses: t.lossesAgain, dlogits: t.logits }, options);
      sumForward(program, { x: t.losses }, { y: t.sum });
    },
    [t.losses, t.lossesAgain, t.logits, t.sum],
    { on: { ...device, isCpu } },
  );
  // the same formula in two shaders, which a compiler may contract differently
  assertClose(lossesAgain!, losses!, 1e-6, "losses of the backward pass");
  const dlogits = new Float32Array(M * V);
  for (let m = 0; m < M; m++) {
    dlogits.set(rows!.subarray(m * columns, m * columns + V), m * V);
    const past = rows!.subarray(m * columns + V, (m + 1) * columns);
    assert.ok(past.every((value) => value === 0), `dlogits past the vocabulary: ${past}`);
  }
  return { losses: losses!, dlogits, loss: sum![0]! * inverseCount };
}

for (const dtype of REAL_TYPES as ("f32" | "f16")[]) {
  for (const isCpu of [true, false]) {
    for (
      const [M, V, padding] of [[1, 1], [3, 127, 2], [129, 4], [9, 129, 1], [2, 50257]] as const
    ) {
      for (const labelSmoothing of [0, 0.1]) {
        const name = `[${M},${V}]${labelSmoothing ? " with smoothing" : ""}`;
        const lanes = isCpu ? "CPU" : "GPU";
        Deno.test(
          `cross-entropy for a ${lanes} matches the reference in ${dtype} at ${name}`,
          withRandom(async (random) => {
            const shape = { M, V, labelSmoothing };
            const logits = randomValues(random, M * V, { dtype, scale: 3 });
            const targets = Uint32Array.from({ length: M }, () => Math.floor(random() * V));
            if (M > 1) targets[1] = IGNORED;
            const how = { dtype, isCpu, ...(padding ? { padding } : {}) };
            const { losses, dlogits } = await run({ logits, targets, scale: 8 }, shape, how);
            const expected = reference.crossEntropyForward({ logits, targets }, shape);
            assertClose(losses, expected.losses, TOLERANCE.f32!, "losses");
            const factor = 8 / targets.filter((t) => t !== IGNORED).length;
            const gradient = reference.crossEntropyBackward({ logits, targets, factor }, shape);
            assertClose(dlogits, gradient.dlogits, TOLERANCE[dtype]!, "dlogits");
          }),
        );
      }
    }
  }
}

Deno.test("cross-entropy gives PyTorch's numbers", async () => {
  const logits = Float32Array.of(1, 2, 3, 3, 2, 1, 0, 0, 5);
  const targets = Uint32Array.of(0, IGNORED, 2);
  const plain = await run({ logits, targets }, { M: 3, V: 3 });
  assertClose([plain.loss], [1.210495949], 1e-6, "loss");
  const smoothed = await run({ logits, targets }, { M: 3, V: 3, labelSmoothing: 0.1 });
  assertClose([smoothed.loss], [1.327162623], 1e-6, "smoothed loss");
  const rows = [-0.4217, 0.1057, 0.316, 0, 0, 0, -0.0133, -0.0133, 0.0267];
  assertClose(smoothed.dlogits, rows, 6e-5, "smoothed gradient"); // given to four places
});

Deno.test("cross-entropy with all targets ignored is loss 0 and gradient 0", async () => {
  const logits = Float32Array.of(1, 2, 3, 4);
  const targets = new Uint32Array(2).fill(IGNORED);
  const { loss, losses, dlogits } = await run({ logits, targets }, { M: 2, V: 2 });
  assert.equal(loss, 0);
  assert.deepEqual([...losses, ...dlogits], [0, 0, 0, 0, 0, 0]);
});

Deno.test("crossEntropyForward() throws on rows that are no multiple of four", () => {
  const t = tensors({ logits: [[2, 6], "f32"], targets: [[2], "u32"], losses: [[2], "f32"] });
  const message = /rows of logits must be a multiple of four .* \[2,6\], vocabulary 6/;
  assert.throws(() => crossEntropyForward(new Program(device), t, t), message);
});
