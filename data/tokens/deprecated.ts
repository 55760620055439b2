import { openDataset } from "../text/dataset.ts";
import type { Documents } from "../text/documents.ts";
import { holdOut, type TokenDataset } from "./token_dataset.ts";
import { tokenizeDocuments, type TokenizeOptions } from "./tokenize.ts";

/**
 * Names that mod.ts had before 0.2.0; they go with the next version.
 *
 * @module
 */

/** @deprecated Use `openDataset()`. */
export const openSources: typeof openDataset = openDataset;

/** @deprecated Use `tokenizeDocuments()`; `loadCorpus()` holds documents out. */
export async function tokenizeSource(
  documents: Documents,
  { holdOut: isDivided, ...options }: TokenizeOptions & { holdOut: boolean },
): Promise<{
  text: TokenDataset & { close(): void };
  heldOut?: TokenDataset & { close(): void };
  usedIds: readonly number[];
  textHash: string;
}> {
  const text = await tokenizeDocuments(documents, options);
  const { usedIds, hash: textHash } = text;
  if (!isDivided) return { text, usedIds, textHash };
  const { training, validation } = holdOut(text);
  return {
    text: { ...training, close: () => text.close() },
    heldOut: { ...validation, close() {} },
    ...{ usedIds, textHash },
  };
}
