import { type Library, patternOf, replaceMatches } from "./pattern.ts";
import { type Component, UnsupportedTokenizer } from "./tokenizer_file.ts";

/**
 * The normalizers of a `tokenizer.json`. Those of npm:@huggingface/tokenizers are used, except four: version 0.2
 * replaces SentencePiece's compiled table by NFKC, does not limit the time of patterns, prepends to empty texts as well,
 * and strips what JavaScript calls white space.
 *
 * @module
 */

/** Changes a text before it is split into words. */
export type Normalize = (text: string) => string;

/** Makes the function that applies normalizers in turn. */
export function createNormalizer(configs: readonly Component[], library: Library): Normalize {
  const steps = configs.map((config) => normalizerStep(config, library));
  return (text) => steps.reduce((changed, step) => step(changed), text);
}

function normalizerStep(config: Component, library: Library): Normalize {
  if (config.type === "Precompiled") {
    const { precompiled_charsmap: table } = config;
    return table ? createPrecompiled(table) : (text) => text;
  }
  if (config.type === "Prepend") return (text) => text === "" ? "" : config.prepend + text;
  if (config.type === "Strip") return (text) => stripped(text, config);
  if (config.type === "Replace") {
    const pattern = patternOf(config.pattern, library);
    return (text) => replaceMatches(text, pattern, config.content);
  }
  let step: { normalize(text: string): string };
  try {
    step = new library!.SequenceNormalizer({ type: "Sequence", normalizers: [config] } as never);
  } catch {
    throw new UnsupportedTokenizer(
      "its normalizer must be one that npm:@huggingface/tokenizers knows",
      config.type,
    );
  }
  // the lower case of a sigma depends on its position in JavaScript, but not in Rust
  const lowers = config.type === "Lowercase" ||
    config.type === "BertNormalizer" && config.lowercase === true;
  return (text) => step.normalize(lowers ? text.replaceAll("Σ", "σ") : text);
}

const WHITE_SPACE = /^\p{White_Space}$/u; // with U+0085, and without U+FEFF, other than in JavaScript

/** A text without the white space at its ends. */
function stripped(
  text: string,
  { strip_left, strip_right }: Component & { type: "Strip" },
): string {
  let start = 0, end = text.length;
  if (strip_left) { while (start < end && WHITE_SPACE.test(text[start]!)) start++; }
  if (strip_right) { while (end > start && WHITE_SPACE.test(text[end - 1]!)) end--; }
  return text.slice(start, end);
}

/**
 * SentencePiece's table of characters and their replacements: a trie over UTF-8 as a double array
 * (Yata et al. 2007, in the layout of github.com/s-yata/darts-clone), followed by the replacements, each ended by a
 * zero. As in Hugging Face's library, short graphemes are looked up as a whole, others by character, and the shortest
 * entry that begins one is taken.
 */
function createPrecompiled(base64: string): Normalize {
  const damaged = (what: string) =>
    new UnsupportedTokenizer(`its precompiled_charsmap must be whole: ${what}`, base64);
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = Uint8Array.fromBase64(base64);
  } catch {
    throw damaged("it is no base64");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const trieBytes = bytes.length < 4 ? 0 : view.getUint32(0, true);
  if (trieBytes < 4 || trieBytes % 4 !== 0 || 4 + trieBytes > bytes.length) {
    throw damaged("it is cut off");
  }
  // a place beyond the table has no children
  const unitAt = (place: number) => 4 * place < trieBytes ? view.getUint32(4 + 4 * place, true) : 0;
  const replacements = bytes.subarray(4 + trieBytes);
  const encoder = new TextEncoder(), decoder = new TextDecoder();

  const lookUp = (key: Uint8Array): string | undefined => {
    let place = offsetOf(unitAt(0));
    for (const byte of key) {
      if (byte === 0) return undefined;
      place ^= byte;
      const unit = unitAt(place);
      if ((unit & 0x800000ff) !== byte) return undefined;
      place ^= offsetOf(unit);
      if (unit & 0x100) { // a leaf follows, whose value is the start of the replacement
        const start = unitAt(place) & 0x7fffffff, end = replacements.indexOf(0, start);
        return end < 0 ? undefined : decoder.decode(replacements.subarray(start, end));
      }
    }
    return undefined;
  };
  const known = new Map<string, string>();
  const replace = (grapheme: string): string => {
    let text = known.get(grapheme);
    if (text === undefined) {
      const key = encoder.encode(grapheme);
      const byCharacter = (character: string) => lookUp(encoder.encode(character)) ?? character;
      text = (key.length < 6 ? lookUp(key) : undefined) ??
        Array.from(grapheme, byCharacter).join("");
      if (known.size < 100_000) known.set(grapheme, text);
    }
    return text;
  };
  const graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });
  return (text) =>
    // \r\n is the only grapheme of several ASCII characters, which otherwise need no segmenter
    text.replace(/[\0-\x7f]?[^\0-\x7f]+|\r\n|[\0-\x7f]/g, (part) => {
      if (part.length === 1 || part === "\r\n") return replace(part);
      return Array.from(graphemes.segment(part), ({ segment }) => replace(segment)).join("");
    });
}

/** Distance of a node of the double array from its children. */
function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
