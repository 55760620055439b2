import { createPattern, type Pattern, type PatternOf, type Span } from "./pattern.ts";
import {
  BLANK,
  type Component,
  type ModelConfig,
  modelKind,
  prependScheme,
  UnsupportedTokenizer,
} from "./tokenizer_file.ts";
import { modelTokens } from "./vocabulary.ts";

/**
 * The pre-tokenizers of a `tokenizer.json`: they split a text into words, which are encoded one by one.
 *
 * npm:@huggingface/tokenizers 0.2 is not used for them, as it differs from Hugging Face's library in Rust: it has two
 * of five treatments of the matches of a pattern, its digits and letters are ASCII's instead of Unicode's, and its
 * Metaspace does not split.
 *
 * @module
 */

/**
 * Splits a text and calls `visit` with the pieces in order.
 *
 * @param atStart whether the text begins a whole text; `visit` is called with the same for each piece.
 */
export type Splitter = (
  text: string,
  atStart: boolean,
  visit: (piece: string, atStart: boolean) => void,
) => void;

/**
 * GPT-2's pattern (openai/gpt-2, src/encoder.py), where `\s` is Unicode's white space. The words joined are the text.
 */
export const GPT2_WORDS =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

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
const WORD = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}";
const WORDS = createPattern(new RegExp(`[${WORD}]+|[^${WORD}\\p{White_Space}]+`, "gu"));

/** Longest piece of FixedLength. */
const LONGEST_PIECE = 65_535;

/** Splits texts into words for a model. */
export interface PreTokenizer {
  /** Splits a text into words. */
  readonly split: Splitter;
  /** Whether the words are to be written in the byte alphabet. */
  readonly byteLevel: boolean;
}

/**
 * Makes a pre-tokenizer from its description; without one, a text is one word.
 *
 * @throws {UnsupportedTokenizer} if its kind is unknown.
 */
export function createPreTokenizer(
  stages: readonly Component[],
  patternOf: PatternOf,
): PreTokenizer {
  const byteLevel = stages.findIndex(({ type }) => type === "ByteLevel");
  if (byteLevel >= 0 && byteLevel !== stages.length - 1) {
    throw new UnsupportedTokenizer(
      "its pre-tokenizer ByteLevel must be the last",
      stages.map(({ type }) => type),
    );
  }
  const split = inSequence(...stages.map((stage) => createSplitter(stage, patternOf)));
  return { split, byteLevel: byteLevel >= 0 };
}

/** Splits a text by the first splitter, the pieces by the second, and so on. */
function inSequence(...splitters: readonly Splitter[]): Splitter {
  if (splitters.length === 0) return (text, atStart, visit) => visit(text, atStart);
  return splitters.reduceRight((rest, split) => (text, atStart, visit) =>
    split(text, atStart, (piece, first) => rest(piece, first, visit))
  );
}

/** Splits at the matches of a pattern. */
function splitAt(pattern: Pattern, behavior: unknown, invert?: boolean | null): Splitter {
  const known = BEHAVIORS.find((name) => name === behavior);
  if (!known) {
    throw new UnsupportedTokenizer(`behavior must be one of ${BEHAVIORS.join(", ")}`, behavior);
  }
  return (text, atStart, visit) => {
    for (
      const [start, end] of divide(text, pattern, { behavior: known, invert: invert === true })
    ) {
      visit(text.slice(start, end), atStart && start === 0);
    }
  };
}

/** Splits a text into GPT-2's words: bulk tokenization spends its time here. */
const splitLikeGpt2: Splitter = (text, atStart, visit) => {
  let first = atStart;
  for (const word of text.match(GPT2_WORDS) ?? []) {
    visit(word, first);
    first = false;
  }
};

function createSplitter(config: Component, patternOf: PatternOf): Splitter {
  switch (config.type) {
    case "ByteLevel": {
      const { add_prefix_space: prefix, use_regex: splits } = config;
      const words = splits === false ? inSequence() : splitLikeGpt2;
      return (text, atStart, visit) =>
        words(prefix && !text.startsWith(" ") ? ` ${text}` : text, atStart, visit);
    }
    case "Metaspace": {
      const blank = config.replacement ?? BLANK, scheme = prependScheme(config);
      const words = config.split === false
        ? inSequence()
        : splitAt(patternOf({ String: blank }), "MergedWithNext");
      return (text, atStart, visit) => {
        const whole = text.replaceAll(" ", blank);
        const isPrepended = scheme === "always" || (scheme === "first" && atStart);
        words(isPrepended && !whole.startsWith(blank) ? blank + whole : whole, atStart, visit);
      };
    }
    case "Split":
      return splitAt(patternOf(config.pattern), config.behavior, config.invert);
    case "Punctuation":
      return splitAt(PUNCTUATION, config.behavior ?? "Isolated");
    case "Digits":
      return splitAt(NUMBER, config.individual_digits ? "Isolated" : "Contiguous");
    case "Whitespace":
      return splitAt(WORDS, "Removed", true);
    case "WhitespaceSplit":
      return splitAt(WHITE_SPACE, "Removed");
    case "CharDelimiterSplit":
      return splitAt(patternOf({ String: config.delimiter }), "Removed");
    case "BertPreTokenizer":
      return inSequence(splitAt(WHITE_SPACE, "Removed"), splitAt(PUNCTUATION, "Isolated"));
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
): Span[] {
  const pieces: Span[] = [];
  let wasMatch = false;
  const add = (start: number, end: number, isMatch: boolean) => {
    if (start === end) return;
    const last = pieces.at(-1);
    switch (behavior) {
      case "Removed":
        if (!isMatch) pieces.push([start, end]);
        return;
      case "MergedWithPrevious":
        if (isMatch && !wasMatch && last) last[1] = end;
        else pieces.push([start, end]);
        break;
      case "MergedWithNext":
        if (!isMatch && wasMatch) last![1] = end;
        else pieces.push([start, end]);
        break;
      case "Contiguous":
        if (isMatch === wasMatch && last) last[1] = end;
        else pieces.push([start, end]);
        break;
      case "Isolated":
        pieces.push([start, end]);
    }
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
export function isSeparable(model: ModelConfig): boolean {
  const kind = modelKind(model);
  if (kind !== "BPE" && kind !== "Unigram") return false;
  const { continuing_subword_prefix: prefix, end_of_word_suffix: suffix, ignore_merges } = model;
  if (prefix || suffix || ignore_merges) return false; // the ends of words matter
  const tokens = modelTokens(model).map(([token]) => token);
  return tokens.includes(BLANK) && !tokens.some((token) => /[^\u2581]\u2581/.test(token));
}

/** Splits pieces further, before blanks. */
export function splitBeforeBlanks(split: Splitter): Splitter {
  return (text, atStart, visit) =>
    split(text, atStart, (piece, first) => {
      let start = 0;
      for (let at = 1; (at = piece.indexOf(BLANK, at)) > 0; at++) {
        if (piece[at - 1] === BLANK) continue;
        visit(piece.slice(start, at), first && start === 0);
        start = at;
      }
      visit(piece.slice(start), first && start === 0);
    });
}
