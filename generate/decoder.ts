import { Program } from "../kernels/program.ts";
import { sample, type SamplerOptions } from "../kernels/sample/sample.ts";
import {
  bytesPerElement,
  createTensor,
  download,
  type DType,
  type Tensor,
  upload,
  viewTensor,
} from "../kernels/tensor.ts";
import { createActivations, logitsColumns } from "../model/activations.ts";
import { innerWidthOf } from "../model/config.ts";
import { forward } from "../model/forward_backward.ts";
import { type Gpt, headOf } from "../model/gpt.ts";
import { headLogits } from "../model/head.ts";
import { dtypesOf } from "../model/precision.ts";

/** Texts that a model continues side by side, with the keys and values of the tokens that it has read. */
export interface Decoder extends Disposable {
  /**
   * Draws the next tokens of every text and reads them back, all at once.
   *
   * @returns what was drawn for every text; a token that is not below V says that nothing could be drawn,
   * see `checkSample()`.
   * @throws {RangeError} if the texts would get longer than they were said to.
   * @throws {DeviceError} if the device fails.
   */
  next(count: number): Promise<Uint32Array[]>;
  /** What the last token of every text was drawn from, f32 [B,W], the first V columns. */
  readonly logits: Tensor;
  /** What draws one token of every text. */
  readonly pass: Program;
  /** Frees everything but the model. */
  destroy(): void;
}

/** What a decoder continues, and how. */
export interface DecoderOptions {
  /** The tokens of each text, at least one. */
  texts: readonly (readonly number[])[];
  /** A seed for each text's draws. */
  seeds: readonly number[];
  /** Most tokens that each text gets. */
  maxNewTokens: number;
  /** How tokens are drawn. */
  sampler: SamplerOptions;
}

/**
 * Where the model's view of a text begins once `length` tokens have been read.
 *
 * GPT-2 knows `contextLength` positions. A longer text is seen from a later token on, and that start
 * moves by half a context at a time: the model always sees at least half a context, and the cache,
 * which holds positions from the start, is filled anew only once every half context.
 */
export function windowStart(length: number, contextLength: number): number {
  if (length <= contextLength) return 0;
  const stride = Math.max(1, Math.floor(contextLength / 2));
  return Math.ceil((length - contextLength) / stride) * stride;
}

/** Most texts side by side: beyond, a large GPU is busy anyway. */
const MOST_TEXTS = 256;

/**
 * Texts of `length` tokens that a decoder holds at most: so many that their tokens, keys, values, logits and
 * activations each fit into one binding. That bounds memory by a limit of the device itself.
 */
export function mostTexts(
  { device, config, precision }: Pick<Gpt, "device" | "config" | "precision">,
  length: number,
): number {
  const { contextLength, width, layers } = config;
  const bytes = bytesPerElement(dtypesOf(precision).matrix);
  const cacheBytes = 2 * layers * Math.min(contextLength, length) * width * bytes;
  const widest = Math.max(3 * width, innerWidthOf(config));
  const readBytes = KNOWN_TOKENS[device.isCpu ? "cpu" : "gpu"] * widest * bytes;
  const largest = Math.max(cacheBytes, readBytes, 4 * logitsColumns(config), 4 * length);
  const fitting = Math.floor(device.maxBindingBytes / largest);
  return Math.max(1, Math.min(MOST_TEXTS, fitting));
}

/** Tokens of each text that one pass reads if they are known already. */
const KNOWN_TOKENS = { gpu: 64, cpu: 16 };

/** Tokens that are drawn in one submit: the device begins while the next are still being encoded. */
const SUBMIT_TOKENS = 16;

/** A text on the device. */
interface Text {
  /** Tokens that it has. */
  length: number;
  /** Token at position 0. */
  start: number;
  /** Tokens that the model has read: all but the last when the next is to be drawn. */
  read: number;
}

/**
 * Allocates texts and caches, and records two passes: one reads the last token of every text, draws the
 * next and appends it; the other reads several tokens that are known, a prompt or the half context that
 * stays when the window moves, and draws nothing. Only drawn tokens come back to the host: how long texts
 * are and where their windows begin it knows without looking.
 *
 * @throws {RangeError} if a text is empty or has a token that is not of the vocabulary, or if an option
 * of the sampler is out of range.
 */
