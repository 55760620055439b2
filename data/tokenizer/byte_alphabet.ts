/**
 * GPT-2's byte alphabet: each byte written as a printable character, so that a token of any bytes is a
 * text (openai/gpt-2, src/encoder.py). Bytes that print stand for themselves, the others for U+0100 on.
 *
 * @module
 */

/** The character of each byte. */
export const BYTE_ALPHABET: readonly string[] = (() => {
  const printable = (byte: number) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xff && byte !== 0xad);
  let next = 0x100;
  return Array.from(
    { length: 256 },
    (_, byte) => String.fromCharCode(printable(byte) ? byte : next++),
  );
})();

const BYTE_OF: ReadonlyMap<string, number> = new Map(BYTE_ALPHABET.map((c, byte) => [c, byte]));

/** Writes bytes in the byte alphabet. */
export function toByteAlphabet(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += BYTE_ALPHABET[byte]!;
  return text;
}

/** The bytes of a text in the byte alphabet, or undefined if a character is not of it. */
export function fromByteAlphabet(text: string): Uint8Array | undefined {
  const bytes = Array.from(text, (character) => BYTE_OF.get(character));
  return bytes.includes(undefined) ? undefined : Uint8Array.from(bytes as number[]);
}
