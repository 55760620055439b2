import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../data/tokenizer/train.ts";
import type { TokenDataset } from "../data/tokens/token_dataset.ts";
import { unknownId } from "../data/tokens/vocabulary_fit.ts";
import { inFewDigits } from "../files/units.ts";
import { createDecoder } from "../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../generate/request.ts";
import { misfitOf, shortageOf } from "../kernels/fit.ts";
import type { LoadedModel } from "../generate/load.ts";
import type { SamplerOptions } from "../kernels/sample/sample.ts";
import {
  type CheckName,
  type CheckResult,
  CHECKS,
  resultOf,
  RunChecks,
  unknownResult,
} from "../train/record/checks.ts";
import type { Metric } from "../train/record/metrics.ts";
import { createTrainedArena } from "../train/optimizer.ts";
import { type BlockNorms, normsOf, wholeInF32 } from "./blocks.ts";
import { answersIn, excerptsOf, type TextRow, textRows } from "./diagnosis_texts.ts";
import { logitsOf } from "./inspect.ts";
import {
  COUNTED_TOKENS,
  type Frequency,
  frequencyOf,
  type MeanPredictions,
  meanPredictions,
} from "./mean_predictions.ts";
import { preparePass, USUAL_STEP } from "./pass.ts";
import { loopShareOf, meanRepetition, type Repetition } from "./repetition.ts";

/**
 * What is wrong with a model, by the table of train/record/checks.ts: the checks that need the model itself.
 *
 * @module
 */

/** What is known about a model that is diagnosed. A check that needs more is `unknown`, and says what it lacks. */
export interface DiagnoseOptions {
  /** The text that it was trained on, and text that it was not trained on, both in its tokens. */
  readonly text?:
    | { readonly training: TokenDataset; readonly validation: TokenDataset }
    | undefined;
  /** The lines of the record of its training, up to the model. */
  readonly record?: Iterable<Metric> | undefined;
  /** How it was trained. */
  readonly training?: TrainingFacts | undefined;
  /** Is called with the number of checks that are made, and of all. */
  readonly onChecked?: ((done: number, of: number) => void) | undefined;
}

/** What a diagnosis needs to know about a training. */
export interface TrainingFacts {
  /** Steps done. */
  readonly step: number;
  /** Steps of its warm-up. */
  readonly warmupSteps: number;
  /** Precision of its matrix products. */
  readonly precision: "f16" | "f32";
  /** Loss scale of its next step. */
  readonly lossScale: number;
  /** Targets of a step, over which the loss is a mean. */
  readonly targetsPerStep: number;
}

/** Texts in which tokens are changed, and tokens of each at most: each change takes a forward pass. */
const LEAK_ROWS = 3, LEAK_TOKENS = 64;

/**
 * Tokens of the unit that greedy text repeats. Longer loops are no sign of a sick model: the likeliest next
 * sentence of a healthy one may be the last one (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751).
 */
const GREEDY_UNIT = 1;

/** Texts that are generated, tokens of their prompts, and tokens of each. */
const TEXTS = 8, PROMPT_TOKENS = 4, TEXT_TOKENS = 100;

/**
 * Finds out what is wrong with a model: makes every check of `CHECKS`.
 *
 * Gradients of the model's size are allocated on the device meanwhile.
 *
 * @returns the results, the worst first: those that are sick in the order of the table, which has root causes first,
 * then those that could not be made, then those that are ok.
 * @throws {DeviceError} if the device fails.
 *
 * @example Diagnose a model without the text of its training
 * ```ts
 * import { diagnose, loadModel, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * for (const { name, verdict, finding } of await diagnose(model)) console.log(verdict, name, finding);
 * ```
 */
export async function diagnose(
  model: LoadedModel,
  options: DiagnoseOptions = {},
): Promise<CheckResult[]> {
  const results: CheckResult[] = [], { onChecked = () => {} } = options;
  for await (const result of check(model, options)) {
    results.push(result);
    onChecked(results.length, Object.keys(CHECKS).length);
  }
  return worstFirst(results);
}

