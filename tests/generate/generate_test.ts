import assert from "node:assert/strict";
import { createDecoder } from "../../generate/decoder.ts";
import { Completion, type GenerateResult } from "../../generate/completion.ts";
import { generate, generateBatch } from "../../generate/generate.ts";
import { DEFAULT_SAMPLER, type GenerateOptions, promptIdsOf } from "../../generate/request.ts";
import { loadModel } from "../../generate/load.ts";
import { download, upload } from "../../kernels/tensor.ts";
import { createGpt, masterOf } from "../../model/gpt.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { device } from "../kernels/harness.ts";
import { byteTokenizer, randomModel } from "./models.ts";

const gpt = randomModel(device, "f32");
const tokenizer = byteTokenizer();

/** The model as one that has told nothing yet: the first chunks of its texts are short. */
const fresh = () => ({ gpt: { ...gpt }, tokenizer });

/** The whole text, the number of pieces it came in, and how it ended. */
async function told(options: GenerateOptions, of = fresh()) {
  const story = generate(of, options);
  let text = "", pieces = 0;
  for (;;) {
    const { done, value } = await story.next();
    if (done) return { text, pieces, ...value };
    text += value;
    pieces++;
  }
}

const PLAIN = { prompt: "Hi", seed: 3, maxNewTokens: 60 };

Deno.test("generate() yields the same text for the same seed, another for another, in pieces", async () => {
  const first = await told(PLAIN);
  assert.deepEqual([first.reason, first.tokens], ["length", 60]);
  assert.ok(first.pieces > 1);
  assert.equal((await told(PLAIN)).text, first.text);
  assert.notEqual((await told({ ...PLAIN, seed: 4 })).text, first.text);
  assert.ok(first.text.startsWith((await told({ ...PLAIN, maxNewTokens: 30 })).text.slice(0, 20)));
});

Deno.test("generate() ends before a stop text, wherever chunks end, and yields no part of it", async () => {
  const { text } = await told(PLAIN);
  for (const at of [0, 2, 3, 4, 30, 35]) {
    const stop = text.slice(at, at + 4);
    const ended = await told({ ...PLAIN, stop: ["no such", stop, ""] });
    assert.equal(ended.text, text.slice(0, text.indexOf(stop)));
    assert.equal(ended.reason, "stop");
    assert.ok(ended.tokens < 60);
  }
  // where one ends at the same place as another, the one that begins first counts
  const at = [...text].findIndex((_, i) =>
    i > 8 && text.indexOf(text.slice(i + 1, i + 4)) === i + 1
  );
  const [whole, end] = [text.slice(at, at + 4), text.slice(at + 1, at + 4)];
  for (const stop of [[end, whole], [whole, end]]) {
    assert.equal((await told({ ...PLAIN, stop })).text, text.slice(0, at));
  }
  const unfinished = await told({ ...PLAIN, stop: [text.slice(-3) + "!"] });
  assert.deepEqual([unfinished.text, unfinished.reason], [text, "length"]);
});

Deno.test("Completion finds no stop text within a character", () => {
  const fox = new TextEncoder().encode("a🦊b");
  for (const stop of ["\ud83e", "\udd8a", "\udd8ab", "a\ud83e"]) {
    const completion = new Completion(tokenizer, { promptIds: [1], stop: [stop] });
    assert.deepEqual([completion.push(fox), completion.result], ["a🦊b", undefined]);
  }
});

Deno.test("generate() ends at the end of the text", async () => {
  const { text } = await told(PLAIN);
  const letters = [...text].filter((letter) => letter.charCodeAt(0) < 128);
  assert.ok(letters.length > 3, text);
  for (const letter of [letters[0]!, letters.at(-1)!]) {
    const ends = { gpt, tokenizer: byteTokenizer({ endOfText: letter.charCodeAt(0) }) };
    const ended = await told(PLAIN, ends);
    assert.deepEqual([ended.text, ended.reason], [
      text.slice(0, text.indexOf(letter)),
      "end-of-text",
    ]);
    assert.ok(ended.tokens <= 60);
  }
});

