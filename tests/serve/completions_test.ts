import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { generate } from "../../generate/generate.ts";
import type { GenerateOptions } from "../../generate/request.ts";
import { loadModel } from "../../generate/load.ts";
import { windowStart } from "../../generate/slots.ts";
import { predictionsOf } from "../../inspect/predictions.ts";
import { directory } from "../checkpoints.ts";
import { assertClose, device } from "../kernels/harness.ts";
import { ask, CONTEXT, open, request, tinyRun } from "./tiny_run.ts";

const run = await tinyRun();

/** The text that `generate()` adds. */
async function generated(options: GenerateOptions, checkpoint = "6"): Promise<string> {
  const model = await loadModel(device, { run, checkpoint });
  try {
    return (await Array.fromAsync(generate(model, options))).join("");
  } finally {
    model.gpt.destroy();
  }
}

const PLAIN = { model: "tiny", prompt: "One cat", max_tokens: 24, seed: 7 };
/** A request whose text never ends: the model repeats a word. */
const ENDLESS = { ...PLAIN, temperature: 0, max_tokens: 16384 };

/** The options of `generate()` for `PLAIN`. */
const SAME = {
  prompt: "One cat",
  maxNewTokens: 24,
  seed: 7,
  sampler: { temperature: 1, topP: 1 },
};

Deno.test("/v1/completions answers what generate() does, with the checkpoint's name and the usage", async () => {
  await using playground = open();
  const { status, id, object, model, choices, usage } = await ask(playground, PLAIN);
  assert.deepEqual([status, object, model], [200, "text_completion", "tiny@6"]);
  assert.match(id, /^cmpl-/);
  const text = await generated(SAME);
  assert.deepEqual(choices, [{ index: 0, text, logprobs: null, finish_reason: "length" }]);
  const { prompt_tokens, completion_tokens, total_tokens } = usage;
  assert.equal(completion_tokens, 24);
  assert.equal(total_tokens, prompt_tokens + 24);
});

Deno.test("/v1/completions uses every option of the sampler, and the checkpoint that is named", async () => {
  await using playground = open();
  const sampler = {
    temperature: 0.9,
    top_k: 7,
    top_p: 0.8,
    min_p: 0.01,
    repetition_penalty: 1.5,
    repetition_window: 3,
  };
  const { choices, model } = await ask(playground, { ...PLAIN, ...sampler, model: "tiny@2" });
  assert.equal(model, "tiny@2");
  const expected = {
    temperature: 0.9,
    topK: 7,
    topP: 0.8,
    minP: 0.01,
    repetitionPenalty: 1.5,
    repetitionWindow: 3,
  };
  assert.equal(choices[0].text, await generated({ ...SAME, sampler: expected }, "2"));
  await using other = open({ findRun: (name) => name === "tiny@2" ? run : undefined });
  assert.equal((await ask(other, { ...PLAIN, max_tokens: 1, model: "tiny@2" })).model, "tiny@2@6");
  for (const name of ["best", "4"]) {
    const { model } = await ask(playground, { ...PLAIN, max_tokens: 1, model: `tiny@${name}` });
    assert.match(model, name === "4" ? /^tiny@4$/ : /^tiny@[246]$/);
  }
});

Deno.test("/v1/completions returns n completions per prompt, with their tokens, up to a stop text", async () => {
  await using playground = open();
  const prompt = ["One cat", ""];
  const { choices, usage } = await ask(playground, {
    ...PLAIN,
    prompt,
    n: 2,
    stop: "e",
    return_token_ids: true,
  });
  const texts = await Promise.all(
    [0, 1, 2, 3].map((i) =>
      generated({ ...SAME, prompt: prompt[i >> 1]!, seed: 7 + i, stop: ["e"] })
    ),
  );
  assert.deepEqual(choices.map(({ text }: { text: string }) => text), texts);
  const { tokenizer, gpt } = await loadModel(device, { run });
  gpt.destroy();
  for (const [i, choice] of choices.entries()) {
    const expected = i < 2 ? tokenizer.encode("One cat") : [tokenizer.endOfText];
    assert.deepEqual([choice.index, choice.prompt_token_ids], [i, expected]);
    assert.ok(tokenizer.decode(choice.token_ids).startsWith(choice.text));
  }
  assert.equal(usage.prompt_tokens, tokenizer.encode("One cat").length + 1);
});

