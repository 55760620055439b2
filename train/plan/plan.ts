import { UserError } from "../../files/user_error.ts";
import { inShort } from "../../files/units.ts";
import { LARGEST } from "../../model/config.ts";
import { tokensPerStepOf, type TrainOptions } from "../options.ts";

/**
 * Plans of trainings: a dial, the depth, from which all other sizes follow, and the depth that suits a time. This file
 * computes with numbers alone. A training calls it in two steps: `size.ts` has what the options decide before the data is
 * known, `choose_size.ts` what the data and measurements decide then; `plan_file.ts` reads the plan that a run has saved.
 * docs/size.md has the reasons.
 *
 * @module
 */

/** Names of the options that planners decide, beside the depth. */
export const PLANNED_OPTIONS = [
  "layers",
  "width",
  "heads",
  "contextLength",
  "batchSize",
  "steps",
  "schedule",
  "learningRate",
  "weightDecay",
  "dropout",
] as const satisfies (keyof TrainOptions)[];

/** Values of the options that planners decide. */
export type PlannedOptions = {
  -readonly [Name in typeof PLANNED_OPTIONS[number]]?: NonNullable<TrainOptions[Name]>;
};

/** Sizes of a model that follow from its depth. */
export type DepthSizes = Required<
  Pick<PlannedOptions, "layers" | "width" | "heads" | "contextLength">
>;

/** A training of a certain size, and what that was chosen by. */
export interface Plan {
  /** What planners decide; the plan that a run saves has all options of `PLAN_OPTIONS` that do not follow from others. */
  readonly options: Partial<TrainOptions>;
  /** The dial; absent if the size of the model was given in another way. */
  readonly depth?: number;
  /** Parameters of the blocks, without embeddings and head. */
  readonly blockParameters: number;
  /** Tokens that the training reads, repeated ones included. */
  readonly tokens: number;
  /** Passes over the training text. */
  readonly epochs: number;
  /** The depths that were measured, if the time decided. */
  readonly candidates?: readonly PlanCandidate[];
}

/** What a planner asks about a model: its size, and its speed in training. */
export interface Measurement {
  /** Parameters of the blocks. */
  readonly blockParameters: number;
  /** Tokens that a step trains on, per second of its time. */
  readonly tokensPerSecond: number;
}

/** A depth that was measured. */
export interface PlanCandidate extends Measurement {
  /** The dial. */
  readonly depth: number;
  /** Tokens that it would read in the time, or in the most passes over the text if these take less. */
  readonly tokens: number;
  /** Passes over the training text that these make. */
  readonly epochs: number;
  /** See `excessLoss()`. */
  readonly excessLoss: number;
}

/** Depths among which the time decides, ascending. */
export const DEPTHS = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32];

/** Tokens of a row in which two of the built-in conversations leave few places empty. */
export const CONVERSATION_TOKENS = 320;

/**
 * The sizes of a model by its depth: width = 64 · depth, as in nanochat and as `mini`, `small` and `gpt2` have it. A
 * small model would then be too wide for the little text and time that it is for: below a depth of 4 the width is
 * 16 · depth², in multiples of 32. Heads have 32 components, and 64 from a width of 512 on. A context of 32 · depth
 * tokens, at least 64, keeps attention's share of the operations the same; the built-in conversations need a longer one.
 *
 * @param given sizes that replace those of the dial, from whose width the heads follow, and the data.
 */
export function sizesAtDepth(depth: number, given: Partial<TrainOptions> = {}): DepthSizes {
  const width = given.width ?? 32 * Math.round(Math.min(2 * depth, depth * depth / 2));
  let heads = Math.max(1, Math.floor(width / (width < 512 ? 32 : 64)));
  while (heads > 1 && width % (4 * heads) !== 0) heads--;
  const least = given.data === "conversations" ? CONVERSATION_TOKENS : 64;
  return {
    layers: given.layers ?? depth,
    width,
    heads: given.heads ?? Math.min(heads, LARGEST.heads),
    contextLength: given.contextLength ?? Math.max(least, 32 * depth),
  };
}

