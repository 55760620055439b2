import assert from "node:assert/strict";
import { Random } from "../../../data/random.ts";
import {
  byteLevelTokenizer,
  compactTokenizer,
  gpt2Tokenizer,
  isPartOf,
  parseTokenizer,
} from "../../../data/tokenizer/tokenizer.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

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

Deno.test("gpt2Tokenizer() agrees with Hugging Face's library on any text", async () => {
  const { Tokenizer } = await import("npm:@huggingface/tokenizers@0.2.0");
  const file = JSON.parse(full.json);
  // the pattern as published: that library's own has JavaScript's white space
  const pattern = {
    Regex: "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|" +
      "\\s+(?!\\S)|\\s+",
  };
  file.pre_tokenizer = {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern, behavior: "Isolated", invert: false },
      { ...file.pre_tokenizer, use_regex: false },
    ],
  };
  const library = new Tokenizer(file, {});
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 500; round++) {
    const text = oddText(random);
    const { ids } = library.encode(text, { add_special_tokens: false });
    assert.deepEqual(full.encode(text), ids, `seed ${seed}: ${JSON.stringify(text)}`);
  }
});

Deno.test("gpt2Tokenizer() takes a hundred thousand letters without a blank", () => {
  const letters = "abracadabra".repeat(10_000).slice(0, 100_000);
  const ids = full.encodeDocument(letters);
  assert.ok(ids.length < 50_000);
  assert.equal(full.decode(ids), letters);
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

Deno.test("parseTokenizer() writes GPT-2's kind in one way, whoever wrote it first", async () => {
  const compact = await compactTokenizer(full, full.encode("Once upon a time"));
  const file = JSON.parse(compact.json);
  file.model.merges = file.model.merges.map((merge: string) => merge.split(" "));
  file.added_tokens[0].normalized = true;
  const parsed = await parseTokenizer(JSON.stringify(file, null, 2));
  assert.equal(parsed.hash, compact.hash);
});

Deno.test("compactTokenizer() refuses other kinds than GPT-2's", async () => {
  const file = JSON.parse((await compactTokenizer(full, [])).json);
  const changes: ((copy: typeof file) => void)[] = [
    (copy) => copy.pre_tokenizer = { type: "Metaspace" },
    (copy) => copy.normalizer = { type: "NFC" },
    (copy) => copy.model.ignore_merges = true,
    (copy) => copy.added_tokens.push({ id: 999, content: "<s>" }),
    (copy) => copy.model.vocab["!"] = 500,
    (copy) => copy.model.vocab["!"] = copy.model.vocab['"'],
    (copy) => {
      copy.model.vocab.xx = copy.model.vocab["!"];
      delete copy.model.vocab["!"];
    },
  ];
  for (const change of changes) {
    const copy = structuredClone(file);
    change(copy);
    const json = JSON.stringify(copy);
    const other = await parseTokenizer(json);
    assert.equal(other.json, json, String(change));
    await assert.rejects(compactTokenizer(other, []), {
      name: "UserError",
      message: "Cannot make a tokenizer compact as it must be of GPT-2's kind",
    }, String(change));
  }
});

Deno.test("GPT-2's file loads with a special token that is text, or one that ends documents", async () => {
  const file = JSON.parse(full.json), text = "wow!!! He ran. no!";
  file.added_tokens.push({ ...file.added_tokens[0], id: 0, content: "!" });
  const padded = await parseTokenizer(JSON.stringify(file));
  assert.deepEqual(padded.encodeDocument(text), full.encodeDocument(text));
  assert.equal(padded.decode(padded.encode(text)), text);
  assert.equal(padded.endOfText, full.endOfText);
  const dot = await parseTokenizer(full.json, "t.json", { endOfText: "." });
  assert.deepEqual(dot.encodeDocument(text), full.encodeDocument(text));
  assert.deepEqual([dot.endOfText], full.encode("."));
  assert.equal(dot.decode(dot.encode(text)), text);
  await assert.rejects(compactTokenizer(dot, []), {
    name: "UserError",
    message: /must end documents with <\|endoftext\|>: current end is "\."$/,
  });
});

Deno.test("compactTokenizer() keeps all ways to a token", async () => {
  const file = JSON.parse((await compactTokenizer(full, [])).json);
  const { vocab } = file.model;
  const first = vocab["<|endoftext|>"];
  for (const [i, token] of ["aa", "aaa", "<|endoftext|>"].entries()) vocab[token] = first + i;
  file.added_tokens[0].id = first + 2;
  file.model.merges = ["a a", "a aa", "aa a"];
  const parsed = await parseTokenizer(JSON.stringify(file));
  const ids = parsed.encodeDocument("aaa");
  const compact = await compactTokenizer(parsed, ids);
  assert.deepEqual(JSON.parse(compact.json).model.merges, file.model.merges);
  assert.equal(compact.encodeDocument("aaaa aaa").length, parsed.encodeDocument("aaaa aaa").length);
});

Deno.test("isPartOf() knows a tokenizer and what is made compact of it, by their content", async () => {
  const compact = await compactTokenizer(full, full.encode("Lily found a key."));
  const other = await compactTokenizer(full, full.encode("Tom lost it."));
  assert.ok(await isPartOf(full, full));
  assert.ok(await isPartOf(compact, full));
  assert.ok(await isPartOf(compact, await parseTokenizer(compact.json)));
  assert.ok(!await isPartOf(other, compact));
  assert.ok(!await isPartOf(full, compact));
  assert.ok(
    !await isPartOf(compact, await parseTokenizer(full.json, "t.json", { endOfText: "." })),
  );
  const tokens = Object.keys(JSON.parse(compact.json).model.vocab).slice(0, -1);
  const merges = JSON.parse(compact.json).model.merges.map((pair: string) => pair.split(" "));
  // the same tokens with one merge less encode otherwise
  assert.ok(!await isPartOf(await byteLevelTokenizer({ tokens, merges: merges.slice(1) }), full));
});
