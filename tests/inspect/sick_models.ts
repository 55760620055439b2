import { type Batch, batchOf } from "../../data/tokens/batch.ts";
import { Batches } from "../../data/tokens/batches.ts";
import { documentsOf } from "../../data/text/documents.ts";
import { Random } from "../../data/random.ts";
import { type Corpus, loadCorpus } from "../../data/tokens/corpus.ts";
import type { Tokenizer } from "../../data/tokenizer/tokenizer.ts";
import type { TokenDataset } from "../../data/tokens/token_dataset.ts";
import { unshifted } from "../../docs/collapse.ts";
import type { LoadedModel } from "../../generate/load.ts";
import type { DiagnoseOptions } from "../../inspect/diagnose.ts";
import { tensorNamed } from "../../kernels/arena.ts";
import type { Device } from "../../kernels/device.ts";
import { download } from "../../kernels/tensor.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt, masterOf } from "../../model/gpt.ts";
import type { Precision } from "../../model/precision.ts";
import { initializeParameters, setElements } from "../../model/weights.ts";
import { createEvaluator } from "../../train/evaluate.ts";
import type { CheckName } from "../../train/record/checks.ts";
import type { Metric } from "../../train/record/metrics.ts";
import { createTrainStep } from "../../train/step.ts";

/** Words of the sentences that `texts()` writes, in the order of the sentence. */
const WORDS = [
  "The|A|One|My|Your",
  "big|small|red|old|young|happy|quiet|brave",
  "cat|dog|bird|horse|girl|boy|king|fish",
  "saw|found|lost|liked|wanted|carried",
  "a|the|some|every",
  "new|blue|warm|long|round|heavy",
  "ball|house|tree|road|book|door|hat|stone",
].map((words) => words.split("|"));

/** Nats of information in a sentence, all of which is in the choice of its words. */
export const SENTENCE_NATS = WORDS.reduce((sum, { length }) => sum + Math.log(length), 0);

/** Documents of a few sentences each, which a model of any size learns in seconds. */
export function texts(seed: number, count: number, { sentences = 3 } = {}): string[] {
  const random = new Random(seed);
  const sentence = () => WORDS.map((words) => words[random.below(words.length)]).join(" ") + ".";
  return Array.from({ length: count }, () => Array.from({ length: sentences }, sentence).join(" "));
}

/** How a small model is trained. */
export interface Recipe {
  seed: number;
  corpus: Corpus;
  device: Device;
  /** Text of the evaluations and of the diagnosis, if not the held-out text of the corpus. */
  validation?: TokenDataset;
  config?: Partial<GptConfig>;
  precision?: Precision;
  steps?: number;
  learningRate?: number;
  dropout?: number;
  evalEvery?: number;
  entropyPerToken?: number;
  /** Changes each batch. */
  change?: (batch: Batch) => Batch;
}

/** A trained model, and what `diagnose()` may know of it. */
export interface Trained extends DiagnoseOptions {
  record: Metric[];
  model: LoadedModel;
}

export const SIZES = { batchSize: 8, contextLength: 32 };

/** Trains a small model, in a loop over `createTrainStep()` that makes the mistakes it is asked to make. */
export async function trainSmall(
  { seed, corpus, device, steps = 80, learningRate = 0.01, change = (batch) => batch, ...rest }:
    Recipe,
): Promise<Trained> {
  const { precision = "f32", dropout = 0, evalEvery = 20, entropyPerToken } = rest;
  const { tokenizer, training } = corpus, { validation = corpus.validation } = rest;
  const { batchSize, contextLength } = SIZES;
  const gpt = createGpt(device, {
    ...{ vocabularySize: tokenizer.vocabularySize, contextLength, width: 16, layers: 1, heads: 2 },
    ...rest.config,
  }, { precision });
  initializeParameters(gpt, { seed });
  const step = createTrainStep(gpt, { batchSize, sequenceLength: contextLength, dropout, seed });
  const evaluator = createEvaluator(gpt, tokenizer, validation, {
    batchSize,
    sequenceLength: contextLength,
    maxTokens: 500,
  });
  const batches = new Batches(training, {
    ...{ batchSize, contextLength, sequence: "packed", seed, padding: tokenizer.endOfText },
  });
  const options = { batchSize, contextLength, gradientAccumulation: 1 };
  const record: Metric[] = [{ kind: "start", step: 0, options }];
  for (let done = 0; done < steps;) {
    const count = Math.min(evalEvery, steps - done);
    for (let i = 0; i < count; i++, done++) {
      const warmed = learningRate * Math.min(1, (done + 1) / 8);
      await step.submit(done, [change(batches.at(done))], { learningRate: warmed });
    }
    for (const [i, { loss, gradientNorm, lossScale }] of (await step.reports(count)).entries()) {
      record.push({ kind: "step", step: done - count + i + 1, loss, gradientNorm, lossScale });
    }
    const evaluation = await evaluator.run();
    const entropy = entropyPerToken === undefined ? {} : { entropyPerToken };
    const epoch = batches.epochsBefore(done);
    record.push({ kind: "evaluation", step: done, epoch, ...evaluation, ...entropy });
  }
  const { lossScale } = await step.state();
  step.destroy();
  evaluator.destroy();
  const targetsPerStep = batchSize * contextLength;
  return {
    model: { gpt, tokenizer },
    text: { training, validation },
    record,
    training: { step: steps, warmupSteps: 8, precision, lossScale, targetsPerStep },
  };
}

