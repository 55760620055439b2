import assert from "node:assert/strict";
import { ggufTokenizer } from "../../../data/tokenizer/gguf.ts";
import { readGgufTokenizer } from "../../../data/tokenizer/gguf_reader.ts";
import {
  compactTokenizer,
  gpt2Tokenizer,
  parseTokenizer,
  type Tokenizer,
} from "../../../data/tokenizer/tokenizer.ts";
import { beginningWith, readTokenizerFile } from "../../../data/tokenizer/tokenizer_file.ts";

/** A `tokenizer.json`. */
// deno-lint-ignore no-explicit-any
type File = any;

type Values = Map<string, number | boolean | string | (number | string)[]>;

/** Values of a GGUF file with a tokenizer. */
function valuesOf(tokenizer: Tokenizer, more: Record<string, unknown> = {}): Values {
  const given = Object.entries({ eos_token_id: tokenizer.endOfText, ...more });
  const values = new Map<string, unknown>([
    ...ggufTokenizer(tokenizer).map(([name, [, value]]) => [name, value] as const),
    ...given.map(([name, value]) => [`tokenizer.ggml.${name}`, value] as const),
  ]);
  return new Map(values.entries().filter(([, value]) => value !== undefined)) as Values;
}

/** A value of a GGUF file with a tokenizer. */
const valueOf = <T>(tokenizer: Tokenizer, name: string) =>
  valuesOf(tokenizer).get(`tokenizer.ggml.${name}`) as T;

const read = (values: Values, vocabularySize: number) =>
  readGgufTokenizer(values, { vocabularySize, where: "m.gguf" });

const gpt2 = await gpt2Tokenizer();
const TEXT = "Once upon a time,  it's 1234 cats — 日本.\n<|endoftext|>";
const compact = await compactTokenizer(gpt2, gpt2.encode(TEXT));

// what tests/golden/make_tokenizers.py found Hugging Face's library to do
const golden = JSON.parse(
  Deno.readTextFileSync(new URL("../../golden/tokenizers.json", import.meta.url)),
) as { texts: string[]; tokenizers: { name: string; file: File; encoded: number[][] }[] };
const fileOf = (wanted: string) => {
  const { file, encoded } = golden.tokenizers.find(({ name }) => name === wanted)!;
  return { file: structuredClone(file), encoded };
};

for (
  const [name, pre] of [
    ["GPT-2", "gpt-2"],
    ["single digits", "smollm"], // as SmolLM2 has it
    ["Llama 3", "llama-bpe"],
    ["Qwen2", "qwen2"],
  ]
) {
  Deno.test(`ggufTokenizer() names the words of ${name}, and readGgufTokenizer() reads them`, async () => {
    const { file, encoded } = fileOf(name!), tokenizer = await parseTokenizer(JSON.stringify(file));
    assert.equal(valueOf(tokenizer, "pre"), pre);
    const again = await read(valuesOf(tokenizer), tokenizer.vocabularySize);
    assert.deepEqual(golden.texts.map((text) => again.encode(text)), encoded);
    assert.equal(again.endOfText, tokenizer.endOfText);
  });
}

/** What a pre-tokenizer does by its fields, beside "trim_offsets", which changes no ids. */
const SWITCHES = ["add_prefix_space", "use_regex", "individual_digits", "invert"];

Deno.test("ggufTokenizer() does not name words that differ in a switch of a pre-tokenizer", async () => {
  let switches = 0;
  for (const name of ["GPT-2", "single digits", "Llama 3", "Qwen2"]) {
    const pre = valueOf(await parseTokenizer(JSON.stringify(fileOf(name).file)), "pre");
    const partsOf = ({ pre_tokenizer }: File) => pre_tokenizer.pretokenizers ?? [pre_tokenizer];
    for (const [i, part] of partsOf(fileOf(name).file).entries()) {
      for (const key of SWITCHES.filter((key) => key in part)) {
        const { file } = fileOf(name), changed = partsOf(file)[i];
        changed[key] = !changed[key];
        const tokenizer = await parseTokenizer(JSON.stringify(file));
        let named: unknown;
        try {
          named = valueOf(tokenizer, "pre");
        } catch (error) {
          assert.match(
            (error as Error).message,
            /^Cannot export the tokenizer to GGUF as it must be/,
          );
        }
        assert.notEqual(named, pre, `${name}: ${key} of ${part.type}`);
        switches++;
      }
    }
  }
  assert.ok(switches > 8, `${switches}`);
});