export function createDecoder(
  model: Gpt,
  { texts, seeds, maxNewTokens, sampler }: DecoderOptions,
): Decoder {
  const { device, config, precision } = model;
  const { vocabularySize: V, contextLength: maxT, width: C, layers, heads: NH } = config;
  const { matrix } = dtypesOf(precision);
  for (const text of texts) {
    const unknown = text.find((id) => !Number.isInteger(id) || id < 0 || id >= V);
    if (unknown === undefined && text.length > 0) continue;
    throw new RangeError(
      `Cannot predict a token as the text must be one or more ids below ${V}: ` +
        `current ${unknown === undefined ? "text is empty" : `id is ${unknown}`}`,
    );
  }
  const longest = texts.reduce((most, { length }) => Math.max(most, length), 0);
  const B = texts.length, N = longest + maxNewTokens;

  const owned = new DisposableStack();
  const make = (name: string, shape: number[], dtype: DType) =>
    owned.adopt(createTensor(device, name, { shape, dtype }), ({ buffer }) => buffer.destroy());
  const tokens = make("tokens", [B, N], "u32");
  const cursors = make("cursors", [B, 2], "u32"); // next token to read, token at position 0
  const cacheShape = [B, NH, Math.min(maxT, N), C / NH];
  const cache = {
    cursors,
    layers: Array.from({ length: layers }, (_, i) => ({
      keys: make(`keys ${i}`, cacheShape, matrix),
      values: make(`values ${i}`, cacheShape, matrix),
    })),
  };
  const seedOf = make("seeds", [B], "u32");
  const logits = make("logits", [B, logitsColumns(config)], "f32");
  upload(device, seedOf, seeds);
  const partOf = (b: number, { first, count }: { first: number; count: number }) =>
    viewTensor(tokens, { offset: b * N + first, shape: [count] });
  texts.forEach((text, b) => {
    upload(device, partOf(b, { first: 0, count: text.length }), text);
  });

  /** Records the pass over the next `count` tokens of every text. */
  const recordPass = (count: number) => {
    const program = owned.use(new Program(device));
    const batch = { batchSize: B, sequenceLength: count };
    const activations = owned.use(
      createActivations(device, config, { batch, precision, purpose: "generation" }),
    );
    return { program, output: forward(program, model, { tokens, cache }, activations) };
  };
  const { program: drawing, output: { x, ...norm } } = recordPass(1);
  headLogits(drawing, { x, weight: headOf(model) }, { logits }, norm);
  sample(drawing, { logits, seeds: seedOf }, { tokens, cursors }, {
    ...sampler,
    vocabularySize: V,
  });
  const knownTokens = KNOWN_TOKENS[device.isCpu ? "cpu" : "gpu"];
  // needed when a text has more than one token to read
  let reading = texts.some(({ length }) => length > 1)
    ? recordPass(knownTokens).program
    : undefined;

  const state = texts.map(({ length }): Text => ({ length, start: 0, read: 0 }));
  const moveCursors = () =>
    upload(device, cursors, state.flatMap(({ read, start }) => [read, start]));
  const moveWindows = () => {
    for (const text of state) {
      const start = windowStart(text.length, maxT);
      if (start !== text.start) text.read = text.start = start;
    }
  };
  const readKnown = () => {
    while (state.some(({ read, length }) => read < length - 1)) {
      reading ??= recordPass(knownTokens).program;
      moveCursors();
      reading.run();
      for (const text of state) text.read = Math.min(text.read + knownTokens, text.length - 1);
    }
  };
  const draw = (most: number) => {
    const count = state.reduce( // until a window moves
      (least, { start, length }) => Math.min(least, start + maxT + 1 - length),
      Math.min(most, SUBMIT_TOKENS),
    );
    moveCursors(); // from here to the end of the submit the sampler moves them
    drawing.run({ repeats: count });
    for (const text of state) {
      text.length += count;
      text.read += count;
    }
    return count;
  };
  const destroy = () => owned.dispose();
  return {
    logits,
    pass: drawing,
    async next(count) {
      if (state.some(({ length }) => length + count > N)) {
        throw new RangeError(
          `Cannot draw ${count} tokens as no text may have more than ${N} in all: ` +
            `current lengths are ${state.map(({ length }) => length)}`,
        );
      }
      for (let left = count; left > 0;) {
        moveWindows();
        readKnown();
        left -= draw(left);
      }
      const drawn = state.map(({ length }, b) => partOf(b, { first: length - count, count }));
      return await download(device, ...drawn) as Uint32Array[];
    },
    destroy,
    [Symbol.dispose]: destroy,
  };
}
