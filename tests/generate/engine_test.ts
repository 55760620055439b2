import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { Random } from "../../data/random.ts";
import type { CompletionPiece } from "../../generate/completion.ts";
import { createEngine, type Engine } from "../../generate/engine.ts";
import type { EngineRequest } from "../../generate/request.ts";
import { generate } from "../../generate/generate.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { batchSlots, Slots } from "../../generate/slots.ts";
import { predictionsOf } from "../../inspect/predictions.ts";
import { samplerSettings } from "../../kernels/sample/sample.ts";
import { DeviceError } from "../../kernels/device.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { download, upload } from "../../kernels/tensor.ts";
import type { GptConfig } from "../../model/config.ts";
import { masterOf } from "../../model/gpt.ts";
import { openTestDevice } from "../gpu.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { device } from "../kernels/harness.ts";
import { byteTokenizer, CONFIG, randomModel } from "./models.ts";

const tokenizer = byteTokenizer();
const model = { gpt: randomModel(device, "f32"), tokenizer };

/** Tokens of one prompt that a pass reads. */
const PIECE = device.isCpu ? 16 : 64;

/** A model for prompts of two pieces and a few tokens. */
const LONG = { gpt: randomModel(device, "f32", { contextLength: 2 * PIECE + 6 }), tokenizer };

const PLAIN = { promptIds: [72, 105], seed: 3, maxNewTokens: 60 } satisfies EngineRequest;

/** The whole completion of a request, in one piece. */
async function completed(
  engine: Engine,
  request: EngineRequest,
): Promise<Required<CompletionPiece>> {
  const whole = { text: "", ids: [] as number[], logprobs: [] as object[] };
  for await (const { text, ids, logprobs = [], result } of engine.submit(request)) {
    whole.text += text;
    whole.ids.push(...ids);
    whole.logprobs.push(...logprobs);
    if (result) return { ...whole, result } as Required<CompletionPiece>;
  }
  throw new Error("the completion has no end");
}

/** The completion of a request by `generate()`. */
async function generated(request: EngineRequest, by = model) {
  const stream = generate(by, request);
  let text = "";
  for (;;) {
    const { done, value } = await stream.next();
    if (done) return { text, result: value };
    text += value;
  }
}

Deno.test("createEngine() completes requests as generate() does", async () => {
  await using engine = createEngine(model, { slots: 4 });
  const { text } = await generated(PLAIN);
  const requests: EngineRequest[] = [
    PLAIN,
    { ...PLAIN, seed: 4, sampler: { temperature: 0 } },
    { prompt: "Once upon a time", maxNewTokens: 7 },
    { ...PLAIN, stop: [text.slice(4, 7)] },
    { ...PLAIN, endIds: [(await completed(engine, PLAIN)).ids[9]!] },
    { ...PLAIN, maxNewTokens: 0 },
  ];
  const all = await Promise.all(requests.map((request) => completed(engine, request)));
  for (const [i, { text, result }] of all.entries()) {
    assert.deepEqual({ text, result }, await generated(requests[i]!), `request ${i}`);
  }
});

Deno.test("createEngine() refuses a request that it cannot complete at once", async () => {
  const engine = createEngine(model, { slots: 2, maxTokens: 50 });
  assert.throws(() => engine.submit(PLAIN), {
    name: "UserError",
    message: "Cannot generate as prompt and completion may have at most 50 tokens: " +
      "current number is 2 + 60",
  });
  const short = { ...PLAIN, maxNewTokens: 5 };
  const cases: [Partial<EngineRequest>, string, RegExp][] = [
    [{ promptIds: [] }, "RangeError", /ids below 257: current prompt is empty$/],
    [{ promptIds: [257] }, "RangeError", /ids below 257: current id is 257$/],
    [{ maxNewTokens: -1 }, "RangeError", /maxNewTokens must be .* current value is -1$/],
    [{ seed: 0.5 }, "RangeError", /seed must be an integer from 0 to 4294967295/],
    [{ logprobs: 21 }, "RangeError", /logprobs must be an integer from 0 to 20/],
    [{ sampler: { topP: 2 } }, "UserError", /topP must be above 0/],
    [{ endIds: [3, 257] }, "RangeError", /endIds must be ids below 257: current id is 257$/],
    [{ endIds: [0.5] }, "RangeError", /endIds must be ids below 257: current id is 0.5$/],
    [{ endIds: [...new Array(16).keys()] }, "UserError", /at most 16 tokens can end a text/],
    [{ text: "x" } as Partial<EngineRequest>, "TypeError", /"text" is none$/],
  ];
  for (const [change, name, message] of cases) {
    assert.throws(() => engine.submit({ ...short, ...change }), { name, message });
  }
  await engine.close();
  assert.throws(() => engine.submit(short), {
    name: "TypeError",
    message: "Cannot generate as the engine is closed",
  });
  assert.throws(() => createEngine(model, { slots: 0 }), { name: "RangeError", message: /slots/ });
});

