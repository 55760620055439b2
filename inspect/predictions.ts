import { UserError } from "../files/user_error.ts";
import { windowStart } from "../generate/slots.ts";
import type { LoadedModel } from "../generate/load.ts";
import { DIVERGED } from "../kernels/sample/sample.ts";
import { forward } from "../model/forward_backward.ts";
import { normForward } from "../model/norm.ts";
import type { ReadText } from "./inspect.ts";
import { idsOf, preparePass, readLogits } from "./pass.ts";
import {
  highest,
  lossesOf,
  rememberedTokens,
  type Token,
  type TokenProbability,
} from "./tokens.ts";

/**
 * What a model expects at each position of a text: of the whole model, and of the residual stream after each block.
 *
 * @module
 */

/** What a model expects at one position of a text. */
export interface Prediction {
  /** The likeliest next tokens, in descending order. */
  readonly top: readonly TokenProbability[];
  /** Entropy of the distribution of the next token, in nats. */
  readonly entropy: number;
  /** The token that does come next; absent after the last token of the text. */
  readonly next?: NextToken;
}

/** How well a model predicts a token of a text. */
export interface NextToken extends TokenProbability {
  /** 1 if it is the likeliest token, 2 if one is likelier, and so on; among equals the lower id comes first. */
  readonly rank: number;
  /** −ln of its probability, in nats. */
  readonly loss: number;
}

/** What a model expects at each position of a text. */
export interface TextPredictions extends ReadText {
  /** The tokens of `ids`, [T]. */
  readonly tokens: readonly Token[];
  /** [T − from]: what the model expects after each token, from position `from` on. */
  readonly predictions: readonly Prediction[];
}

/**
 * Computes what a model expects at each position of a text: the likeliest next tokens, and probability and rank of
 * the token that comes next.
 *
 * The text may be longer than the model's context. Then the model sees the windows that `generate()` sees: they move by
 * half a context.
 *
 * @param options.top number of likeliest tokens per position; 10 by default.
 * @param options.from the first position of interest: predictions are those of positions `from` to T − 1.
 * @param options.signal is checked before each window; its reason is thrown when it has aborted.
 * @throws {UserError} if the text has no token, or an id is outside the vocabulary, or if the logits are not finite.
 *
 * @example See where a model expected another word
 * ```ts
 * import { loadModel, openDevice, predictionsOf } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const { predictions } = await predictionsOf(model, "Once upon a time there was a helicopter.");
 * for (const { next, top: [likeliest] } of predictions) {
 *   if (next) console.log(next.text, next.probability, "rank", next.rank, "not", likeliest!.text);
 * }
 * ```
 */
export async function predictionsOf(
  model: LoadedModel,
  text: string | readonly number[],
  { top = 10, from = 0, signal }: { top?: number; from?: number; signal?: AbortSignal } = {},
): Promise<TextPredictions> {
  const { gpt, tokenizer } = model, tokenAt = rememberedTokens(tokenizer);
  const ids = idsOf(model, text, { most: Infinity });
  const startAt = (t: number) => windowStart(t + 1, gpt.config.contextLength);
  const predictions: Prediction[] = [];
  for (let t = from; t < ids.length; t = from + predictions.length) {
    signal?.throwIfAborted();
    const start = startAt(t);
    let end = t + 1;
    while (end < ids.length && startAt(end) === start) end++;
    using pass = preparePass(gpt, { tokens: ids.slice(start, end), purpose: "evaluation" });
    await pass.run((program) => forward(program, gpt, pass, pass.activations));
    await readLogits(gpt, pass, (logits, row) => {
      if (start + row < t) return; // known from the window before, or not wanted
      predictions.push(predictionOf(logits, { top, next: ids[start + row + 1], tokenAt }));
    });
  }
  return { ids, tokens: ids.map(tokenAt), predictions };
}

/** What a model expects at each position of a text, layer by layer. */
export interface TextLens extends ReadText {
  /** The tokens of `ids`, [T]. */
  readonly tokens: readonly Token[];
  /**
   * [L+1][T]: what the residual stream says after 0, 1, … L blocks. Row 0 is that of the embeddings; the last row is
   * what the model expects.
   */
  readonly layers: readonly (readonly Prediction[])[];
}

/**
 * Computes the logit lens of a text (nostalgebraist 2020,
 * https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens): the residual stream before the
 * first block and after each block goes through the last norm and the head, as if the blocks that follow did
 * nothing.
 *
 * @param options.top number of likeliest tokens per layer and position; 5 by default.
 * @throws {UserError} as `logitsOf()` does, or if the logits are not finite.
 *
 * @example See in which layer a model decides for the next word
 * ```ts
 * import { loadModel, logitLensOf, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const { layers } = await logitLensOf(model, "Once upon a");
 * layers.forEach((predictions, layer) => console.log(layer, predictions.at(-1)!.top[0]!.text));
 * ```
 */
export async function logitLensOf(
  model: LoadedModel,
  text: string | readonly number[],
  { top = 5 }: { top?: number } = {},
): Promise<TextLens> {
  const { gpt } = model, { layers: L } = gpt.config;
  const ids = idsOf(model, text);
  // only training keeps the residual stream of every layer
  using pass = preparePass(gpt, { tokens: ids, purpose: "training" });
  const { at } = pass.activations, tokenAt = rememberedTokens(model.tokenizer);
  await pass.run((program) => forward(program, gpt, pass, pass.activations));
  const layers: Prediction[][] = [];
  for (let blocks = 0; blocks <= L; blocks++) {
    const x = blocks === 0 ? at("x") : at("out", blocks - 1);
    await pass.run((program) =>
      normForward(program, gpt, "ln_f", { x }, {
        y: at("lnf"),
        statistics: at("lnf.statistics"),
      })
    );
    const predictions: Prediction[] = [];
    await readLogits(gpt, pass, (logits, t) => {
      predictions.push(predictionOf(logits, { top, next: ids[t + 1], tokenAt }));
    });
    layers.push(predictions);
  }
  return { ids, tokens: ids.map(tokenAt), layers };
}

function predictionOf(
  logits: Float32Array,
  { top, next, tokenAt }: {
    top: number;
    next: number | undefined;
    tokenAt: (id: number) => Token;
  },
): Prediction {
  const losses = lossesOf(logits);
  if (!losses) {
    throw new UserError("Cannot compute probabilities as the model's logits must be finite", {
      hint: DIVERGED,
    });
  }
  const { loss, entropy } = losses;
  const described = (id: number) => ({ ...tokenAt(id), probability: Math.exp(-loss(id)) });
  return {
    top: highest(logits, top).map(described),
    entropy,
    ...(next === undefined
      ? {}
      : { next: { ...described(next), rank: rankOf(logits, next), loss: loss(next) } }),
  };
}

/** 1 plus the number of tokens before this one in the order of `highest()`. */
function rankOf(logits: Float32Array, id: number): number {
  const logit = logits[id]!;
  let rank = 1;
  for (let other = 0; other < logits.length; other++) {
    if (logits[other]! > logit || (logits[other] === logit && other < id)) rank++;
  }
  return rank;
}
