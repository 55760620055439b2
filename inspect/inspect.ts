import { UserError } from "../files/user_error.ts";
import type { LoadedModel } from "../generate/load.ts";
import { forward } from "../model/forward_backward.ts";
import { headMatrixOf } from "../model/gpt.ts";
import { headLossForward } from "../model/head.ts";
import {
  attentionByLayer,
  idsOf,
  oneRow,
  prepareBackward,
  preparePass,
  readLogits,
  USUAL_STEP,
} from "./pass.ts";

/**
 * What a model computes when it reads one text: logits, losses, gradients, attention weights. No dropout; the
 * model does not change.
 *
 * A text is read as a document of the training: its tokens after the token that ends the document before. Ids of
 * tokens are read as they are.
 *
 * @module
 */

/** The tokens that a model read. */
export interface ReadText {
  /** Their ids, [T]. */
  readonly ids: readonly number[];
}

/** The logits of a text. */
export interface TextLogits extends ReadText {
  /** f32 [T,V]: row t holds the logits of the token after `ids[t]`. */
  readonly logits: Float32Array;
}

/**
 * Computes the logits of a text.
 *
 * @throws {UserError} if the text is longer than the model's context, or an id is outside the vocabulary.
 *
 * @example Find the token that is the likeliest to come next
 * ```ts
 * import { loadModel, logitsOf, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const { ids, logits } = await logitsOf(model, "Once upon a");
 * const next = logits.subarray((ids.length - 1) * model.tokenizer.vocabularySize);
 * console.log(model.tokenizer.decode([next.indexOf(next.reduce((a, b) => Math.max(a, b)))]));
 * ```
 */
export async function logitsOf(
  model: LoadedModel,
  text: string | readonly number[],
): Promise<TextLogits> {
  const { gpt } = model, { vocabularySize: V } = gpt.config;
  const ids = idsOf(model, text);
  using pass = preparePass(gpt, { tokens: ids, purpose: "evaluation" });
  await pass.run((program) => forward(program, gpt, pass, pass.activations));
  const logits = new Float32Array(ids.length * V);
  await readLogits(gpt, pass, (values, t) => logits.set(values, t * V));
  return { ids, logits };
}

/** How well a model predicts a text. */
export interface TextLoss extends ReadText {
  /** f32 [T−1]: the loss of `ids[t + 1]` in nats, which the model predicts from the tokens up to `ids[t]`. */
  readonly losses: Float32Array;
  /** Their mean. */
  readonly loss: number;
}

/**
 * Computes the loss of a text.
 *
 * @throws {UserError} as `logitsOf()` does, or if there is no token to predict.
 *
 * @example See which words surprise a model
 * ```ts
 * import { loadModel, lossOf, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const { ids, losses } = await lossOf(model, "Once upon a time there was a helicopter.");
 * losses.forEach((loss, t) => console.log(loss, model.tokenizer.decode([ids[t + 1]!])));
 * ```
 */
export async function lossOf(
  model: LoadedModel,
  text: string | readonly number[],
): Promise<TextLoss> {
  const { gpt } = model, ids = idsOf(model, text), batch = oneRow(ids);
  using pass = preparePass(gpt, { tokens: batch.inputs, purpose: "evaluation" });
  const { activations, make, run } = pass, { at } = activations;
  const targets = make("targets", [batch.counted], "u32", batch.targets);
  const [losses] = await run((program) => {
    forward(program, gpt, pass, activations);
    headLossForward(program, { x: at("lnf"), ...headMatrixOf(gpt), targets }, {
      logits: at("logits"),
      losses: at("losses"),
    });
  }, at("losses"));
  return { ids, losses: losses!, loss: meanOf(losses!) };
}

/** The gradients of a text's loss. */
export interface TextGradients extends ReadText {
  /** The mean loss, as `lossOf()` has it. */
  readonly loss: number;
  /** By the name of each trained parameter, in its shape: `gpt.table` has both. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

/**
 * Computes the gradients of a text's mean loss. Parameters and gradients of the model's size are allocated on the
 * device and on the host.
 *
 * @throws {UserError} as `lossOf()` does.
 *
 * @example Compare the gradients of two layers
 * ```ts
 * import { gradientsOf, loadModel, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const { gradients } = await gradientsOf(model, "Once upon a time");
 * for (const name of ["h.0.mlp.c_fc.weight", "h.1.mlp.c_fc.weight"]) {
 *   console.log(name, Math.hypot(...gradients.get(name)!.subarray(0, 1000)));
 * }
 * ```
 */
export async function gradientsOf(
  model: LoadedModel,
  text: string | readonly number[],
): Promise<TextGradients> {
  const { gpt } = model, ids = idsOf(model, text), batch = oneRow(ids), { counted } = batch;
  // gradients of each target are as large as in a training step
  const scalePerTarget = USUAL_STEP.lossScale / USUAL_STEP.targetsPerStep;
  const lossScale = gpt.precision === "f16" ? scalePerTarget * counted : 1;
  using pass = prepareBackward(gpt, batch, { lossScale, targets: counted });
  const { tensors } = pass.gradients;
  const [losses, ...scaled] = await pass.run(
    pass.record,
    pass.activations.at("losses"),
    ...tensors.values(),
  );
  const gradients = new Map(
    [...tensors.keys()].map((name, i) => [name, scaled[i]!.map((value) => value / lossScale)]),
  );
  return { ids, loss: meanOf(losses!), gradients };
}

/** The attention weights of a text. */
export interface TextAttention extends ReadText {
  /**
   * f32 [NH,T,T]: the weight of key s for query t of head h is at `(h · T + t) · T + s`. The weights of a query add
   * up to 1; those of keys that it does not see are 0.
   */
  readonly weights: Float32Array;
}

/**
 * Computes the attention weights of a layer.
 *
 * @param options.layer number of the layer, from 0.
 * @throws {UserError} as `logitsOf()` does, or if there is no such layer.
 *
 * @example Find the token that the last token attends to most
 * ```ts
 * import { attentionWeightsOf, loadModel, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const { ids, weights } = await attentionWeightsOf(model, "Lily had a cat. The cat", { layer: 1 });
 * const last = weights.subarray((ids.length - 1) * ids.length, ids.length ** 2); // of head 0
 * console.log(model.tokenizer.decode([ids[last.indexOf(Math.max(...last))]!]));
 * ```
 */
export async function attentionWeightsOf(
  model: LoadedModel,
  text: string | readonly number[],
  { layer }: { layer: number },
): Promise<TextAttention> {
  const { gpt } = model, { layers } = gpt.config, ids = idsOf(model, text);
  if (!Number.isInteger(layer) || layer < 0 || layer >= layers) {
    throw new UserError(
      `Cannot show attention as the layer must be 0 to ${layers - 1}: current value is ${layer}`,
    );
  }
  const [weights] = await Array.fromAsync(attentionByLayer(gpt, ids, [layer]));
  return { ids, weights: weights! };
}

function meanOf(losses: Float32Array): number {
  return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
}
