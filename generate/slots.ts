import { createArena, mostInBuffer } from "../kernels/arena.ts";
import { MOST_FEW_ROWS } from "../kernels/matmul/launches.ts";
import { hasMatrices } from "../kernels/matrices.ts";
import { Program } from "../kernels/program.ts";
import type { PassTimer } from "../kernels/timing.ts";
import {
  hasPenalties,
  MOST_LOGPROBS,
  sample,
  type SamplerOptions,
  SETTINGS_LENGTH,
} from "../kernels/sample/sample.ts";
import {
  bytesPerElement,
  createTensor,
  type DType,
  type Tensor,
  upload,
  viewTensor,
} from "../kernels/tensor.ts";
import { createActivations, logitsColumns } from "../model/activations.ts";
import { headsOf, innerWidthOf } from "../model/config.ts";
import { forward } from "../model/forward_backward.ts";
import { type Gpt, headMatrixOf } from "../model/gpt.ts";
import { headLogits } from "../model/head.ts";
import { dtypesOf } from "../model/precision.ts";

/**
 * First token that the model sees of a sequence of `length` tokens.
 *
 * A model has `contextLength` positions. It sees a longer sequence through a window, which moves by half a context at a
 * time. So the window always has at least half a context, and the cache, which holds the positions of the window, is
 * filled again only once per half context.
 */
export function windowStart(length: number, contextLength: number): number {
  if (length <= contextLength) return 0;
  const stride = Math.max(1, Math.floor(contextLength / 2));
  return Math.ceil((length - contextLength) / stride) * stride;
}

/** Sequences per batch, at most: a large GPU computes no more tokens per second with more. */
const MOST_SEQUENCES = 256;

/**
 * Sequences of `length` tokens per batch, at most: as many as have their tokens, keys, values, logits and activations
 * each in one binding. So a limit of the device bounds the memory.
 */
export function mostSequences(
  { device, config, precision }: Pick<Gpt, "device" | "config" | "precision">,
  length: number,
): number {
  const { contextLength, layers } = config, { heads, keyHeads, headSize } = headsOf(config);
  const bytes = bytesPerElement(dtypesOf(precision).matrix);
  const cacheBytes = 2 * layers * Math.min(contextLength, length) * keyHeads * headSize * bytes;
  const widest = Math.max((heads + 2 * keyHeads) * headSize, innerWidthOf(config));
  const readBytes = PREFILL_TOKENS[device.isCpu ? "cpu" : "gpu"] * widest * bytes;
  const largest = Math.max(cacheBytes, readBytes, 4 * logitsColumns(config), 4 * length);
  const fitting = Math.floor(device.maxBindingBytes / largest);
  return Math.max(1, Math.min(MOST_SEQUENCES, fitting));
}

/** Tokens of each sequence that one pass prefills. */
const PREFILL_TOKENS = { gpu: 64, cpu: 16 };

/** Tokens drawn by the first submit and by a later one, at most: the device computes while the host encodes the next. */
const FIRST_SUBMIT = 2, MOST_SUBMIT = 16;

/**
 * Rows for which the kernels of batch-invariant passes that draw are chosen, whatever the number of their rows, if there are
 * more slots than `MOST_FEW_ROWS`; fewer slots have the kernels for that many. On an H200 64 rows of gpt2's shape took 6.0 ms
 * per step with the kernels for eight rows, and 1.9 ms with those for 64 (November 2026).
 *
 * Passes that prefill have the kernels for one sequence. With more slots than that, tensor cores have the kernels for as many
 * sequences as a pass prefills: with those for one, eight sequences of gpt2 took 1.3 times as long, and of mini 1.7 times.
 */
const MANY_ROWS = 64;

/** Tokens that are drawn before their logprobs are overwritten. */
export const LOGPROBS_KEPT = 64;

/** Numbers in the logprobs of a token: tokens and bits of their logprobs. */
const LOGPROB_WORDS = 2 * (1 + MOST_LOGPROBS);

/** A sequence on the device, as the host knows it: it may end earlier, at a token that ends its text. */
export interface Sequence {
  /** Row of tokens, cache and settings that the sequence has until it is removed. */
  readonly slot: number;
  /** Its tokens. */
  readonly length: number;
  /** Its tokens once all are drawn. */
  readonly maxLength: number;
}

/** Tokens that were drawn of a sequence. */
export interface SequenceSpan {
  readonly sequence: Sequence;
  /** Index of the first of them in the sequence. */
  readonly first: number;
  readonly count: number;
}

/** The beginning of a prompt whose keys and values are still in a slot. */
interface CachedPrefix {
  /** Tokens of the prompt. */
  readonly ids: readonly number[];
  /** Tokens of them that are cached: those of whole passes. */
  length: number;
}