/** Makes the checks one after another. */
async function* check(
  model: LoadedModel,
  { text, record, training }: DiagnoseOptions,
): AsyncGenerator<CheckResult> {
  const recordChecks = new RunChecks(), losses: number[] = [];
  for (const metric of record ?? []) {
    recordChecks.add(metric);
    if (metric.kind === "step" && Number.isFinite(metric.loss)) losses.push(metric.loss!);
  }
  const ofRecord = recordChecks.results();
  yield* record
    ? ofRecord
    : unknownResults(ofRecord.map(({ name }) => name), "no record of its training");
  yield* checkModel(model, text, { training, losses });
  yield* await checkVocabulary(model.tokenizer, text);
}

/** The checks for which the model reads or writes texts. */
async function* checkModel(
  model: LoadedModel,
  text: DiagnoseOptions["text"],
  progress: Progress,
): AsyncGenerator<CheckResult> {
  const rows = textRows(text?.validation, model);
  if (rows.length === 0) return yield* unknownResults(NEED_MODEL, "it reads a single token");
  const frequency = text && frequencyOf(text.training, model.gpt.config.vocabularySize);
  const predictions = await meanPredictions(model, rows, frequency);
  const blocks = await checkBlocks(model, rows, progress.training);
  yield* blocks;
  if (!predictions) {
    const others = NEED_MODEL.filter((name) => blocks.every((check) => check.name !== name));
    return yield* unknownResults(others, "its logits are not finite");
  }
  yield await checkLeak(model, rows);
  yield checkCopies(predictions, progress);
  yield checkFrequentTokens(predictions, frequency, progress);
  const isRandom = frequency !== undefined && !isPredictable(predictions);
  yield* checkRepetition(model, rows, { text, progress, isRandom });
}

/** The names of the checks that `checkModel()` makes. */
const NEED_MODEL = [
  "leak",
  "vanishing-gradients",
  "exploding-block",
  "dead-block",
  "copies-input",
  "frequent-tokens",
  "repetition",
  "greedy-repetition",
] as const;

/** The reason of checks that need the text of the training. */
const NO_TEXT = "the text of its training is missing";

/** The results of several checks that could not be made for the same reason. */
function unknownResults(names: readonly CheckName[], reason: string): CheckResult[] {
  return names.map((name) => unknownResult(name, reason));
}

/** Results in the order of their verdicts, and within it in that of the table. */
function worstFirst(results: readonly CheckResult[]): CheckResult[] {
  const names = Object.keys(CHECKS), verdicts = ["sick", "unknown", "ok"];
  const rank = ({ name, verdict }: CheckResult) =>
    verdicts.indexOf(verdict) * names.length + names.indexOf(name);
  return [...results].sort((a, b) => rank(a) - rank(b));
}

/** Whether a later token changes an earlier logit. */
async function checkLeak(model: LoadedModel, rows: readonly TextRow[]): Promise<CheckResult> {
  const { vocabularySize: V } = model.gpt.config;
  let greatest = 0, passes = 0;
  for (const row of rows.slice(0, LEAK_ROWS)) {
    const ids = row.slice(0, LEAK_TOKENS), T = ids.length;
    const { logits } = await logitsOf(model, ids);
    for (const place of new Set([1, Math.floor(T / 2), T - 1])) {
      if (place < 1) continue;
      const other = ids.with(place, (ids[place]! + 1 + Math.floor(V / 3)) % V);
      const { logits: changed } = await logitsOf(model, other);
      for (let i = 0; i < place * V; i++) {
        const change = Math.abs(changed[i]! - logits[i]!);
        if (!(change <= greatest)) greatest = Number.isNaN(change) ? Infinity : change;
      }
      passes++;
    }
  }
  return resultOf(
    "leak",
    greatest,
    greatest > 0
      ? `another token changed logits before it by up to ${inFewDigits(greatest)}`
      : `another token at ${passes} places changed no logit before it`,
  );
}

/** What is known of how far a training has come. */
interface Progress {
  readonly training: TrainingFacts | undefined;
  /** Its training losses. */
  readonly losses: readonly number[];
}

/** Steps after which a model is not as it was initialized any more. */
const FIRST_STEPS = 50;

/**
 * A model still learns the basics of its text if its loss fell by this share from the second quarter of the steps to
 * the last one, and is above this share of its first loss.
 */
