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

Deno.test("gpt2Tokenizer() makes the tokenizer once", async () => {
  assert.equal(await gpt2Tokenizer(), await gpt2Tokenizer());
});

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

Deno.test("gpt2Tokenizer() splits words as OpenAI's pattern does when symbols, blanks and contractions meet", () => {
  const cases: [string, string[]][] = [
    // the apostrophe belongs to the symbols before it, and no contraction begins
    ["🦖\0\0'sʻ  l'reŇé", ["🦖\0\0'", "sʻ", " ", " l", "'re", "Ňé"]],
    ["it's'S 'll ''ve", ["it", "'s", "'", "S", " '", "ll", " ''", "ve"]],
    ["a \n\u0085b\ufeff 1½\u00a0 ", ["a", " \n", "\u0085", "b", "\ufeff", " 1½", "\u00a0 "]],
  ];
  for (const [text, words] of cases) {
    const ids = words.flatMap((word) => full.encodeDocument(word));
    assert.deepEqual(full.encodeDocument(text), ids, JSON.stringify(text));
  }
});

Deno.test("gpt2Tokenizer() gives words the same ids after its cache was full", () => {
  const words = Array.from({ length: 70_000 }, (_, i) => ` ${i.toString(36)}x`);
  const firstIds = full.encodeDocument(words.slice(0, 100).join(""));
  const ids = full.encodeDocument(words.join(""));
  assert.deepEqual(ids.slice(0, firstIds.length), firstIds);
  assert.equal(full.decode(ids), words.join(""));
  assert.deepEqual(full.encodeDocument(words.slice(0, 100).join("")), firstIds);
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

Deno.test("compactTokenizer() encodes its text as the full tokenizer does", async () => {
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

Deno.test("parseTokenizer() reads back a written tokenizer to the byte", async () => {
  const compact = await compactTokenizer(full, full.encode("Once upon a time"));
  const parsed = await parseTokenizer(compact.json);
  assert.equal(parsed.json, compact.json);
  assert.equal(parsed.hash, compact.hash);
});

Deno.test("parseTokenizer() gives equal tokenizers of GPT-2's kind one hash", async () => {
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
      message:
        "Cannot make a tokenizer compact as it must be of GPT-2's kind and end documents with " +
        '<|endoftext|>: current end is "<|endoftext|>"',
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
    message: /and end documents with <\|endoftext\|>: current end is "\."$/,
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

Deno.test("isPartOf() recognizes a tokenizer and its compact forms by their content", async () => {
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

/** Tokenizers of many kinds with what Hugging Face's library makes of texts. */
interface Golden {
  texts: string[];
  tokenizers: {
    name: string;
    // deno-lint-ignore no-explicit-any
    file: any;
    encoded: number[][];
    documents: (number[] | null)[];
    decoded: string[];
  }[];
}

const golden: Golden = JSON.parse(
  await Deno.readTextFile(new URL("../../golden/tokenizers.json", import.meta.url)),
);
const named = (name: string) =>
  structuredClone(golden.tokenizers.find((tokenizer) => tokenizer.name === name)!.file);

for (const { name, file, encoded, documents, decoded } of golden.tokenizers) {
  Deno.test(`parseTokenizer() agrees with Hugging Face's library on ${name}`, async () => {
    const tokenizer = await parseTokenizer(JSON.stringify(file));
    golden.texts.forEach((text, i) => {
      const where = JSON.stringify(text);
      assert.deepEqual(tokenizer.encode(text), encoded[i], where);
      const ids = tokenizer.encodeDocument(text);
      // that library's Unigram finds special tokens in a text even when told not to
      if (file.model.type === "Unigram" && /<\/?\w+>/.test(text)) {
        assert.ok(!ids.includes(tokenizer.endOfText), where);
        return;
      }
      assert.deepEqual(ids, documents[i] ?? encoded[i], where);
      const decoder = tokenizer.decoder(), atOnce = tokenizer.decoder();
      assert.equal(ids.map((id) => decoder.push(id)).join("") + decoder.end(), decoded[i], where);
      assert.equal(atOnce.push(...ids) + atOnce.end(), decoded[i], where);
    });
  });
}

/** Kinds that lose nothing of a text but what they say: the texts are made accordingly. */
const LOSSLESS: [name: string, made: (text: string) => string, extraBytes: number][] = [
  ["GPT-2", (text) => text, 0],
  ["added tokens", (text) => text.normalize("NFC"), 0],
  ["single digits", (text) => text, 0],
  ["Llama 3", (text) => text, 0],
  ["Llama 2", (text) => text.replaceAll("\u2581", "_"), 1],
  ["Gemma", (text) => text.replaceAll("\u2581", "_"), 0],
];

for (const [name, made, extraBytes] of LOSSLESS) {
  Deno.test(`the tokenizer of ${name} gives back any text, byte for byte`, async () => {
    const seed = freshSeed(), random = new Random(seed);
    const tokenizer = await parseTokenizer(JSON.stringify(named(name)));
    for (let round = 0; round < 100; round++) {
      const text = made(oddText(random));
      const where = `seed ${seed}: ${JSON.stringify(text)}`;
      const ids = tokenizer.encodeDocument(text);
      assert.equal(tokenizer.decode(ids), text, where);
      const decoder = tokenizer.decoder();
      assert.equal(ids.map((id) => decoder.push(id)).join("") + decoder.end(), text, where);
      const bytes = ids.reduce((sum, id) => sum + tokenizer.byteLength(id), 0);
      assert.equal(bytes, new TextEncoder().encode(text).length + extraBytes, where);
      // a text that was begun elsewhere goes on where that ended
      const cut = random.below(ids.length + 1);
      const [before, after] = [ids.slice(0, cut), ids.slice(cut)];
      const begun = tokenizer.decoder(), continued = tokenizer.decoder(before);
      const start = before.map((id) => begun.push(id)).join("");
      const rest = continued.push(...after) + continued.end();
      assert.equal(start + rest, text, where);
    }
  });
}

Deno.test("a tokenizer with a prefix blank begins each document anew", async () => {
  const tokenizer = await parseTokenizer(JSON.stringify(named("Llama 2")));
  assert.equal(tokenizer.endOfTextToken, "</s>");
  const end = tokenizer.endOfText;
  const ids = [...tokenizer.encodeDocument("the sun"), end, ...tokenizer.encodeDocument("the cat")];
  assert.equal(tokenizer.decode(ids), "the sun</s>the cat");
  assert.deepEqual(tokenizer.encode("the sun</s>the cat"), ids);
  const decoder = tokenizer.decoder([...tokenizer.encode("the sun"), end]);
  assert.equal(tokenizer.encode("the cat").map((id) => decoder.push(id)).join(""), "the cat");
  assert.equal(tokenizer.byteLength(end), 0);
});

Deno.test("parseTokenizer() finds what ends a document", async () => {
  const file = named("added tokens");
  const end = async (options = {}, change: (copy: typeof file) => void = () => {}) => {
    const copy = structuredClone(file);
    change(copy);
    const { endOfText, endOfTextToken, decode } = await parseTokenizer(
      JSON.stringify(copy),
      "t.json",
      options,
    );
    assert.equal(decode([endOfText]), endOfTextToken);
    return endOfTextToken;
  };
  assert.equal(await end(), "<|endoftext|>");
  assert.equal(await end({ endOfText: "</s>" }), "</s>");
  const remove = (name: string) => (copy: typeof file) => {
    copy.added_tokens = copy.added_tokens.filter((token: { content: string }) =>
      token.content !== name
    );
  };
  assert.equal(await end({}, remove("<|endoftext|>")), "</s>");
  assert.equal(await end({ endOfText: "</s>" }, remove("</s>")), "</s>");
  assert.equal(
    await end({}, (copy) => copy.added_tokens = copy.added_tokens.slice(0, 1)),
    "<s>",
  );
  await assert.rejects(end({ endOfText: "<nothing>" }), {
    name: "UserError",
    message: "Cannot use t.json as its end-of-text token must be in its vocabulary: " +
      'current value is "<nothing>"',
  });
  await assert.rejects(
    end({}, (copy) =>
      copy.added_tokens.forEach((token: { special: boolean; content: string }) => {
        token.content = `<${token.content}>`;
      })),
    {
      name: "UserError",
      message: /^Cannot use t.json as the token that ends a document must be known, .*"<<s>>"/,
    },
  );
});

Deno.test("tokenizers that end documents differently have different hashes", async () => {
  const json = JSON.stringify(named("added tokens"));
  const usual = await parseTokenizer(json);
  const said = await parseTokenizer(json, "t.json", { endOfText: "<|endoftext|>" });
  const other = await parseTokenizer(json, "t.json", { endOfText: "</s>" });
  assert.equal(said.hash, usual.hash);
  assert.notEqual(other.hash, usual.hash);
  assert.equal(other.json, usual.json);
});

Deno.test("parseTokenizer() accepts ids with holes and a model with more rows", async () => {
  const file = named("GPT-2");
  file.added_tokens[0].id = 350;
  delete file.model.vocab["<|endoftext|>"];
  const tokenizer = await parseTokenizer(JSON.stringify(file), "t.json", { vocabularySize: 384 });
  assert.equal(tokenizer.endOfText, 350);
  assert.equal(tokenizer.vocabularySize, 384);
  for (const nothing of [340, 351, 383]) {
    assert.equal(tokenizer.byteLength(nothing), 0);
    assert.equal(tokenizer.decode([nothing]), "");
    assert.equal(tokenizer.decoder().push(nothing), "");
  }
  const ids = tokenizer.encode("a gate<|endoftext|>");
  assert.equal(ids.at(-1), 350);
  assert.equal(tokenizer.decode([...ids.slice(0, 1), 340, ...ids.slice(1)]), "a gate<|endoftext|>");
  for (const beyond of [384, -1, 0.5]) {
    assert.throws(() => tokenizer.decode([beyond]), {
      name: "RangeError",
      message: `Cannot decode as ids must be below 384: current id is ${beyond}`,
    });
  }
  assert.equal((await parseTokenizer(JSON.stringify(file))).vocabularySize, 351);
  await assert.rejects(parseTokenizer(JSON.stringify(file), "t.json", { vocabularySize: 350 }), {
    name: "UserError",
    message: "Cannot use t.json as its ids must be below the model's 350: current value is 350",
  });
});

Deno.test("parseTokenizer() reads sequences within sequences, up to a depth that no recursion exceeds", async () => {
  const parts = { normalizer: "normalizers", pre_tokenizer: "pretokenizers", decoder: "decoders" };
  for (const [field, list] of Object.entries(parts)) {
    const parse = (depth: number) => {
      const file = named("GPT-2"), inner = JSON.stringify(file[field] ?? { type: "Lowercase" });
      const begin = `{"type":"Sequence","${list}":[`.repeat(depth), end = "]}".repeat(depth);
      const json = JSON.stringify({ ...file, [field]: "here" });
      return parseTokenizer(json.replace('"here"', () => begin + inner + end), "t.json");
    };
    assert.ok((await parse(32)).vocabularySize > 0);
    for (const depth of [33, 20_000]) {
      await assert.rejects(parse(depth), {
        name: "UserError",
        message:
          `Cannot use t.json as ${field} must nest at most 32 sequences: current value is 33`,
      });
    }
  }
});

Deno.test("parseTokenizer() refuses unknown parts in a sentence", async () => {
  // deno-lint-ignore no-explicit-any
  const broken: [string, (file: any) => void, RegExp][] = [
    ["GPT-2", (file) => file.model.type = "Neural", /model.type must be .*"Neural"$/],
    [
      "Unigram",
      (file) => file.model.type = "BPE",
      /model.type must be Unigram for a model.vocab that is a list: current value is "BPE"$/,
    ],
    ["GPT-2", (file) => delete file.model.vocab, /model.vocab must be a table of tokens/],
    ["GPT-2", (file) => file.model.vocab["a"] = 1.5, /the id of "a" must be a whole number/],
    ["GPT-2", (file) => file.model.vocab["a"] = 1e9, /the id of "a" must be a whole number/],
    ["GPT-2", (file) => file.normalizer = { type: "Rot13" }, /its normalizer must be .*"Rot13"$/],
    ["GPT-2", (file) => file.decoder = { type: "CTC" }, /its decoder must be .*"CTC"$/],
    [
      "GPT-2",
      (file) => file.pre_tokenizer = { type: "UnicodeScripts" },
      /its pre-tokenizer must be .*"UnicodeScripts"$/,
    ],
    [
      "single digits",
      (file) => file.pre_tokenizer.pretokenizers.reverse(),
      /ByteLevel must be the last/,
    ],
    [
      "isolated, inverted: False",
      (file) => file.pre_tokenizer.pretokenizers[0].behavior = "Shuffled",
      /behavior must be one of .*"Shuffled"$/,
    ],
    [
      "isolated, inverted: False",
      (file) => file.pre_tokenizer.pretokenizers[0].pattern.Regex = "(",
      /its patterns must be ones that JavaScript can match: current value is "\("$/,
    ],
    ["GPT-2", (file) => file.model.dropout = 0.1, /model.dropout must be null: .* 0.1$/],
    ["GPT-2", (file) => file.model.merges.push(["a", "?!"]), /tokens of all merges: .*"\?!"$/],
    [
      "Llama 2",
      (file) => file.decoder.decoders.at(-1).stop = 1,
      /may strip one character .*: current value is \[1,1\]$/,
    ],
  ];
  for (const [name, breakIt, message] of broken) {
    const file = named(name);
    breakIt(file);
    const error = await parseTokenizer(JSON.stringify(file), "t.json").then(
      () => assert.fail(`${name} passed where it should be: ${message}`),
      (error) => error,
    );
    assert.equal(error.name, "UserError", error.message);
    assert.match(error.message, new RegExp(`^Cannot use t\\.json as .*${message.source}`));
  }
  for (
    const [text, message] of [
      ["{", "Cannot read t.json as it must be JSON"],
      ["null", "Cannot read t.json as it must be a JSON object"],
      ['{"model":1}', "Cannot read t.json as it must be a tokenizer.json: it has no model"],
    ]
  ) {
    await assert.rejects(parseTokenizer(text!, "t.json"), { name: "UserError", message });
  }
});

Deno.test("WordPiece has the unknown token for words of more characters than its limit", async () => {
  const file = named("BERT, uncased");
  const limited = async (longest: number) => {
    file.model.max_input_chars_per_word = longest;
    return await parseTokenizer(JSON.stringify(file));
  };
  const { encode } = await limited(20);
  assert.ok(encode("a".repeat(20)).length > 1);
  assert.equal(encode("a".repeat(21)).length, 1);
  const most = await limited(1e9); // no word takes minutes
  assert.ok(most.encode("a".repeat(1000)).length > 1);
  assert.equal(most.encode("a".repeat(1001)).length, 1);
});

Deno.test("parseTokenizer() of a damaged file works or says in a sentence why not", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const kinds = ["GPT-2", "added tokens", "Llama 3", "Llama 2", "T5", "BERT, uncased", "words"];
  const damages = [null, 0, -1, 1.5, "", "x", true, [], {}, [null], { type: "Sequence" }];
  for (let round = 0; round < 400; round++) {
    const file = named(kinds[round % kinds.length]!);
    const path: string[] = [];
    // deno-lint-ignore no-explicit-any
    for (let at: any = file;;) {
      const keys = Object.keys(at);
      const key = keys[random.below(keys.length)]!;
      path.push(key);
      const inner = at[key];
      if (typeof inner !== "object" || inner === null || random.below(3) === 0) {
        at[key] = damages[random.below(damages.length)];
        break;
      }
      if (Object.keys(inner).length === 0) break;
      at = inner;
    }
    const where = `seed ${seed}, round ${round}: ${path.join(".")}`;
    try {
      const tokenizer = await parseTokenizer(JSON.stringify(file), "t.json");
      const ids = tokenizer.encode("A story of 12 cats, naïve.");
      assert.equal(typeof tokenizer.decode(ids), "string", where);
    } catch (error) {
      const { name, message } = error as Error;
      assert.match(name, /^UserError$/, `${where}: ${message}`);
      assert.match(message, /^Cannot (read|use) t\.json as /, where);
    }
  }
});

/** Hugging Face's library with `encode_special_tokens`: what is declared special changes nothing. */
Deno.test("parseTokenizer() leaves a token in documents that is declared special and text as well", async () => {
  const seed = freshSeed(), random = new Random(seed);
  for (const { name, file } of golden.tokenizers) {
    const { vocab } = file.model, plain = await parseTokenizer(JSON.stringify(file));
    const ids = golden.texts.map((text) => plain.encodeDocument(text));
    const used = [...new Set(ids.flat())].filter((id) =>
      !file.added_tokens.some((token: { id: number }) => token.id === id)
    );
    const tokens = new Map<number, string>(
      Array.isArray(vocab)
        ? vocab.map(([token]: [string], id: number) => [id, token])
        : Object.entries<number>(vocab).map(([token, id]) => [id, token]),
    );
    const declared = [0, 1, 2].map(() => used[random.below(used.length)]!)
      .map((id) => ({ id, content: tokens.get(id)!, special: true, normalized: false }));
    const special = await parseTokenizer(
      JSON.stringify({ ...file, added_tokens: [...file.added_tokens, ...declared] }),
      "t.json",
      { endOfText: plain.endOfTextToken },
    );
    const where = `seed ${seed}, ${name}: ${JSON.stringify(declared)}`;
    golden.texts.forEach((text, i) => {
      assert.deepEqual(special.encodeDocument(text), ids[i], `${where} in ${JSON.stringify(text)}`);
      const [shown, expected] = [special, plain].map(({ decoder }) => {
        const { push, end } = decoder();
        return push(...ids[i]!) + end();
      });
      assert.equal(shown, expected, where);
    });
    for (const { id } of declared) {
      assert.equal(special.byteLength(id), plain.byteLength(id), where);
      assert.equal(special.decode([id]), plain.decode([id]), where);
    }
  }
});

Deno.test("a special token that is text ends documents only if it is named as eos_token", async () => {
  const file = named("GPT-2"), bang = file.model.vocab["!"];
  const add = (...tokens: object[]) => JSON.stringify({ ...file, added_tokens: tokens });
  const declared = { id: bang, content: "!", special: true, normalized: false };
  const padded = await parseTokenizer(add(declared, file.added_tokens[0]));
  const alone = await parseTokenizer(add(declared));
  for (const { endOfTextToken, encodeDocument, decode } of [padded, alone]) {
    assert.equal(endOfTextToken, "<|endoftext|>");
    assert.ok(encodeDocument("wow!").includes(bang));
    assert.equal(decode(encodeDocument("wow! no")), "wow! no");
  }
  const [content, text] = [".", "He ran. Tom fell."];
  const dot = await parseTokenizer(JSON.stringify(file), "t.json", { endOfText: content });
  assert.equal(dot.endOfText, file.model.vocab["."]);
  assert.equal(dot.decode(dot.encodeDocument(text)), text);
  assert.equal(dot.encodeDocument(text).filter((id) => id === dot.endOfText).length, 2);
  assert.equal(dot.byteLength(dot.endOfText), 1);
  const line = await parseTokenizer(JSON.stringify(file), "t.json", { endOfText: "\n" });
  assert.equal(line.decode([line.endOfText]), "\n"); // spelled Ċ in the vocabulary
});

Deno.test("an id of two tokens is decoded as the token of the model", async () => {
  const file = named("GPT-2"), bang = file.model.vocab["!"];
  file.added_tokens.push({ id: bang, content: "<pad>", special: true, normalized: false });
  const { encode, encodeDocument, decode, decoder } = await parseTokenizer(JSON.stringify(file));
  assert.equal(decode(encodeDocument("wow! <pad>")), "wow! <pad>");
  assert.equal(decoder().push(bang), "!");
  assert.deepEqual(encode("<pad>"), [bang]);
});

Deno.test("parseTokenizer() finds 100,000 added tokens fast, and the longest of them that begin at a place", async () => {
  const file = named("GPT-2"), [end] = file.added_tokens;
  const first = 1 + Math.max(...Object.values<number>(file.model.vocab), end.id);
  const withAdded = (contents: string[], model = file.model) =>
    parseTokenizer(JSON.stringify({
      ...file,
      model,
      added_tokens: [
        end,
        ...contents.map((content, i) => ({ id: first + i, content, special: true })),
      ],
    }));
  // tokens that are compared with each other or with all merges, or tried one by one, take minutes
  const contents = Array.from({ length: 100_000 }, (_, i) => `<|visual token ${i}|>`);
  const vocab = { ...file.model.vocab };
  contents.forEach((content, i) => vocab[content] = first + i);
  const merges = [...new Array(50_000).fill(file.model.merges[0]), ...file.model.merges];
  const since = performance.now();
  const { encode } = await withAdded(contents, { ...file.model, vocab, merges });
  assert.deepEqual(encode("<|visual token 7|><|visual token 99999|>"), [first + 7, first + 99_999]);
  assert.ok(encode("<|visual token x".repeat(5000)).every((id) => id < first));
  const seconds = (performance.now() - since) / 1000;
  assert.ok(seconds < 60, `it took ${seconds} s`);
  const longest = await withAdded(["<a", "<a><", "<a>", "<\ud83d"]);
  assert.deepEqual(longest.encode("<a><<a<a>"), [first + 1, first, first + 2]);
  await assert.rejects(withAdded(["x".repeat(100_000)]), {
    name: "UserError",
    message: "Cannot use tokenizer.json as its longest added token must have fewer characters: " +
      "current value is 100000",
  });
});
