import { Program } from "../kernels/program.ts";
import {
  hasPenalties,
  sample,
  type SamplerOptions,
  samplerSettings,
  SETTINGS,
} from "../kernels/sample/sample.ts";
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
import { headsOf, innerWidthOf } from "../model/config.ts";
import { forward } from "../model/forward_backward.ts";
import { type Gpt, headOf } from "../model/gpt.ts";
import { headLogits } from "../model/head.ts";
import { dtypesOf } from "../model/precision.ts";

/** Sequences of tokens that a model continues in one batch, with the keys and values of the tokens that it has read. */
export interface Decoder extends Disposable {
  /**
   * Draws the next `count` tokens of every sequence, then reads all of them back at once.
   *
   * @returns the tokens of each sequence; one that is not below V means that none could be drawn, see
   * `checkSample()`.
   * @throws {RangeError} if more than `maxNewTokens` would be drawn for the longest prompt.
   * @throws {DeviceError} if the device fails.
   */
  next(count: number): Promise<Uint32Array[]>;
  /** The logits from which the last token of every sequence was drawn, f32 [B,W], of which the first V columns count. */
  readonly logits: Tensor;
  /** The launches that draw one token of every sequence. */
  readonly pass: Program;
  /** Frees everything but the model. */
  destroy(): void;
}

/** Prompts of a decoder, and how it continues them. */
export interface DecoderOptions {
  /** The tokens of each prompt, at least one. */
  prompts: readonly (readonly number[])[];
  /** The seed of the sampler for each prompt. */
  seeds: readonly number[];
  /** Tokens drawn per prompt, at most. */
  maxNewTokens: number;
  /** How tokens are drawn. */
  sampler: SamplerOptions;
}

/**
 * First token that the model sees of a sequence of `length` tokens.
 *
 * GPT-2 has `contextLength` positions. Of a longer sequence it sees a window, which moves by half a context at a
 * time: the window always has at least half a context, and the cache, which holds the positions of the window, is
 * filled again only once per half context.
 */
export function windowStart(length: number, contextLength: number): number {
  if (length <= contextLength) return 0;
  const stride = Math.max(1, Math.floor(contextLength / 2));
  return Math.ceil((length - contextLength) / stride) * stride;
}

/** Sequences per batch, at most: more do not make a large GPU faster. */
const MOST_SEQUENCES = 256;

/**
 * Sequences of `length` tokens that a decoder holds at most: as many as have their tokens, keys, values, logits and
 * activations each in one binding. A limit of the device thus bounds the memory.
 */
export function mostSequences(
  { device, config, precision }: Pick<Gpt, "device" | "config" | "precision">,
  length: number,
): number {
  const { contextLength, layers } = config, { heads, keyHeads, headSize } = headsOf(config);
  const bytes = bytesPerElement(dtypesOf(precision).matrix);
  const cacheBytes = 2 * layers * Math.min(contextLength, length) * keyHeads * headSize * bytes;
  const widest = Math.max((heads + 2 * keyHeads) * headSize, innerWidthOf(config));
  const readBytes = KNOWN_TOKENS[device.isCpu ? "cpu" : "gpu"] * widest * bytes;
  const largest = Math.max(cacheBytes, readBytes, 4 * logitsColumns(config), 4 * length);
  const fitting = Math.floor(device.maxBindingBytes / largest);
  return Math.max(1, Math.min(MOST_SEQUENCES, fitting));
}

/** Tokens of each sequence that one pass reads if they are known, such as those of a prompt. */
const KNOWN_TOKENS = { gpu: 64, cpu: 16 };

/** Tokens drawn per submit: the device computes while the host encodes the next submit. */
const SUBMIT_TOKENS = 16;

/** A sequence on the device. */
interface Sequence {
  /** Its tokens. */
  length: number;
  /** The token at position 0. */
  start: number;
  /** Tokens that the model has read: all but the last, before the next one is drawn. */
  read: number;
}

/**
 * Allocates sequences and caches, and records two passes. One reads the last token of every sequence, draws the
 * next one and appends it. The other reads several known tokens and draws none: those of a prompt, or of the half
 * context that stays when the window moves. The host computes lengths and windows itself, and reads back nothing
 * but the drawn tokens.
 *
 * @throws {RangeError} if a prompt is empty or has a token outside the vocabulary, or if an option of the sampler is
 * out of range.
 */