/** A request of random length, sampler and ends. */
function randomRequest(random: Random): EngineRequest {
  const chance = (p: number) => random.below(1000) < 1000 * p;
  const below = (most: number) => random.below(most);
  return {
    promptIds: Array.from(
      { length: 1 + below(chance(0.2) ? 3 * CONFIG.contextLength : 9) },
      () => below(CONFIG.vocabularySize - 1),
    ),
    maxNewTokens: chance(0.1) ? below(2) : below(chance(0.2) ? 3 * CONFIG.contextLength : 30),
    seed: below(2 ** 31),
    sampler: {
      temperature: chance(0.3) ? 0 : 0.5 + below(10) / 10,
      topK: chance(0.3) ? below(50) : 0,
      topP: chance(0.5) ? 1 : 0.9,
      minP: chance(0.3) ? 0.02 : 0,
      ...(chance(0.3) ? { repetitionPenalty: 1.3, repetitionWindow: below(20) } : {}),
      ...(chance(0.3) ? { presencePenalty: 1, frequencyPenalty: 0.5 } : {}),
    },
    ...(chance(0.3) ? { stop: ["e", "th"] } : {}),
    ...(chance(0.3) ? { endIds: Array.from({ length: 8 }, () => below(256)) } : {}),
    ...(chance(0.3) ? { logprobs: below(21) } : {}),
  };
}

const LLAMA: Partial<GptConfig> = {
  ...{ family: "llama", heads: 4, keyHeads: 2, headSize: 8, qkNorm: true, rotaryBase: 50 },
  ...{ attentionWindows: [0, 9] },
};

for (const [family, change] of Object.entries({ "GPT-2": {}, Llama: LLAMA })) {
  Deno.test(`createEngine() completes each of many requests to a ${family} as if it were alone`, async () => {
    const gpt = randomModel(device, "f32", change);
    await using engine = createEngine({ gpt, tokenizer }, { slots: 19 });
    const random = new Random(5);
    const requests = Array.from({ length: 60 }, () => randomRequest(random));
    const together = await Promise.all(requests.map(async (request, i) => {
      await delay(random.below(250));
      if (i % 6 === 5) { // leaves after its first piece, or before
        const pieces = engine.submit(request);
        if (i % 4 === 1) await pieces.next();
        await pieces.return();
        return undefined;
      }
      return await completed(engine, request);
    }));
    while (engine.stats().running > 0) await delay(5); // one that leaves has its slot until the chunk ends
    assert.equal(engine.stats().waiting, 0);
    assert.equal(engine.stats().ended, requests.length);
    for (const [i, whole] of together.entries()) {
      if (!whole) continue;
      assert.deepEqual(await completed(engine, requests[i]!), whole, `request ${i}`);
      const { logprobs } = requests[i]!;
      if (logprobs === undefined) continue;
      assert.equal(whole.logprobs.length, whole.ids.length);
      assert.ok(
        whole.logprobs.every(({ id, top }, t) => id === whole.ids[t] && top.length === logprobs),
      );
    }
    gpt.destroy();
  });
}

