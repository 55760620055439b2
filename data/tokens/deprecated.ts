import { openDataset } from "../text/dataset.ts";
import type { Documents } from "../text/documents.ts";
import { holdOut, type TokenDataset } from "./token_dataset.ts";
import { openCached, tokenizeDocuments, type TokenizeOptions } from "./tokenize.ts";

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
  cached: boolean;
}> {
  const found = openCached(documents, options);
  const text = found ?? await tokenizeDocuments(documents, options);
  const about = { usedIds: text.usedIds, textHash: text.hash, cached: found !== undefined };
  if (!isDivided) return { text, ...about };
  const { training, validation } = holdOut(text);
  let open = 2; // views of the same files
  const close = () => void (--open === 0 && text.close());
  return { text: { ...training, close }, heldOut: { ...validation, close }, ...about };
}
