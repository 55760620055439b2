import { quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import type { LoadedModel } from "../generate/load.ts";
import { attentionByLayer, idsOf } from "./pass.ts";

/** A head, and how much of its attention goes to a word that comes next. */
export interface CopyingHead {
  /** The layer, from 0. */
  readonly layer: number;
  /** The head in its layer, from 0. */
  readonly head: number;
  /** Attention weight, 0 to 1: the mean over all texts. */
  readonly weight: number;
}

/** A text that ends where a word of it is to come again. */
export interface BeforeCopy {
  /** The text, which ends before the word comes again. */
  readonly text: string;
  /** The word as the text has it, with the space before it. */
  readonly word: string;
}

/**
 * Finds the heads that copy words: those that attend, from the last token of a text, to a word that comes next and that
 * the text has already. Wang et al. 2022 (https://arxiv.org/abs/2211.00593) call them name movers.
 *
 * @param texts each is read as a document. It must have the word and fit into the model's context.
 * @returns all heads, the one with the highest weight first.
 * @throws {RangeError} if there is no text; {UserError} if a text does not have its word, or as `logitsOf()` does.
 *
 * @example Find the head that copies the name of a story's hero
 * ```ts
 * import { beforeNames, copyingHeads, loadModel, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const texts = beforeNames({ seed: 1, count: 24 });
 * console.log(texts[0]); // { text: "One warm spring, a small boy named Jack went …", word: " Jack" }
 * const [{ layer, head, weight }] = await copyingHeads(model, texts);
 * console.log(`head ${head} of layer ${layer}: ${(100 * weight).toFixed(0)} % of its attention`);
 * ```
 */
export async function copyingHeads(
  model: LoadedModel,
  texts: readonly BeforeCopy[],
): Promise<[CopyingHead, ...CopyingHead[]]> {
  if (texts.length === 0) {
    throw new RangeError("Cannot find heads that copy as there must be a text: there is none");
  }
  const { gpt, tokenizer } = model, { layers, heads } = gpt.config;
  const found = Array.from({ length: layers * heads }, (_, i) => (
    { layer: Math.floor(i / heads), head: i % heads, weight: 0 }
  ));
  for (const { text, word } of texts) {
    const ids = idsOf(model, text), T = ids.length, places = placesOf(tokenizer.encode(word), ids);
    if (places.length === 0) {
      throw new UserError(
        `Cannot find heads that copy ${quoted(word)} as the text must have it: ${quoted(text)}`,
      );
    }
    let layer = 0;
    for await (const weights of attentionByLayer(gpt, ids)) {
      for (let head = 0; head < heads; head++) {
        const last = weights.subarray((head * T + T - 1) * T);
        for (const place of places) {
          found[layer * heads + head]!.weight += last[place]! / texts.length;
        }
      }
      layer++;
    }
  }
  return found.sort((a, b) => b.weight - a.weight) as [CopyingHead, ...CopyingHead[]];
}

/** The places of all tokens of a word, wherever the ids have it. */
function placesOf(word: readonly number[], ids: readonly number[]): number[] {
  return ids.flatMap((_, start) =>
    word.every((id, i) => ids[start + i] === id) ? word.map((_, i) => start + i) : []
  );
}
