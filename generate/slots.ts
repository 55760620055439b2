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

/** Tokens drawn by the first submit, and by a later one, at most: the device computes while the host encodes the next. */
const FIRST_SUBMIT = 2, MOST_SUBMIT = 16;

/**
 * Slots, at most, whose rows are computed by kernels for few rows if their bits may not depend on their number, and the
 * rows for which kernels of more slots are chosen. On an H200 64 rows of gpt2's shape took 6.0 ms per step with kernels for
 * eight rows, and 1.9 ms with those for many (November 2026).
 */
const FEW_SLOTS = 8, MANY_ROWS = 64;

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
  readonly most: number;
}

/** Tokens that were drawn of a sequence. */
export interface SequenceSpan {
  readonly sequence: Sequence;
  /** Index of the first of them in the sequence. */
  readonly first: number;
  readonly count: number;
}

/** The beginning of a prompt of which a slot has the keys and values, until other tokens take their place. */
interface KeptPrompt {
  readonly ids: readonly number[];
  /** Tokens of which it has them: those of the passes that read as many as they can. */
  count: number;
}

/** A sequence with the state that only `Slots` changes. */
interface Held extends Sequence {
  length: number;
  /** The token at position 0. */
  start: number;
  /** Tokens that the model has read: all but the last, before the next one is drawn. */
  read: number;
  /** Its row in the batch. */
  row: number;
}

/** The first token of a sequence that its window does not let the model read, or the last that it has to read. */
function endOf({ start, most }: Held, contextLength: number): number {
  return Math.min(most - 1, start + contextLength);
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
  /** Numbers of sequences for which passes are recorded that read known tokens, ascending. */
  readonly readRows: readonly number[];
  /** Whether a prompt may have several tokens; otherwise the passes that read known tokens are recorded when one is needed. */
  readonly readsPrompts: boolean;
  /** Whether the bits of a sequence may not depend on the number of rows of a pass. */
  readonly batchInvariant: boolean;
  /** Whether a sequence may have penalties. */
  readonly penalties: boolean;
  /** Whether logprobs of a sequence may be wanted. */
  readonly logprobs: boolean;
}

