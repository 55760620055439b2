import { type Batch, batchOf } from "../data/tokens/batch.ts";
import { UserError } from "../files/user_error.ts";
import type { LoadedModel } from "../generate/load.ts";
import type { Arena } from "../kernels/arena.ts";
import { attentionWeights } from "../kernels/attention/weights.ts";
import { Program } from "../kernels/program.ts";
import { rowSlices } from "../kernels/slices.ts";
import { createTensor, download, type DType, type Tensor, upload } from "../kernels/tensor.ts";
import {
  type Activations,
  createActivations,
  logitsColumns,
  type Purpose,
} from "../model/activations.ts";
import { attentionOf, headsOf } from "../model/config.ts";
import { backward, forward } from "../model/forward_backward.ts";
import { type Gpt, headMatrixOf } from "../model/gpt.ts";
import { headLogits } from "../model/head.ts";
import { createTrainedArena } from "../train/optimizer.ts";
import { INITIAL_SCALE } from "../train/step_state.ts";

/**
 * One pass of a model over one text: its ids, its memory, and what is read of it.
 *
 * @module
 */

/**
 * The ids that a model reads: of a text those after the token that begins it or ends the document before; ids as they are.
 *
 * @param options.most most ids; by default as many as the model's context has.
 * @throws {UserError} if there are none or too many, or one is outside the vocabulary.
 */
export function idsOf(
  { gpt, tokenizer }: LoadedModel,
  text: string | readonly number[],
  { most = gpt.config.contextLength }: { most?: number } = {},
): number[] {
  const ids = typeof text === "string"
    ? [tokenizer.beginOfText ?? tokenizer.endOfText, ...tokenizer.encode(text)]
    : [...text];
  const { vocabularySize } = gpt.config;
  const unknown = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabularySize);
  if (unknown !== undefined) {
    throw new UserError(
      `Cannot read a text as its ids must be 0 to ${vocabularySize - 1}: current id is ${unknown}`,
    );
  }
  if (ids.length === 0 || ids.length > most) {
    throw new UserError(
      `Cannot read a text as the model sees 1 to ${gpt.config.contextLength} tokens: ` +
        `current number is ${ids.length}`,
      ids.length === 0 ? {} : { hint: "Give a shorter text" },
    );
  }
  return ids;
}

/** The memory of one pass over a text, and a way to run launches. */
export interface Pass extends Disposable {
  readonly activations: Activations;
  /** u32 [T]: the ids. */
  readonly tokens: Tensor;
  /** Allocates a tensor with these values, or zero. */
  make(
    name: string,
    shape: readonly number[],
    dtype: DType,
    values?: ArrayLike<number>,
  ): Tensor;
  /** Records launches, runs them, and reads tensors back. */
  run(record: (program: Program) => void, ...read: Tensor[]): Promise<Float32Array[]>;
}