/** A SentencePiece BPE: all words of its stories are tokens, merged from all pairs that make them, shorter ones first. */
function sentencePiece({ prefix = true } = {}): File {
  const { file } = fileOf("Llama 2"), { model, normalizer, decoder } = file;
  const words = golden.texts.slice(-7).join(" ").split(/\s+/).map((word) => `▁${word}`);
  const bytes = Object.entries<number>(model.vocab).filter(([, id]) => id < 3 + 256);
  const letters = new Set(words.join(""));
  const parts = words.flatMap((word) =>
    [...word].map((_, i, characters) => characters.slice(0, i + 1).join("")).slice(1)
  );
  const tokens = [...letters, ...new Set(parts)].sort((a, b) => a.length - b.length);
  const known = new Set(tokens);
  const merges = tokens.flatMap((token) =>
    [...token].map((_, i, characters) => [
      characters.slice(0, -i).join(""),
      characters.slice(-i).join(""),
    ]).slice(1).filter(([left, right]) => known.has(left!) && known.has(right!))
  ) as [string, string][];
  const vocab = Object.fromEntries([
    ...bytes,
    ...tokens.map((token, i) => [token, 3 + 256 + i] as const),
  ]) as Record<string, number>;
  const [, blank] = normalizer.normalizers;
  return {
    ...file,
    model: { ...model, vocab, merges },
    ...(prefix ? {} : {
      normalizer: blank,
      decoder: { ...decoder, decoders: decoder.decoders.slice(0, -1) },
    }),
  };
}

Deno.test("readGgufTokenizer() reads SentencePiece's scores as the merges that ggufTokenizer() wrote", async () => {
  for (const prefix of [true, false]) {
    const json = JSON.stringify(sentencePiece({ prefix }));
    const tokenizer = await parseTokenizer(json), V = tokenizer.vocabularySize;
    const names = ["model", "add_space_prefix", "unknown_token_id"];
    assert.deepEqual(names.map((name) => valueOf(tokenizer, name)), ["llama", prefix, 0]);
    const kinds = valueOf<number[]>(tokenizer, "token_type");
    assert.deepEqual(kinds.slice(0, 4), [2, 3, 3, 6]); // unknown, two of control, a byte
    assert.deepEqual(new Set(kinds.slice(3 + 256)), new Set([1]));
    const again = await read(valuesOf(tokenizer), V);
    for (const text of golden.texts) {
      assert.deepEqual(again.encode(text), tokenizer.encode(text), text);
      const ids = tokenizer.encodeDocument(text);
      assert.equal(again.decode(ids), tokenizer.decode(ids), text);
    }
  }
});

Deno.test("readGgufTokenizer() merges the token with the higher score first", async () => {
  const base = await parseTokenizer(JSON.stringify(sentencePiece({ prefix: false })));
  const first = <T>(name: string) => valueOf<T[]>(base, name).slice(0, 3 + 256);
  const tokens = [...first<string>("tokens"), ..."abc", "ab", "bc"];
  const V = tokens.length, kinds = [...first<number>("token_type"), 1, 1, 1, 1, 1];
  for (const [ab, bc, expected] of [[-1, -2, ["ab", "c"]], [-2, -1, ["a", "bc"]]] as const) {
    const scores = [...new Array<number>(V - 2).fill(0), ab, bc];
    const values = {
      ...{ model: "llama", tokens, token_type: kinds, scores, eos_token_id: 2 },
      add_space_prefix: false,
    };
    const tokenizer = await read(
      new Map(Object.entries(values).map(([name, value]) => [`tokenizer.ggml.${name}`, value])),
      V,
    );
    assert.deepEqual(tokenizer.encode("abc").map((id) => tokens[id]), expected);
    // and the same again, from the merges that were read
    const again = valueOf<number[]>(tokenizer, "scores").slice(-2);
    assert.deepEqual(again, ab > bc ? [0, -1] : [-1, 0]);
  }
});

