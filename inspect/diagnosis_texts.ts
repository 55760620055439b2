import { sampleStories } from "../data/text/stories.ts";
import type { TokenDataset } from "../data/tokens/token_dataset.ts";
import type { LoadedModel } from "../generate/load.ts";

/**
 * The texts with which a model is diagnosed: parts of a text that are spread over it.
 *
 * @module
 */

/** Texts that the model reads, tokens of all of them, and tokens of each, at most. */
const MOST_ROWS = 16, ROW_TOKENS = 1024, LONGEST_ROW = 128;

/** Built-in stories that a model reads whose text is not known. */
const STORIES = 8;

/** A text as the model reads it: its tokens after the one that ends the text before. */
export type TextRow = readonly number[];

/** Texts for a model: those of a dataset, or built-in stories if there is none. Each has several tokens. */
export function textRows(dataset: TokenDataset | undefined, model: LoadedModel): TextRow[] {
  const rows = dataset ? rowsOf(dataset, model) : [];
  return rows.length > 0 ? rows : storyRows(model);
}

/** Beginnings of documents, or if there is one document, parts of it. */
function rowsOf(dataset: TokenDataset, { gpt, tokenizer }: LoadedModel): TextRow[] {
  const { length, documents } = dataset, rows: TextRow[] = [];
  const longest = Math.min(LONGEST_ROW, gpt.config.contextLength);
  const most = documents > 1 ? documents : Math.ceil(length / longest);
  const count = Math.min(MOST_ROWS, most);
  for (let i = 0, tokens = 0; i < count && tokens < ROW_TOKENS; i++) {
    const place = placeOf(i), document = Math.floor(place * documents);
    const start = documents > 1
      ? dataset.documentStart(document)
      : Math.floor(place * Math.max(0, length - longest));
    const end = documents > 1 ? dataset.documentStart(document + 1) : length;
    const row = [
      ...dataset.answersOf ? [] : [tokenizer.endOfText], // conversations begin with their first token
      ...dataset.read(start, Math.min(end, start + longest - 1)),
    ];
    if (row.length < 2) continue;
    rows.push(row);
    tokens += row.length;
  }
  return rows;
}

/** The place of a part, from 0 to 1: multiples of the golden ratio are spread evenly, however many there are. */
function placeOf(i: number): number {
  return i * (Math.sqrt(5) - 1) / 2 % 1;
}

/** Beginnings of built-in stories, for a model whose text is not known. */
function storyRows({ gpt, tokenizer }: LoadedModel): TextRow[] {
  const longest = Math.min(LONGEST_ROW, gpt.config.contextLength);
  const first = tokenizer.beginOfText ?? tokenizer.endOfText;
  return sampleStories({ seed: 1, count: STORIES })
    .map((story) => [first, ...tokenizer.encode(story)].slice(0, longest))
    .filter(({ length }) => length > 1);
}

/** `count` parts of a text that are spread over it, of `tokens` tokens each. */
export function excerptsOf(dataset: TokenDataset, count: number, tokens: number): number[][] {
  const { length } = dataset;
  return Array.from({ length: count }, (_, i) => {
    const start = Math.floor(placeOf(i) * Math.max(0, length - tokens));
    return [...dataset.read(start, Math.min(length, start + tokens))];
  });
}

/** Tokens that the assistant says in the first conversations, without those of the chat template; `most` at most. */
export function answersIn(dataset: TokenDataset, most: number): number[] {
  const ids: number[] = [];
  for (let d = 0; d < dataset.documents && ids.length < most; d++) {
    for (const { start, end } of dataset.answersOf!(d)) {
      for (const id of dataset.read(start, Math.min(end, start + most - ids.length))) ids.push(id);
    }
  }
  return ids;
}
