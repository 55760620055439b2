import assert from "node:assert/strict";
import { modelledMs, stepCost } from "../../bench/cost.ts";
import { STEP_OPTIONS } from "../../bench/models.ts";
import { type Dispatch, Program } from "../../kernels/program.ts";
import { tensorBytes } from "../../kernels/tensor.ts";
import { createGpt } from "../../model/gpt.ts";
import type { Precision } from "../../model/precision.ts";
import { createTrainStep } from "../../train/step.ts";
import { device } from "../kernels/harness.ts";

Deno.test("modelledMs() adds operations, bytes and launches", () => {
  const machine = { flopsPerSecond: 4e13, bytesPerSecond: 2e12, launchMs: 0.008 };
  assert.equal(modelledMs({ flops: 8e10, bytes: 0, launches: 0 }, machine), 2);
  assert.equal(modelledMs({ flops: 8e10, bytes: 6e9, launches: 250 }, machine), 2 + 3 + 2);
});

Deno.test("stepCost() counts the operations of every product, and of causal attention by pairs", () => {
  const T = 256, B = 3, C = 96, V = 500, layers = 5, heads = 4;
  const config = { vocabularySize: V, contextLength: T, width: C, layers, heads };
  let flops = 0;
  const product = (M: number, K: number, N: number) => flops += 2 * M * K * N;
  const threeOf = (M: number, K: number, N: number) => {
    product(M, K, N); // y
    product(M, N, K); // dx
    product(K, M, N); // dweight
  };
  for (let layer = 0; layer < layers; layer++) {
    for (const [from, to] of [[C, 3 * C], [C, C], [C, 4 * C], [4 * C, C]] as const) {
      threeOf(B * T, from, to);
    }
    for (let head = 0; head < heads * B; head++) {
      for (let query = 0; query < T; query++) {
        // scores and y; backward scores, dp, dq, dk, dv: a sum over the head for each key
        for (let i = 0; i < 2 + 5; i++) product(1, C / heads, query + 1);
      }
    }
  }
  threeOf(B * T, C, V);
  const counted = stepCost({ config, batchSize: B, sequenceLength: T, precision: "f32" }).flops;
  // half of the square without half of its diagonal
  assert.ok(Math.abs(counted / flops - 1) < 1 / T, `${counted} and ${flops}`);
});

/** Bytes of the tensors that the launches of a recorded step bind, each tensor once a launch. */
function boundBytes(
  { B, T, C, layers, V, precision }: Record<"B" | "T" | "C" | "layers" | "V", number> & {
    precision: Precision;
  },
): { bound: number; counted: number } {
  const config = { vocabularySize: V, contextLength: T, width: C, layers, heads: C / 32 };
  // a CPU's kernels: what a GPU's leave to be added up stays in its cache
  const gpt = createGpt({ ...device, isCpu: true }, config, { precision });
  const dispatch = Program.prototype.dispatch;
  let bound = 0;
  Program.prototype.dispatch = function (launch: Dispatch) {
    for (const tensor of new Set(launch.tensors)) bound += tensorBytes(tensor);
    // parameter, m and v, each as large as the gradient, are read and written
    if (launch.label.includes("adamw")) bound += 3 * tensorBytes(launch.tensors[0]!);
    dispatch.call(this, launch);
  };
  try {
    createTrainStep(gpt, { ...STEP_OPTIONS, batchSize: B, sequenceLength: T }).destroy();
  } finally {
    Program.prototype.dispatch = dispatch;
    gpt.destroy();
  }
  const counted = stepCost({ config, batchSize: B, sequenceLength: T, precision }).bytes;
  return { bound, counted };
}

Deno.test("stepCost() counts about the bytes that the launches of a step bind", () => {
  // activations, logits, and parameters outweigh the rest in turn
  for (
    const shape of [
      { B: 8, T: 128, C: 64, layers: 4, V: 64, precision: "f16" },
      { B: 4, T: 64, C: 32, layers: 1, V: 4096, precision: "f32" },
      { B: 1, T: 16, C: 128, layers: 6, V: 64, precision: "f16" },
    ] as const
  ) {
    const { bound, counted } = boundBytes(shape);
    const ratio = counted / bound;
    assert.ok(ratio > 0.8 && ratio < 1.2, `${ratio} with ${JSON.stringify(shape)}`);
  }
});
