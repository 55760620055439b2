import blocksShader from "./blocks.wgsl" with { type: "text" };
import logprobsShader from "./logprobs.wgsl" with { type: "text" };
import penaltiesShader from "./penalties.wgsl" with { type: "text" };
import sampleShader from "./sample.wgsl" with { type: "text" };
import scores from "./scores.wgsl" with { type: "text" };
import summarize from "./summarize.wgsl" with { type: "text" };
import threshold from "./threshold.wgsl" with { type: "text" };
import { flagOf } from "../../files/command_line.ts";
import { UserError } from "../../files/user_error.ts";
import { dims } from "../dims.ts";
import { maxIterationsOf, type Program } from "../program.ts";
import { RANDOM } from "../random.ts";
import { ceilDiv, type Tensor } from "../tensor.ts";

/** How the next token is drawn from the model's logits. */
export interface SamplerOptions {
  /**
   * Below 1 likely tokens become likelier, above 1 less likely; at 0 the likeliest token is always drawn.
   */
  readonly temperature: number;
  /** Number of the likeliest tokens that may be drawn; 0 for all. */
  readonly topK: number;
  /** Only the fewest tokens that together have this probability (Holtzman et al. 2020); 1 for all. */
  readonly topP: number;
  /** Only tokens at least this share as likely as the likeliest (Nguyen et al. 2024); 0 for all. */
  readonly minP: number;
  /**
   * Factor that divides positive logits of earlier tokens and multiplies negative ones (Keskar et al. 2019,
   * https://arxiv.org/abs/1909.05858); 1 for none.
   */
  readonly repetitionPenalty: number;
  /** How many tokens back the repetition penalty looks; 0 for all. */
  readonly repetitionWindow: number;
  /**
   * What is subtracted from the logit of each token that was drawn before, however often; 0 for nothing. Tokens of the
   * prompt do not count, as OpenAI has it (https://platform.openai.com/docs/api-reference/chat/create).
   */
  readonly presencePenalty: number;
  /** What is subtracted from the logit of a token for each time that it was drawn before; 0 for nothing. */
  readonly frequencyPenalty: number;
}

/** What each option must be, and whether a number is. */
export const SAMPLER_RULES: Readonly<
  Record<keyof SamplerOptions, readonly [must: string, holds: (value: number) => boolean]>
> = {
  temperature: ["a number not below 0", (v) => v >= 0 && Number.isFinite(v)],
  topK: ["a non-negative integer", isCount],
  topP: ["above 0 and at most 1", (v) => v > 0 && v <= 1],
  minP: ["from 0 to 1", (v) => v >= 0 && v <= 1],
  // beyond this range logits overflow f32
  repetitionPenalty: ["from 0.000001 to 1000000", (v) => v >= 1e-6 && v <= 1e6],
  repetitionWindow: ["a non-negative integer", isCount],
  presencePenalty: ["from -2 to 2", (v) => v >= -2 && v <= 2],
  frequencyPenalty: ["from -2 to 2", (v) => v >= -2 && v <= 2],
};

function isCount(value: number): boolean {
  return Number.isInteger(value) && value >= 0;
}

/** @throws {UserError} naming the flag of the first option that is out of range, and its value. */
export function validateSampler(options: SamplerOptions): void {
  for (const [name, [must, holds]] of Object.entries(SAMPLER_RULES)) {
    const value = options[name as keyof SamplerOptions];
    if (!holds(value)) {
      throw new UserError(
        `Cannot sample as ${flagOf(name)} must be ${must}: current value is ${value}`,
      );
    }
  }
}

/** Bits of a token's number, as DIGITS in sample.wgsl assumes. */
const TOKEN_BITS = 21;

/** 1 / temperature, clamped to the normal numbers of an f32, because 0 · ∞ would be NaN. */
function inverseOf(temperature: number): number {
  return Math.max(2e-38, Math.min(1 / temperature, 3e38));
}

/** Probability 1 in fixed point: ONE in sample.wgsl. */
const ONE = 2 ** 31;

/** Tokens per block of summarize.wgsl, and its invocations per workgroup. */
const BLOCK = 1024, SUMMARIZING = 256;

/** Tokens that end a text, at most: END_IDS in scores.wgsl. */
export const MOST_END_IDS: number = 16;

/** Numbers per text in the settings of `sample()`. */
export const SETTINGS_LENGTH: number = 11 + MOST_END_IDS;

/** Alternatives per token whose logprobs are computed, at most: as many as OpenAI's API has for chats. */
export const MOST_LOGPROBS: number = 20;