Deno.test("generate() and generateBatch() end at any of several tokens", async () => {
  const { text } = await told(PLAIN);
  const letters = [...text].filter((letter) => letter.charCodeAt(0) < 128);
  const [early, late] = [letters[2]!, letters.at(-1)!];
  for (const [one, another] of [[early, late], [late, early]]) {
    const endIds = [one!.charCodeAt(0), another!.charCodeAt(0)];
    const ends = { gpt, tokenizer: { ...tokenizer, endIds } };
    const first = Math.min(text.indexOf(early), text.indexOf(late));
    const ended = await told(PLAIN, ends);
    assert.deepEqual([ended.text, ended.reason], [text.slice(0, first), "end-of-text"]);
    const { maxNewTokens, ...prompt } = PLAIN;
    let batch = "";
    for await (
      const { index, text } of generateBatch(ends, { maxNewTokens, requests: [prompt, prompt] })
    ) {
      if (index === 1) batch += text;
    }
    assert.equal(batch, ended.text);
  }
});

Deno.test("generate() begins a document when the prompt is empty, and may add nothing", async () => {
  const empty = await told({ ...PLAIN, prompt: "" });
  assert.equal(empty.tokens, 60);
  const decoder = createDecoder(gpt, {
    ...{ prompts: [[tokenizer.endOfText]], seeds: [3], maxNewTokens: 60, sampler: DEFAULT_SAMPLER },
  });
  const [drawn] = await decoder.next(60);
  const whole = new TextDecoder().decode(Uint8Array.from(drawn!), { stream: true });
  assert.equal(empty.text, whole);
  decoder.destroy();
  assert.deepEqual(await told({ ...PLAIN, maxNewTokens: 0 }), {
    text: "",
    pieces: 0,
    reason: "length",
    tokens: 0,
  });
});

Deno.test("promptIdsOf() are those of the prompt after the token that begins texts, if there is one", () => {
  const begins = { ...tokenizer, beginOfText: 7 };
  assert.deepEqual(promptIdsOf(tokenizer, "ab"), [97, 98]);
  assert.deepEqual(promptIdsOf(begins, "ab"), [7, 97, 98]);
  assert.deepEqual(promptIdsOf(tokenizer, ""), [tokenizer.endOfText]);
  assert.deepEqual(promptIdsOf(begins, ""), [7]);
});

Deno.test("generate() decodes a completion as the continuation of its prompt", async () => {
  // leaves out the first character of a text, as tokenizers with a prefix blank do
  const begins = {
    ...tokenizer,
    decoder(before: Iterable<number> = []) {
      const decoder = tokenizer.decoder();
      let atStart = true;
      const push = (...ids: readonly number[]) => {
        const text = decoder.push(...atStart ? ids.slice(1) : ids);
        atStart &&= ids.length === 0;
        return text;
      };
      push(...before);
      return { push, end: decoder.end };
    },
  };
  const { text } = await told(PLAIN);
  assert.equal((await told(PLAIN, { gpt, tokenizer: begins })).text, text);
});

Deno.test("generate() leaves out a last character of which not all bytes are drawn", async () => {
  const bytes = new TextEncoder().encode("né€");
  const european = {
    ...tokenizer,
    decoder() {
      const decoder = tokenizer.decoder();
      let next = 0;
      return {
        push: (...ids: readonly number[]) => decoder.push(...ids.map(() => bytes[next++]!)),
        end: decoder.end,
      };
    },
  };
  for (const [maxNewTokens, expected] of [[1, "n"], [2, "n"], [3, "né"], [5, "né"], [6, "né€"]]) {
    const options = { ...PLAIN, maxNewTokens: maxNewTokens as number };
    const { text } = await told(options, { gpt, tokenizer: european });
    assert.equal(text, expected);
  }
});

Deno.test("generate() ends when its signal aborts", async () => {
  const controller = new AbortController();
  const story = generate(fresh(), { ...PLAIN, maxNewTokens: 20_000, signal: controller.signal });
  await story.next();
  controller.abort();
  let last = await story.next();
  while (!last.done) last = await story.next();
  assert.equal(last.value.reason, "aborted");
  assert.ok(last.value.tokens > 0 && last.value.tokens < 20_000);
});