const LEARNS = { falls: 0.05, above: 0.2 };

/**
 * A result, which is unknown in place of sick if the model has not learned enough: it first learns how frequent tokens
 * are, which in itself is healthy.
 */
function unlessEarly(result: CheckResult, { training, losses }: Progress): CheckResult {
  if (result.verdict !== "sick") return result;
  const steps = training?.step ?? (losses.length > 0 ? losses.length : Infinity);
  const least = Math.max(FIRST_STEPS, training?.warmupSteps ?? 0);
  const early = (why: string): CheckResult => (
    { ...result, verdict: "unknown", finding: `${why}; ${result.finding}` }
  );
  if (steps < least) return early(`usual in the first ${least} steps, and it has done ${steps}`);
  const quarter = Math.floor(losses.length / 4);
  if (quarter === 0) return result;
  const before = mean(losses.slice(quarter, 2 * quarter)), last = mean(losses.slice(-quarter));
  if (last > before * (1 - LEARNS.falls) || last < LEARNS.above * losses[0]!) return result;
  const fall = `from ${before.toFixed(2)} to ${last.toFixed(2)}`;
  return early(
    `it still learns: its loss fell ${fall} in the second half of ${losses.length} steps`,
  );
}

/** Whether a model predicts its input. */
function checkCopies(
  { inputLoss, nextLoss }: MeanPredictions,
  { training, losses }: Progress,
): CheckResult {
  const figures = { inputLoss, nextLoss };
  if (Number.isNaN(nextLoss)) {
    return unknownResult("copies-input", "the text has no token that differs from the one before");
  }
  const result = resultOf(
    "copies-input",
    inputLoss / nextLoss,
    `the loss of the token just read is ${inputLoss.toFixed(3)}, ` +
      `that of the next one ${nextLoss.toFixed(3)}`,
    { figures },
  );
  // a model that shares the matrix of embedding and head predicts its input before it has learned anything; then
  // the loss of its training is that of the next token
  const trainingLoss = losses.length > 0 ? mean(losses.slice(-FIRST_STEPS)) : undefined;
  const isMeasured = trainingLoss !== undefined &&
    trainingLoss < nextLoss * CHECKS["copies-input"].threshold;
  return isMeasured ? result : unlessEarly(result, { training, losses: [] });
}

/** Least difference of the shares of two models for which a threshold between them is meaningful. */
const LEAST_DIFFERENCE = 0.1;

/** Whether a token of the text helps to predict the next one. */
function isPredictable({ onFrequentIgnoring, onFrequentByCounts }: MeanPredictions): boolean {
  return onFrequentIgnoring - onFrequentByCounts > LEAST_DIFFERENCE;
}

/** The reason of checks that need a text in which it does. */
const UNPREDICTABLE = "a token of this text says little about the one after it";

/**
 * Whether a model knows only how frequent tokens are. The threshold is three quarters of the way from a model that knows
 * one token of what it has read to one that ignores it.
 */
function checkFrequentTokens(
  predictions: MeanPredictions,
  frequency: Frequency | undefined,
  progress: Progress,
): CheckResult {
  const name = "frequent-tokens";
  const { onFrequent: share, onFrequentIgnoring, onFrequentByCounts } = predictions;
  if (!frequency) return unknownResult(name, NO_TEXT);
  if (!isPredictable(predictions)) return unknownResult(name, UNPREDICTABLE);
  const finding = `${percent(share)} of the probability is on the ` +
    `${frequency.frequent.size} most frequent tokens where another follows, ` +
    `${percent(onFrequentIgnoring)} if a model ignores its text, ` +
    `${percent(onFrequentByCounts)} if it knows one token`;
  const threshold = onFrequentByCounts + 0.75 * (onFrequentIgnoring - onFrequentByCounts);
  const figures = { ignoringText: onFrequentIgnoring, knowingOneToken: onFrequentByCounts };
  return unlessEarly(resultOf(name, share, finding, { threshold, figures }), progress);
}

