import { join } from "node:path";
import { Batches } from "../data/batches.ts";
import { type Corpus, loadCorpus } from "../data/corpus.ts";
import { Random } from "../data/random.ts";
import { parseTokenizer, type Tokenizer } from "../data/tokenizer.ts";
import { generate } from "../generate/generate.ts";
import { resolvePrecision } from "../generate/load.ts";
import { type Device, openDevice } from "../kernels/device.ts";
import { upload } from "../kernels/tensor.ts";
import { newestCheckpoint, readTrainerState, type TrainerState } from "../model/checkpoint.ts";
import {
  type GptConfig,
  parseHuggingFaceConfig,
  PRESETS,
  toHuggingFaceConfig,
} from "../model/config.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import { countParameters } from "../model/parameters.ts";
import { parseSafetensors, serializeSafetensors, toFloat32 } from "../model/safetensors.ts";
import {
  downloadTable,
  initializeParameters,
  loadParameters,
  saveParameters,
} from "../model/weights.ts";
import { moveAside, RunDirectory } from "./checkpoint.ts";
import { createEvaluator, type Evaluation } from "./evaluate.ts";
import { type ResolvedOptions, resolveOptions, type TrainOptions } from "./options.ts";
import { drawLoss } from "./plot.ts";
import { learningRateAt } from "./schedule.ts";
import { createTrainStep, initialScaler, REPORT_ROWS, type TrainStep } from "./step.ts";

/** What `train()` reports while it works. */
export type TrainEvent =
  | { kind: "notice"; message: string }
  | { kind: "progress"; what: string; done: number; total: number }
  | {
    kind: "start";
    resumedFrom?: number;
    steps: number;
    options: ResolvedOptions;
    device: string;
    parameters: number;
    corpus: {
      name: string;
      vocabulary: string;
      trainingTokens: number;
      validationTokens: number;
      entropyPerToken?: number;
    };
  }
  | {
    kind: "step";
    step: number;
    steps: number;
    loss: number;
    learningRate: number;
    gradientNorm: number;
    lossScale: number;
    skipped: number;
    tokensPerSecond: number;
    secondsLeft: number;
  }
  | ({ kind: "evaluation"; step: number; entropyPerToken?: number; best: boolean } & Evaluation)
  | { kind: "sample"; step: number; prompt: string; text: string }
  | { kind: "checkpoint"; step: number; path: string }
  | { kind: "end"; reason: "steps" | "epochs" | "interrupted"; step: number; path: string };

/** Prompts of the samples drawn during training, taken in turn. */
const SAMPLE_PROMPTS = ["Once upon a time", "One day"];

/** Tokens of the validation text that an evaluation during training looks at. */
const EVALUATION_TOKENS = 65_536;

/** Steps skipped in a row after which the training gives up. */
const MOST_SKIPS = 100;

/** Reports are read back about this often: each time the device runs idle for a moment. */
const READ_BACK_MS = 500;

/**
 * Trains a model, or goes on training it, and reports what happens.
 *
 * The generator does the work as it is consumed: stop consuming and the training stops. When `signal`
 * aborts, the step under way is finished, a checkpoint saved, and the training ends as `interrupted`.
 *
 * @throws {RangeError} if an option is out of range or contradicts the checkpoint that is resumed.
 * @throws {CheckpointError} if the run's checkpoints cannot be read or written.
 * @throws {DeviceError} if the device fails; the last checkpoint stays as it was.
 *
 * @example Train the smallest model on the bundled stories
 * ```ts ignore
 * for await (const event of train({ preset: "nano", steps: 100 })) console.log(event);
 * ```
 */
export async function* train(
  { device: given, signal, ...wanted }: Partial<TrainOptions> & {
    device?: Device;
    signal?: AbortSignal;
  } = {},
): AsyncGenerator<TrainEvent> {
  const device = given ?? await openDevice();
  const notices: string[] = [];
  const out = wanted.out ?? "runs/default";
  if (wanted.fresh) {
    const aside = moveAside(out);
    if (aside) yield { kind: "notice", message: `moved the old run to ${aside}` };
  }
  const run = RunDirectory.open(out);
  try {
    const resumed = await newestCheckpoint(out, (sentence) => notices.push(sentence));
    for (const message of notices.splice(0)) yield { kind: "notice", message };
    yield* trainIn(run, {
      device,
      signal,
      wanted,
      ...(resumed === undefined ? {} : { resumed: await readCheckpoint(resumed) }),
    });
  } finally {
    run.close();
    if (!given) device.destroy();
  }
}

/** A checkpoint to go on from, read from its files. */
interface Resumed {
  path: string;
  state: TrainerState;
  config: GptConfig;
  tokenizer: Tokenizer;
}

async function readCheckpoint(path: string): Promise<Resumed> {
  const text = (name: string) => Deno.readTextFile(join(path, name));
  return {
    path,
    state: readTrainerState(path),
    config: parseHuggingFaceConfig(await text("config.json"), join(path, "config.json")),
    tokenizer: await parseTokenizer(await text("tokenizer.json"), join(path, "tokenizer.json")),
  };
}

/** The training itself, in an open run directory. */
async function* trainIn(
  run: RunDirectory,
  { device, signal, wanted, resumed }: {
    device: Device;
    signal: AbortSignal | undefined;
    wanted: Partial<TrainOptions>;
    resumed?: Resumed;
  },
): AsyncGenerator<TrainEvent> {
  const options = resolveOptions(wanted, {
    saved: resumed?.state.options,
    onCpu: device.isCpu,
    precision: resolvePrecision(device, wanted.precision ?? "auto"),
  });

  let tokenizing: TrainEvent | undefined;
  const corpus = await loadCorpus({
    data: options.data,
    vocabulary: options.vocabulary,
    ...(resumed ? { tokenizer: resumed.tokenizer } : {}),
    cacheDirectory: join(options.out, "cache"),
    onProgress: (done, total) => {
      tokenizing = { kind: "progress", what: "tokenizing", done, total };
    },
  });
  if (tokenizing) yield tokenizing;

  const { vocabularySize } = corpus.tokenizer;
  const config = resumed?.config ?? {
    vocabularySize,
    ...PRESETS[options.preset],
    contextLength: options.contextLength,
  };
}
