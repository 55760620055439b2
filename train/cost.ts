import type { Batches } from "../data/tokens/batches.ts";
import { type GptConfig, headsOf } from "../model/config.ts";
import {
  blockOf,
  countParameters,
  firstTrainedBlock,
  parameterTable,
} from "../model/parameters.ts";

/** What the cost of a training depends on, beside its model. */
export interface CostedTraining {
  /** `freeze`: parts that are not trained, as in `parameterTable()`. */
  readonly options?: { readonly freeze?: string | undefined };
  /** The batches; by default their rows are contexts in which documents are joined. */
  readonly batches?: Pick<Batches, "documentTokens">;
}

/** The size of a model and the cost of its training, as a line of kind `start` gives them. */
export function costOf(
  config: GptConfig,
  training: CostedTraining = {},
): { parameters: number; flopsPerToken: number } {
  return { parameters: countParameters(config), flopsPerToken: flopsPerToken(config, training) };
}

/**
 * Operations of training on one token: 6 per parameter, and 12 · layers · n · NH · HS for attention, in which n are the
 * tokens of its document in a row: T if documents are joined.
 *
 * As PaLM counts them (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B): positions that the
 * causal mask hides count as if they were computed. A third of the operations is the forward pass, a third the
 * gradients of activations, which end at the first trained block, and a third those of parameters, which only trained
 * ones have.
 */
export function flopsPerToken(
  config: GptConfig,
  { options, batches }: CostedTraining = {},
): number {
  const { layers, contextLength } = config, table = parameterTable(config, options?.freeze);
  const { documentTokens } = batches ?? { documentTokens: contextLength };
  const { heads, headSize } = headsOf(config);
  const first = firstTrainedBlock({ config, table });
  const ofParameters = table.reduce((sum, { name, shape, trained }) => {
    const block = blockOf(name);
    const isBelow = block === undefined
      ? name === "wpe.weight" || name === "wte.weight" && config.ownHead // which no gradient passes
      : block < first;
    const count = shape.reduce((product, length) => product * length, 1);
    return sum + count * (2 + (isBelow && !trained ? 0 : 2) + (trained ? 2 : 0));
  }, 0);
  const ofAttention = 4 * documentTokens * heads * headSize * (layers + 2 * (layers - first));
  return Math.round(ofParameters + ofAttention);
}
