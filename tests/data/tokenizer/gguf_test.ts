import assert from "node:assert/strict";
import { ggufTokenizer, readGgufTokenizer } from "../../../data/tokenizer/gguf.ts";
import {
  compactTokenizer,
  gpt2Tokenizer,
  parseTokenizer,
  type Tokenizer,
} from "../../../data/tokenizer/tokenizer.ts";

type Values = Map<string, number | boolean | string | (number | string)[]>;

/** Values of a GGUF file with a tokenizer. */
function valuesOf(tokenizer: Tokenizer, more: Record<string, unknown> = {}): Values {
  const { tokens, kinds, merges } = ggufTokenizer(tokenizer);
  const fields = {
    ...{ model: "gpt2", pre: "gpt-2", tokens, token_type: kinds, merges },
    eos_token_id: tokenizer.endOfText,
    ...more,
  };
  return new Map(
    Object.entries(fields).filter(([, value]) => value !== undefined)
      .map(([name, value]) => [`tokenizer.ggml.${name}`, value]),
  ) as Values;
}

const read = (values: Values, vocabularySize: number) =>
  readGgufTokenizer(values, { vocabularySize, where: "m.gguf" });

const gpt2 = await gpt2Tokenizer();
const TEXT = "Once upon a time,  it's 1234 cats — 日本.\n<|endoftext|>";
const compact = await compactTokenizer(gpt2, gpt2.encode(TEXT));

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
    [{ model: "llama" }, 'tokenizer.ggml.model must be gpt2: current value is "llama"'],
    [{ pre: "llama-bpe" }, 'tokenizer.ggml.pre must be gpt-2: current value is "llama-bpe"'],
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
    [{ merges: ["Ġ"] }, /^Cannot use m\.gguf as /],
    [{ merges: ["Ġ \x1bqqq"] }, /^Cannot use m\.gguf as /],
  ];
  for (const [more, message] of refused) {
    await assert.rejects(read(valuesOf(compact, more), V), {
      name: "UserError",
      message: typeof message === "string" ? `Cannot load m.gguf as ${message}` : message,
    });
  }
  await assert.rejects(read(valuesOf(compact), V - 1), {
    message: `Cannot load m.gguf as tokenizer.ggml.tokens must be at most ${
      V - 1
    }: current value is ${V}`,
  });
});
