import assert from "node:assert/strict";
import { Random } from "../../data/random.ts";
import { compactTokenizer, gpt2Tokenizer, parseTokenizer } from "../../data/tokenizer.ts";
import { freshSeed } from "../seeds.ts";

const full = await gpt2Tokenizer();

/** Texts with the ids that OpenAI's tokenizer gives them. */
const KNOWN: [string, number[]][] = [
  ["Hello world", [15496, 995]],
  ["Once upon a time", [7454, 2402, 257, 640]],
  ["time time time", [2435, 640, 640]],
  ["", []],
  [" ", [220]],
  ["<|endoftext|>", [50256]],
  ["a<|endoftext|>b", [64, 50256, 65]],
];

/** A text of all sorts of characters, spaces and contractions. */
function oddText(random: Random): string {
  const parts = Array.from({ length: 1 + random.below(30) }, () => {
    switch (random.below(6)) {
      case 0:
        return String.fromCodePoint(random.below(0x300));
      case 1:
        return String.fromCodePoint(random.below(0x2ffff));
      case 2:
        return [
          "  ",
          "\n\n",
          "\t",
          "\r",
          "\u00a0",
          "\u0085",
          "\ufeff",
          "\u2003 ",
        ][random.below(8)]!;
      case 3:
        return ["don't", "I'LL", " we've", "'s"][random.below(4)]!;
      case 4:
        return ["🦖", "👩‍👩‍👧", "\0", "é", "ß", "日本語"][random.below(6)]!;
      default:
        return [" the", " 123", "story", " unbelievable", "...", " Lily"][random.below(6)]!;
    }
  });
  return parts.join("").toWellFormed();
}

Deno.test("gpt2Tokenizer() gives OpenAI's ids", () => {
  assert.equal(full.vocabularySize, 50257);
  assert.equal(full.endOfText, 50256);
  for (const [text, ids] of KNOWN) assert.deepEqual(full.encode(text), ids, text);
});

Deno.test("gpt2Tokenizer() has the merges that OpenAI published", () => {
  const { merges } = JSON.parse(full.json).model;
  assert.equal(merges.length, 50000);
  assert.deepEqual(merges.slice(0, 4), ["Ġ t", "Ġ a", "h e", "i n"]);
  assert.equal(merges.at(-1), "Ġg azed");
});

Deno.test("tokenizers give back any text", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const compact = await compactTokenizer(
    full,
    full.encode("Lily told a story about the 123 dogs."),
  );
  for (let round = 0; round < 300; round++) {
    const text = oddText(random);
    for (const tokenizer of [full, compact]) {
      const ids = tokenizer.encodeDocument(text);
      assert.equal(tokenizer.decode(ids), text, `seed ${seed}: ${JSON.stringify(text)}`);
      const decoder = tokenizer.decoder();
      const streamed = ids.map((id) => decoder.push(id)).join("") + decoder.end();
      assert.equal(streamed, text, `seed ${seed}, streamed: ${JSON.stringify(text)}`);
      const bytes = ids.reduce((sum, id) => sum + tokenizer.byteLength(id), 0);
      assert.equal(bytes, new TextEncoder().encode(text).length);
    }
  }
  assert.equal(full.decode(full.encode("\ud800 alone")), "\ufffd alone");
});

Deno.test("a document's <|endoftext|> is text, not the end", () => {
  const ids = full.encodeDocument("<|endoftext|>");
  assert.ok(!ids.includes(full.endOfText) && ids.length > 1);
  assert.equal(full.decode(ids), "<|endoftext|>");
});

Deno.test("compactTokenizer() cuts its text as the full tokenizer does", async () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 5; round++) {
    const text = Array.from({ length: 20 }, () => oddText(random)).join(" ");
    const ids = full.encodeDocument(text);
    const compact = await compactTokenizer(full, ids);
    const pieces = (tokenizer: typeof full, list: number[]) =>
      list.map((id) => tokenizer.byteLength(id));
    const compactIds = compact.encodeDocument(text);
    assert.deepEqual(pieces(compact, compactIds), pieces(full, ids), `seed ${seed}`);
    assert.ok(compact.vocabularySize < 3000);
    assert.equal(compact.endOfText, compact.vocabularySize - 1);
  }
});

Deno.test("parseTokenizer() reads what was written, to the byte", async () => {
  const compact = await compactTokenizer(full, full.encode("Once upon a time"));
  const parsed = await parseTokenizer(compact.json);
  assert.equal(parsed.json, compact.json);
  assert.equal(parsed.hash, compact.hash);
});

Deno.test("parseTokenizer() refuses other tokenizers, saying why", async () => {
  const file = JSON.parse((await compactTokenizer(full, [])).json);
  const broken: [string, (copy: typeof file) => void, RegExp][] = [
    ["another model", (copy) => copy.model.type = "Unigram", /model.type must be BPE.*"Unigram"$/],
    [
      "another pre-tokenizer",
      (copy) => copy.pre_tokenizer = { type: "Metaspace" },
      /must be ByteLevel/,
    ],
    ["a normalizer", (copy) => copy.normalizer = { type: "NFC" }, /normalizer must be null/],
    [
      "other special tokens",
      (copy) => copy.added_tokens[0].content = "<s>",
      /added_tokens must be/,
    ],
    ["a hole in its ids", (copy) => copy.model.vocab["!"] = 999, /must number its tokens/],
    ["a missing byte", (copy) => {
      copy.model.vocab.xx = copy.model.vocab["!"];
      delete copy.model.vocab["!"];
    }, /must hold all 256 bytes/],
  ];
  for (const [what, breakIt, message] of broken) {
    const copy = structuredClone(file);
    breakIt(copy);
    await assert.rejects(async () => await parseTokenizer(JSON.stringify(copy), "t.json"), {
      name: "RangeError",
      message,
    }, what);
  }
  await assert.rejects(async () => await parseTokenizer("{", "t.json"), {
    name: "SyntaxError",
    message: "Cannot read t.json as it must be JSON",
  });
});
