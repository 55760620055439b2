import assert from "node:assert/strict";
import { createEngine, type Engine, type EngineRequest } from "../../generate/engine.ts";
import { generate } from "../../generate/generate.ts";
import { device } from "../kernels/harness.ts";
import { byteTokenizer, randomModel } from "./models.ts";

const tokenizer = byteTokenizer();
const model = { gpt: randomModel(device, "f32"), tokenizer };

const PLAIN: EngineRequest = { promptIds: [72, 105], seed: 3, maxNewTokens: 60 };

/** The whole completion of a request. */
async function completed(engine: Engine, request: EngineRequest) {
  let text = "";
  const ids: number[] = [];
  for await (const piece of engine.submit(request)) {
    text += piece.text;
    ids.push(...piece.ids);
    if (piece.result) return { text, ids, ...piece.result };
  }
  throw new Error("the completion has no end");
}

/** The completion of a request by `generate()`. */
async function generated({ promptIds, seed, maxNewTokens, sampler, stop, endIds }: EngineRequest) {
  const stream = generate(model, { promptIds, seed, maxNewTokens, sampler, stop, endIds });
  let text = "";
  for (;;) {
    const { done, value } = await stream.next();
    if (done) return { text, ...value };
    text += value;
  }
}

Deno.test("createEngine() completes requests as generate() does", async () => {
  await using engine = createEngine(model, { slots: 4 });
  const { text } = await generated(PLAIN);
  const requests: EngineRequest[] = [
    PLAIN,
    { ...PLAIN, seed: 4, sampler: { temperature: 0 } },
    { ...PLAIN, maxNewTokens: 7, promptIds: [...new TextEncoder().encode("Once upon a time")] },
    { ...PLAIN, stop: [text.slice(4, 7)] },
    { ...PLAIN, endIds: [(await completed(engine, PLAIN)).ids[9]!] },
    { ...PLAIN, maxNewTokens: 0 },
  ];
  const all = await Promise.all(requests.map((request) => completed(engine, request)));
  for (const [i, { ids: _, ...completion }] of all.entries()) {
    assert.deepEqual(completion, await generated(requests[i]!), `request ${i}`);
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
    [{ prompt: "x" } as Partial<EngineRequest>, "TypeError", /"prompt" is none$/],
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