Deno.test("/v1/completions streams the same text, and ends with the usage and [DONE]", async () => {
  await using playground = open();
  const body = { ...PLAIN, n: 2, stream: true, stream_options: { include_usage: true } };
  const response = (await playground.handle(request(body)))!;
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  const events = (await response.text()).split("\n\n");
  assert.deepEqual(events.slice(-2), ["data: [DONE]", ""]);
  const chunks = events.slice(0, -2).map((event) => JSON.parse(event.replace(/^data: /, "")));
  const { usage } = chunks.pop();
  const texts = ["", ""], reasons = ["", ""];
  for (const { model, choices: [{ index, text, finish_reason }] } of chunks) {
    assert.equal(model, "tiny@6");
    texts[index] += text;
    reasons[index] += finish_reason ?? "";
  }
  assert.ok(chunks.length > 2);
  const { choices, ...whole } = await ask(playground, { ...PLAIN, n: 2 });
  assert.deepEqual(texts, choices.map(({ text }: { text: string }) => text));
  assert.deepEqual(
    reasons,
    choices.map(({ finish_reason }: { finish_reason: string }) => finish_reason),
  );
  assert.deepEqual(usage, whole.usage);
});

Deno.test("/v1/completions gives logprobs of the drawn tokens, whole or streamed, beyond the context too", async () => {
  await using playground = open();
  const body = { ...PLAIN, temperature: 0, logprobs: 2, n: 2, return_token_ids: true };
  const { choices } = await ask(playground, body);
  const model = await loadModel(device, { run });
  for (const { text, logprobs, token_ids, prompt_token_ids } of choices) {
    assert.equal(token_ids.length, 24); // with the prompt more than the context
    assert.equal(logprobs.token_logprobs.length, 24);
    assert.equal(logprobs.tokens.join(""), text);
    for (const [i, logprob] of logprobs.token_logprobs.entries()) {
      const top = logprobs.top_logprobs[i];
      assert.equal(top[logprobs.tokens[i]], logprob); // the likeliest is drawn
      assert.ok(logprob < 0 && Object.values<number>(top).every((other) => other <= logprob));
      assert.ok(`One cat${text}`.slice(logprobs.text_offset[i]).startsWith(logprobs.tokens[i]));
      if (i % 5 > 0) continue;
      const before = [...prompt_token_ids, ...token_ids.slice(0, i)];
      const ids = before.slice(windowStart(before.length, CONTEXT));
      const { predictions } = await predictionsOf(model, ids, { top: 1 });
      const error = Math.log(predictions.at(-1)!.top[0]!.probability) - logprob;
      assert.ok(Math.abs(error) < (model.gpt.precision === "f16" ? 1e-2 : 1e-4));
    }
  }
  model.gpt.destroy();
  const streamed = (await playground.handle(request({ ...body, stream: true })))!;
  const parts = (await streamed.text()).split("\n\n").slice(0, -2)
    .map((event) => JSON.parse(event.replace(/^data: /, "")).choices[0]);
  assert.ok(parts.length > 2);
  for (const { index, logprobs } of choices) {
    for (const field of ["tokens", "token_logprobs", "text_offset"]) {
      const joined = parts.filter((part) => part.index === index)
        .flatMap((part) => part.logprobs[field]);
      if (field !== "token_logprobs") assert.deepEqual(joined, logprobs[field]);
      else assertClose(joined, logprobs[field], 1e-5, field);
    }
  }
  const { choices: [{ logprobs }] } = await ask(playground, { ...PLAIN, logprobs: 0 });
  assert.equal(logprobs.top_logprobs, null);
});