/** How a text is continued. */
export interface TextSettings {
  /** How its next token is drawn. */
  readonly sampler: SamplerOptions;
  /** Integer below 2³². */
  readonly seed: number;
  /** Index of the first token that is drawn, the number of tokens of the prompt. */
  readonly firstDrawn: number;
  /** Tokens after which no further one is drawn; none by default. */
  readonly endIds?: readonly number[] | undefined;
  /** Likeliest tokens whose logprobs are stored beside that of the drawn token; by default none is stored. */
  readonly logprobs?: number | undefined;
}

/**
 * The settings of a text for `sample()`: `SETTINGS_LENGTH` numbers.
 *
 * @throws {UserError} if an option of the sampler is out of range, or if there are too many tokens that end the text.
 */
export function samplerSettings(
  { sampler, seed, firstDrawn, endIds = [], logprobs }: TextSettings,
): Uint32Array<ArrayBuffer> {
  validateSampler(sampler);
  if (endIds.length > MOST_END_IDS) {
    throw new UserError(
      `Cannot sample as at most ${MOST_END_IDS} tokens can end a text: current number is ${endIds.length}`,
    );
  }
  const { temperature, topK, topP, minP, repetitionWindow } = sampler;
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = sampler;
  const isGreedy = temperature === 0;
  const words = new Uint32Array(SETTINGS_LENGTH), reals = new Float32Array(words.buffer);
  words.set([seed, firstDrawn, repetitionWindow === 0 ? MOST : Math.min(repetitionWindow, MOST)]);
  reals.set([repetitionPenalty, presencePenalty, frequencyPenalty], 3);
  reals[6] = isGreedy ? 0 : inverseOf(temperature);
  words[7] = isGreedy ? 0 : Math.min(topK, MOST);
  words[8] = isGreedy || topP === 1 ? 0 : Math.ceil(topP * ONE);
  reals[9] = isGreedy ? -Infinity : Math.log(minP);
  words[10] = logprobs === undefined ? 0 : 1 + logprobs;
  words.fill(MOST, 11); // no token has this number
  words.set(endIds, 11);
  return words;
}

/** Largest u32. */
const MOST = 2 ** 32 - 1;

/** Whether some logits are changed before the temperature is applied. */
export function hasPenalties(
  { repetitionPenalty, presencePenalty, frequencyPenalty }: SamplerOptions,
): boolean {
  return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0;
}

