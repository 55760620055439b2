import { sampleBatches } from "../../bench/text.ts";
import { Batches, type BatchesOptions } from "../../data/tokens/batches.ts";
import { tokenDataset } from "../../data/tokens/token_dataset.ts";
import { checkSameBits } from "../../distributed/same_bits.ts";
import { oneRank, type Transport } from "../../distributed/transport.ts";
import type { Device } from "../../kernels/device.ts";
import { download } from "../../kernels/tensor.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import type { Precision } from "../../model/precision.ts";
import { initializeParameters } from "../../model/weights.ts";
import { OuterStep, type OuterStepOptions } from "../../train/diloco.ts";
import { createTrainStep, type StepOptions, type TrainStep } from "../../train/step.ts";
import type { StepReport } from "../../train/step_state.ts";
import { StepShare } from "../../train/step_share.ts";
import { inProcess } from "./in_process.ts";

/** A training of a small model on several ranks. */
export interface Case {
  /** Differences from a small model of the family gpt2. */
  readonly config?: Partial<GptConfig>;
  readonly precision?: Precision;
  readonly freeze?: string;
  /** `conversations` are documents apart, with answers as their only targets. */
  readonly data?: "joined" | "apart" | "padded" | "conversations";
  readonly options?: Partial<StepOptions>;
  /** Settings of the outer step if `options.syncEvery` is above 1. */
  readonly outer?: OuterStepOptions;
  readonly steps: number;
  /** Micro-batches of each rank. */
  readonly gradientAccumulation: number;
  /** Is called before each step on each rank. */
  readonly before?: (step: number, rank: number, trainStep: TrainStep) => Promise<void>;
}

/** What a rank has computed. */
export interface Trained {
  /** Gradients of the first step, by name. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
  readonly reports: readonly StepReport[];
  /** Weights after the last step, by name. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  /** Hash of these. */
  readonly hash: string;
}

export const SIZES = { batchSize: 2, sequenceLength: 16 }, VOCABULARY = 61;

/** Batches of a kind of documents. */
export function batchesOf(data: Case["data"] = "joined"): Batches {
  if (data === "joined") return sampleBatches({ ...SIZES, vocabularySize: VOCABULARY });
  const lengths = Array.from({ length: 40 }, (_, i) => 3 + 5 * i % 13), starts = [0];
  for (const length of lengths) starts.push(starts.at(-1)! + length);
  const tokens = Uint16Array.from({ length: starts.pop()! }, (_, i) => i * i % VOCABULARY);
  const answers = starts.flatMap((start, i) => [start + 1, start + lengths[i]!]);
  const isChat = data === "conversations";
  const options: BatchesOptions = {
    ...{ batchSize: SIZES.batchSize, contextLength: SIZES.sequenceLength, seed: 3, padding: 0 },
    sequence: data === "padded" ? "padded" : "packed",
    documents: data === "padded" ? "joined" : "apart",
  };
  return new Batches(tokenDataset(tokens, starts, isChat ? answers : undefined), options);
}

/** A small model of the family gpt2, with some differences. */
export function smallConfig(differences: Case["config"]): GptConfig {
  const sizes = { vocabularySize: VOCABULARY, contextLength: 16, width: 32, layers: 2, heads: 2 };
  return { ...sizes, ...differences };
}

/** Trains on one rank of a transport. */
export async function trainSteps(
  device: Device,
  transport: Transport,
  wanted: Case,
): Promise<Trained> {
  const { config, precision = "f32", freeze = "", data, options, steps, before } = wanted;
  const { gradientAccumulation } = wanted;
  using gpt = createGpt(device, smallConfig(config), { precision, freeze });
  initializeParameters(gpt, { seed: 5 });
  using trainStep = createTrainStep(gpt, {
    ...{ ...SIZES, gradientAccumulation, transport },
    documents: data === "apart" || data === "conversations" ? "apart" : "joined",
    ...options,
  });
  const { syncEvery = 1 } = options ?? {};
  using outer = syncEvery > 1
    ? new OuterStep(transport, { gpt, trainStep }, { ...wanted.outer, wire: options?.wire })
    : undefined;
  outer?.start();
  const start = { step: 0, batchIndex: 0, gradientAccumulation, syncEvery };
  const share = new StepShare(transport, batchesOf(data), start);
  const gradients = new Map<string, Float32Array>(), weights = new Map<string, Float32Array>();
  for (let step = 0; step < steps; step++) {
    await before?.(step, transport.rank, trainStep);
    await share.submit({ gpt, trainStep }, { kind: "step", step, learningRate: 1e-2 });
    if ((step + 1) % syncEvery === 0) await outer?.run();
    if (step > 0) continue;
    for (const [name, tensor] of trainStep.gradients.tensors) {
      gradients.set(name, (await download(device, tensor))[0] as Float32Array);
    }
  }
  const reports = await trainStep.reports(steps);
  for (const [name, tensor] of gpt.parameters.tensors) {
    weights.set(name, (await download(device, tensor))[0] as Float32Array);
  }
  const hash = await checkSameBits(transport, device, gpt.parameters.flat);
  return { gradients, reports, weights, hash };
}

const norm = (values: Float32Array) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0));

/**
 * Trains on several ranks, and on one with as many micro-batches.
 *
 * @returns what each rank has computed; the greatest difference of a tensor's gradient in the first step, as a share of
 * its norm; and the greatest difference of a loss, as a share of it.
 */
export async function compareWithOneRank(device: Device, size: number, wanted: Case): Promise<{
  ranks: readonly Trained[];
  gradientError: number;
  worst: string;
  lossError: number;
}> {
  const ranks = await inProcess(size, (transport) => trainSteps(device, transport, wanted));
  const gradientAccumulation = size * wanted.gradientAccumulation;
  const alone = await trainSteps(device, oneRank, { ...wanted, gradientAccumulation });
  let gradientError = 0, worst = "";
  for (const [name, expected] of alone.gradients) {
    const actual = ranks[0]!.gradients.get(name)!;
    const error = norm(expected.map((v, k) => v - actual[k]!)) / (norm(expected) || 1);
    if (error <= gradientError) continue;
    gradientError = error;
    worst = name;
  }
  const lossError = Math.max(
    ...alone.reports.map(({ loss }, i) => Math.abs(loss - ranks[0]!.reports[i]!.loss) / loss),
  );
  return { ranks, gradientError, worst, lossError };
}