Deno.test("/v1/completions refuses what it cannot do in OpenAI's shape", async () => {
  await using playground = open();
  const cases: [body: unknown, status: number, param: string | null, message: RegExp][] = [
    [{}, 400, "model", /^Cannot complete as model must be the name of a run$/],
    [{ model: "other" }, 404, "model", /"other" as there is no such run$/],
    [{ model: "../tiny" }, 404, "model", /there is no such run$/],
    [{ model: "tiny@3" }, 404, "model", /no such checkpoint: there are 2, 4, 6$/],
    [{ ...PLAIN, top_k: -1 }, 400, "top_k", /top_k must be a non-negative integer: .* is -1$/],
    [{ ...PLAIN, top_p: "1" }, 400, "top_p", /top_p must be above 0 and at most 1: .* is "1"$/],
    [{ ...PLAIN, n: 129 }, 400, "n", /n must be a whole number from 1 to 128: .* is 129$/],
    [{ ...PLAIN, prompt: ["a", "b"], n: 65 }, 400, "n", /at most 128: current number is 130$/],
    [{ ...PLAIN, max_tokens: -1 }, 400, "max_tokens", /from 0 to 16384: current value is -1$/],
    [{ ...PLAIN, prompt: [1, -2] }, 400, "prompt", /a list of ids, or .*: .* \[1,-2\]$/],
    [{ ...PLAIN, prompt: [] }, 400, "prompt", /a list of ids, or/],
    [
      { ...PLAIN, prompt: [[1], [9999]] },
      400,
      "prompt",
      /ids .* below \d+: current id of prompt is 9999$/,
    ],
    [{ ...PLAIN, stop: Array(17).fill("a") }, 400, "stop", /or a list of at most 16/],
    [{ ...PLAIN, stop: [""] }, 400, "stop", /a well-formed text of 1 to 256 characters/],
    [{ ...PLAIN, stop: "\udd8a" }, 400, "stop", /a well-formed text of 1 to 256 characters/],
    [{ ...PLAIN, stop: "a".repeat(257) }, 400, "stop", /a well-formed text of 1 to 256 characters/],
    [{ ...PLAIN, suffix: "x" }, 400, "suffix", /suffix must be "", as others are not supported/],
    [{ ...PLAIN, best_of: 2 }, 400, "best_of", /best_of must be 1, as others are not supported/],
    [{ ...PLAIN, logit_bias: { 5: 1 } }, 400, "logit_bias", /must be \{\}, as others are not/],
    [{ ...PLAIN, tools: [] }, 400, "tools", /field is unknown: "tools"$/],
    [{ ...PLAIN, prompt: "cat ".repeat(40_000) }, 400, null, /at most 32768 tokens/],
    [{ ...PLAIN, topK: 3 }, 400, "topK", /field is unknown: "topK"$/],
    [{ ...PLAIN, stream_options: { a: 1 } }, 400, "stream_options", /include_usage/],
    ["[]", 400, null, /its body must be a JSON object$/],
    ["{", 400, null, /its body must be JSON in UTF-8$/],
    [`"${"x".repeat(2 ** 20)}"`, 413, null, /its body must have at most 1048576 bytes$/],
  ];
  for (const [body, status, param, message] of cases) {
    const { status: got, error } = await ask(playground, body);
    assert.match(error.message, message);
    assert.deepEqual([got, error.param, error.type], [status, param, "invalid_request_error"]);
    assert.equal(error.code, param === "model" && status === 404 ? "model_not_found" : null);
  }
  assert.equal((await ask(playground, { ...PLAIN, top_k: null, user: "me" })).status, 200);
  assert.equal((await ask(playground, PLAIN, { method: "PUT" })).status, 405);
  const form = { headers: { "content-type": "text/plain" } };
  assert.match((await ask(playground, PLAIN, form)).error.message, /must be application\/json/);
  const cut = new ReadableStream({
    pull: (controller) => controller.error(new Deno.errors.BadResource("the client went away")),
  });
  const { status, error } = await ask(playground, "", { body: cut });
  assert.deepEqual([status, error.message], [
    400,
    "Cannot read the request as its body ends early",
  ]);
  const elsewhere = new Request("http://127.0.0.1/v1/other");
  assert.equal(await playground.handle(elsewhere), undefined);
});

Deno.test("a playground refuses a model that free memory is too short for, with both figures", async () => {
  let freeBytes = 1000;
  await using playground = open({ freeBytes: () => freeBytes });
  const { status, error } = await ask(playground, PLAIN);
  assert.equal(status, 503);
  assert.equal(error.type, "server_error");
  assert.match(
    error.message,
    /^Cannot load tiny@6 as .* must be free: it needs [\d.]+ MB, and 1\.00 kB are free$/,
  );
  freeBytes = 1e9;
  assert.equal((await ask(playground, PLAIN)).status, 200);
});

