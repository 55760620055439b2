import { attentionDecode } from "../kernels/attention/decode.ts";
import { embeddingDecode } from "../kernels/embedding/decode.ts";
import { layernormForward } from "../kernels/layernorm/layernorm.ts";
import type { MatmulOptions } from "../kernels/matmul/matmul.ts";
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
import { logitsColumns } from "../model/activations.ts";
import { attentionOf, innerWidthOf } from "../model/config.ts";
import { type Gpt, headOf, masterOf } from "../model/gpt.ts";
import { headLogits } from "../model/head.ts";
import { linearLayerForward } from "../model/linear.ts";
import { dtypesOf } from "../model/precision.ts";

/** Texts that a model continues side by side, with the keys and values of what it has read of them. */
export interface Decoder {
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
 * How many texts of so many tokens a decoder takes: as many as have tokens, keys, values, logits and
 * activations no larger than one binding. That bounds memory by a limit of the device itself.
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

/** Tokens of a text that are read in one pass where they are known already. */
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
 * stays when the window moves, and draws nothing. Nothing comes back to the host but drawn tokens: how
 * long texts are and where their windows begin it knows without looking.
 *
 * @throws {RangeError} if a text is empty or has a token that is not of the vocabulary, or if an option
 * of the sampler is out of range.
 */
export function createDecoder(
  model: Gpt,
  { texts, seeds, maxNewTokens, sampler }: DecoderOptions,
): Decoder {
  const { device, config, precision } = model;
  const { vocabularySize: V, contextLength: L, width: C, layers, heads: NH } = config;
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

  const owned: Tensor[] = [];
  const make = (name: string, shape: number[], dtype: DType) => {
    const created = createTensor(device, name, { shape, dtype });
    owned.push(created);
    return created;
  };
  const tokens = make("tokens", [B, N], "u32");
  const cursors = make("cursors", [B, 2], "u32"); // next token to read, token at position 0
  const cacheShape = [B, NH, Math.min(L, N), C / NH];
  const caches = Array.from({ length: layers }, (_, i) => ({
    keys: make(`keys ${i}`, cacheShape, matrix),
    values: make(`values ${i}`, cacheShape, matrix),
  }));
  const seedOf = make("seeds", [B], "u32");
  const logits = make("logits", [B, logitsColumns(config)], "f32");
  upload(device, seedOf, seeds);
  const partOf = (b: number, { first, count }: { first: number; count: number }) =>
    viewTensor(tokens, { offset: b * N + first, shape: [count] });
  texts.forEach((text, b) => {
    upload(device, partOf(b, { first: 0, count: text.length }), text);
  });

  const blocks = (program: Program, S: number) =>
    recordBlocks(program, model, { tokens, cursors, caches, make }, B * S);
  const drawing = new Program(device);
  const { x, ...last } = blocks(drawing, 1);
  headLogits(drawing, { x, weight: headOf(model) }, { logits }, last);
  sample(drawing, { logits, seeds: seedOf }, { tokens, cursors }, {
    ...sampler,
    vocabularySize: V,
  });
  const S = KNOWN_TOKENS[device.isCpu ? "cpu" : "gpu"];
  const recordReading = () => {
    const program = new Program(device);
    blocks(program, S);
    return program;
  };
  // needed when a text has more than one token to read
  let reading = texts.some(({ length }) => length > 1) ? recordReading() : undefined;

  const state = texts.map(({ length }): Text => ({ length, start: 0, read: 0 }));
  const moveCursors = () =>
    upload(device, cursors, state.flatMap(({ read, start }) => [read, start]));
  const moveWindows = () => {
    for (const text of state) {
      const start = windowStart(text.length, L);
      if (start !== text.start) text.read = text.start = start;
    }
  };
  const readKnown = () => {
    while (state.some(({ read, length }) => read < length - 1)) {
      reading ??= recordReading();
      moveCursors();
      reading.run();
      for (const text of state) text.read = Math.min(text.read + S, text.length - 1);
    }
  };
  const draw = (most: number) => {
    const count = state.reduce( // until a window moves
      (least, { start, length }) => Math.min(least, start + L + 1 - length),
      Math.min(most, SUBMIT_TOKENS),
    );
    moveCursors(); // which from here to the end of the submit the sampler moves on
    drawing.run({ repeats: count });
    for (const text of state) {
      text.length += count;
      text.read += count;
    }
    return count;
  };
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
    destroy() {
      drawing.destroy();
      reading?.destroy();
      for (const { buffer } of owned) buffer.destroy();
    },
  };
}