/** Allocates the memory of one pass. */
export function preparePass(
  { device, config, precision }: Gpt,
  { tokens, purpose }: { tokens: ArrayLike<number>; purpose: Purpose },
): Pass {
  const owned = new DisposableStack();
  const make: Pass["make"] = (name, shape, dtype, values) => {
    const tensor = createTensor(device, name, { shape, dtype });
    owned.defer(() => tensor.buffer.destroy());
    if (values) upload(device, tensor, values);
    return tensor;
  };
  const batch = { batchSize: 1, sequenceLength: tokens.length };
  return {
    activations: owned.use(createActivations(device, config, { batch, precision, purpose })),
    tokens: make("tokens", [tokens.length], "u32", tokens),
    make,
    async run(record, ...read) {
      using program = new Program(device);
      record(program);
      await program.compiling();
      program.run();
      return await download(device, ...read) as Float32Array[];
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** Targets and loss scale of a step in f16, where those of the training are not known. */
export const USUAL_STEP = { targetsPerStep: 4096, lossScale: INITIAL_SCALE } as const;

/** A forward pass and a backward pass. */
export interface BackwardPass extends Pass {
  /** The gradients of the trained parameters. */
  readonly gradients: Arena;
  /** Records the forward and the backward pass. */
  record(program: Program): void;
}

/**
 * Allocates the memory of a forward and a backward pass over a batch of one row.
 *
 * @param options.lossScale factor of all gradients.
 * @param options.targets number of targets by which the sum of the losses is divided.
 */
export function prepareBackward(
  gpt: Gpt,
  { inputs: tokens, targets, order, counted }: Batch,
  options: { lossScale: number; targets: number },
): BackwardPass {
  const owned = new DisposableStack();
  const pass = owned.use(preparePass(gpt, { tokens, purpose: "training" }));
  const inputs = {
    tokens: pass.tokens,
    targets: pass.make("targets", [counted], "u32", targets),
    order: pass.make("order", [counted], "u32", order),
    stepInputs: pass.make("stepInputs", [3], "f32", [0, 1 / options.targets, 0]),
    lossScale: pass.make("lossScale", [1], "f32", [options.lossScale]),
  };
  const gradients = createTrainedArena(gpt, "gradients");
  owned.defer(() => gradients.flat.buffer.destroy());
  return {
    ...pass,
    gradients,
    record(program) {
      forward(program, gpt, pass, pass.activations);
      backward(program, gpt, inputs, pass.activations, gradients);
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/**
 * A batch whose only row is a text.
 *
 * @throws {UserError} if there is no token to predict.
 */
export function oneRow(ids: readonly number[]): Batch {
  if (ids.length < 2) {
    throw new UserError(
      `Cannot compute the loss of a text as it must have 2 tokens or more: it has ${ids.length}`,
    );
  }
  return batchOf([ids], { contextLength: ids.length - 1, padding: 0 });
}

/**
 * Reads the logits that the head computes from the activation `lnf`, chunk by chunk, so that [T,V] logits need not
 * exist at once.
 *
 * @param take is called with the logits of each position in order, f32 [V], which are valid until the next call.
 */
export async function readLogits(
  gpt: Gpt,
  { activations, run }: Pick<Pass, "activations" | "run">,
  take: (logits: Float32Array, t: number) => void,
): Promise<void> {
  const { config, device } = gpt, columns = logitsColumns(config);
  const stored = activations.at("logits"), [maxRows] = stored.shape as [number];
  for (const { first, rows, view } of rowSlices(device, activations.at("lnf"), { maxRows })) {
    const logits = { ...stored, shape: [rows, columns] };
    const [values] = await run(
      (program) => headLogits(program, { x: view, ...headMatrixOf(gpt) }, { logits }),
      logits,
    );
    for (let row = 0; row < rows; row++) {
      const start = row * columns;
      take(values!.subarray(start, start + config.vocabularySize), first + row);
    }
  }
}

/**
 * Computes the attention weights of layers, one layer after another, since those of all layers may not fit the memory.
 *
 * @returns f32 [NH,T,T] per layer.
 */
export async function* attentionByLayer(
  gpt: Gpt,
  ids: readonly number[],
  layers: Iterable<number> = Array(gpt.config.layers).keys(),
): AsyncGenerator<Float32Array, void> {
  const { heads, keyHeads } = headsOf(gpt.config), T = ids.length;
  // only training keeps the queries and keys of every layer
  using pass = preparePass(gpt, { tokens: ids, purpose: "training" });
  const { activations, make, run } = pass, { at } = activations;
  const p = make("attention weights", [1, heads, T, T], "f32");
  await run((program) => forward(program, gpt, pass, activations));
  for (const layer of layers) {
    const read = { qkv: at("qkv", layer), logSumExp: at("attention.logSumExp", layer) };
    const options = { T, heads, keyHeads, ...attentionOf(gpt.config, layer) };
    const [weights] = await run((program) => attentionWeights(program, read, { p }, options), p);
    yield weights!;
  }
}