/** How repetitive the text is that a model generates, sampled and greedy. */
async function* checkRepetition(
  model: LoadedModel,
  rows: readonly TextRow[],
  { text, progress, isRandom }: {
    text: DiagnoseOptions["text"];
    progress: Progress;
    /** Whether the text is in random order, so that its likeliest next token is always the same. */
    isRandom: boolean;
  },
): AsyncGenerator<CheckResult> {
  const prompts = rows.slice(0, TEXTS).map((row) => row.slice(0, PROMPT_TOKENS));
  const own = text && excerptsOf(text.validation, TEXTS, TEXT_TOKENS);
  const check = async (
    name: "repetition" | "greedy-repetition",
    what: string,
    { sampler, longestUnit }: { sampler: SamplerOptions; longestUnit?: number },
  ) => {
    const loopShare = (texts: readonly number[][]) =>
      mean(texts.map((ids) => loopShareOf(ids, longestUnit)));
    const texts = await completions(model, prompts, sampler), share = loopShare(texts);
    const figures = { ...meanRepetition(texts) }, ownShare = own && loopShare(own);
    const finding = `${percent(share)} of ${what}` +
      (ownShare === undefined ? "" : `, and ${percent(ownShare)} of the text it learns`) +
      `; distinct-1 to 4 are ${distincts(figures)}`;
    const threshold = CHECKS[name].threshold + (ownShare ?? 0);
    return unlessEarly(resultOf(name, share, finding, { threshold, figures }), progress);
  };
  yield await check("repetition", "the text it samples is in loops", {
    sampler: DEFAULT_SAMPLER,
  });
  if (isRandom) return yield unknownResult("greedy-repetition", UNPREDICTABLE);
  yield await check("greedy-repetition", "its greedy text repeats one token", {
    sampler: { ...DEFAULT_SAMPLER, temperature: 0 },
    longestUnit: GREEDY_UNIT,
  });
}

/** Distinct-1 to distinct-4 as text. */
function distincts({ distinct1, distinct2, distinct3, distinct4 }: Repetition): string {
  return [distinct1, distinct2, distinct3, distinct4].map((value) => value.toFixed(2)).join(", ");
}

/** The tokens with which a model continues prompts. */
async function completions(
  { gpt, tokenizer }: LoadedModel,
  prompts: readonly TextRow[],
  sampler: SamplerOptions,
): Promise<number[][]> {
  const { endOfText, endIds = [endOfText] } = tokenizer;
  const seeds = prompts.map((_, i) => i + 1);
  using decoder = createDecoder(gpt, { prompts, seeds, maxNewTokens: TEXT_TOKENS, sampler });
  return (await decoder.next(TEXT_TOKENS)).map((ids) => {
    const end = ids.findIndex((id) => endIds.includes(id));
    return [...end < 0 ? ids : ids.subarray(0, end)];
  });
}

/** Whether gradients vanish in f16, and whether blocks explode or are dead. */
async function checkBlocks(
  { gpt }: LoadedModel,
  rows: readonly TextRow[],
  training: TrainingFacts | undefined,
): Promise<CheckResult[]> {
  const names = ["vanishing-gradients", "exploding-block", "dead-block"] as const;
  const ids = rows.reduce((a, b) => b.length > a.length ? b : a);
  const problem = misfitOf(gpt.device, (device) => {
    const dry = { ...wholeInF32(gpt), device };
    preparePass(dry, { tokens: ids, purpose: "training" });
    createTrainedArena(dry, "gradients");
  });
  if (problem) {
    const reason = `the device has no room for the gradients of the model ${shortageOf(problem)}`;
    return unknownResults(names, reason);
  }
  const { blocks, belowF16 } = await normsOf(gpt, ids, training ?? USUAL_STEP);
  return [checkVanishing(belowF16, training), checkExploding(blocks), checkDead(blocks)];
}

/** Whether a block makes the residual stream much larger. */
function checkExploding(blocks: readonly BlockNorms[]): CheckResult {
  const growths = blocks.map(({ growth }) => growth), greatest = Math.max(...growths);
  return resultOf(
    "exploding-block",
    greatest,
    `block ${growths.indexOf(greatest)} makes the residual stream ` +
      `${inFewDigits(greatest)} times as large`,
    { figures: Object.fromEntries(growths.map((growth, i) => [`growth${i}`, growth])) },
  );
}

/** Share of the gradient norm of the other blocks below which a block is dead. */
const DEAD_GRADIENT = 1e-4;

