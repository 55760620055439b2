import type { LoadedModel } from "../generate/load.ts";
import { download } from "../kernels/tensor.ts";
import { headName, masterOf } from "../model/gpt.ts";
import type { ReadText } from "./inspect.ts";
import { idsOf } from "./pass.ts";
import { highest, type Token, tokenOf } from "./tokens.ts";

/** A token whose vector is near that of another. */
export interface Neighbour extends Token {
  /** Cosine of the angle between the two vectors, from −1 to 1. */
  readonly cosine: number;
}

/** The nearest neighbours of the tokens of a text. */
export interface TextNeighbours extends ReadText {
  /** The tokens of `ids`, [T]. */
  readonly tokens: readonly Token[];
  /** [T]: the nearest neighbours of each token, the nearest first; the token itself is none of them. */
  readonly neighbours: readonly (readonly Neighbour[])[];
}

/**
 * Finds the tokens whose vectors are nearest to those of a text's tokens, by the cosine. Position and context do not
 * matter: the vectors are rows of one matrix, which is read from the device.
 *
 * @param options.top number of neighbours per token; 10 by default.
 * @param options.matrix `embedding` for the token embedding, the default, or `head` for the rows of the head's matrix;
 * they are the same unless the model has a separate head.
 * @throws {UserError} if the text has no token, or an id is outside the vocabulary.
 *
 * @example Find words that a model uses alike
 * ```ts
 * import { loadModel, neighboursOf, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const { tokens, neighbours } = await neighboursOf(model, model.tokenizer.encode(" dog"));
 * console.log(tokens[0]!.text, neighbours[0]!.map(({ text, cosine }) => [text, cosine]));
 * ```
 */
export async function neighboursOf(
  model: LoadedModel,
  text: string | readonly number[],
  { top = 10, matrix = "embedding" }: { top?: number; matrix?: "embedding" | "head" } = {},
): Promise<TextNeighbours> {
  const { gpt, tokenizer } = model, { vocabularySize: V, width: C } = gpt.config;
  const ids = idsOf(model, text, { most: Infinity });
  const rows = masterOf(gpt, matrix === "head" ? headName(gpt) : "wte.weight");
  const [values] = await download(gpt.device, rows);
  const dot = (a: number, b: number) => {
    let sum = 0;
    for (let c = 0; c < C; c++) sum += values![a * C + c]! * values![b * C + c]!;
    return sum;
  };
  const norms = Float64Array.from({ length: V }, (_, id) => Math.sqrt(dot(id, id)));
  const nearest = (id: number): Neighbour[] => {
    const cosines = norms.map((norm, other) => dot(id, other) / (norm * norms[id]!) || 0); // 0 for a zero row
    return highest(cosines, top + 1).filter((other) => other !== id).slice(0, top)
      .map((other) => ({ ...tokenOf(tokenizer, other), cosine: cosines[other]! }));
  };
  const found = new Map([...new Set(ids)].map((id) => [id, nearest(id)]));
  return {
    ids,
    tokens: ids.map((id) => tokenOf(tokenizer, id)),
    neighbours: ids.map((id) => found.get(id)!),
  };
}
