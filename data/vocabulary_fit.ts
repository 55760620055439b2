import type { TokenizedText } from "./token_file.ts";
import { gpt2Tokenizer, isPartOf, type Tokenizer } from "./tokenizer.ts";

/** Stretches of a text that are looked at, and tokens in each. */
const STRETCHES = 16, STRETCH_TOKENS = 2048;

/**
 * From so many times as long on a text does not fit a vocabulary. A part of GPT-2's makes the text that
 * it was taken from as long as GPT-2's does; another small one may do with any text what is harmless here.
 */
const LONGER_IN_PART = 1.25, LONGER_IN_OTHER = 1.5;

/**
 * What is to be said to whoever trains a model further on a text that its vocabulary was not made for:
 * that the text becomes long, or has characters which the vocabulary lacks. A sample of the text is compared
 * with GPT-2's vocabulary.
 *
 * @param model what the model is called.
 * @returns sentences; none if the vocabulary fits.
 */
export async function misfitsOf(
  tokenizer: Tokenizer,
  text: TokenizedText,
  model: string,
): Promise<string[]> {
  const gpt2 = await gpt2Tokenizer();
  if (tokenizer.hash === gpt2.hash) return [];
  const unknown = unknownId(tokenizer);
  let here = 0, there = 0, unknowns = 0;
  for (let i = 0; i < STRETCHES; i++) {
    const start = Math.floor(i * text.length / STRETCHES);
    const end = Math.min(start + STRETCH_TOKENS, Math.floor((i + 1) * text.length / STRETCHES));
    const ids = Array.from(text.read(start, end)).filter((id) => id !== tokenizer.endOfText);
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

/** Id of the token that stands for whatever a vocabulary lacks, if there is one. */
function unknownId(tokenizer: Tokenizer): number | undefined {
  const { unk_id, unk_token, vocab } = JSON.parse(tokenizer.json).model;
  return unk_id ?? (unk_token && !Array.isArray(vocab) ? vocab[unk_token] : undefined) ?? undefined;
}
