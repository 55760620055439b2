import {
  createPattern,
  type Library,
  type Pattern,
  patternOf,
  type Places,
  WORD,
} from "./pattern.ts";
import {
  BLANK,
  type Component,
  type Model,
  prependScheme,
  type TokenizerFile,
  UnsupportedTokenizer,
} from "./tokenizer_file.ts";

/**
 * The pre-tokenizers of a `tokenizer.json`: they split a text into words, which are encoded one by one.
 *
 * npm:@huggingface/tokenizers 0.2 is not used for them, as it differs from Hugging Face's library in Rust: it has two
 * of five treatments of the matches of a pattern, its digits and letters are ASCII's instead of Unicode's, and its
 * Metaspace does not split.
 *
 * @module
 */

/** Splits a text into pieces; `atStart` says whether it begins a whole text. */
export type Splitter = (text: string, atStart: boolean) => readonly string[];

/**
 * GPT-2's pattern (openai/gpt-2, src/encoder.py), where `\s` is Unicode's white space. The words joined are the text.
 */
export const GPT2_WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** Splits a text into GPT-2's words: bulk tokenization spends its time here. */
const splitLikeGpt2: Splitter = (text) => text.match(GPT2_WORDS) ?? [];

/** Leaves a text whole. */
const whole: Splitter = (text) => [text];

/** BERT's pre-tokenizer is two others, one after the other. */
const BERT: readonly Component[] = [{ type: "WhitespaceSplit" }, { type: "Punctuation" }];

/** Makes the function that splits a text into words: by the first pre-tokenizer, the pieces by the second, and so on. */
export function createSplitter(
  { preTokenizers, model }: Pick<TokenizerFile, "preTokenizers" | "model">,
  library: Library,
): Splitter {
  if (preTokenizers.slice(0, -1).some(({ type }) => type === "ByteLevel")) {
    throw new UnsupportedTokenizer(
      "its pre-tokenizer ByteLevel must be the last",
      preTokenizers.map(({ type }) => type),
    );
  }
  const splitters = preTokenizers
    .flatMap((config) => config.type === "BertPreTokenizer" ? BERT : config)
    .map((config) => splitterOf(config, library));
  if (!isByteLevel({ preTokenizers }) && isSeparable(model)) splitters.push(splitBeforeBlanks);
  if (splitters.length === 1) return splitters[0]!;
  return (text, atStart) =>
    splitters.reduce(
      (pieces, split) =>
        pieces.flatMap((piece, i) =>
          // what preceded the first piece may have been removed
          split(piece, atStart && i === 0 && text.startsWith(piece))
        ),
      [text],
    );
}

/** Whether words are written in the byte alphabet. */
export function isByteLevel({ preTokenizers }: Pick<TokenizerFile, "preTokenizers">): boolean {
  return preTokenizers.at(-1)?.type === "ByteLevel";
}

/** Treatments of the matches of a pattern, which divide a text. */
const BEHAVIORS = [
  "Removed",
  "Isolated",
  "MergedWithPrevious",
  "MergedWithNext",
  "Contiguous",
] as const;

/** A treatment of the matches of a pattern. */
export type Behavior = typeof BEHAVIORS[number];