/** A sequence with the state that only `Slots` changes. */
interface SlotSequence extends Sequence {
  length: number;
  /** The token at position 0. */
  start: number;
  /** Tokens that the model has read: all but the last, before the next one is drawn. */
  read: number;
  /** Its row in the batch. */
  row: number;
}

/** Tokens that the model reads before the window moves, or before all tokens are drawn: the last one is never read. */
function endOf({ start, maxLength }: SlotSequence, contextLength: number): number {
  return Math.min(maxLength - 1, start + contextLength);
}

/** A pass that is recorded for a number of sequences, and the cursors that it reads. */
interface Pass {
  readonly program: Program;
  readonly cursors: Tensor;
}

/** The sizes of `Slots`. */
export interface SlotsOptions {
  /** Sequences that are held at the same time. */
  readonly slots: number;
  /** Tokens of the longest sequence, in the end. */
  readonly maxTokens: number;
  /** Numbers of rows for which passes are recorded that draw, ascending; the last is `slots`. */
  readonly drawRows: readonly number[];
  /** Numbers of sequences for which passes are recorded that prefill, ascending. */
  readonly prefillRows: readonly number[];
  /** Whether a prompt may have several tokens; otherwise a pass that prefills is recorded when it is first needed. */
  readonly readsPrompts: boolean;
  /** Whether the bits of a sequence may not depend on the number of rows of a pass. */
  readonly batchInvariant: boolean;
  /** Whether a sequence may have penalties. */
  readonly penalties: boolean;
  /** Whether logprobs of a sequence may be wanted. */
  readonly logprobs: boolean;
}

/**
 * Sequences that a model continues, each in a slot with its tokens, keys and values. A sequence may be added and removed
 * at any time. There are two kinds of passes:
 *
 * - one that draws reads the last token of every sequence, draws the next one and appends it;
 * - one that prefills reads several known tokens of some sequences and draws none: those of a prompt, or of the half
 *   context that stays when the window moves.
 *
 * The host computes lengths and windows without reading anything back.
 *
 * Prefixes are cached: a slot keeps the keys and values of a prompt after its sequence is removed. A later prompt that
 * begins alike takes that slot, and only the passes over the rest run, which are to the bit those that would run without
 * it. The weights must not change meanwhile.
 */
export class Slots implements Disposable {
  /** Tokens, u32 [slots,maxTokens]. */
  readonly #tokens: Tensor;
  /** Settings of the sampler, u32 [slots,SETTINGS_LENGTH]. */
  readonly #settings: Tensor;
  /** u32 [slots,LOGPROBS_KEPT,1+MOST_LOGPROBS,2], if logprobs may be wanted. */
  readonly #logprobs: Tensor | undefined;
  /** Where the rows of the batch continue, u32 [slots,4]: next token to read, token at position 0, slot, end. */
  readonly #cursors: Tensor;
  /** The logits from which the last token of every row was drawn, f32 [slots,W], of which the first V columns count. */
  readonly logits: Tensor;
  /** The sizes that it was made with. */
  readonly options: SlotsOptions;
  readonly #model: Gpt;
  readonly #layers: { keys: Tensor; values: Tensor }[];
  readonly #drawPasses: readonly Pass[]; // by place in drawRows
  readonly #prefillPasses: (Pass | undefined)[]; // by place in prefillRows
  readonly #rows: (SlotSequence | undefined)[];
  readonly #staleRows: Set<number> = new Set(); // whose cursors the device does not have
  readonly #free: number[]; // slots, in the order in which they became free
  readonly #prefixes: CachedPrefix[]; // by slot
  readonly #owned = new DisposableStack();