/**
 * Tokens per parameter of a training that spends its operations best (Hoffmann et al. 2022,
 * https://arxiv.org/abs/2203.15556). Parameters are those of the blocks, as Kaplan et al. 2020 count them
 * (https://arxiv.org/abs/2001.08361): in a small model most others are rows of the embedding, each of which few tokens
 * need. `nano` reads 20 tokens for each of its blocks' parameters.
 */
const TOKENS_PER_PARAMETER = 20;

/**
 * Passes over a text after which another one adds little. Muennighoff et al. 2023 (https://arxiv.org/abs/2305.16264)
 * find four as good as new text, and later ones worth less and less; docs/size.md has what was measured here.
 */
const MOST_EPOCHS = 8;

/** Tokens for which a model is trained: those of the passes that are given, or as many as it needs. */
function tokensFor(
  blockParameters: number,
  { given: { epochs }, trainingTokens }: { given: Partial<TrainOptions>; trainingTokens: number },
): number {
  if (epochs !== undefined) return epochs * trainingTokens;
  return Math.min(TOKENS_PER_PARAMETER * blockParameters, MOST_EPOCHS * trainingTokens);
}

/**
 * How far a model stays above the entropy of its text, by the law of Hoffmann et al. 2022
 * (https://arxiv.org/abs/2203.15556, equation 10): 406.4 / N^0.34 + 410.7 / D^0.28 in nats per token. As Muennighoff et
 * al. 2023 found (https://arxiv.org/abs/2305.16264), tokens that are read again are worth less and less, and so are
 * parameters that the text is too small for: here, those beyond one per two tokens of it, as the small models of
 * docs/size.md gain from more than the one per 20 that they found for large ones.
 *
 * The law was fitted to models of up to 16 billion parameters and text of the web: for small models the value itself
 * means little, but it orders them as they were measured (docs/size.md).
 *
 * @param options.blockParameters N: parameters of the model's blocks.
 * @param options.tokens D: tokens that it is trained on, repeated ones included.
 * @param options.trainingTokens U: tokens of the training text.
 */
export function excessLoss(
  { blockParameters, tokens, trainingTokens }: {
    blockParameters: number;
    tokens: number;
    trainingTokens: number;
  },
): number {
  /** A number of which the part beyond `full` is worth less and less, up to `full` · `most`. */
  const worth = (count: number, full: number, most: number) =>
    count <= full ? count : full * (1 + most * (1 - Math.exp(-(count / full - 1) / most)));
  return 406.4 / worth(blockParameters, trainingTokens / 2, 5.31) ** 0.34 +
    410.7 / worth(tokens, trainingTokens, 15.39) ** 0.28;
}

/** Tokens per step of the smallest trainings, and tokens of a training up to which they suit: those of `nano`. */
const LEAST_TOKENS_PER_STEP = 1024, SMALL_TRAINING = 2 ** 21;

/**
 * Rows per batch, a power of two. The best number of tokens per step grows with those of the training to the power of
 * 0.383 (Bergsma et al. 2025, https://arxiv.org/abs/2505.13738).
 */
function rowsFor(tokens: number, tokensPerRow: number): number {
  const tokensPerStep = LEAST_TOKENS_PER_STEP * Math.max(1, tokens / SMALL_TRAINING) ** 0.383;
  return 2 ** Math.max(0, Math.round(Math.log2(tokensPerStep / tokensPerRow)));
}

/**
 * The learning rate falls with the width (Yang et al. 2022, https://arxiv.org/abs/2203.03466): 0.32 / width is that of
 * the presets but for 40 %.
 */
function learningRateFor(width: number): number {
  return Number(Math.min(0.01, 0.32 / width).toPrecision(2));
}

/**
 * AdamW averages its updates over about 1 / (rate · decay) steps, which should be a fixed share of the training (Wang
 * and Aitchison 2024, https://arxiv.org/abs/2405.13698): all of it, as in `nano`.
 */
function weightDecayFor(learningRate: number, steps: number): number {
  return Number(Math.min(1, Math.max(0.01, 1 / (learningRate * steps))).toPrecision(2));
}

/**
 * The options of a training at a depth, for a number of tokens.
 *
 * @param options.given options that are given: they replace those of the plan, and others follow from them.
 * @param options.tokens tokens to train on, repeated ones included.
 * @param options.trainingTokens tokens of the training text, each counted once.
 * @param options.ranks ranks that train together, each on `batchSize` rows at once; 1 by default.
 */