const PUNCTUATION = createPattern(/[\p{P}!-/:-@[-`{-~]/gu);
const WHITE_SPACE = createPattern(/\p{White_Space}/gu);
const NUMBER = createPattern(/\p{N}/gu);
const WORDS = createPattern(new RegExp(`[${WORD}]+|[^${WORD}\\p{White_Space}]+`, "gu"));

/** Longest piece of FixedLength. */
const LONGEST_PIECE = 65_535;

/** Splits at the matches of a pattern. */
function splitAt(pattern: Pattern, behavior: unknown, invert?: boolean | null): Splitter {
  const known = BEHAVIORS.find((name) => name === behavior);
  if (!known) {
    throw new UnsupportedTokenizer(`behavior must be one of ${BEHAVIORS.join(", ")}`, behavior);
  }
  const how = { behavior: known, invert: invert === true };
  return (text) => divide(text, pattern, how).map(([start, end]) => text.slice(start, end));
}

function splitterOf(config: Component, library: Library): Splitter {
  switch (config.type) {
    case "ByteLevel": {
      const { add_prefix_space: prefix, use_regex: splits } = config;
      const words = splits === false ? whole : splitLikeGpt2;
      if (!prefix) return words;
      return (text, atStart) => words(text.startsWith(" ") ? text : ` ${text}`, atStart);
    }
    case "Metaspace": {
      const blank = config.replacement ?? BLANK, scheme = prependScheme(config);
      const words = config.split === false
        ? whole
        : splitAt(patternOf({ String: blank }, library), "MergedWithNext");
      return (text, atStart) => {
        const marked = text.replaceAll(" ", blank);
        const isPrepended = scheme === "always" || (scheme === "first" && atStart);
        return words(isPrepended && !marked.startsWith(blank) ? blank + marked : marked, atStart);
      };
    }
    case "Split":
      return splitAt(patternOf(config.pattern, library), config.behavior, config.invert);
    case "Punctuation":
      return splitAt(PUNCTUATION, config.behavior ?? "Isolated");
    case "Digits":
      return splitAt(NUMBER, config.individual_digits ? "Isolated" : "Contiguous");
    case "Whitespace":
      return splitAt(WORDS, "Removed", true);
    case "WhitespaceSplit":
      return splitAt(WHITE_SPACE, "Removed");
    case "CharDelimiterSplit":
      return splitAt(patternOf({ String: config.delimiter }, library), "Removed");
    case "FixedLength": {
      const { length } = config;
      if (length < 1 || length > LONGEST_PIECE) {
        throw new UnsupportedTokenizer(
          `pre_tokenizer.length must be 1 to ${LONGEST_PIECE}`,
          length,
        );
      }
      return splitAt(createPattern(new RegExp(`.{1,${length}}`, "gsu")), "Isolated");
    }
    default:
      throw new UnsupportedTokenizer(
        "its pre-tokenizer must be one that toy-transformer knows",
        config.type,
      );
  }
}

/** A word without the text that it was cut from, which a slice would keep in memory. */
export function copied(word: string): string {
  return `${word} `.slice(0, -1);
}

/** Divides a text at the matches of a pattern; inverted, the text between matches takes their role. */
export function divide(
  text: string,
  pattern: Pattern,
  { behavior, invert = false }: { behavior: Behavior; invert?: boolean },
): Places {
  const pieces: Places = [];
  let wasMatch = false;
  const add = (start: number, end: number, isMatch: boolean) => {
    if (start === end || (isMatch && behavior === "Removed")) return;
    const last = pieces.at(-1);
    const joinsLast = behavior === "MergedWithPrevious"
      ? isMatch && !wasMatch
      : behavior === "MergedWithNext"
      ? wasMatch && !isMatch
      : behavior === "Contiguous" && isMatch === wasMatch;
    if (last && joinsLast) last[1] = end;
    else pieces.push([start, end]);
    wasMatch = isMatch;
  };
  let end = 0;
  for (const [matchStart, matchEnd] of pattern(text)) {
    add(end, matchStart, invert);
    add(matchStart, matchEnd, !invert);
    end = matchEnd;
  }
  add(end, text.length, invert);
  return pieces;
}

/**
 * Whether a text may be split before blanks, which is faster, even if the pre-tokenizer leaves it whole. The ids stay
 * the same if no token reaches from one word into the next.
 */
export function isSeparable(model: Model): boolean {
  if (model.kind !== "BPE" && model.kind !== "Unigram") return false;
  const { continuing_subword_prefix: prefix, end_of_word_suffix: suffix, ignore_merges } = model;
  if (prefix || suffix || ignore_merges) return false; // the ends of words matter
  return model.tokens.some(([token]) => token === BLANK) &&
    !model.tokens.some(([token]) => /[^\u2581]\u2581/.test(token));
}

/** Splits before each run of blanks. */
export function splitBeforeBlanks(text: string): string[] {
  const isWord = !text.includes(BLANK, 1); // as most are that a pre-tokenizer has cut
  return isWord ? [text] : text.match(/\u2581+[^\u2581]*|[^\u2581]+/g)!;
}
