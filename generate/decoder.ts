import type { Program } from "../kernels/program.ts";
import { type SamplerOptions, samplerSettings } from "../kernels/sample/sample.ts";
import { download, type Tensor } from "../kernels/tensor.ts";
import type { Gpt } from "../model/gpt.ts";
import { batchSlots } from "./slots.ts";
import { checkPromptIds } from "./completion.ts";

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
 * Allocates slots for the sequences, and records their passes. The host reads back nothing but the drawn tokens.
 *
 * @throws {RangeError} if a prompt is empty or has a token outside the vocabulary; {UserError} if an option of the sampler
 * is out of range.
 */
export function createDecoder(
  model: Gpt,
  { prompts, seeds, maxNewTokens, sampler }: DecoderOptions,
): Decoder {
  const { device, config: { vocabularySize } } = model;
  for (const prompt of prompts) checkPromptIds(prompt, vocabularySize);
  const B = prompts.length;
  const maxTokens = prompts.reduce((most, { length }) => Math.max(most, length), 0) + maxNewTokens;
  const settings = prompts.map(({ length: firstDrawn }, b) =>
    samplerSettings({ sampler, seed: seeds[b]!, firstDrawn })
  );
  const readsPrompts = prompts.some(({ length }) => length > 1);
  const slots = batchSlots(model, { slots: B, maxTokens, sampler, readsPrompts });
  const sequences = prompts.map((prompt, b) =>
    slots.add(prompt, { maxLength: maxTokens, settings: settings[b]! })
  );
  const destroy = () => slots[Symbol.dispose]();
  return {
    logits: slots.logits,
    pass: slots.drawProgram,
    async next(count) {
      if (sequences.some(({ length }) => length + count > maxTokens)) {
        throw new RangeError(
          `Cannot draw ${count} tokens as no sequence may have more than ${maxTokens} in all: ` +
            `current lengths are ${sequences.map(({ length }) => length)}`,
        );
      }
      await slots.compiling();
      const firsts = sequences.map(({ length }) => length);
      for (let left = count; left > 0;) {
        while (sequences.some((sequence) => slots.unread(sequence) > 0)) slots.prefill(sequences);
        // until a window moves
        const drawable = sequences.map((sequence) => slots.drawable(sequence));
        const [span] = slots.draw(drawable.reduce((a, b) => Math.min(a, b), left));
        left -= span!.count;
      }
      const drawn = sequences.map((sequence, b) =>
        slots.tokensOf({ sequence, first: firsts[b]!, count })
      );
      return await download(device, ...drawn) as Uint32Array[];
    },
    destroy,
    [Symbol.dispose]: destroy,
  };
}