/** Whether a part of a block adds nothing to the residual stream, or a block gets no gradient. */
function checkDead(blocks: readonly BlockNorms[]): CheckResult {
  const norms = blocks.map(({ gradientNorm }) => gradientNorm);
  const lowest = Math.min(...norms), highest = Math.max(...norms);
  const parts = blocks.flatMap(({ attention, mlp }, i) => [
    { part: `attention of block ${i}`, added: attention },
    { part: `the MLP of block ${i}`, added: mlp },
  ]);
  const { part, added } = parts.reduce((a, b) => b.added < a.added ? b : a);
  return resultOf(
    "dead-block",
    added,
    `what ${part} adds to the residual stream has ${percent(added)} of its norm; ` +
      `the gradient norm of block ${norms.indexOf(lowest)} is ${percent(lowest / highest)} ` +
      `of the largest of a block`,
    {
      isSick: added < CHECKS["dead-block"].threshold || lowest < DEAD_GRADIENT * highest,
      figures: Object.fromEntries(norms.map((norm, i) => [`gradientNorm${i}`, norm])),
    },
  );
}

/** Whether f16 loses many of the gradients. */
function checkVanishing(belowF16: number, training: TrainingFacts | undefined): CheckResult {
  const name = "vanishing-gradients";
  if (!training) return unknownResult(name, "the precision of its training is not known");
  const { precision, lossScale } = training, figures = { lossScale };
  if (precision === "f32") {
    return resultOf(name, 0, "it was trained in f32, which holds gradients down to 2⁻¹⁴⁹", {
      figures,
    });
  }
  return resultOf(
    name,
    belowF16,
    `${percent(belowF16)} of the gradients of the first block are below 2⁻²⁴ ` +
      `with the loss scale, ${lossScale}`,
    { figures },
  );
}

/** Tokens of the text with which a vocabulary is compared, and size of the vocabulary that is made for them. */
const SAMPLE_TOKENS = 2 ** 15, SMALL_VOCABULARY = 512;

/**
 * Whether a vocabulary fits the text. GPT-2's, with which `misfitsOf()` compares, is no measure here: it is made for
 * English, and a vocabulary of bytes is healthy, too.
 */
async function checkVocabulary(
  tokenizer: Tokenizer,
  text: DiagnoseOptions["text"],
): Promise<CheckResult[]> {
  const names = ["vocabulary", "unknown-tokens"] as const;
  if (!text) return unknownResults(names, NO_TEXT);
  const { training } = text, { vocabularySize, beginOfText, endOfText } = tokenizer;
  const counted = training.read(0, Math.min(training.length, COUNTED_TOKENS));
  const used = new Set(counted).size / vocabularySize;
  const sampled = training.answersOf
    ? answersIn(training, SAMPLE_TOKENS)
    : [...counted.subarray(0, SAMPLE_TOKENS)];
  const ids = sampled.filter((id) => id !== endOfText && id !== beginOfText);
  if (ids.length === 0) return unknownResults(names, "its text is empty");
  const sample = tokenizer.decode(ids), bytes = new TextEncoder().encode(sample).length;
  const unknownToken = unknownId(tokenizer);
  const unknowns = ids.filter((id) => id === unknownToken).length / ids.length;
  // one for every byte is the least that a byte-level vocabulary has
  const size = Math.max(257, Math.min(vocabularySize, SMALL_VOCABULARY));
  const made = await trainTokenizer([sample], { vocabularySize: size });
  const ratio = ids.length / made.encodeDocument(sample).length;
  const figures = { bytesPerToken: bytes / ids.length, usedShare: used };
  return [
    resultOf(
      "vocabulary",
      ratio,
      `its text has ${inFewDigits(ratio)} times as many tokens as in ${size} tokens made for it, ` +
        `${figures.bytesPerToken.toFixed(1)} bytes per token; ` +
        `${percent(used)} of the vocabulary occur in it`,
      { figures },
    ),
    resultOf(
      "unknown-tokens",
      unknowns,
      `${percent(unknowns)} of the text's tokens stand for unknown characters`,
    ),
  ];
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function percent(share: number): string {
  return `${inFewDigits(100 * share)} %`;
}