Deno.test("createEngine() reads the oldest prompt with the shortest others", async () => {
  const prefill = Slots.prototype.prefill, passes: number[][] = [];
  Slots.prototype.prefill = function (sequences) { // of the engine of this test, as no other computes meanwhile
    passes.push(sequences.map(({ maxLength }) => maxLength));
    prefill.call(this, sequences);
  };
  try {
    await using engine = createEngine(LONG, { slots: 10 });
    // prompt and one token: the most tokens of each request
    const lengths = [2 * PIECE - 2, 2 * PIECE + 4, 2 * PIECE + 2, 14, 13, 12, 11, 10, 9, 8];
    const [two, three, full] = lengths; // the passes that read their prompts; the third has whole pieces
    await Promise.all(lengths.map(async (length) => {
      const promptIds = Array.from({ length: length - 1 }, (_, i) => i);
      await completed(engine, { ...PLAIN, promptIds, maxNewTokens: 1 });
    }));
    // a pass reads a piece of eight prompts at most
    assert.deepEqual(passes, [
      [two, 8, 9, 10, 11, 12, 13, 14],
      [two, full, three],
      [three, full],
      [three],
    ]);
  } finally {
    Slots.prototype.prefill = prefill;
  }
});

Deno.test("createEngine() reads a prompt from where it differs from one that a free slot has read", async () => {
  await using engine = createEngine(LONG, { slots: 2 });
  const P = PIECE;
  const prompt = (length: number, differs = length) =>
    Array.from({ length }, (_, i) => i < differs ? i : 200 - i);
  const cases: [promptIds: number[], read: number, maxNewTokens?: number][] = [
    [prompt(2 * P + 3), 2 * P + 3], // of which a slot keeps two pieces
    [prompt(P + 4, 0), P + 4],
    [prompt(2 * P + 4), 4],
    [prompt(2 * P + 4, 2 * P - 1), P + 4],
    [prompt(P + 2, P), 2], // the piece of the last but one is as it was
    [prompt(P), P], // the last token draws the next
    [prompt(2 * P + 2, P + 1), P + 2, 30], // its window moves
    [prompt(P + 4), P + 4],
  ];
  for (const [promptIds, read, maxNewTokens = 2] of cases) {
    const before = engine.stats().promptTokensRead, request = { ...PLAIN, promptIds, maxNewTokens };
    const { text, result } = await completed(engine, request);
    assert.deepEqual({ text, result }, await generated(request, LONG));
    assert.equal(engine.stats().promptTokensRead - before, read, `${promptIds}`);
  }
});

Deno.test("createEngine() has the logprobs of the model's distribution", async () => {
  await using engine = createEngine(model, { slots: 2 });
  const request = { ...PLAIN, maxNewTokens: 30, logprobs: 3, sampler: { presencePenalty: 2 } };
  const { ids, logprobs } = await completed(engine, request);
  const all = [...PLAIN.promptIds, ...ids], from = PLAIN.promptIds.length - 1;
  const { predictions } = await predictionsOf(model, all, { top: 3, from });
  for (const [t, { id, logprob, top }] of logprobs.entries()) {
    const { next, top: likeliest } = predictions[t]!;
    assert.ok(id === next!.id && Math.abs(logprob + next!.loss) < 1e-4);
    for (const [k, { id, probability }] of likeliest.entries()) {
      assert.ok(top[k]!.id === id && Math.abs(top[k]!.logprob - Math.log(probability)) < 1e-4);
    }
  }
});

Deno.test("createEngine() ends a request whose signal aborts or whose reader leaves, and gives its slot to the next", async () => {
  await using engine = createEngine(model, { slots: 1 });
  const endless = { ...PLAIN, maxNewTokens: 20_000 };
  const controller = new AbortController();
  const first = engine.submit({ ...endless, signal: controller.signal });
  await first.next();
  const waiting = engine.submit({ ...endless, signal: controller.signal });
  const unread = engine.submit(endless);
  const last = completed(engine, { ...PLAIN, maxNewTokens: 3 });
  assert.deepEqual([engine.stats().running, engine.stats().waiting], [1, 3]);
  controller.abort();
  for (const pieces of [first, waiting]) {
    const all = await Array.fromAsync(pieces);
    assert.equal(all.at(-1)!.result!.reason, "aborted");
  }
  await unread.return();
  assert.equal((await last).result.tokens, 3);
  const { ended, tokensDrawn } = engine.stats();
  assert.equal(ended, 4);
  assert.ok(tokensDrawn >= 3 && tokensDrawn < 2000, `${tokensDrawn}`);
});