Deno.test("generate() throws when the model's logits are not finite", async () => {
  const broken = randomModel(device, "f32");
  const weight = masterOf(broken, "ln_f.weight");
  const [values] = await download(device, weight);
  values![0] = NaN;
  upload(device, weight, values!);
  const { left } = await withLiveBuffers(() =>
    assert.rejects(told(PLAIN, { gpt: broken, tokenizer }), {
      name: "UserError",
      message: "Cannot sample as the model's logits are NaN",
    })
  );
  assert.deepEqual(left, []);
  broken.destroy();
});

Deno.test("generate() throws on an option that is out of range", async () => {
  await assert.rejects(told({ maxNewTokens: -1 }), { message: /non-negative .* value is -1$/ });
  await assert.rejects(told({ sampler: { topP: 2 } }), { message: /topP must be above 0/ });
  const nothing = { promptIds: [], maxNewTokens: 0 };
  await assert.rejects(told(nothing), { message: /current prompt is empty$/ });
});

Deno.test("generate(), loadModel() and createGpt() refuse options that they do not have", async () => {
  const untyped = (options: unknown) => options as GenerateOptions;
  const cases: [() => unknown, string][] = [
    [() => told(untyped({ temperature: 0 })), "generate as every option must be one of generate()"],
    [
      () => told(untyped({ sampler: { temprature: 0 } })),
      "sample as every option must be one of a sampler",
    ],
    [
      () => generateBatch(fresh(), { requests: [untyped({ text: "Hi" })] }).next(),
      "generate as every option must be one of a request",
    ],
    [
      () => generateBatch(fresh(), untyped({ requests: [], seed: 1 }) as never).next(),
      "generate as every option must be one of generateBatch()",
    ],
    [
      () => loadModel(device, { path: "x" } as never),
      "load a model as every option must be one of loadModel()",
    ],
    [
      () => createGpt(device, gpt.config, { precision: "f32", dtype: "f16" } as never),
      "build a model as every option must be one of createGpt()",
    ],
  ];
  for (const [call, message] of cases) {
    await assert.rejects(async () => await call(), (error: Error) => {
      assert.match(error.message, /: "(temperature|temprature|text|seed|path|dtype)" is none$/);
      return error instanceof TypeError && error.message.startsWith(`Cannot ${message}: `);
    });
  }
});

Deno.test("generateBatch() completes each prompt as generate() does, also in several batches", async () => {
  const requests = ["Hi", "Once upon a time", "", "Hi", "Hi"].map((prompt, seed) => ({
    prompt,
    seed,
  }));
  const expected = await Promise.all(requests.map(async (request) => {
    const { pieces: _, ...story } = await told({ ...PLAIN, ...request, stop: ["e"] });
    return story;
  }));
  const maxBindingBytes = device.isCpu ? 30_000 : 60_000; // for some texts; a GPU reads larger pieces
  const narrow = { gpt: { ...gpt, device: { ...device, maxBindingBytes } }, tokenizer };
  for (const teller of [fresh(), narrow]) {
    const texts = requests.map(() => ""), results: unknown[] = [];
    const options = { requests, maxNewTokens: PLAIN.maxNewTokens, stop: ["e"] };
    const drawn = requests.map((): number[] => []);
    for await (const { index, text, ids, result } of generateBatch(teller, options)) {
      assert.equal(results[index], undefined, "a piece after the last");
      texts[index] += text;
      drawn[index]!.push(...ids);
      assert.ok(tokenizer.decode(drawn[index]!).startsWith(texts[index]!));
      if (result) results[index] = result;
    }
    assert.deepEqual(
      results.map((result, index) => ({ text: texts[index], ...result as object })),
      expected,
    );
    for (const [index, ids] of drawn.entries()) {
      const { reason, tokens } = results[index] as GenerateResult;
      assert.equal(ids.length, tokens - (reason === "end-of-text" ? 1 : 0));
    }
  }
});

Deno.test("generateBatch() yields nothing when there are no requests", async () => {
  for await (const piece of generateBatch(fresh(), { requests: [] })) {
    assert.fail(JSON.stringify(piece));
  }
});
