/**
 * A program that tests start with mpirun: ranks train a small model together, rank 0 then trains it alone with as many
 * micro-batches, and prints how far both are apart.
 */
import { sampleBatches } from "../../bench/text.ts";
import { openTransport } from "../../distributed/open_mpi.ts";
import { checkSameBits } from "../../distributed/same_bits.ts";
import { oneRank, type Transport } from "../../distributed/transport.ts";
import { download, upload } from "../../kernels/tensor.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import type { Precision } from "../../model/precision.ts";
import { initializeParameters } from "../../model/weights.ts";
import type { OptimizerName } from "../../train/optimizer.ts";
import { createTrainStep, type StepOptions } from "../../train/step.ts";
import { openTestDevice } from "../gpu.ts";

/** What a test asks for. */
export interface Case {
  /** Differences from a small model of the family gpt2. */
  readonly config?: Partial<GptConfig>;
  readonly precision?: Precision;
  readonly optimizer?: OptimizerName;
  readonly options?: Partial<StepOptions>;
  readonly steps: number;
  /** Micro-batches of each rank. */
  readonly gradientAccumulation: number;
  /** Step whose gradients of rank 1 overflow. */
  readonly overflowAt?: number;
  /** Rank whose weights change after the last step. */
  readonly changed?: number;
}

/** What a rank prints. */
export interface Outcome {
  readonly rank: number;
  readonly losses: readonly number[];
  readonly skipped: readonly boolean[];
  /** Of the weights after the last step, or the reason why ranks differ. */
  readonly hash: string;
  /** Of each tensor's gradient in the first step: the norm of the difference, as a share of the norm. Rank 0 only. */
  readonly gradientError?: number;
  /** Greatest difference of a loss, as a share of it. Rank 0 only. */
  readonly lossError?: number;
  readonly exchangeMs?: unknown;
}

const wanted = JSON.parse(Deno.args[0]!) as Case;
const device = await openTestDevice();
const transport = openTransport("auto");
const SIZES = { batchSize: 2, sequenceLength: 16 }, VOCABULARY = 61;
const batches = sampleBatches({ ...SIZES, vocabularySize: VOCABULARY });

/** Trains, and returns the gradients of the first step, and reports. */
async function run(transport: Transport, gradientAccumulation: number) {
  const base = { vocabularySize: VOCABULARY, contextLength: 16, width: 32, layers: 2, heads: 2 };
  const { precision = "f32", optimizer = "adamw", steps } = wanted;
  const gpt = createGpt(device, { ...base, ...wanted.config } as GptConfig, { precision });
  initializeParameters(gpt, { seed: 5 });
  const { rank, size } = transport, perStep = size * gradientAccumulation;
  const step = createTrainStep(gpt, {
    ...{ ...SIZES, gradientAccumulation, optimizer, transport },
    ...wanted.options,
  });
  let gradients: Float32Array[] = [];
  for (let s = 0; s < steps; s++) {
    const first = s * perStep + rank * gradientAccumulation;
    const own = { length: gradientAccumulation, at: (i: number) => batches.at(first + i) };
    // as the test of one rank has them all
    const counted = Array.from({ length: perStep }, (_, i) => batches.at(s * perStep + i).counted)
      .reduce((a, b) => a + b);
    if (s === wanted.overflowAt && rank === 1) {
      step.restore({ ...await step.state(), lossScale: 2 ** 120 });
    }
    await step.submit(s, own, { learningRate: 1e-2, counted });
    if (s === 0) {
      gradients = await download(device, ...step.gradients.tensors.values()) as Float32Array[];
    }
  }
  const reports = await step.reports(steps);
  const exchangeMs = step.takeExchangeMs();
  if (wanted.changed === rank && size > 1) {
    const [values] = await download(device, gpt.parameters.flat);
    values![3]! += 1e-3;
    upload(device, gpt.parameters.flat, values!);
  }
  const hash = await checkSameBits(transport, device, gpt.parameters.flat).catch(({ message }) =>
    message
  );
  step.destroy();
  gpt.destroy();
  return {
    gradients,
    losses: reports.map((r) => r.loss),
    skipped: reports.map((r) => r.skipped),
    hash,
    exchangeMs,
  };
}

const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0));
const { rank, size } = transport;
const { gradients, ...outcome } = await run(transport, wanted.gradientAccumulation);
let compared = {};
if (rank === 0) {
  const alone = await run(oneRank, wanted.gradientAccumulation * size);
  const gradientError = Math.max(
    ...alone.gradients.map((expected, i) =>
      norm(expected.map((v, k) => v - gradients[i]![k]!)) / (norm(expected) || 1)
    ),
  );
  const lossError = Math.max(
    ...alone.losses.map((loss, i) => Math.abs(loss - outcome.losses[i]!) / loss),
  );
  compared = { gradientError, lossError };
}
Deno.stdout.writeSync(
  new TextEncoder().encode(`${JSON.stringify({ rank, ...outcome, ...compared })}\n`),
);
await transport.close();
