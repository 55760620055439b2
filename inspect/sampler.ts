import { DEFAULT_SAMPLER } from "../generate/request.ts";
import { samplerStages } from "../kernels/sample/reference.ts";
import { type SamplerOptions, validateSampler } from "../kernels/sample/sample.ts";

/** The distribution of the next token after a stage of the sampler. */
export interface SamplerDistribution {
  /**
   * `logits`: the softmax of the logits; `repetitionPenalty`, `temperature`, `topK`, `topP`, `minP`: after this option
   * of the sampler was applied too. The presence and the frequency penalty have no stage, as no token was drawn yet.
   */
  readonly stage:
    | "logits"
    | Exclude<keyof SamplerOptions, "repetitionWindow" | "presencePenalty" | "frequencyPenalty">;
  /** Number of tokens that may still be drawn. */
  readonly tokens: number;
  /** f64 [V]: probabilities, 0 for tokens that cannot be drawn. */
  readonly probabilities: Float64Array;
}

/**
 * Computes the distribution of the next token after each stage of the sampler, in the order of the stages; a token is
 * drawn from the last. An option that changes nothing also has its stage.
 *
 * @param logits [V], such as a row of `logitsOf()`; they are not changed.
 * @param options.sampler how the next token is drawn; `DEFAULT_SAMPLER` has the values that are absent.
 * @param options.history the ids so far, for the repetition penalty.
 * @throws {UserError} if an option is out of range.
 * @throws {RangeError} if a logit is NaN or no token has a finite one.
 *
 * @example See how many tokens top-p leaves
 * ```ts
 * import { loadModel, logitsOf, openDevice, samplerDistributions } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const history = model.tokenizer.encode("Once upon a time there was a"); // as generate() reads it
 * const { logits } = await logitsOf(model, history), V = model.gpt.config.vocabularySize;
 * const stages = samplerDistributions(logits.subarray(-V), { history, sampler: { topP: 0.9 } });
 * for (const { stage, tokens } of stages) console.log(stage, tokens);
 * ```
 */
export function samplerDistributions(
  logits: Float32Array,
  { history = [], sampler }: {
    history?: readonly number[];
    sampler?: Partial<SamplerOptions>;
  } = {},
): SamplerDistribution[] {
  const options = { ...DEFAULT_SAMPLER, ...sampler };
  validateSampler(options);
  return Object.entries(samplerStages(logits, { ...options, history })).map(
    ([stage, candidates]) => {
      const probabilities = new Float64Array(logits.length);
      for (const { id, p } of candidates) probabilities[id] = p;
      return {
        stage: stage as SamplerDistribution["stage"],
        tokens: candidates.length,
        probabilities,
      };
    },
  );
}