export function optionsAtDepth(
  depth: number,
  { given = {}, tokens, trainingTokens, ranks = 1 }: {
    given?: Partial<TrainOptions>;
    tokens: number;
    trainingTokens: number;
    ranks?: number;
  },
): Required<PlannedOptions> {
  const sizes = sizesAtDepth(depth, given);
  const tokensPerRow = tokensPerStepOf({ ...given, ...sizes, batchSize: 1, ranks });
  const batchSize = given.batchSize ?? rowsFor(tokens, tokensPerRow);
  const steps = given.steps ?? Math.max(1, Math.floor(tokens / (batchSize * tokensPerRow)));
  const learningRate = given.learningRate ?? learningRateFor(sizes.width);
  return {
    ...sizes,
    batchSize,
    steps,
    schedule: given.schedule ?? "cosine",
    learningRate,
    weightDecay: given.weightDecay ?? weightDecayFor(learningRate, steps),
    dropout: given.dropout ?? dropoutFor(tokens / trainingTokens),
  };
}

/** Dropout by the passes over the text, of which a model learns more by heart in each: docs/size.md has the runs. */
function dropoutFor(epochs: number): number {
  return epochs > 6 ? 0.1 : epochs > 4 ? 0.05 : 0;
}

/**
 * Plans the training of a model of a depth: it reads 20 tokens per parameter of the blocks, but the text at most 8
 * times, or as often as `given.epochs` says.
 *
 * @param depth the dial, see `sizesAtDepth()`.
 * @param options.trainingTokens tokens of the training text, each counted once.
 * @param options.ranks ranks that train together, 1 by default.
 * @param options.blockParametersOf number of parameters of the blocks of a model of these sizes.
 * @param options.given options that replace those of the plan.
 *
 * @example The sizes of a model by its depth
 * ```ts
 * import { type DepthSizes, planForDepth } from "../../mod.ts";
 *
 * const blockParametersOf = ({ layers, width }: DepthSizes) => 12 * layers * width ** 2;
 * const plan = planForDepth(4, { trainingTokens: 2e6, blockParametersOf });
 * console.log(plan.options, plan.epochs);
 * ```
 */
export function planForDepth(
  depth: number,
  { given = {}, trainingTokens, ranks = 1, blockParametersOf }: {
    given?: Partial<TrainOptions>;
    blockParametersOf: (sizes: DepthSizes) => number;
    trainingTokens: number;
    ranks?: number;
  },
): Plan {
  const blockParameters = blockParametersOf(sizesAtDepth(depth, given));
  const tokens = tokensFor(blockParameters, { given, trainingTokens });
  const options = optionsAtDepth(depth, { given, tokens, trainingTokens, ranks });
  return { depth, ...withFigures(options, { given, blockParameters, trainingTokens, ranks }) };
}

/** Share of the expected loss to which a deeper model must lower it: of two that are as good, the smaller is faster. */
const LEAST_GAIN = 0.99;

/**
 * Plans a training that ends in time: measures models of growing depth as long as each lowers the expected loss by at
 * least 1 %, see `excessLoss()`, and chooses the last that did. It ends earlier if the text was read 8 times, or
 * `given.epochs` times.
 *
 * @param seconds time of the steps alone.
 * @param options.trainingTokens tokens of the training text, each counted once.
 * @param options.ranks ranks that train together, 1 by default.
 * @param options.measure the speed of a model in training, that of all ranks; undefined if it does not fit the device.
 * @param options.depths depths to choose from, ascending.
 * @throws {UserError} if the first one does not fit.
 *
 * @example Plan for a machine whose speed is known
 * ```ts
 * import { planForSeconds } from "../../mod.ts";
 *
 * const plan = await planForSeconds(300, {
 *   trainingTokens: 2e6,
 *   measure({ layers, width }) {
 *     const blockParameters = 12 * layers * width ** 2, head = 5000 * width;
 *     const tokensPerSecond = 2e10 / (6 * (blockParameters + head));
 *     return Promise.resolve({ blockParameters, tokensPerSecond });
 *   },
 * });
 * console.log(plan.depth, plan.options.steps);
 * ```
 */