export function createDecoder(
  model: Gpt,
  { prompts, seeds, maxNewTokens, sampler }: DecoderOptions,
): Decoder {
  const { device, config, precision } = model;
  const { vocabularySize: V, contextLength: maxT, layers } = config;
  const { keyHeads: KH, headSize: HS } = headsOf(config);
  const { matrix } = dtypesOf(precision);
  for (const prompt of prompts) {
    const unknown = prompt.find((id) => !Number.isInteger(id) || id < 0 || id >= V);
    if (unknown === undefined && prompt.length > 0) continue;
    throw new RangeError(
      `Cannot predict a token as the prompt must be one or more ids below ${V}: ` +
        `current ${unknown === undefined ? "prompt is empty" : `id is ${unknown}`}`,
    );
  }
  const longest = prompts.reduce((most, { length }) => Math.max(most, length), 0);
  const B = prompts.length, N = longest + maxNewTokens;

  const owned = new DisposableStack();
  const make = (name: string, shape: number[], dtype: DType) =>
    owned.adopt(createTensor(device, name, { shape, dtype }), ({ buffer }) => buffer.destroy());
  const tokens = make("tokens", [B, N], "u32");
  const cursors = make("cursors", [B, 4], "u32"); // next token to read, token at position 0, slot, end
  const cacheShape = [B, KH, Math.min(maxT, N), HS];
  const cache = {
    cursors,
    layers: Array.from({ length: layers }, (_, i) => ({
      keys: make(`keys ${i}`, cacheShape, matrix),
      values: make(`values ${i}`, cacheShape, matrix),
    })),
  };
  const settings = make("settings", [B, SETTINGS], "u32");
  const logits = make("logits", [B, logitsColumns(config)], "f32");
  const settingsOf = (b: number) =>
    samplerSettings({ sampler, seed: seeds[b]!, firstDrawn: prompts[b]!.length });
  upload(device, settings, prompts.flatMap((_, b) => [...settingsOf(b)]));
  const partOf = (b: number, { first, count }: { first: number; count: number }) =>
    viewTensor(tokens, { offset: b * N + first, shape: [count] });
  prompts.forEach((prompt, b) => {
    upload(device, partOf(b, { first: 0, count: prompt.length }), prompt);
  });

  /** Records the pass over the next `count` tokens of every sequence. */
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
  sample(drawing, { logits, settings }, { tokens, cursors }, {
    vocabularySize: V,
    penalties: hasPenalties(sampler),
  });
  const knownTokens = KNOWN_TOKENS[device.isCpu ? "cpu" : "gpu"];
  // needed if a sequence has more than one token to read
  let reading = prompts.some(({ length }) => length > 1)
    ? recordPass(knownTokens).program
    : undefined;

  const sequences = prompts.map(({ length }): Sequence => ({ length, start: 0, read: 0 }));
  const moveCursors = () =>
    upload(device, cursors, sequences.flatMap(({ read, start }, b) => [read, start, b, N]));
  const moveWindows = () => {
    for (const sequence of sequences) {
      const start = windowStart(sequence.length, maxT);
      if (start !== sequence.start) sequence.read = sequence.start = start;
    }
  };
  const readKnown = () => {
    while (sequences.some(({ read, length }) => read < length - 1)) {
      reading ??= recordPass(knownTokens).program;
      moveCursors();
      reading.run();
      for (const sequence of sequences) {
        sequence.read = Math.min(sequence.read + knownTokens, sequence.length - 1);
      }
    }
  };
  const draw = (most: number) => {
    const count = sequences.reduce( // until a window moves
      (least, { start, length }) => Math.min(least, start + maxT + 1 - length),
      Math.min(most, SUBMIT_TOKENS),
    );
    moveCursors(); // during the submit the sampler moves them
    drawing.run({ repeats: count });
    for (const sequence of sequences) {
      sequence.length += count;
      sequence.read += count;
    }
    return count;
  };
  const destroy = () => owned.dispose();
  return {
    logits,
    pass: drawing,
    async next(count) {
      if (sequences.some(({ length }) => length + count > N)) {
        throw new RangeError(
          `Cannot draw ${count} tokens as no sequence may have more than ${N} in all: ` +
            `current lengths are ${sequences.map(({ length }) => length)}`,
        );
      }
      await Promise.all([drawing.compiling(), reading?.compiling()]);
      for (let left = count; left > 0;) {
        moveWindows();
        readKnown();
        left -= draw(left);
      }
      const drawn = sequences.map(({ length }, b) => partOf(b, { first: length - count, count }));
      return await download(device, ...drawn) as Uint32Array[];
    },
    destroy,
    [Symbol.dispose]: destroy,
  };
}
