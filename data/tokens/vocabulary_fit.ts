import { gpt2Tokenizer, isPartOf, type Tokenizer } from "../tokenizer/tokenizer.ts";
import type { TokenDataset } from "./token_dataset.ts";

/** Number of samples of the text, and tokens per sample. */
const SAMPLES = 16, SAMPLE_TOKENS = 2048;

/**
 * Ratio of a text's length in a vocabulary to its length in GPT-2's, above which the vocabulary does not fit.
 * A part of GPT-2's vocabulary needs no more tokens than the whole for the text that it was made from; any
 * other small vocabulary needs somewhat more for every text.
 */
const LONGER_IN_PART = 1.25, LONGER_IN_OTHER = 1.5;

/**
 * Warnings about fine-tuning a model on a text that its vocabulary does not fit: the text becomes long, or
 * has characters that the vocabulary lacks. Samples of the text are compared with GPT-2's vocabulary.
 *
 * @param model the model's name.
 * @returns sentences; none if the vocabulary fits.
 */
export async function misfitsOf(
  tokenizer: Tokenizer,
  dataset: TokenDataset,
  model: string,
): Promise<string[]> {
  const gpt2 = await gpt2Tokenizer();
  if (tokenizer.hash === gpt2.hash) return [];
  const unknown = unknownId(tokenizer);
  let here = 0, there = 0, unknowns = 0;
  for (let i = 0; i < SAMPLES; i++) {
    const start = Math.floor(i * dataset.length / SAMPLES);
    const end = Math.min(start + SAMPLE_TOKENS, Math.floor((i + 1) * dataset.length / SAMPLES));
    const ids = Array.from(dataset.read(start, end))
      .filter((id) => id !== tokenizer.endOfText && id !== tokenizer.beginOfText);
    here += ids.length;
    there += gpt2.encodeDocument(tokenizer.decode(ids)).length;
    unknowns += ids.filter((id) => id === unknown).length;
  }
  const sentences: string[] = [];
  const longest = await isPartOf(tokenizer, gpt2) ? LONGER_IN_PART : LONGER_IN_OTHER;
  if (here > longest * there) {
    sentences.push(
      `the text becomes ${(here / there).toFixed(2)} times as long in the ` +
        `${tokenizer.vocabularySize} tokens of ${model} as in GPT-2's ${gpt2.vocabularySize}: ` +
        `contexts hold less of it, and it is learned less well; a base that was trained with ` +
        `--vocabulary full, or with a --tokenizer that was trained on both texts, avoids this`,
    );
  }
  if (unknowns > 0) {
    const percent = Number((100 * unknowns / here).toPrecision(2));
    sentences.push(
      `${percent} % of the text's tokens stand for characters that are unknown to the tokenizer of ` +
        `${model}: it can neither learn nor write them`,
    );
  }
  return sentences;
}

/** Id of the token for unknown characters, if there is one. */
export function unknownId(tokenizer: Tokenizer): number | undefined {
  const { unk_id, unk_token, vocab } = JSON.parse(tokenizer.json).model;
  return unk_id ?? (unk_token && !Array.isArray(vocab) ? vocab[unk_token] : undefined) ?? undefined;
}