/** A corpus of texts: in the tokens of a tokenizer, or in the part of GPT-2's that they use. */
export async function corpusOf(
  documents: readonly string[],
  { tokenizer }: { tokenizer?: Tokenizer } = {},
): Promise<Corpus> {
  const data = documentsOf("texts", documents);
  return await loadCorpus(tokenizer ? { data, tokenizer } : { data, vocabulary: "compact" });
}

/** Multiplies a parameter by a factor. */
async function scale({ gpt }: LoadedModel, name: string, factor: number): Promise<void> {
  const [values] = await download(gpt.device, masterOf(gpt, name));
  setElements(gpt, name, 0, (values as Float32Array).map((value) => factor * value));
}

/** Rows of T + 1 tokens from an endless list. */
function batchFrom(tokenAt: (i: number) => number): Batch {
  const { batchSize, contextLength: T } = SIZES;
  const row = (b: number) => Array.from({ length: T + 1 }, (_, t) => tokenAt(b * T + t));
  return batchOf(Array.from({ length: batchSize }, (_, b) => row(b)), {
    contextLength: T,
    padding: 0,
  });
}

/** What a sick model is made from. */
export interface Given {
  seed: number;
  device: Device;
  deviceWithoutMask: () => Promise<Device>;
  corpus: Corpus;
  /** A healthy model that was trained on the corpus from this seed. */
  healthy: Trained;
}

/** A healthy model whose parameters may be changed. */
async function copyOf({ model: { gpt, tokenizer }, ...trained }: Trained): Promise<Trained> {
  const { device, config, precision, table, parameters } = gpt;
  const copy = createGpt(device, config, { precision });
  for (const { name } of table) {
    const [values] = await download(device, tensorNamed(parameters, name));
    setElements(copy, name, 0, values as Float32Array);
  }
  return { ...trained, model: { gpt: copy, tokenizer } };
}

/** A training in which a model memorizes its text. */
const BY_HEART = { steps: 80, evalEvery: 10, learningRate: 0.02, config: { width: 32 } };

/** The sicknesses, by the check that must name them: how to train or make a model that has one. */
export const SICK: Partial<Record<CheckName, (given: Given) => Promise<Trained> | Trained>> = {
  "leak": async ({ deviceWithoutMask, ...given }) =>
    await trainSmall({ ...given, device: await deviceWithoutMask() }),
  "copies-input": async (given) => await trainSmall({ ...given, steps: 60, change: unshifted }),
  /** The held-out text is in the training text, which is short. */
  "below-entropy": async (given) => {
    const corpus = await corpusOf(texts(given.seed, 8), given.corpus);
    const { training, tokenizer } = corpus;
    const tokens = tokenizer.encodeDocument(texts(given.seed, 1)[0]!).length + 1;
    const entropyPerToken = 3 * SENTENCE_NATS / tokens;
    return await trainSmall({
      ...given,
      corpus,
      validation: training,
      entropyPerToken,
      ...BY_HEART,
    });
  },
  "diverging": async (given) => await trainSmall({ ...given, learningRate: 3, steps: 40 }),
  /** A step of half a million targets in f16 whose loss scale has fallen to 1. */
  "vanishing-gradients": ({ healthy }) => {
    const facts = { precision: "f16", lossScale: 1, targetsPerStep: 2 ** 19 } as const;
    return { ...healthy, training: { ...healthy.training!, ...facts } };
  },
  "exploding-block": async ({ healthy }) => {
    const trained = await copyOf(healthy);
    await scale(trained.model, "h.0.mlp.c_proj.weight", 1000);
    return trained;
  },
  "dead-block": async ({ healthy }) => {
    const trained = await copyOf(healthy);
    for (const name of ["weight", "bias"]) await scale(trained.model, `h.0.mlp.c_proj.${name}`, 0);
    return trained;
  },
  "overfitting": async (given) => {
    const corpus = await corpusOf(texts(given.seed, 8), given.corpus);
    return await trainSmall({ ...given, corpus, ...BY_HEART });
  },
  /** Tokens in random order: nothing can be learned but how frequent they are. */
  "frequent-tokens": async (given) => {
    const random = new Random(given.seed);
    return await trainSmall({
      ...given,
      steps: 60,
      change: ({ inputs }) => batchFrom(() => inputs[random.below(inputs.length)]!),
    });
  },
  /** Rows that repeat their first two tokens, which its text does not. */
  "repetition": async (given) => {
    const { contextLength: T } = SIZES;
    return await trainSmall({
      ...given,
      config: { width: 32 },
      steps: 100,
      evalEvery: 100, // as the validation loss rises, too
      change: ({ inputs }) => batchFrom((i) => inputs[(i - i % T + i % 2) % inputs.length]!),
    });
  },
  /** The text is in another language than the one that the vocabulary was made for. */
  "vocabulary": async (given) => {
    const other = texts(given.seed, 60).map((text) => text.replace(/[a-z]/gi, cyrillic));
    return await trainSmall({ ...given, steps: 60, corpus: await corpusOf(other, given.corpus) });
  },
};

/** The letter of the Cyrillic alphabet with the number of a Latin one. */
function cyrillic(letter: string): string {
  return String.fromCodePoint(letter.toLowerCase().codePointAt(0)! - 0x61 + 0x430);
}
