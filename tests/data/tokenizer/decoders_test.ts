import assert from "node:assert/strict";
import { createTokenDecoder } from "../../../data/tokenizer/decoders.ts";

const textOf = (tokens: string[], config: Parameters<typeof createTokenDecoder>[0][number]) => {
  const bytesOf = createTokenDecoder([config], undefined);
  return tokens.map((token, i) => new TextDecoder().decode(bytesOf(token, i === 0))).join("");
};

Deno.test("WordPiece's decoder joins words, and writes English as the tokenizers library cleans it up", () => {
  const wordPiece = { type: "WordPiece" } as const;
  assert.equal(textOf(["play", "##ing", "cards"], wordPiece), "playing cards");
  // each is one of the library's replacements
  const cleaned = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " n't": "n't",
    " 'm": "'m",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
  };
  for (const [from, to] of Object.entries(cleaned)) {
    const token = from.slice(1);
    assert.equal(textOf(["a", token], wordPiece), `a${to}`);
    assert.equal(textOf(["a", token], { ...wordPiece, cleanup: false }), `a${from}`);
  }
  assert.equal(textOf(["a", "##b"], { ...wordPiece, prefix: "@@" }), "a ##b");
});