Deno.test("createEngine() joins the pieces that a slow reader has not taken", async () => {
  await using engine = createEngine(model, { slots: 2 });
  const pieces = engine.submit(PLAIN);
  while (engine.stats().ended === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  const all = await Array.fromAsync(pieces), { text, result } = await completed(engine, PLAIN);
  assert.deepEqual(all.map(({ text, result }) => ({ text, result })), [{ text, result }]);
});

Deno.test("createEngine() needs no more memory, however many requests it completes", async () => {
  const { gpu } = device, create = gpu.createBuffer;
  let bytes = 0, buffers = 0;
  gpu.createBuffer = (descriptor) => {
    const buffer = create.call(gpu, descriptor), destroy = buffer.destroy;
    bytes += descriptor.size;
    buffers++;
    buffer.destroy = () => {
      bytes -= descriptor.size;
      buffers--;
      destroy.call(buffer);
    };
    return buffer;
  };
  try {
    const engine = createEngine(model, { slots: 5 });
    const atStart = [bytes, buffers], dry = dryDevice(device);
    createEngine({ gpt: { ...model.gpt, device: dry }, tokenizer }, { slots: 5 });
    assert.equal(dry.bytes, bytes);
    const random = new Random(7),
      requests = Array.from({ length: 30 }, () => randomRequest(random));
    await Promise.all(requests.map((request) => completed(engine, request)));
    await completed(engine, PLAIN); // behind which nothing is computed, as its length ends it
    assert.deepEqual([bytes, buffers], atStart);
    await engine.close();
    assert.deepEqual([bytes, buffers], [0, 0]);
    // enough to draw tokens of eight sequences, not enough to read their prompts
    const gpt = { ...model.gpt, device: { ...device, maxBindingBytes: 40_000 } };
    const sizes = { slots: 8, maxTokens: 50, readsPrompts: true, sampler: DEFAULT_SAMPLER };
    assert.throws(() => batchSlots(gpt, sizes), { name: "LimitError" });
    assert.deepEqual([bytes, buffers], [0, 0]);
  } finally {
    gpu.createBuffer = create;
  }
});

Deno.test("createEngine() fails a request whose logits are not finite, and completes the next", async () => {
  const gpt = randomModel(device, "f32"), wte = masterOf(gpt, "wte.weight");
  const [before] = await download(device, wte);
  await using engine = createEngine({ gpt, tokenizer }, { slots: 2 });
  upload(device, wte, new Float32Array(before!.length).fill(NaN));
  await assert.rejects(completed(engine, PLAIN), { name: "UserError", message: /logits are NaN/ });
  upload(device, wte, before!);
  assert.equal((await completed(engine, PLAIN)).result.tokens, 60);
  gpt.destroy();
});

Deno.test("createEngine() ends open requests when it is closed", async () => {
  const { left } = await withLiveBuffers(async () => {
    const engine = createEngine(model, { slots: 1 });
    const open = [0, 1].map((seed) => engine.submit({ ...PLAIN, seed, maxNewTokens: 20_000 }));
    await open[0]!.next();
    await engine.close();
    for (const pieces of open) {
      const { result } = (await Array.fromAsync(pieces)).at(-1)!;
      assert.equal(result!.reason, "aborted");
    }
  });
  assert.deepEqual(left, []);
});

Deno.test("createEngine() fails all requests when the device is lost", async () => {
  const lost = await openTestDevice();
  const gpt = randomModel(lost, "f32"), engine = createEngine({ gpt, tokenizer }, { slots: 1 });
  const open = [0, 1].map((seed) => engine.submit({ ...PLAIN, seed, maxNewTokens: 20_000 }));
  await open[0]!.next();
  lost.gpu.destroy();
  for (const pieces of open) await assert.rejects(Array.fromAsync(pieces), { name: "DeviceError" });
  assert.throws(() => engine.submit(PLAIN), { name: "DeviceError" });
  await engine.close();
});

Deno.test("createEngine() fails requests when the device refuses a launch, and completes the next without their prefixes", async () => {
  let refused: DeviceError | undefined;
  const check = () => {
    const error = refused;
    refused = undefined;
    if (error) throw error;
    device.check();
  };
  const gpt = { ...LONG.gpt, device: { ...device, check } };
  await using engine = createEngine({ gpt, tokenizer }, { slots: 1 });
  const request = { ...PLAIN, promptIds: Array.from({ length: PIECE + 2 }, (_, i) => i) };
  refused = new DeviceError("Cannot launch anything", "invalid");
  await assert.rejects(completed(engine, request), { name: "DeviceError" });
  const before = engine.stats().promptTokensRead;
  assert.equal((await completed(engine, request)).result.tokens, 60);
  assert.equal(engine.stats().promptTokensRead - before, PIECE + 2);
});

/** The settings of a prompt of one token. */
const settingsOf = (settings: { seed: number; endIds?: number[] }) =>
  samplerSettings({ sampler: DEFAULT_SAMPLER, firstDrawn: 1, ...settings });

const LORA = { rank: 4, alpha: 8, targets: ["q_proj", "v_proj", "gate_proj", "down_proj"] };

for (
  const [what, change] of Object.entries({
    "GPT-2": {},
    "Llama with adapters": { ...LLAMA, lora: LORA },
  })
) {
  Deno.test(`Slots computes the same bits of a ${what} for one sequence as for many with the kernels of a GPU`, async () => {
    const on = { ...device, isCpu: false, subgroupSize: undefined, choices: new Map() };
    const gpt = randomModel(on, "f32", change), maxLength = 80;
    const prompts = Array.from(
      { length: 9 },
      (_, b) => Array.from({ length: 1 + 8 * b }, (_, i) => (7 * i + b) % 256),
    );
    const logitsOf = async (count: number, which: readonly number[]) => {
      using slots = new Slots(gpt, {
        ...{ slots: count, maxTokens: maxLength, drawRows: [1, count], prefillRows: [1, count] },
        ...{ readsPrompts: true, batchInvariant: true, penalties: false, logprobs: false },
      });
      const sequences = which.map((b) =>
        slots.add(prompts[b]!, { maxLength, settings: settingsOf({ seed: b }) })
      );
      for (let unread = sequences; unread.length > 0;) {
        unread = unread.filter((sequence) => slots.unread(sequence) > 0);
        if (unread.length > 0) slots.prefill(unread);
      }
      slots.draw(1);
      const [logits] = await download(device, slots.logits), W = slots.logits.shape[1]!;
      return which.map((_, row) => logits!.subarray(row * W, row * W + CONFIG.vocabularySize));
    };
    for (const count of [8, 9]) { // with kernels for few rows, and for many
      const together = await logitsOf(count, [...prompts.keys()].slice(0, count));
      for (const b of [0, 7]) assert.deepEqual(await logitsOf(count, [b]), [together[b]]);
    }
    gpt.destroy();
  });
}

Deno.test("Slots draws nothing behind a token that ends the text", async () => {
  const maxLength = 40;
  const draw = async (endIds: number[]) => {
    using slots = new Slots(model.gpt, {
      ...{ slots: 1, maxTokens: maxLength, drawRows: [1], prefillRows: [1] },
      ...{ readsPrompts: false, batchInvariant: true, penalties: false, logprobs: false },
    });
    const sequence = slots.add([3], { maxLength, settings: settingsOf({ seed: 1, endIds }) });
    const [span] = slots.draw(20);
    slots.draw(5); // the cursors of the first draw stay
    const [tokens] = await download(device, slots.tokensOf({ ...span!, count: 25 }));
    assert.equal(sequence.length, 26);
    return [...tokens!];
  };
  const all = await draw([]), end = all[6]!;
  const ended = all.slice(0, all.indexOf(end) + 1);
  assert.deepEqual(await draw([end]), [...ended, ...new Array(25 - ended.length).fill(0)]);
});
