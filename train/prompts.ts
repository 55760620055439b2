import { createChatFormat } from "../data/tokenizer/chat_format.ts";
import type { Corpus } from "../data/tokens/corpus.ts";

/** Tokens of a sample after its prompt. */
export const SAMPLE_TOKENS = 120;

/** Tokens of a document that are decoded to find its first words. */
const DECODED_TOKENS = 256;

/** Words and UTF-16 units of a prompt, at most. */
const MOST_WORDS = 4, MOST_LENGTH = 40;

/** Characters of a prompt from a text without blanks, such as one in Japanese. */
const CHARACTERS = 10;

/**
 * A prompt that fits the text of a training: the first words of a held-out document, or of a part of the held-out
 * text if that is a single document; of a conversation what precedes the first answer.
 *
 * The prompt depends on nothing but the text and the turn, so that a resumed run draws the same samples. It has at
 * most half of a document, which leaves something to generate, and is empty if no words are that short.
 *
 * @param turn index of the document, from 0, modulo their number.
 */
export function heldOutPrompt(
  { validation, tokenizer }: Pick<Corpus, "validation" | "tokenizer">,
  turn: number,
): string {
  const { length, documents, answersOf } = validation;
  if (answersOf) {
    const document = turn % documents, { beginOfText } = tokenizer;
    const ids = Array.from(
      validation.read(validation.documentStart(document), answersOf(document)[0]!.start),
    );
    return tokenizer.decode(ids[0] === beginOfText ? ids.slice(1) : ids); // prompts begin with it anyway
  }
  const isDocument = documents > 1;
  const start = isDocument
    ? validation.documentStart(turn % documents)
    : DECODED_TOKENS * (turn % Math.max(1, Math.floor(length / DECODED_TOKENS)));
  const end = isDocument ? validation.documentStart(turn % documents + 1) : length;
  const { push } = tokenizer.decoder(); // without its end, which may be a part of a character
  let text = "";
  const stop = Math.min(end - 1, start + DECODED_TOKENS); // end-of-text is the last token of a document
  for (const id of validation.read(start, Math.max(start, stop))) text += push(id);
  return firstWords((isDocument ? text : fromWholeLine(text)).trim());
}

/** A prompt that the options name: in a training on conversations it is a message of the user. */
export async function givenPrompt(
  { training, tokenizer }: Pick<Corpus, "training" | "tokenizer">,
  text: string,
): Promise<string> {
  if (!training.answersOf) return text;
  const { beginOfText, decode } = tokenizer, { render } = await createChatFormat(tokenizer);
  const prompt = render([{ role: "user", content: text }], { addGenerationPrompt: true });
  const begin = beginOfText === undefined ? "" : decode([beginOfText]); // prompts begin with it anyway
  return prompt.startsWith(begin) ? prompt.slice(begin.length) : prompt;
}

/** A text that begins within a line, from its first whole line or word on. */
function fromWholeLine(text: string): string {
  const gap = /\n\s*(?=\S)/.exec(text) ?? /\s+(?=\S)/.exec(text);
  return gap ? text.slice(gap.index + gap[0].length) : text;
}

/** Punctuation at the end of a word. */
const PUNCTUATION = /[,;:.!?]+$/;

/** The first words of a text's first line, up to the end of a clause of several words. */
function firstWords(text: string): string {
  const [line] = text.split("\n", 1), most = Math.min(MOST_LENGTH, text.length / 2);
  let words = "";
  for (const [i, word] of (line!.match(/\s*\S+/g) ?? []).slice(0, MOST_WORDS).entries()) {
    if (words.length + word.length > most) break;
    words += word;
    if (i > 0 && PUNCTUATION.test(word)) break;
  }
  if (words === "" && text.length > MOST_LENGTH) words = [...line!].slice(0, CHARACTERS).join("");
  return words.replace(PUNCTUATION, "");
}
