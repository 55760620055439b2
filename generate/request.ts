import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { refuseOthers } from "../files/option_names.ts";
import { SAMPLER_RULES, type SamplerOptions, validateSampler } from "../kernels/sample/sample.ts";

/** What to complete. */
export interface CompletionRequest {
  /** The text to continue; if it is empty, the completion starts a new document. */
  readonly prompt?: string | undefined;
  /** The tokens to continue, one or more, in place of `prompt`. */
  readonly promptIds?: readonly number[] | undefined;
  /** Seed of the sampler, 0 by default: the same seed gives the same completion. */
  readonly seed?: number | undefined;
  /** Tokens that end the completion, in addition to those of the tokenizer. */
  readonly endIds?: readonly number[] | undefined;
}

/** What to complete, and how. */
export interface GenerateOptions extends CompletionRequest {
  /** Tokens added to the prompt, at most; 256 by default. */
  readonly maxNewTokens?: number | undefined;
  /** How the next token is drawn; `DEFAULT_SAMPLER` has the values that are absent. */
  readonly sampler?: Partial<SamplerOptions> | undefined;
  /** Texts that end the completion, which does not include them. */
  readonly stop?: readonly string[] | undefined;
  /** Ends the completion early when it aborts. */
  readonly signal?: AbortSignal | undefined;
}

/** A completion that an engine computes. Its seed gives the same completion, whatever else the engine computes. */
export type EngineRequest = GenerateOptions & {
  /** Alternatives per token whose logprobs are wanted, 0 for the drawn token alone; by default there are no logprobs. */
  readonly logprobs?: number | undefined;
};

/** Tokens that are added to a prompt by default, at most. */
export const MAX_NEW_TOKENS = 256;

/** Settings for varied samples of small models; without a repetition penalty, as stories repeat names. */
export const DEFAULT_SAMPLER: SamplerOptions = {
  temperature: 0.8,
  topK: 0,
  topP: 0.95,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 64,
  presencePenalty: 0,
  frequencyPenalty: 0,
};

/** The options of a sampler with the defaults of those that are absent, once they are checked. */
export function resolveSampler(given: Partial<SamplerOptions>): SamplerOptions {
  const unruled = Object.entries(given).filter(([name]) => !Object.hasOwn(SAMPLER_RULES, name));
  refuseOthers("sample", "a sampler", Object.fromEntries(unruled));
  const sampler = { ...DEFAULT_SAMPLER, ...given };
  validateSampler(sampler);
  return sampler;
}

/** A random seed. */
export function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0]!;
}

/** The seeds of `count` completions: the first one, and those that follow it. */
export function seedsFrom(first: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (first % 2 ** 32 + i) % 2 ** 32);
}

/**
 * The tokens that a model reads of a prompt: the token that begins every text, if there is one, and the prompt. Without
 * such a token it reads of an empty prompt the token after which every document begins.
 */
export function promptIdsOf(tokenizer: Tokenizer, prompt: string): number[] {
  const { beginOfText, endOfText } = tokenizer;
  if (beginOfText !== undefined) return [beginOfText, ...tokenizer.encode(prompt)];
  return prompt === "" ? [endOfText] : tokenizer.encode(prompt);
}
