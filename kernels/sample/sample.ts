import shader from "./sample.wgsl" with { type: "text" };
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
  /** How many tokens back the penalty looks; 0 for all. */
  readonly repetitionWindow: number;
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

/**
 * Draws the next token of every text and appends it: repetition penalty, temperature, top-k, top-p and
 * min-p, in this order, as in Hugging Face's generate().
 *
 * logits: [B,W], f32 or f16, of which the first `vocabularySize` columns count; seeds: u32 [B]; a random
 * number depends on the text's seed, the index of the token in the text, and the candidate token. tokens:
 * u32 [B,N], the texts, to which one token is appended; cursors: u32 [B,2], the index of each text's last
 * token, which grows by one, and a number that does not change.
 *
 * If a logit of a text is NaN or its highest logit is not finite, the appended number is no token;
 * `checkSample()` throws on it.
 *
 * @throws {RangeError | TypeError} if an option is out of range, or a tensor has another shape or element
 * type.
 */
export function sample(
  program: Program,
  { logits, seeds }: { logits: Tensor; seeds: Tensor },
  { tokens, cursors }: { tokens: Tensor; cursors: Tensor },
  { vocabularySize: V, ...options }: SamplerOptions & { vocabularySize: number },
): void {
  validateSampler(options);
  const { B, W, N } = dims("sample", {
    logits: [logits, "B,W", "f32|f16"],
    seeds: [seeds, "B", "u32"],
    tokens: [tokens, "B,N", "u32"],
    cursors: [cursors, "B,2", "u32"],
  });
  if (!Number.isInteger(V) || V < 1 || V > W || V > 2 ** TOKEN_BITS) {
    throw new RangeError(
      `Cannot sample as vocabularySize must be 1 to ${Math.min(W, 2 ** TOKEN_BITS)}: ` +
        `current value is ${V}`,
    );
  }
  const { device } = program;
  const { temperature, topK, topP, minP, repetitionPenalty, repetitionWindow } = options;
  const GREEDY = temperature === 0, PENALTY = repetitionPenalty !== 1;
  const { maxComputeInvocationsPerWorkgroup } = device.gpu.limits;
  const most = 2 ** Math.floor(Math.log2(Math.min(1024, maxComputeInvocationsPerWorkgroup)));
  const window = repetitionWindow === 0 ? N : Math.min(repetitionWindow, N);
  const iterationsOf = (invocations: number) => {
    const penalized = PENALTY ? ceilDiv(V, invocations) + ceilDiv(window, invocations) : 0;
    const turns = ceilDiv(V, 4 * invocations), scan = Math.log2(invocations);
    return penalized + 3 * turns + 10 * (1 + turns + 3 * 2048 / invocations + scan) + scan;
  };
  // barriers are expensive on a CPU adapter, where few invocations suffice until their loops reach the
  // bound
  let WORKGROUP_SIZE = device.isCpu ? Math.min(64, most) : most;
  while (WORKGROUP_SIZE < most && iterationsOf(WORKGROUP_SIZE) > maxIterationsOf(device)) {
    WORKGROUP_SIZE *= 2;
  }
  program.dispatch({
    shader: { "kernels/sample/sample.wgsl": shader, ...RANDOM },
    constants: {
      real: logits.dtype,
      DROPOUT: false,
      GREEDY,
      PENALTY,
      TOP_K: !GREEDY && topK > 0 && topK < V,
      TOP_P: !GREEDY && topP < 1,
      MIN_P: !GREEDY && minP > 0,
      WORKGROUP_SIZE,
    },
    tensors: {
      logits,
      seeds,
      tokens,
      cursors,
      penalized: PENALTY ? program.scratch([B, V]) : undefined,
    },
    uniforms: {
      W,
      V,
      N,
      window,
      penalty: repetitionPenalty,
      inverseTemperature: GREEDY ? 1 : inverseOf(temperature),
      topK: Math.min(topK, V),
      topP: Math.ceil(topP * ONE),
      leastRelativeLogit: Math.log(minP),
    },
    workgroups: [B],
    iterations: iterationsOf(WORKGROUP_SIZE),
    workgroupBytes: 4 * (2048 + WORKGROUP_SIZE + 8),
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