  /**
   * @throws {LimitError} if the device cannot hold so many slots; nothing is allocated then.
   */
  constructor(model: Gpt, options: SlotsOptions) {
    const { config, precision } = model, { slots, maxTokens } = options;
    const { keyHeads: KH, headSize: HS } = headsOf(config), { matrix } = dtypesOf(precision);
    this.#model = model;
    this.options = options;
    try {
      this.#tokens = this.#make("tokens", [slots, maxTokens], "u32");
      this.#settings = this.#make("settings", [slots, SETTINGS_LENGTH], "u32");
      this.#cursors = this.#make("cursors", [slots, 4], "u32");
      this.#logprobs = options.logprobs
        ? this.#make("logprobs", [slots, LOGPROBS_KEPT, 1 + MOST_LOGPROBS, 2], "u32")
        : undefined;
      this.logits = this.#make("logits", [slots, logitsColumns(config)], "f32");
      const cacheShape = [slots, KH, Math.min(config.contextLength, maxTokens), HS];
      this.#layers = this.#makeCache(cacheShape, matrix);
      this.#rows = new Array(slots).fill(undefined);
      this.#free = Array.from({ length: slots }, (_, i) => i);
      this.#prefixes = this.#free.map(() => ({ ids: [], length: 0 }));
      this.#drawPasses = options.drawRows.map((rows) => this.#recordDraw(rows));
      this.#prefillPasses = options.prefillRows.map((rows) =>
        options.readsPrompts ? this.#recordPrefill(rows) : undefined
      );
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  #make(name: string, shape: number[], dtype: DType): Tensor {
    const tensor = createTensor(this.#model.device, name, { shape, dtype });
    return this.#owned.adopt(tensor, ({ buffer }) => buffer.destroy());
  }

  /** Makes the keys and values of all layers, as many per buffer as it holds: a large buffer takes the host 0.3 ms. */
  #makeCache(shape: number[], dtype: DType): { keys: Tensor; values: Tensor }[] {
    const { device, config: { layers } } = this.#model;
    const names = Array.from({ length: layers }, (_, i) => [`keys ${i}`, `values ${i}`]).flat();
    const perBuffer = mostInBuffer(device, { shape, dtype }), tensors: Tensor[] = [];
    for (let first = 0; first < names.length; first += perBuffer) {
      const shapes = new Map(names.slice(first, first + perBuffer).map((name) => [name, shape]));
      const arena = createArena(device, "cache", { shapes, dtype });
      this.#owned.adopt(arena.flat, ({ buffer }) => buffer.destroy());
      tensors.push(...arena.tensors.values());
    }
    return Array.from({ length: layers }, (_, i) => (
      { keys: tensors[2 * i]!, values: tensors[2 * i + 1]! }
    ));
  }