/**
 * Sequences that a model continues, each in a slot of tokens, keys and values; all memory is allocated at the start. A
 * sequence may be added and removed at any time. A pass of one kind reads the last token of every sequence, draws the
 * next one and appends it. A pass of the other kind reads several known tokens of some sequences and draws none: those of
 * a prompt, or of the half context that stays when the window moves. The host computes lengths and windows itself.
 *
 * A slot keeps the keys and values of a prompt after its sequence is removed. A later prompt that begins alike takes that
 * slot, and only the passes over the rest run, which are to the bit those that would run without it. The weights must not
 * change meanwhile.
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
  readonly #model: Gpt;
  readonly #options: SlotsOptions;
  readonly #layers: { keys: Tensor; values: Tensor }[];
  readonly #drawing: readonly Pass[];
  readonly #reading: (Pass | undefined)[];
  readonly #rows: (Held | undefined)[];
  readonly #staleRows: Set<number> = new Set(); // whose cursors the device does not have
  readonly #free: number[]; // slots, in the order in which they became free
  readonly #kept: KeptPrompt[]; // by slot
  readonly #owned = new DisposableStack();

  /**
   * @throws {LimitError} if the device cannot hold so many slots; nothing is allocated then.
   */
  constructor(model: Gpt, options: SlotsOptions) {
    const { config, precision } = model, { slots, maxTokens } = options;
    const { keyHeads: KH, headSize: HS } = headsOf(config), { matrix } = dtypesOf(precision);
    this.#model = model;
    this.#options = options;
    try {
      this.#tokens = this.#make("tokens", [slots, maxTokens], "u32");
      this.#settings = this.#make("settings", [slots, SETTINGS_LENGTH], "u32");
      this.#cursors = this.#make("cursors", [slots, 4], "u32");
      this.#logprobs = options.logprobs
        ? this.#make("logprobs", [slots, LOGPROBS_KEPT, 1 + MOST_LOGPROBS, 2], "u32")
        : undefined;
      this.logits = this.#make("logits", [slots, logitsColumns(config)], "f32");
      const cacheShape = [slots, KH, Math.min(config.contextLength, maxTokens), HS];
      this.#layers = Array.from({ length: config.layers }, (_, i) => ({
        keys: this.#make(`keys ${i}`, cacheShape, matrix),
        values: this.#make(`values ${i}`, cacheShape, matrix),
      }));
      this.#rows = new Array(slots).fill(undefined);
      this.#free = Array.from({ length: slots }, (_, i) => i);
      this.#kept = this.#free.map(() => ({ ids: [], count: 0 }));
      this.#drawing = options.drawRows.map((rows) => this.#recordDrawing(rows));
      this.#reading = options.readRows.map(() => undefined);
      if (options.readsPrompts) { for (const rows of options.readRows) this.#readingPass(rows); }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  #make(name: string, shape: number[], dtype: DType): Tensor {
    const tensor = createTensor(this.#model.device, name, { shape, dtype });
    return this.#owned.adopt(tensor, ({ buffer }) => buffer.destroy());
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
    const { batchInvariant, slots } = this.#options, inputs = { tokens, cache };
    const drawn = slots <= FEW_SLOTS ? FEW_SLOTS : MANY_ROWS;
    const kernelRows = batchInvariant ? (count === 1 ? drawn : count) : undefined;
    const output = forward(program, this.#model, inputs, activations, { kernelRows });
    return { program, output };
  }

  #recordDrawing(rows: number): Pass {
    const { penalties } = this.#options, logprobs = this.#logprobs;
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

  /** The pass that reads known tokens of at least `sequences` sequences. */
  #readingPass(sequences: number): Pass {
    const { readRows } = this.#options, i = readRows.findIndex((rows) => rows >= sequences);
    return this.#reading[i] ??= (() => {
      const cursors = this.#make("reading cursors", [readRows[i]!, 4], "u32");
      return {
        program: this.#recordForward(readRows[i]!, this.#knownTokens, cursors).program,
        cursors,
      };
    })();
  }

  get #knownTokens(): number {
    return KNOWN_TOKENS[this.#model.device.isCpu ? "cpu" : "gpu"];
  }

  /** The program that draws a token of all rows. */
  get drawing(): Program {
    return this.#drawing.at(-1)!.program;
  }

  /** Resolves once all shaders are compiled. */
  async compiling(): Promise<void> {
    const passes = [...this.#drawing, ...this.#reading];
    await Promise.all(passes.map((pass) => pass?.program.compiling()));
  }

  /** Most sequences of which one pass reads known tokens. */
  get mostRead(): number {
    return this.#options.readRows.at(-1)!;
  }

  /** Slots without a sequence. */
  get free(): number {
    return this.#free.length;
  }

  /**
   * Adds a sequence that begins with some tokens, at least one, and has `most` in the end. There must be a free slot.
   *
   * @param options.settings those of `samplerSettings()`.
   */
  add(
    ids: readonly number[],
    { most, settings }: { most: number; settings: Uint32Array },
  ): Sequence {
    const { device } = this.#model;
    const { slot, kept: read } = this.#takeSlot(ids), row = this.#rows.indexOf(undefined);
    this.#kept[slot] = { ids: [...ids], count: read };
    upload(
      device,
      this.#view(this.#settings, slot, { first: 0, count: SETTINGS_LENGTH }),
      settings,
    );
    upload(device, this.#view(this.#tokens, slot, { first: 0, count: ids.length }), ids);
    const sequence: Held = { slot, row, most, length: ids.length, start: 0, read };
    this.#moveWindow(sequence);
    this.#rows[row] = sequence;
    this.#staleRows.add(row);
    return sequence;
  }

  /** Takes the free slot that keeps the most tokens with which a prompt begins, or else the one that was free longest. */
  #takeSlot(ids: readonly number[]): { slot: number; kept: number } {
    let place = 0, kept = 0;
    this.#free.forEach((slot, i) => {
      const count = this.#keptOf(slot, ids);
      if (count > kept) [place, kept] = [i, count];
    });
    const [slot] = this.#free.splice(place, 1);
    return { slot: slot!, kept };
  }

  /** Tokens with which a prompt begins that need not be read again in a slot: those of whole passes. */
  #keptOf(slot: number, ids: readonly number[]): number {
    const { ids: before, count } = this.#kept[slot]!;
    const most = Math.min(count, ids.length - 1); // the last one is read by the pass that draws the next
    let same = 0;
    while (same < most && ids[same] === before[same]) same++;
    return same - same % this.#knownTokens;
  }

  /** Removes a sequence. What was submitted before still reads its tokens as they are. */
  remove(sequence: Sequence): void {
    const { row, slot } = sequence as Held;
    this.#rows[row] = undefined;
    this.#staleRows.add(row);
    this.#free.push(slot);
  }

  /** Known tokens of a sequence that a pass must read before the next one can be drawn. */
  unread(sequence: Sequence): number {
    const { read, length } = sequence as Held;
    return length - 1 - read;
  }

  /** Tokens that can be drawn of a sequence before it ends or known tokens must be read. */
  drawable(sequence: Sequence): number {
    const held = sequence as Held;
    return this.unread(held) > 0 ? 0 : endOf(held, this.#model.config.contextLength) - held.read;
  }

  /** Reads the next known tokens of some sequences, at most `mostRead`, without waiting for the device. */
  read(sequences: readonly Sequence[], timer?: PassTimer): void {
    const { program, cursors } = this.#readingPass(sequences.length);
    const held = sequences as readonly Held[];
    const words = new Uint32Array(cursors.shape[0]! * 4); // a row that ends at 0 is not computed
    words.set(held.flatMap(({ read, start, slot, length }) => [read, start, slot, length - 1]));
    upload(this.#model.device, cursors, words);
    program.run({ timestampWrites: timer?.writes() });
    for (const sequence of held) {
      const end = sequence.read + this.#knownTokens;
      if (sequence.start === 0 && end < sequence.length) this.#kept[sequence.slot]!.count = end;
      sequence.read = Math.min(end, sequence.length - 1);
      this.#staleRows.add(sequence.row);
    }
  }

  /**
   * Draws at most `most` tokens of each sequence that has no unread ones, without waiting for the device. Each stops by
   * itself at its end.
   *
   * @returns the drawn tokens of each, in which a token that ends the text is the last that counts.
   */
  draw(most: number, timer?: PassTimer): SequenceSpan[] {
    const drawing = this.#rows.filter((sequence) =>
      sequence && this.drawable(sequence) > 0
    ) as Held[];
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

  #moveWindow(sequence: Held): void {
    const start = windowStart(sequence.length, this.#model.config.contextLength);
    if (start === sequence.start) return;
    sequence.read = sequence.start = start;
    this.#kept[sequence.slot]!.count = 0; // the keys and values of other tokens take their place
  }

  /** Uploads the cursors that the device does not have; returns the pass with the fewest rows that has all sequences. */
  #placeRows(): Pass {
    const rows = this.#rows, count = rows.reduce((sum, sequence) => sum + (sequence ? 1 : 0), 0);
    const i = this.#options.drawRows.findIndex((rows) => rows >= count), pass = this.#drawing[i]!;
    const width = pass.cursors.shape[0]!;
    for (let row = width; row < rows.length; row++) { // sequences beyond the pass move to free rows
      const sequence = rows[row];
      if (!sequence) continue;
      rows[row] = undefined;
      sequence.row = rows.indexOf(undefined);
      rows[sequence.row] = sequence;
      this.#staleRows.add(row).add(sequence.row);
    }
    for (const row of this.#staleRows) {
      const cursor = viewTensor(this.#cursors, { offset: 4 * row, shape: [4] });
      upload(this.#model.device, cursor, this.#cursorOf(rows[row]));
    }
    this.#staleRows.clear();
    return pass;
  }

  /** The cursor of a sequence of which tokens are to be drawn, or else one of which none are. */
  #cursorOf(sequence: Held | undefined): number[] {
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
    readRows: [sizes.slots],
    batchInvariant: false,
    logprobs: false,
    penalties: hasPenalties(sampler),
  });
}