Deno.test("ggufTokenizer() merges by scores as llama.cpp does: any two tokens that are one, the highest score first", async () => {
  const tokenizer = await parseTokenizer(JSON.stringify(sentencePiece()));
  const tokens = valueOf<string[]>(tokenizer, "tokens");
  const scores = valueOf<number[]>(tokenizer, "scores");
  const scoreOf = new Map(tokens.map((token, id) => [token, scores[id]!]));
  for (const text of golden.texts.slice(-7)) {
    const symbols = [..."▁" + text.replaceAll(" ", "▁")];
    for (;;) {
      const pairs = symbols.slice(1).map((right, i) =>
        scoreOf.get(symbols[i]! + right) ?? -Infinity
      );
      const best = Math.max(...pairs), at = pairs.indexOf(best);
      if (!(best > -Infinity)) break;
      symbols.splice(at, 2, symbols[at]! + symbols[at + 1]!);
    }
    const found = tokenizer.encode(text).map((id) => tokens[id]!);
    assert.deepEqual(
      found.join("").replaceAll(/<0x..>/g, ""),
      symbols.filter((s) => scoreOf.has(s)).join(""),
    );
    assert.deepEqual(
      found.filter((token) => !/^<0x/.test(token)),
      symbols.filter((symbol) => scoreOf.has(symbol)),
    );
  }
});

Deno.test("ggufTokenizer() refuses merges that scores cannot stand for", async () => {
  const { file } = fileOf("Llama 2"), whole = sentencePiece(), { model } = whole;
  const merges = model.merges as [string, string][];
  const vocab = { ...model.vocab };
  delete vocab["<0x41>"];
  const cases: [file: File, reason: RegExp][] = [
    [file, /merges by scores: "[^"]+" and "[^"]+" must be a merge$/], // each token has one merge alone
    [
      { ...whole, model: { ...model, vocab } },
      /merges by scores: there must be a token for each of the 256 bytes$/,
    ],
    [
      { ...whole, model: { ...model, merges: [...merges, merges[0]!] } },
      /merges by scores: the merges of "[^"]+" must follow one another$/,
    ],
  ];
  for (const [file, reason] of cases) {
    const tokenizer = await parseTokenizer(JSON.stringify(file));
    assert.throws(() => ggufTokenizer(tokenizer), { name: "UserError", message: reason });
  }
});

Deno.test("readGgufTokenizer() keeps what begins a text, and the chat template", async () => {
  const template = "{{ bos_token }}{% for m in messages %}\r\n\t{{ m }}{% endfor %} é";
  for (const file of [fileOf("Llama 3").file, sentencePiece()]) {
    const [first] = file.added_tokens.filter(({ content }: { content: string }) =>
      /begin|<s>/.test(content)
    );
    const begun = {
      ...file,
      post_processor: beginningWith(first),
    };
    const tokenizer = await parseTokenizer(JSON.stringify(begun));
    const values = valuesOf(tokenizer);
    assert.equal(values.get("tokenizer.ggml.bos_token_id"), first.id);
    values.set("tokenizer.chat_template", template);
    const again = await read(values, tokenizer.vocabularySize);
    assert.deepEqual(readTokenizerFile(JSON.parse(again.json)).begin, first.id);
    assert.equal(again.bosToken, first.content);
    assert.equal(again.chatTemplate, template);
    const without = await read(
      new Map([...values, ["tokenizer.ggml.add_bos_token", false]]),
      tokenizer.vocabularySize,
    );
    assert.equal(readTokenizerFile(JSON.parse(without.json)).begin, undefined);
  }
});

Deno.test("readGgufTokenizer() reads what ggufTokenizer() writes", async () => {
  for (const tokenizer of [gpt2, compact]) {
    const again = await read(valuesOf(tokenizer), tokenizer.vocabularySize);
    assert.equal(again.hash, tokenizer.hash);
    assert.equal(again.endOfText, tokenizer.endOfText);
    assert.deepEqual(again.encode(TEXT), tokenizer.encode(TEXT));
  }
});