  /** Records the forward pass over the next `count` tokens of some sequences. */
  #recordForward(rows: number, count: number, cursors: Tensor) {
    const { device, config, precision } = this.#model, tokens = this.#tokens;
    const program = this.#owned.use(new Program(device));
    const batch = { batchSize: rows, sequenceLength: count };
    const activations = this.#owned.use(
      createActivations(device, config, { batch, precision, purpose: "generation" }),
    );
    const cache = { cursors, layers: this.#layers };
    const { batchInvariant, slots } = this.options, inputs = { tokens, cache };
    const isFew = slots <= MOST_FEW_ROWS, drawnRows = isFew ? MOST_FEW_ROWS : MANY_ROWS;
    const prefilled = isFew || !hasMatrices(device) ? 1 : this.mostPrefilled;
    const kernelRows = batchInvariant ? (count === 1 ? drawnRows : prefilled * count) : undefined;
    const output = forward(program, this.#model, inputs, activations, { kernelRows });
    return { program, output };
  }

  #recordDraw(rows: number): Pass {
    const { penalties } = this.options, logprobs = this.#logprobs;
    const first = (tensor: Tensor) =>
      viewTensor(tensor, { offset: 0, shape: [rows, tensor.shape[1]!] });
    const cursors = first(this.#cursors), logits = first(this.logits);
    const { program, output: { x, ...norm } } = this.#recordForward(rows, 1, cursors);
    headLogits(program, { x, ...headMatrixOf(this.#model) }, { logits }, norm);
    sample(program, { logits, settings: this.#settings }, {
      tokens: this.#tokens,
      cursors,
      logprobs,
    }, { vocabularySize: this.#model.config.vocabularySize, penalties });
    return { program, cursors };
  }

  #recordPrefill(rows: number): Pass {
    const cursors = this.#make("prefill cursors", [rows, 4], "u32");
    return { program: this.#recordForward(rows, this.#prefillTokens, cursors).program, cursors };
  }

  /** The pass that prefills this many sequences, with as few rows as possible. */
  #prefillPass(sequences: number): Pass {
    const { prefillRows } = this.options, i = prefillRows.findIndex((rows) => rows >= sequences);
    return this.#prefillPasses[i] ??= this.#recordPrefill(prefillRows[i]!);
  }

  get #prefillTokens(): number {
    return PREFILL_TOKENS[this.#model.device.isCpu ? "cpu" : "gpu"];
  }

  /** The program that draws a token of every slot. */
  get drawProgram(): Program {
    return this.#drawPasses.at(-1)!.program;
  }

  /** Resolves once all shaders are compiled. */
  async compiling(): Promise<void> {
    const passes = [...this.#drawPasses, ...this.#prefillPasses];
    await Promise.all(passes.map((pass) => pass?.program.compiling()));
  }

  /** Sequences that one pass prefills, at most. */
  get mostPrefilled(): number {
    return this.options.prefillRows.at(-1)!;
  }

  /** Slots without a sequence. */
  get free(): number {
    return this.#free.length;
  }

  /**
   * Adds a sequence that begins with a prompt of at least one token. There must be a free slot.
   *
   * @param options.maxLength tokens of the sequence once all are drawn.
   * @param options.settings those of `samplerSettings()`.
   */
  add(
    ids: readonly number[],
    { maxLength, settings }: { maxLength: number; settings: Uint32Array },
  ): Sequence {
    const { device } = this.#model;
    const { slot, cached: read } = this.#takeSlot(ids), row = this.#rows.indexOf(undefined);
    this.#prefixes[slot] = { ids: [...ids], length: read };
    upload(
      device,
      this.#view(this.#settings, slot, { first: 0, count: SETTINGS_LENGTH }),
      settings,
    );
    upload(device, this.#view(this.#tokens, slot, { first: 0, count: ids.length }), ids);
    const sequence: SlotSequence = { slot, row, maxLength, length: ids.length, start: 0, read };
    this.#moveWindow(sequence);
    this.#rows[row] = sequence;
    this.#staleRows.add(row);
    return sequence;
  }

  /** Takes the free slot that has the longest cached prefix of a prompt, or else the one that was free longest. */
  #takeSlot(ids: readonly number[]): { slot: number; cached: number } {
    let place = 0, cached = 0;
    this.#free.forEach((slot, i) => {
      const length = this.#cachedIn(slot, ids);
      if (length > cached) [place, cached] = [i, length];
    });
    const [slot] = this.#free.splice(place, 1);
    return { slot: slot!, cached };
  }

  /** Tokens at the beginning of a prompt that a slot has cached: those of whole passes. */
  #cachedIn(slot: number, ids: readonly number[]): number {
    const prefix = this.#prefixes[slot]!;
    const most = Math.min(prefix.length, ids.length - 1); // the last one is read by the pass that draws the next
    let same = 0;
    while (same < most && ids[same] === prefix.ids[same]) same++;
    return same - same % this.#prefillTokens;
  }

  /** Removes a sequence. What was submitted before still reads its tokens as they are. */
  remove(sequence: Sequence): void {
    const { row, slot } = sequence as SlotSequence;
    this.#rows[row] = undefined;
    this.#staleRows.add(row);
    this.#free.push(slot);
  }

  /** Forgets all cached prefixes, so that later prompts are read whole. */
  forgetPrefixes(): void {
    for (const prefix of this.#prefixes) prefix.length = 0;
  }

  /** Tokens of a sequence to prefill before the next one can be drawn. */
  unread(sequence: Sequence): number {
    const { read, length } = sequence as SlotSequence;
    return length - 1 - read;
  }

  /** Tokens that can be drawn of a sequence before it ends or its window moves; 0 if it has to be prefilled first. */
  drawable(sequence: Sequence): number {
    if (this.unread(sequence) > 0) return 0;
    const { contextLength } = this.#model.config;
    return endOf(sequence as SlotSequence, contextLength) - (sequence as SlotSequence).read;
  }

  /** Reads the next unread tokens of some sequences, at most `mostPrefilled`, without waiting for the device. */
  prefill(sequences: readonly Sequence[], timer?: PassTimer): void {
    const { program, cursors } = this.#prefillPass(sequences.length);
    const words = new Uint32Array(cursors.shape[0]! * 4); // a row that ends at 0 is not computed
    (sequences as readonly SlotSequence[]).forEach(({ read, start, slot, length }, i) => {
      words.set([read, start, slot, length - 1], 4 * i);
    });
    upload(this.#model.device, cursors, words);
    program.run({ timestampWrites: timer?.writes() });
    for (const sequence of sequences as readonly SlotSequence[]) {
      const { slot, start, length } = sequence, end = sequence.read + this.#prefillTokens;
      if (start === 0 && end < length) this.#prefixes[slot]!.length = end;
      sequence.read = Math.min(end, length - 1);
      this.#staleRows.add(sequence.row);
    }
  }

  /**
   * Draws at most `most` tokens of each sequence that has no unread ones, without waiting for the device.
   *
   * @returns the drawn tokens of each; those after an end-of-text token do not count.
   */
  draw(most: number, timer?: PassTimer): SequenceSpan[] {
    const drawing = this.#rows.filter((sequence) =>
      sequence && this.drawable(sequence) > 0
    ) as SlotSequence[];
    const count = Math.min(
      most,
      Math.max(0, ...drawing.map((sequence) => this.drawable(sequence))),
    );
    if (count === 0) return [];
    const pass = this.#placeRows();
    let left = count;
    for (let next = FIRST_SUBMIT; left > 0; next = Math.min(2 * next, MOST_SUBMIT)) {
      const repeats = Math.min(left, next);
      pass.program.run({ repeats, timestampWrites: timer?.writes() });
      left -= repeats;
    }
    return drawing.map((sequence) => {
      const span = {
        sequence,
        first: sequence.length,
        count: Math.min(count, this.drawable(sequence)),
      };
      sequence.length += span.count;
      sequence.read += span.count;
      this.#moveWindow(sequence);
      return span;
    });
  }

  /** A small tensor, to read back if there is nothing else. */
  get anyTensor(): Tensor {
    return viewTensor(this.#cursors, { offset: 0, shape: [1] });
  }

  /** Tokens of a span on the device. */
  tokensOf({ sequence: { slot }, first, count }: SequenceSpan): Tensor {
    return this.#view(this.#tokens, slot, { first, count });
  }

  /** Logprobs of a span on the device, at most `LOGPROBS_KEPT` tokens, in one or two parts. */
  logprobsOf({ sequence: { slot }, first, count }: SequenceSpan): Tensor[] {
    const from = first % LOGPROBS_KEPT, part = Math.min(count, LOGPROBS_KEPT - from);
    const view = (from: number, count: number) =>
      viewTensor(this.#logprobs!, {
        offset: (slot * LOGPROBS_KEPT + from) * LOGPROB_WORDS,
        shape: [count, LOGPROB_WORDS],
      });
    return part === count ? [view(from, count)] : [view(from, part), view(0, count - part)];
  }

  #view(table: Tensor, slot: number, { first, count }: { first: number; count: number }): Tensor {
    return viewTensor(table, { offset: slot * table.shape[1]! + first, shape: [count] });
  }

  #moveWindow(sequence: SlotSequence): void {
    const start = windowStart(sequence.length, this.#model.config.contextLength);
    if (start === sequence.start) return;
    sequence.read = sequence.start = start;
    this.#prefixes[sequence.slot]!.length = 0; // the keys and values of other tokens overwrite it
  }

  /** Uploads the cursors that the device does not have; returns the pass with the fewest rows that has all sequences. */
  #placeRows(): Pass {
    const rows = this.#rows, count = rows.reduce((sum, sequence) => sum + (sequence ? 1 : 0), 0);
    const i = this.options.drawRows.findIndex((rows) => rows >= count),
      pass = this.#drawPasses[i]!;
    const width = pass.cursors.shape[0]!;
    for (let row = width; row < rows.length; row++) { // sequences beyond the pass move to free rows
      const sequence = rows[row];
      if (!sequence) continue;
      rows[row] = undefined;
      sequence.row = rows.indexOf(undefined);
      rows[sequence.row] = sequence;
      this.#staleRows.add(row).add(sequence.row);
    }
    const stale = [...this.#staleRows].sort((a, b) => a - b);
    for (let first = 0, end; first < stale.length; first = end) { // neighbours together: an upload takes the host 5 to 12 µs
      end = first + 1;
      while (stale[end] === stale[end - 1]! + 1) end++;
      const words = stale.slice(first, end).flatMap((row) => this.#cursorOf(rows[row]));
      const cursors = viewTensor(this.#cursors, {
        offset: 4 * stale[first]!,
        shape: [words.length],
      });
      upload(this.#model.device, cursors, words);
    }
    this.#staleRows.clear();
    return pass;
  }

  /** The cursor of a row; all zeros, with which nothing is computed, if no token of its sequence can be drawn now. */
  #cursorOf(sequence: SlotSequence | undefined): number[] {
    if (!sequence || this.drawable(sequence) === 0) return [0, 0, 0, 0];
    const { read, start, slot } = sequence;
    return [read, start, slot, endOf(sequence, this.#model.config.contextLength)];
  }

  /** Frees everything but the model. */
  [Symbol.dispose](): void {
    this.#owned.dispose();
  }
}

/**
 * Slots for sequences that are continued together, with kernels for exactly so many rows.
 *
 * @throws {LimitError} as the constructor does.
 */
export function batchSlots(
  model: Gpt,
  { sampler, ...sizes }: Pick<SlotsOptions, "slots" | "maxTokens" | "readsPrompts"> & {
    sampler: SamplerOptions;
  },
): Slots {
  return new Slots(model, {
    ...sizes,
    drawRows: [sizes.slots],
    prefillRows: [sizes.slots],
    batchInvariant: false,
    logprobs: false,
    penalties: hasPenalties(sampler),
  });
}
