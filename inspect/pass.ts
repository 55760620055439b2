import { UserError } from "../files/user_error.ts";
import type { LoadedModel } from "../generate/load.ts";
import { Program } from "../kernels/program.ts";
import { rowSlices } from "../kernels/slices.ts";
import { createTensor, download, type DType, type Tensor, upload } from "../kernels/tensor.ts";
import {
  type Activations,
  createActivations,
  logitsColumns,
  type Purpose,
} from "../model/activations.ts";
import { type Gpt, headOf } from "../model/gpt.ts";
import { headLogits } from "../model/head.ts";

/**
 * One pass of a model over one text: its ids, its memory, and its logits.
 *
 * @module
 */

/**
 * The ids that a model reads: of a text those after the token that ends the document before; ids as they are.
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
    ? [tokenizer.endOfText, ...tokenizer.encode(text)]
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
    make,
    async run(record, ...read) {
      using program = new Program(device);
      record(program);
      program.run();
      return await download(device, ...read) as Float32Array[];
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
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
      (program) => headLogits(program, { x: view, weight: headOf(gpt) }, { logits }),
      logits,
    );
    for (let row = 0; row < rows; row++) {
      const start = row * columns;
      take(values!.subarray(start, start + config.vocabularySize), first + row);
    }
  }
}
