import assert from "node:assert/strict";
import type { Model } from "../../../data/tokenizer/tokenizer_file.ts";
import { createPattern } from "../../../data/tokenizer/pattern.ts";
import {
  type Behavior,
  createSplitter,
  divide,
  isSeparable,
  splitBeforeBlanks,
} from "../../../data/tokenizer/pre_tokenizers.ts";

const model = (tokens: string[], more: Partial<Model> = {}): Model => ({
  kind: "BPE",
  tokens: tokens.map((token, id) => [token, id]),
  scores: [],
  merges: [],
  ...more,
});

const dash = createPattern(/-/g);
const pieces = (text: string, behavior: Behavior, invert = false) =>
  divide(text, dash, { behavior, invert }).map(([start, end]) => text.slice(start, end));

Deno.test("divide() cuts at matches as the tokenizers library documents it", () => {
  // https://huggingface.co/docs/tokenizers/api/pre-tokenizers, and two matches at the end
  const text = "the-final--countdown--";
  const expected: Record<Behavior, string[]> = {
    Removed: ["the", "final", "countdown"],
    Isolated: ["the", "-", "final", "-", "-", "countdown", "-", "-"],
    MergedWithPrevious: ["the-", "final-", "-", "countdown-", "-"],
    MergedWithNext: ["the", "-final", "-", "-countdown", "-", "-"],
    Contiguous: ["the", "-", "final", "--", "countdown", "--"],
  };
  for (const [behavior, parts] of Object.entries(expected)) {
    assert.deepEqual(pieces(text, behavior as Behavior), parts, behavior);
  }
  assert.deepEqual(pieces("a-b", "Removed", true), ["-"]);
  assert.deepEqual(pieces("", "Isolated"), []);
});

Deno.test("Metaspace puts its mark before a text always, at the start alone, or never", () => {
  const split = (
    prepend_scheme: string,
    text: string,
    atStart: boolean,
    before: "WhitespaceSplit"[] = [],
  ) =>
    createSplitter({
      preTokenizers: [
        ...before.map((type) => ({ type })),
        { type: "Metaspace", replacement: "_", prepend_scheme },
      ],
      model: model([]),
    }, undefined)(text, atStart);
  assert.deepEqual(split("always", "a b", true), ["_a", "_b"]);
  assert.deepEqual(split("always", "a b", false), ["_a", "_b"]);
  assert.deepEqual(split("first", "a b", true), ["_a", "_b"]);
  assert.deepEqual(split("first", "a b", false), ["a", "_b"]);
  assert.deepEqual(split("never", "a b", true), ["a", "_b"]);
  assert.deepEqual(split("always", " a", true), ["_a"]); // one that is there is enough
  assert.deepEqual(split("first", "a b", true, ["WhitespaceSplit"]), ["_a", "b"]);
  assert.deepEqual(split("first", " a b", true, ["WhitespaceSplit"]), ["a", "b"]);
});

Deno.test("splitBeforeBlanks() splits before each run of blanks, which SentencePiece writes as ▁", () => {
  assert.deepEqual(splitBeforeBlanks("▁▁a▁▁b▁c▁"), ["▁▁a", "▁▁b", "▁c", "▁"]);
  assert.deepEqual(splitBeforeBlanks("▁▁▁"), ["▁▁▁"]);
  assert.deepEqual(splitBeforeBlanks("a▁b🦖▁"), ["a", "▁b🦖", "▁"]);
  assert.deepEqual(splitBeforeBlanks(""), [""]);
});

Deno.test("isSeparable() refuses models of which a token reaches from a word into the next", () => {
  assert.ok(isSeparable(model(["▁", "a", "▁a", "▁▁"])));
  assert.ok(isSeparable(model(["▁", "a"], { kind: "Unigram" })));
  assert.ok(!isSeparable(model(["▁", "a▁"])));
  assert.ok(!isSeparable(model(["a", "▁a"])), "without ▁ a blank is unknown together with others");
  assert.ok(!isSeparable(model(["▁", "a"], { kind: "WordPiece" })));
  for (const name of ["continuing_subword_prefix", "end_of_word_suffix"]) {
    assert.ok(!isSeparable(model(["▁", "a"], { [name]: "x" })), name);
    assert.ok(isSeparable(model(["▁", "a"], { [name]: "" })), name);
  }
  assert.ok(!isSeparable(model(["▁", "a"], { ignore_merges: true })));
});