Deno.test("a playground loads a model once, and frees it before it loads another", async () => {
  const live = new Map<GPUBuffer, number>(), bytesBefore: number[] = [];
  const createBuffer = (description: GPUBufferDescriptor) => {
    const buffer = device.gpu.createBuffer(description), destroy = buffer.destroy.bind(buffer);
    live.set(buffer, description.size);
    buffer.destroy = () => {
      live.delete(buffer);
      destroy();
    };
    return buffer;
  };
  const gpu = new Proxy(device.gpu, {
    get(target, name) {
      const value = Reflect.get(target, name);
      if (name === "createBuffer") return createBuffer;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const loads: string[] = [];
  await using playground = open({
    open: () => Promise.resolve({ ...device, gpu, destroy() {} }),
    freeBytes: () => {
      bytesBefore.push([...live.values()].reduce((sum, size) => sum + size, 0));
      return 1e9;
    },
  });
  for (const model of ["tiny@4", "tiny@4", "tiny@2"]) {
    bytesBefore.length = 0;
    await ask(playground, { ...PLAIN, model, max_tokens: 1 });
    // the memory is asked for before a model is loaded
    loads.push(bytesBefore.map((bytes) => bytes > 10_000 ? "model" : "nothing").join(", "));
  }
  assert.deepEqual(loads, ["nothing", "", "nothing"]);
});

Deno.test("a playground names a damaged checkpoint, and passes over it if none is named", async () => {
  const broken = join(directory, "broken");
  cpSync(run, broken, { recursive: true });
  Deno.truncateSync(join(broken, "checkpoints", "000006", "model.safetensors"), 1000);
  await using playground = open({ findRun: (name) => name === "broken" ? broken : undefined });
  const { model } = await ask(playground, { ...PLAIN, max_tokens: 1, model: "broken" });
  assert.equal(model, "broken@4");
  const { status, error } = await ask(playground, { ...PLAIN, model: "broken@6" });
  assert.equal(status, 503);
  assert.match(error.message, /000006 as model\.safetensors must have \d+ bytes: .* is 1000$/);
});

Deno.test("a playground opens a device when it is first needed, and another after it was lost", async () => {
  let opened = 0;
  await using playground = open({
    open: async () => {
      const lost = opened++ === 0;
      await Promise.resolve();
      const { DeviceError } = await import("../../kernels/device.ts");
      const check = () => {
        if (lost) throw new DeviceError("the GPU was lost (unknown): it fell off", "lost");
        device.check();
      };
      return { ...device, check, destroy() {} };
    },
  });
  assert.equal(opened, 0);
  const { status, error } = await ask(playground, PLAIN);
  assert.deepEqual([status, error.message], [503, "the GPU was lost (unknown): it fell off"]);
  assert.equal((await ask(playground, PLAIN)).status, 200);
  assert.equal((await ask(playground, { ...PLAIN, model: "tiny@2" })).status, 200);
  assert.equal(opened, 2);
});

Deno.test("a playground that is asked for the newest checkpoint finds it when its turn comes", async () => {
  const pruned = join(directory, "pruned"), runs = new Map([["tiny", run], ["pruned", pruned]]);
  cpSync(run, pruned, { recursive: true });
  await using playground = open({ findRun: (name) => runs.get(name) });
  const reader = (await playground.handle(request({ ...ENDLESS, stream: true })))!.body!
    .getReader();
  await reader.read();
  const asked = (model: string) => ask(playground, { ...PLAIN, max_tokens: 1, model });
  const newest = asked("pruned"), named = asked("pruned@6");
  await new Promise((resolve) => setTimeout(resolve, 50)); // both wait
  Deno.removeSync(join(pruned, "checkpoints", "000006"), { recursive: true });
  await reader.cancel();
  assert.equal((await newest).model, "pruned@4");
  assert.equal((await named).status, 404);
});

Deno.test("requests for one model are answered side by side, others wait for it, and one that leaves is gone at once", async () => {
  await using playground = open();
  const long = { ...ENDLESS, stream: true };
  const reader = (await playground.handle(request(long)))!.body!.getReader();
  await reader.read();
  assert.equal((await ask(playground, PLAIN)).model, "tiny@6"); // beside the long one
  const waiting = new AbortController();
  const other = { ...PLAIN, model: "tiny@2" };
  const left = playground.handle(request(other, { signal: waiting.signal }));
  const answered = ask(playground, other), behind = ask(playground, PLAIN);
  waiting.abort();
  assert.equal((await left)!.status, 499);
  const done = Promise.race([answered, behind]).then(() => "done");
  assert.equal(await Promise.race([done, reader.read().then(() => "busy")]), "busy");
  await reader.cancel();
  assert.deepEqual([(await answered).model, (await behind).model], ["tiny@2", "tiny@6"]);
});

Deno.test("a request is refused if too many wait for their model", async () => {
  const playground = open();
  await playground.handle(request({ ...ENDLESS, stream: true }));
  const other = { ...PLAIN, model: "tiny@2" };
  const waiting = Array.from({ length: 64 }, () => ask(playground, other));
  await new Promise((resolve) => setTimeout(resolve)); // their bodies are read
  const { status, error } = await ask(playground, other);
  assert.deepEqual([status, error.type, error.code], [
    429,
    "rate_limit_error",
    "rate_limit_exceeded",
  ]);
  assert.match(error.message, /at most 64 requests may wait/);
  await playground.close();
  assert.ok((await Promise.all(waiting)).every(({ status }) => status === 503));
});

Deno.test("close() ends a generation that runs, and requests that wait", async () => {
  const playground = open();
  const streaming = (await playground.handle(request({ ...ENDLESS, stream: true })))!;
  const waiting = ask(playground, PLAIN);
  await playground.close();
  assert.match(await streaming.text(), /"message":"Cannot answer as the server is closed"/);
  const { status, error } = await waiting;
  assert.deepEqual([status, error.message], [503, "Cannot answer as the server is closed"]);
});
