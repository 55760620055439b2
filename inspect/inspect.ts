import { type Batch, batchOf } from "../data/tokens/batches.ts";
import { UserError } from "../files/user_error.ts";
import type { LoadedModel } from "../generate/load.ts";
import { attentionWeights } from "../kernels/attention/weights.ts";
import { Program } from "../kernels/program.ts";
import { rowSlices } from "../kernels/slices.ts";
import { createTensor, download, type DType, type Tensor, upload } from "../kernels/tensor.ts";
import { createActivations, logitsColumns, type Purpose } from "../model/activations.ts";
import { attentionOf } from "../model/config.ts";
import { backward, forward } from "../model/forward_backward.ts";
import { type Gpt, headOf } from "../model/gpt.ts";
import { headLogits, headLossForward } from "../model/head.ts";
import { createTrainedArena } from "../train/optimizer.ts";

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
  const { gpt } = model, { config, device } = gpt, { vocabularySize: V } = config;
  const ids = idsOf(model, text);
  using pass = prepare(gpt, { tokens: ids, purpose: "evaluation" });
  const { activations, run } = pass;
  await run((program) => forward(program, gpt, pass, activations));
  const logits = new Float32Array(ids.length * V);
  const stored = activations.at("logits"), columns = logitsColumns(config);
  const [maxRows] = stored.shape as [number];
  for (const { first, rows, view } of rowSlices(device, activations.at("lnf"), { maxRows })) {
    const chunk = { ...stored, shape: [rows, columns] };
    const [values] = await run(
      (program) => headLogits(program, { x: view, weight: headOf(gpt) }, { logits: chunk }),
      chunk,
    );
    for (let row = 0; row < rows; row++) {
      logits.set(values!.subarray(row * columns, row * columns + V), (first + row) * V);
    }
  }
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
  using pass = prepare(gpt, { tokens: batch.inputs, purpose: "evaluation" });
  const { activations, make, run } = pass, { at } = activations;
  const targets = make("targets", [batch.counted], "u32", batch.targets);
  const [losses] = await run((program) => {
    forward(program, gpt, pass, activations);
    headLossForward(program, { x: at("lnf"), weight: headOf(gpt), targets }, {
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

/** Loss scale per target: as in training, where 4,096 targets share the scale 65,536. */
const SCALE_PER_TARGET = 16;

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
  using pass = prepare(gpt, { tokens: batch.inputs, purpose: "training" });
  const { activations, tokens, make, run } = pass;
  const scale = gpt.precision === "f16" ? SCALE_PER_TARGET * counted : 1;
  const inputs = {
    tokens,
    targets: make("targets", [counted], "u32", batch.targets),
    order: make("order", [counted], "u32", batch.order),
    stepInputs: make("stepInputs", [2], "f32", [0, 1 / counted]),
    lossScale: make("lossScale", [1], "f32", [scale]),
  };
  const arena = createTrainedArena(gpt, "gradients");
  using _ = { [Symbol.dispose]: () => arena.flat.buffer.destroy() };
  const names = [...arena.tensors.keys()];
  const [losses, ...scaled] = await run(
    (program) => {
      forward(program, gpt, pass, activations);
      backward(program, gpt, inputs, activations, arena);
    },
    activations.at("losses"),
    ...arena.tensors.values(),
  );
  const gradients = new Map(
    names.map((name, i) => [name, scaled[i]!.map((value) => value / scale)]),
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
  const { gpt } = model, { layers, heads } = gpt.config, ids = idsOf(model, text), T = ids.length;
  if (!Number.isInteger(layer) || layer < 0 || layer >= layers) {
    throw new UserError(
      `Cannot show attention as the layer must be 0 to ${layers - 1}: current value is ${layer}`,
    );
  }
  // only training keeps the queries and keys of every layer
  using pass = prepare(gpt, { tokens: ids, purpose: "training" });
  const { activations, make, run } = pass, { at } = activations;
  const p = make("attention weights", [1, heads, T, T], "f32");
  const [weights] = await run((program) => {
    forward(program, gpt, pass, activations);
    const read = { qkv: at("qkv", layer), logSumExp: at("attention.logSumExp", layer) };
    attentionWeights(program, read, { p }, { T, heads, ...attentionOf(gpt.config, layer) });
  }, p);
  return { ids, weights: weights! };
}

/** The tokens of a text. */
function idsOf({ gpt, tokenizer }: LoadedModel, text: string | readonly number[]): number[] {
  const ids = typeof text === "string"
    ? [tokenizer.endOfText, ...tokenizer.encode(text)]
    : [...text];
  const { contextLength, vocabularySize } = gpt.config;
  const unknown = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabularySize);
  if (unknown !== undefined) {
    throw new UserError(
      `Cannot read a text as its ids must be 0 to ${vocabularySize - 1}: current id is ${unknown}`,
    );
  }
  if (ids.length === 0 || ids.length > contextLength) {
    throw new UserError(
      `Cannot read a text as the model sees 1 to ${contextLength} tokens: ` +
        `current number is ${ids.length}`,
    );
  }
  return ids;
}

/** A batch whose only row is a text. */
function oneRow(ids: readonly number[]): Batch {
  if (ids.length < 2) {
    throw new UserError(
      `Cannot compute the loss of a text as it must have 2 tokens or more: it has ${ids.length}`,
    );
  }
  return batchOf([ids], { contextLength: ids.length - 1, padding: 0 });
}

function meanOf(losses: Float32Array): number {
  return losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
}

/** The memory of one pass over a text, and a way to run launches. */
function prepare(
  { device, config, precision }: Gpt,
  { tokens, purpose }: { tokens: ArrayLike<number>; purpose: Purpose },
) {
  const owned = new DisposableStack();
  const make = (
    name: string,
    shape: readonly number[],
    dtype: DType,
    values?: ArrayLike<number>,
  ) => {
    const tensor = createTensor(device, name, { shape, dtype });
    owned.defer(() => tensor.buffer.destroy());
    if (values) upload(device, tensor, values);
    return tensor;
  };
  const batch = { batchSize: 1, sequenceLength: tokens.length };
  return {
    activations: owned.use(createActivations(device, config, { batch, precision, purpose })),
    tokens: make("tokens", [tokens.length], "u32", tokens),
    /** Allocates a tensor with these values, or zero. */
    make,
    /** Records launches, runs them, and reads tensors back. */
    async run(record: (program: Program) => void, ...read: Tensor[]): Promise<Float32Array[]> {
      using program = new Program(device);
      record(program);
      program.run();
      return await download(device, ...read) as Float32Array[];
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}
