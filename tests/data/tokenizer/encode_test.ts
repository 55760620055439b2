import assert from "node:assert/strict";
import { Encoder, encoderTables } from "../../../data/tokenizer/encode.ts";
import { Random } from "../../../data/random.ts";
import {
  byteLevelTokenizer,
  compactTokenizer,
  gpt2Tokenizer,
  parseTokenizer,
  type Tokenizer,
} from "../../../data/tokenizer/tokenizer.ts";
import { GPT2_WORDS } from "../../../data/tokenizer/words.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

/** The same tokenizer as one of the general kind: it splits a text by GPT-2's pattern, and looks words up as texts. */
async function general({ json }: Tokenizer): Promise<Tokenizer> {
  const file = JSON.parse(json);
  const words = { type: "Split", pattern: { Regex: GPT2_WORDS.source }, behavior: "Isolated" };
  const bytes = { ...file.pre_tokenizer, use_regex: false };
  file.pre_tokenizer = { type: "Sequence", pretokenizers: [words, bytes] };
  return await parseTokenizer(JSON.stringify(file));
}

const fast = await gpt2Tokenizer(), gpt2 = await general(fast);
assert.equal(encoderTables(gpt2.json), undefined);
const encoder = new Encoder(encoderTables(fast.json)!);

function idsOf(encoder: Encoder, text: string): number[] {
  const bytes = new TextEncoder().encode(text);
  encoder.reset();
  encoder.encode(bytes, 0, bytes.length);
  return [...encoder.ids.subarray(0, encoder.length)];
}

function check(encoder: Encoder, tokenizer: Tokenizer): void {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 1000; round++) {
    const text = oddText(random);
    const drawn = `seed ${seed}: ${JSON.stringify(text)}`;
    assert.deepEqual(idsOf(encoder, text), tokenizer.encodeDocument(text), drawn);
  }
}

Deno.test("Encoder gives the ids of a tokenizer of the general kind", () => check(encoder, gpt2));

Deno.test("Encoder splits words as GPT-2's pattern does when symbols, blanks and contractions meet", () => {
  const cases: [string, string[]][] = [
    // the apostrophe belongs to the symbols before it, and no contraction begins
    ["🦖\0\0'sʻ  l'reŇé", ["🦖\0\0'", "sʻ", " ", " l", "'re", "Ňé"]],
    ["it's'S 'll ''ve", ["it", "'s", "'", "S", " '", "ll", " ''", "ve"]],
    ["a \n\u0085b\ufeff 1½\u00a0 ", ["a", " \n", "\u0085", "b", "\ufeff", " 1½", "\u00a0 "]],
  ];
  for (const [text, words] of cases) {
    assert.deepEqual(text.match(GPT2_WORDS), words);
    const ids = words.flatMap((word) => gpt2.encodeDocument(word));
    assert.deepEqual(idsOf(encoder, text), ids, JSON.stringify(text));
    assert.deepEqual(gpt2.encodeDocument(text), ids, JSON.stringify(text));
  }
});

Deno.test("Encoder gives the ids of a compact tokenizer", async () => {
  const compact = await compactTokenizer(fast, fast.encode("Once upon a time, there's 日本 1234."));
  check(new Encoder(encoderTables(compact.json)!), await general(compact));
});

Deno.test("Encoder classifies characters as GPT-2's pattern does", () => {
  const seed = freshSeed(), random = new Random(seed);
  const common = Array.from({ length: 0x3000 / 64 }, (_, i) => 64 * i);
  const others = Array.from({ length: 300 }, () => 64 * random.below(0x30000 / 64));
  for (const first of [...common, ...others]) {
    if (first >= 0xd800 && first < 0xe000) continue;
    const characters = Array.from({ length: 64 }, (_, i) => String.fromCodePoint(first + i));
    const text = characters.map((character) => `a${character}${character} ${character}1`).join("");
    assert.deepEqual(
      idsOf(encoder, text),
      gpt2.encodeDocument(text),
      `seed ${seed}: ${first.toString(16)}`,
    );
  }
});

Deno.test("Encoder encodes a hundred thousand letters without a blank", () => {
  const seed = freshSeed(), random = new Random(seed);
  const text = Array.from({ length: 100_000 }, () => "abcdefgh"[random.below(8)]).join("");
  assert.deepEqual(idsOf(encoder, text), gpt2.encodeDocument(text), `seed ${seed}`);
});

Deno.test("Encoder empties its cache of words when it is full", () => {
  const seed = freshSeed(), random = new Random(seed);
  const words = Array.from({ length: 70_000 }, () => random.next().toString(36));
  const text = [...words, ...words.slice(0, 100)].join(" ");
  assert.deepEqual(idsOf(encoder, text), gpt2.encodeDocument(text), `seed ${seed}`);
});

Deno.test("a tokenizer of GPT-2's kind encodes as the general kind does", () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 300; round++) {
    const text = oddText(random);
    assert.deepEqual(fast.encode(text), gpt2.encode(text), `seed ${seed}: ${JSON.stringify(text)}`);
  }
});

Deno.test("encoderTables() is undefined when a tokenizer is not of GPT-2's kind", async () => {
  const { vocab, merges } = JSON.parse(fast.json).model;
  const { json } = await byteLevelTokenizer({
    tokens: Object.keys(vocab).sort((a, b) => vocab[a] - vocab[b]).slice(0, 300),
    merges: merges.slice(0, 44).map((merge: string) => merge.split(" ")),
  });
  assert.ok(encoderTables(json));
  // deno-lint-ignore no-explicit-any
  const changed = (change: (file: any) => void) => {
    const file = JSON.parse(json);
    change(file);
    return encoderTables(JSON.stringify(file));
  };
  const others = [
    changed((file) => file.model.ignore_merges = true),
    changed((file) => file.normalizer = { type: "NFC" }),
    changed((file) => file.pre_tokenizer.add_prefix_space = true),
    changed((file) => file.pre_tokenizer = { type: "Sequence", pretokenizers: [] }),
    changed((file) => file.model.type = "WordPiece"),
    changed((file) => delete file.model.vocab["a"]),
    changed((file) => file.added_tokens.push({ id: 301, content: "b", special: false })),
  ];
  assert.deepEqual(others, others.map(() => undefined));
});
