import { windowStart } from "../generate/decoder.ts";
import type { LoadedModel } from "../generate/load.ts";
import { type Prediction, predictionsOf } from "../inspect/predictions.ts";

/**
 * Computes what a model expects after each token of a text of any length: beyond its context it sees the windows that
 * `generate()` sees.
 *
 * @param options.from the first position of interest.
 * @returns those of positions `from` to T − 1.
 */
export async function predictionsInWindows(
  model: LoadedModel,
  ids: readonly number[],
  { top, from = 0 }: { top: number; from?: number },
): Promise<Prediction[]> {
  const startAt = (position: number) => windowStart(position + 1, model.gpt.config.contextLength);
  const found: Prediction[] = [];
  for (let position = from; position < ids.length; position = from + found.length) {
    const first = startAt(position);
    let end = position + 1;
    while (end < ids.length && startAt(end) === first) end++;
    const following = ids[end];
    const { predictions } = await predictionsOf(model, ids.slice(first, end), { top, following });
    found.push(...predictions.slice(position - first));
  }
  return found;
}