Deno.test("readGgufTokenizer() reads added tokens, unused ids and what ends a text", async () => {
  const V = compact.vocabularySize, file = JSON.parse(compact.json);
  file.added_tokens.push(
    { id: V, content: "<|im_end|>", special: true },
    { id: V + 1, content: "hello world", special: false, normalized: false },
  );
  const chat = await parseTokenizer(JSON.stringify(file), "tokenizer.json", {
    vocabularySize: V + 4,
  });
  const again = await read(valuesOf(chat, { eot_token_id: V }), V + 4);
  assert.deepEqual(again.endIds, [compact.endOfText, V]);
  const text = "hello world<|im_end|>";
  assert.deepEqual(again.encode(text), [V + 1, V]);
  assert.deepEqual(again.encode(text), chat.encode(text));
  assert.equal(again.decode([V + 1, V]), text);
  assert.equal(again.byteLength(V), 0);
  assert.equal(again.vocabularySize, V + 4);
});

Deno.test("readGgufTokenizer() refuses in a sentence what is not of GPT-2's kind or does not fit together", async () => {
  const V = compact.vocabularySize;
  const refused: [more: Record<string, unknown>, message: string | RegExp][] = [
    [{ model: "t5" }, 'tokenizer.ggml.model must be gpt2 or llama: current value is "t5"'],
    [
      { pre: "tekken" },
      "tokenizer.ggml.pre must be one of gpt-2, llama-bpe, qwen2, smollm: " +
      'current value is "tekken"',
    ],
    [
      { tokens: undefined },
      "tokenizer.ggml.tokens must be a list of strings: current value is undefined",
    ],
    [{ merges: [1] }, "tokenizer.ggml.merges must be a list of strings: current value is [1]"],
    [
      { merges: "a\x1b b" },
      'tokenizer.ggml.merges must be a list of strings: current value is "a\\u001b b"',
    ],
    [
      { token_type: ["1"] },
      'tokenizer.ggml.token_type must be a list of numbers: current value is ["1"]',
    ],
    [
      { eos_token_id: V },
      `tokenizer.ggml.eos_token_id must be below ${V}: current value is ${V}`,
    ],
    [{ chat_template: undefined, merges: ["Ġ"] }, /^Cannot use m\.gguf as /],
    [{ merges: ["Ġ \x1bqqq"] }, /^Cannot use m\.gguf as /],
  ];
  for (const [more, message] of refused) {
    await assert.rejects(read(valuesOf(compact, more), V), {
      name: "UserError",
      message: typeof message === "string" ? `Cannot load m.gguf as ${message}` : message,
    });
  }
  const llama = await parseTokenizer(JSON.stringify(sentencePiece()));
  const ofLlama: [more: Record<string, unknown>, message: string][] = [
    [
      { scores: undefined },
      "tokenizer.ggml.scores must be a list of numbers: current value is undefined",
    ],
    [
      { scores: [1] },
      `tokenizer.ggml.scores must be as many as tokens, ${llama.vocabularySize}: current value is 1`,
    ],
    [
      { tokens: ["a".repeat(501)], token_type: [1], scores: [0] },
      "tokens with scores must have at most 500 characters: current value is 501",
    ],
  ];
  for (const [more, message] of ofLlama) {
    const given = more.token_type ? { eos_token_id: undefined, unknown_token_id: undefined } : {};
    await assert.rejects(read(valuesOf(llama, { ...given, ...more }), llama.vocabularySize), {
      name: "UserError",
      message: `Cannot load m.gguf as ${message}`,
    });
  }
  const values = valuesOf(compact).set("tokenizer.chat_template", "x".repeat(2 ** 20 + 1));
  await assert.rejects(read(values, V), {
    name: "UserError",
    message:
      /^Cannot read m\.gguf as its chat template must be a text of at most 1048576 characters/,
  });
  await assert.rejects(read(valuesOf(compact), V - 1), {
    message: `Cannot load m.gguf as tokenizer.ggml.tokens must be at most ${
      V - 1
    }: current value is ${V}`,
  });
});