export async function planForSeconds(
  seconds: number,
  { given = {}, trainingTokens, ranks = 1, measure, depths = DEPTHS }: {
    given?: Partial<TrainOptions>;
    measure: (
      sizes: DepthSizes & { batchSize: number },
      depth: number,
    ) => Promise<Measurement | undefined>;
    depths?: readonly number[];
    trainingTokens: number;
    ranks?: number;
  },
): Promise<Plan> {
  const candidates: PlanCandidate[] = [];
  let best: PlanCandidate | undefined;
  for (const depth of depths) {
    const sizes = sizesAtDepth(depth, given);
    const { tokens: before = SMALL_TRAINING } = candidates.at(-1) ?? {};
    const tokensPerRow = tokensPerStepOf({ ...given, ...sizes, batchSize: 1, ranks });
    const batchSize = given.batchSize ?? rowsFor(before, tokensPerRow);
    const measured = await measure({ ...sizes, batchSize }, depth);
    if (!measured) break;
    const { blockParameters, tokensPerSecond } = measured;
    const inTime = seconds * tokensPerSecond;
    const inText = (given.epochs ?? MOST_EPOCHS) * trainingTokens;
    const tokens = Math.max(1, Math.min(inTime, inText));
    candidates.push({
      depth,
      blockParameters,
      tokensPerSecond,
      tokens,
      epochs: tokens / trainingTokens,
      excessLoss: excessLoss({ blockParameters, tokens, trainingTokens }),
    });
    const [smaller, last] = candidates.slice(-2);
    if (last && last.excessLoss > LEAST_GAIN * smaller!.excessLoss) break;
    best = candidates.at(-1);
    if (inTime <= 1) break; // the time is over
  }
  if (!best) {
    throw new UserError(
      `Cannot plan a training as the model of the least depth must fit: current depth is ${
        depths[0]
      }`,
    );
  }
  const { depth, blockParameters, tokens } = best;
  const options = optionsAtDepth(depth, {
    given: { schedule: "wsd", ...given },
    tokens,
    trainingTokens,
    ranks,
  });
  const figures = withFigures(options, { given, blockParameters, trainingTokens, ranks });
  return { depth, ...figures, candidates };
}

/** The plan that consists of some options, with the tokens and the passes over the text that these make. */
export function withFigures(
  options: Partial<TrainOptions> & { contextLength: number; batchSize: number; steps: number },
  { given, blockParameters, trainingTokens, ranks = 1 }: {
    given: Partial<TrainOptions>;
    blockParameters: number;
    trainingTokens: number;
    ranks?: number;
  },
): Plan {
  const { contextLength, batchSize, steps } = options;
  const tokens = steps * tokensPerStepOf({ ...given, batchSize, contextLength, ranks });
  return { options, blockParameters, tokens, epochs: tokens / trainingTokens };
}

/** A plan as lines for people. */
export function describePlan(
  { options, depth, blockParameters, tokens, epochs, candidates }: Plan,
): string {
  const figure = (value: number) => `${Number(value.toPrecision(2))}`;
  const lines = (candidates ?? []).map((tried) =>
    `depth ${tried.depth}: ${inShort(tried.blockParameters)} parameters in blocks, ${
      Math.round(tried.tokensPerSecond)
    } tok/s, ${figure(tried.tokens / tried.blockParameters)} tokens per parameter, ${
      figure(tried.epochs)
    } epochs`
  );
  const next = candidates?.at(-1)?.depth ?? depth,
    isRead = candidates?.some((tried) => tried.depth === depth && tried.epochs === MOST_EPOCHS);
  return [
    ...lines,
    (depth === undefined ? "plan" : `plan of depth ${depth}`) +
    `: ${inShort(blockParameters)} parameters in blocks, ${options.steps} steps, ${
      inShort(tokens)
    } tokens, ` +
    `${figure(tokens / blockParameters)} per parameter, ${figure(epochs)} epochs`,
    ...(next === depth ? [] : [`depth ${next} is not expected to predict better by 1 %`]),
    ...(isRead
      ? [`the text ends the training, as more than ${MOST_EPOCHS} epochs add little`]
      : []),
  ].join("\n");
}
