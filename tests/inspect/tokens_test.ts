import assert from "node:assert/strict";
import { gpt2Tokenizer } from "../../data/tokenizer/tokenizer.ts";
import { highest, likeliestTokens, tokenOf } from "../../inspect/tokens.ts";
import { withRandom } from "../kernels/harness.ts";

const tokenizer = await gpt2Tokenizer();

Deno.test("tokenOf() shows bytes that are no whole character, and special tokens by their name", () => {
  const texts = (text: string) => tokenizer.encode(text).map((id) => tokenOf(tokenizer, id));
  assert.deepEqual(texts("a 🦊 é").map(({ text }) => text), [
    "a",
    " \\xf0\\x9f",
    "\\xa6",
    "\\x8a",
    " é",
  ]);
  const [, part] = texts("a 🦊");
  assert.deepEqual(part!.bytes, [0x20, 0xf0, 0x9f]);
  const end = tokenOf(tokenizer, tokenizer.endOfText);
  assert.deepEqual(end, { id: tokenizer.endOfText, text: "<|endoftext|>", bytes: [] });
});

Deno.test("tokenOf() gives back the bytes of every text", () => {
  const text = "𝕏 \ufeffzero\u200bwidth \u0000\u001b[2J 日本語 naïve \ud83e\udd8a\n\r\n";
  const bytes = tokenizer.encodeDocument(text).flatMap((id) => tokenOf(tokenizer, id).bytes);
  assert.equal(new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes)), text);
});

Deno.test(
  "highest() sorts as a stable sort does",
  withRandom((random) => {
    for (let round = 0; round < 50; round++) {
      const values = Array.from({ length: 40 }, () => Math.floor(12 * random()));
      const sorted = [...values.keys()].sort((a, b) => values[b]! - values[a]!);
      for (const top of [0, 1, 7, 40, 100]) {
        assert.deepEqual(highest(values, top), sorted.slice(0, top));
      }
    }
  }),
);

Deno.test("likeliestTokens() describes the likeliest tokens", () => {
  const probabilities = new Float64Array(tokenizer.vocabularySize);
  const [dog, cat] = tokenizer.encode(" dog cat") as [number, number];
  probabilities[dog] = 0.75;
  probabilities[cat] = 0.25;
  assert.deepEqual(
    likeliestTokens(tokenizer, probabilities, { top: 2 })
      .map(({ text, probability }) => [text, probability]),
    [[" dog", 0.75], [" cat", 0.25]],
  );
});
