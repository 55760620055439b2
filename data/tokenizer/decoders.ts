import { fromByteAlphabet } from "./byte_level.ts";
import { type Library, patternOf, replaceMatches } from "./pattern.ts";
import { BLANK, type Component, prependScheme, UnsupportedTokenizer } from "./tokenizer_file.ts";

/**
 * The decoders of a `tokenizer.json`: they turn tokens into text.
 *
 * Every decoder but one (CTC, for speech) decodes each token alone; only the first and the last token of a text are
 * special. Therefore a text can be decoded token by token, and its bytes can be counted.
 *
 * @module
 */

/**
 * UTF-8 bytes of a token, which may be a part of a character.
 *
 * @param atStart whether the token is the first of its text.
 */
export type DecodeToken = (token: string, atStart: boolean) => Uint8Array;

/** Changes the text of a token; bytes are final. */
type Step = (text: string, atStart: boolean) => string | Uint8Array;

/** Makes the function that decodes a token by these decoders, one after the other. */
export function createTokenDecoder(configs: readonly Component[], library: Library): DecodeToken {
  const fuse = configs.findIndex(({ type }) => type === "Fuse"), steps: Step[] = [];
  configs.forEach((config, i) => {
    if (config.type === "Fuse") return;
    steps.push(decoderStep(config, { isFused: fuse >= 0 && i > fuse, library }));
  });
  if (configs.length === 0) steps.push((token, atStart) => atStart ? token : ` ${token}`);
  const encoder = new TextEncoder();
  return (token, atStart) => {
    let text: string | Uint8Array = token;
    for (const step of steps) if (typeof text === "string") text = step(text, atStart);
    return typeof text === "string" ? encoder.encode(text) : text;
  };
}

function decoderStep(
  config: Component,
  { isFused, library }: { isFused: boolean; library: Library },
): Step {
  switch (config.type) {
    case "ByteLevel":
      return (token) => fromByteAlphabet(token) ?? token;
    case "ByteFallback":
      return (token) => {
        const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
        return byte === undefined ? token : Uint8Array.of(parseInt(byte, 16));
      };
    case "Metaspace": {
      const blank = config.replacement ?? BLANK, isPrepended = prependScheme(config) !== "never";
      return (token, atStart) => token.replaceAll(blank, atStart && isPrepended ? "" : " ");
    }
    case "WordPiece": {
      const prefix = config.prefix ?? "##", cleanup = config.cleanup ?? true;
      return (token, atStart) => {
        const inside = !atStart && token.startsWith(prefix);
        const text = atStart ? token : inside ? token.slice(prefix.length) : ` ${token}`;
        return cleanup ? cleanUp(text) : text;
      };
    }
    case "BPEDecoder": {
      const suffix = config.suffix ?? "</w>";
      return (token) => token.replaceAll(suffix, " ");
    }
    case "Replace": {
      const pattern = patternOf(config.pattern, library);
      return (token) => replaceMatches(token, pattern, config.content);
    }
    case "Strip": {
      const { content } = config, start = config.start ?? 0, stop = config.stop ?? 0;
      if (typeof content !== "string") {
        throw new UnsupportedTokenizer("decoder.content of Strip must be a text", content);
      }
      if (isFused && (start > 1 || stop > 0)) {
        throw new UnsupportedTokenizer(
          "its decoder may strip one character of a text's start and none of its end",
          [start, stop],
        );
      }
      return (token, atStart) => isFused && !atStart ? token : strip(token, content, start, stop);
    }
    default:
      throw new UnsupportedTokenizer(
        "its decoder must be one that toy-transformer knows",
        config.type,
      );
  }
}

/** Removes a character from the start and the end, up to a number of times each. */
function strip(text: string, character: string, most: number, mostAtEnd: number): string {
  let start = 0, end = text.length;
  while (start < most && text[start] === character) start++;
  while (text.length - end < mostAtEnd && end > start && text[end - 1] === character) end--;
  return text.slice(start, end);
}

/** Joins punctuation and contractions to words, as WordPiece's decoder does. */
function cleanUp(text: string): string {
  return text.replace(/ ([.?!,])/g, "$1").replaceAll(" ' ", "'").replace(/ (n't|'m)/g, "$1")
    .replaceAll(" do not", " don't").replace(/ ('s|'ve|'re)/g, "$1");
}