/** What the passes of a decoder share. */
interface Shared {
  /** u32 [B,N] */
  tokens: Tensor;
  /** u32 [B,2] */
  cursors: Tensor;
  /** [B,NH,L,HS] for each layer. */
  caches: readonly { keys: Tensor; values: Tensor }[];
  /** Makes a tensor that the decoder frees. */
  make(name: string, shape: number[], dtype: DType): Tensor;
}

/**
 * Records the pass of `rows` tokens, as many of every text, and returns what the head reads: the output of
 * the last layer-norm, or its input and how to normalise it, [rows,C]. Keys and values join the caches.
 */
function recordBlocks(
  program: Program,
  model: Gpt,
  { tokens, cursors, caches, make }: Shared,
  rows: number,
): Operand {
  const { config, precision } = model;
  const { width: C, lora } = config, F = innerWidthOf(config);
  const { matrix, stream, statistic } = dtypesOf(precision);
  const row = (name: string, columns: number) => make(name, [rows, columns], matrix);
  const x = make("x", [rows, C], stream), middle = make("middle", [rows, C], stream);
  const ln = row("ln", C), statistics = make("statistics", [rows, 2], statistic);
  const qkv = row("qkv", 3 * C), attention = row("attention", C), projected = row("projected", C);
  const hidden = row("hidden", F), gelu = row("gelu", F);
  const low = lora && row("low", lora.rank);

  const vector = (name: string) => masterOf(model, name);
  // A GPU does one row's product sooner than it starts another launch: layer-norms become part of the
  // products that read them, which takes vectors of four, and blocks add to the stream themselves.
  const within = rows === 1 && !program.device.isCpu && F % 4 === 0;
  let sum = x, next = middle; // the stream, and where it goes on
  let given: Tensor | undefined; // what a block gives to it
  const normalized = (name: string): Operand => {
    const norm = { weight: vector(`${name}.weight`), bias: vector(`${name}.bias`) };
    if (within) return { x, normalize: norm };
    if (given) {
      const outputs = { y: ln, statistics, sum: next };
      layernormForward(program, { x: sum, z: given, ...norm }, outputs);
      [sum, next] = [next, sum];
    } else {
      layernormForward(program, { x: sum, ...norm }, { y: ln, statistics });
    }
    return { x: ln };
  };
  const linear = (name: string, { x, ...options }: Operand, y: Tensor, activated?: Tensor) => {
    const outputs = { y, ...(activated ? { activated } : {}), low: () => low! };
    linearLayerForward(program, model, name, { x }, outputs, options);
  };
  const give = (name: string, from: Tensor) => {
    if (within) return linear(name, { x: from, accumulate: true }, x);
    linear(name, { x: from }, projected);
    given = projected;
  };

  const wte = vector("wte.weight"), wpe = vector("wpe.weight");
  embeddingDecode(program, { tokens, cursors, wte, wpe }, { y: x });
  caches.forEach((cache, i) => {
    linear(`h.${i}.attn.c_attn`, normalized(`h.${i}.ln_1`), qkv);
    attentionDecode(program, { qkv, cursors }, { ...cache, y: attention }, attentionOf(config, i));
    give(`h.${i}.attn.c_proj`, attention);
    linear(`h.${i}.mlp.c_fc`, normalized(`h.${i}.ln_2`), hidden, gelu);
    give(`h.${i}.mlp.c_proj`, gelu);
  });
  return normalized("ln_f");
}

/** What a product reads, and how. */
interface Operand extends Pick<MatmulOptions, "accumulate" | "normalize"> {
  x: Tensor;
}