/**
 * Draws the next token of every text and appends it: repetition, presence and frequency penalty, temperature, top-k, top-p
 * and min-p, in this order, as in Hugging Face's generate().
 *
 * logits: [B,W], f32 or f16, of which the first `vocabularySize` columns count; a GPU is slower unless W is a
 * multiple of four. settings: u32 [slots,SETTINGS_LENGTH], of `samplerSettings()`; a random number depends on the
 * text's seed, the index of the token in the text, and the candidate token. tokens: u32 [slots,N], the texts, to
 * which one token is appended; cursors: u32 [B,4], per row the index of its text's last token, which grows by one, a
 * number that does not change, the text's slot, and its end: if the index is not below it, nothing is drawn. After a
 * token that ends the text the end becomes 0.
 *
 * logprobs: u32 [slots,P,TOP,2], if a text may have some: in row i % P, if i is the index of the drawn token, are tokens
 * and the bits of the f32 logarithms of their probabilities, before any option is applied: of the drawn token, then of as
 * many of the likeliest as the settings say, at most TOP − 1.
 *
 * If a logit of a text is NaN or its highest logit is not finite, the appended number is no token, and the end becomes 0;
 * `checkSample()` throws on it.
 *
 * @param options.penalties whether a text may have penalties.
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function sample(
  program: Program,
  { logits, settings }: { logits: Tensor; settings: Tensor },
  { tokens, cursors, logprobs }: { tokens: Tensor; cursors: Tensor; logprobs?: Tensor | undefined },
  { vocabularySize: V, penalties }: { vocabularySize: number; penalties: boolean },
): void {
  const { B, W, N, P = 1, TOP = 0 } = dims("sample", {
    logits: [logits, "B,W", "f32|f16"],
    settings: [settings, "slots,SETTINGS_LENGTH", "u32"],
    tokens: [tokens, "slots,N", "u32"],
    cursors: [cursors, "B,4", "u32"],
    logprobs: [logprobs, "slots,P,TOP,2", "u32"],
  }, { SETTINGS_LENGTH });
  if (!Number.isInteger(V) || V < 1 || V > W || V > 2 ** TOKEN_BITS) {
    throw new RangeError(
      `Cannot sample as vocabularySize must be 1 to ${Math.min(W, 2 ** TOKEN_BITS)}: ` +
        `current value is ${V}`,
    );
  }
  const { device } = program;
  const { maxComputeInvocationsPerWorkgroup, maxComputeWorkgroupStorageSize } = device.gpu.limits;
  const summarized = !device.isCpu && W % 4 === 0; // a GPU has cores for many workgroups per text
  const bytesOf = (invocations: number) =>
    4 * (2048 + (summarized ? 5 : 1) * invocations) + 11 * 16;
  let most = 2 ** Math.floor(Math.log2(Math.min(1024, maxComputeInvocationsPerWorkgroup)));
  while (bytesOf(most) > maxComputeWorkgroupStorageSize) most /= 2;
  const iterationsOf = (invocations: number) => {
    const penalized = penalties ? 2 * ceilDiv(V, invocations) + 2 * ceilDiv(N, invocations) : 0;
    const turns = ceilDiv(V, 4 * invocations), scan = Math.log2(invocations);
    const others = logprobs ? (2 + TOP) * turns : 0;
    return penalized + others + 3 * turns + 10 * (1 + turns + 3 * 2048 / invocations + scan) +
      scan +
      MOST_END_IDS;
  };
  // barriers are expensive on a CPU adapter, where few invocations suffice until their loops reach the
  // bound
  let WORKGROUP_SIZE = device.isCpu ? Math.min(64, most) : most;
  while (WORKGROUP_SIZE < most && iterationsOf(WORKGROUP_SIZE) > maxIterationsOf(device)) {
    WORKGROUP_SIZE *= 2;
  }
  const shared = { "kernels/sample/scores.wgsl": scores, ...RANDOM };
  const blocks = ceilDiv(V, BLOCK); // slot 0 is that of `penalized`
  const summaries = summarized
    ? program.scratch([B, blocks, 4], { slot: 1, dtype: "u32" })
    : undefined;
  if (summarized) {
    program.dispatch({
      shader: { "kernels/sample/summarize.wgsl": summarize, ...shared },
      constants: {
        real: logits.dtype,
        DROPOUT: false,
        WORKGROUP_SIZE: SUMMARIZING,
        EACH: BLOCK / SUMMARIZING,
        END_IDS: MOST_END_IDS,
      },
      tensors: { logits, settings, cursors, summaries },
      uniforms: { W, V },
      workgroups: [blocks, B],
      iterations: Math.log2(SUMMARIZING),
      workgroupBytes: 6 * 4 * SUMMARIZING + 64,
    });
  }
  program.dispatch({
    shader: {
      "kernels/sample/sample.wgsl": sampleShader,
      "kernels/sample/threshold.wgsl": threshold,
      ...penalties ? { "kernels/sample/penalties.wgsl": penaltiesShader } : {},
      ...summarized ? { "kernels/sample/blocks.wgsl": blocksShader } : {},
      ...logprobs ? { "kernels/sample/logprobs.wgsl": logprobsShader } : {},
      ...shared,
    },
    constants: {
      real: logits.dtype,
      DROPOUT: false,
      PENALTIES: penalties,
      LOGPROBS: logprobs !== undefined,
      SUMMARIZED: summarized,
      BLOCK,
      WORKGROUP_SIZE,
      END_IDS: MOST_END_IDS,
    },
    tensors: {
      logits,
      logits4: summarized ? logits : undefined,
      settings,
      summaries,
      tokens,
      cursors,
      logprobs,
      penalized: penalties ? program.scratch([B, V]) : undefined,
    },
    uniforms: { W, V, N, P, TOP, BLOCKS: blocks },
    workgroups: [B],
    iterations: iterationsOf(WORKGROUP_SIZE),
    workgroupBytes: bytesOf(WORKGROUP_SIZE),
  });
}

/** Hint for a model whose logits are not finite. */
export const DIVERGED =
  "The model has diverged: an earlier checkpoint may be sound; train with a lower --learning-rate " +
  "or --precision f32";

/**
 * Checks that the number which `sample()` appended is a token.
 *
 * @throws {UserError} if a logit was NaN, or the highest was not finite.
 */
export function checkSample(token: number, vocabularySize: number): void {
  if (token < vocabularySize) return;
  throw new UserError(
    token === 0xffffffff
      ? "Cannot sample as the model's logits are NaN"
      : "Cannot sample as the highest of the model's logits must be finite",
    { hint: DIVERGED },
  );
}
