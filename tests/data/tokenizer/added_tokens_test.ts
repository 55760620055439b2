import assert from "node:assert/strict";
import {
  createAddedTokenSplitter,
  type SpelledToken,
} from "../../../data/tokenizer/added_tokens.ts";

const token = (id: number, spelled: string, more: Partial<SpelledToken> = {}): SpelledToken => (
  { id, content: spelled, spelled, special: true, ...more }
);
const split = (tokens: SpelledToken[], text: string, special = true) =>
  createAddedTokenSplitter(tokens)(text, { special });

Deno.test("createAddedTokenSplitter() finds the longest of the tokens that begin at one place", () => {
  const tokens = [token(1, "<a>"), token(2, "<a><b>"), token(3, "<a><b><c>")];
  assert.deepEqual(split(tokens, "x<a><b>y<a><b><c><a>"), ["x", 2, "y", 3, 1]);
  assert.deepEqual(split(tokens.toReversed(), "<a><b>"), [2]);
});

Deno.test("createAddedTokenSplitter() leaves a single word alone where letters of any kind touch it", () => {
  const single = [token(1, "<x>", { single_word: true })];
  for (const letter of ["a", "é", "日", "𝒜", "𝟙", "_"]) {
    for (const text of [`${letter}<x>`, `<x>${letter}`]) {
      assert.deepEqual(split(single, text), [text]);
    }
  }
  assert.deepEqual(split(single, "a <x>, b"), ["a ", 1, ", b"]);
  assert.deepEqual(split(single, "🦖<x>🦖"), ["🦖", 1, "🦖"]);
});

Deno.test("createAddedTokenSplitter() takes white space with a token that asks for it", () => {
  assert.deepEqual(split([token(1, "<x>", { lstrip: true })], "a \t<x> b"), ["a", 1, " b"]);
  assert.deepEqual(split([token(1, "<x>", { rstrip: true })], "a <x>\n b"), ["a ", 1, "b"]);
  const both = [token(1, "<x>", { lstrip: true, rstrip: true })];
  assert.deepEqual(split(both, "a <x>  <x> b"), ["a", 1, 1, "b"]);
  // as Hugging Face's library, in which a token may stand in the white space of the token before it
  const lines = [token(1, "\n\n", { lstrip: true, rstrip: true })];
  assert.deepEqual(split(lines, "a\n\n\n\nb"), ["a", 1, "b"]);
  const blanks = [token(1, "<x>", { rstrip: true }), token(2, "  ")];
  assert.deepEqual(split(blanks, "<x>    b"), [1, 2, 2, "b"]);
  assert.deepEqual(split(blanks, "<x>   b"), [1, 2, " b"]);
});

Deno.test("createAddedTokenSplitter() reads white space once in which tokens take that after them", () => {
  const since = performance.now(), count = 2 ** 18;
  const parts = split([token(1, "\n", { rstrip: true })], "\n".repeat(count) + "a\n b");
  assert.deepEqual([parts.length, ...parts.slice(-4)], [count + 3, 1, "a", 1, "b"]);
  const seconds = (performance.now() - since) / 1000;
  assert.ok(seconds < 30, `it took ${seconds} s`);
});

Deno.test("createAddedTokenSplitter() leaves special tokens as text where the text is to be text", () => {
  const tokens = [token(1, "<x>"), token(2, "<y>", { special: false })];
  assert.deepEqual(split(tokens, "a<x>b<y>", false), ["a<x>b", 2]);
  assert.deepEqual(split([token(1, "<x>")], "a<x>b", false), ["a<x>b"]);
  assert.deepEqual(split(tokens, "", true), []);
});
