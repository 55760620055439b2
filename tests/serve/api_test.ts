import assert from "node:assert/strict";
import { join } from "node:path";
import { createChatFormat } from "../../data/tokenizer/chat_format.ts";
import { generateBatch } from "../../generate/generate.ts";
import { loadModel } from "../../generate/load.ts";
import { type ApiOptions, createApi, type RequestRecord } from "../../serve/api.ts";
import { ApiError, errorResponse } from "../../serve/api_error.ts";
import { DeviceError, LimitError } from "../../kernels/device.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { device } from "../kernels/harness.ts";
import { dirname, fromFileUrl } from "../paths.ts";
import { request, TEMPLATE, tinyRun } from "./tiny_run.ts";

const { gpt, tokenizer } = await loadModel(device, { run: await tinyRun() });
const model = { gpt, tokenizer: { ...tokenizer, chatTemplate: TEMPLATE } };

/** An API whose only model is that of `tinyRun()`, named `tiny`. */
function open(options: Partial<ApiOptions> = {}) {
  return createApi({ models: { tiny: model }, slots: 4, ...options });
}

type Api = ReturnType<typeof open>;

/** Asks as a client of this machine does. */
function send(
  { handle }: Api,
  path: string,
  body?: unknown,
  { headers = {}, ...init }: RequestInit & { headers?: Record<string, string> } = {},
): Promise<Response> {
  const all = { host: "127.0.0.1:8000", "content-type": "application/json", ...headers };
  if (body !== undefined) return handle(request(body, { path, ...init, headers: all }));
  return handle(new Request(`http://127.0.0.1:8000${path}`, { ...init, headers: all }));
}

/** The status and the JSON of an answer. */
async function ask(...args: Parameters<typeof send>) {
  const response = await send(...args);
  return { ...await response.json(), status: response.status, headers: response.headers };
}

/** The data of server-sent events, without the last, `[DONE]`. */
async function partsOf(response: Response) {
  const events = (await response.text()).split("\n\n");
  assert.deepEqual(events.slice(-2), ["data: [DONE]", ""]);
  return events.slice(0, -2).map((event) => JSON.parse(event.replace(/^data: /, "")));
}

/** Waits until so many requests have ended, which they do soon after their clients have the whole answer. */
async function recorded(records: readonly RequestRecord[], count: number): Promise<void> {
  while (records.length < count) await new Promise((resolve) => setTimeout(resolve, 5));
}

const CHAT = "/v1/chat/completions", COMPLETIONS = "/v1/completions";
const PLAIN = { model: "tiny", prompt: "One cat", max_tokens: 12, seed: 7 };
const ENDLESS = { ...PLAIN, temperature: 0, max_tokens: 16384 };
const MESSAGES = [{ role: "user", content: "One" }];
const QUESTION = { model: "tiny", messages: MESSAGES, max_tokens: 8, seed: 7 };

/** The answers that `generateBatch()` gives in a conversation. */
async function answersTo(
  messages: Parameters<Awaited<ReturnType<typeof createChatFormat>>["promptIds"]>[0],
  { n = 1, maxNewTokens = 8 }: { n?: number; maxNewTokens?: number } = {},
) {
  const format = await createChatFormat(model.tokenizer), { endIds } = format;
  const promptIds = format.promptIds(messages);
  const requests = Array.from({ length: n }, (_, i) => ({ promptIds, seed: 7 + i, endIds }));
  const texts = requests.map(() => ""), sampler = { temperature: 1, topP: 1 };
  for await (const { index, text } of generateBatch(model, { requests, maxNewTokens, sampler })) {
    texts[index] += text;
  }
  return { texts, promptTokens: promptIds.length };
}

Deno.test("/v1/chat/completions answers what generateBatch() does after the chat template, n times", async () => {
  await using api = open();
  const { texts, promptTokens } = await answersTo(MESSAGES, { n: 2 });
  const { status, id, object, model, choices, usage } = await ask(api, CHAT, { ...QUESTION, n: 2 });
  assert.deepEqual([status, object, model], [200, "chat.completion", "tiny"]);
  assert.match(id, /^chatcmpl-/);
  assert.deepEqual(
    choices.map(({ index, message, logprobs }: Record<string, unknown>) => [
      index,
      message,
      logprobs,
    ]),
    texts.map((content, i) => [i, { role: "assistant", content, refusal: null }, null]),
  );
  assert.equal(usage.prompt_tokens, promptTokens);
});

Deno.test("/v1/chat/completions gives the ids of messages and answers, whole or streamed", async () => {
  await using api = open();
  const body = { ...QUESTION, n: 2, return_token_ids: true };
  const { choices } = await ask(api, CHAT, body), { decode } = model.tokenizer;
  const { promptIds } = await createChatFormat(model.tokenizer);
  for (const { message, token_ids, prompt_token_ids } of choices) {
    assert.deepEqual(prompt_token_ids, promptIds(MESSAGES));
    assert.equal(decode(token_ids), message.content);
  }
  const parts = await partsOf(await send(api, CHAT, { ...body, stream: true }));
  for (const { index, token_ids, prompt_token_ids } of choices) {
    const own = parts.map(({ choices: [part] }) => part).filter((part) => part.index === index);
    assert.deepEqual(own.flatMap(({ token_ids }) => token_ids), token_ids);
    assert.deepEqual(own.flatMap((part) => part.prompt_token_ids ?? []), prompt_token_ids);
  }
});

Deno.test("/v1/chat/completions streams the same answers, with the role first and the usage last", async () => {
  await using api = open();
  const { texts } = await answersTo(MESSAGES, { n: 2 });
  const stream = { stream: true, stream_options: { include_usage: true } };
  const response = await send(api, CHAT, { ...QUESTION, n: 2, ...stream });
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  const parts = await partsOf(response), { usage, choices } = parts.pop();
  assert.deepEqual([choices, usage.completion_tokens > 0], [[], true]);
  const answers = ["", ""], roles: (string | undefined)[][] = [[], []];
  for (const { object, usage, choices: [{ index, delta }] } of parts) {
    assert.deepEqual([object, usage], ["chat.completion.chunk", null]);
    answers[index] += delta.content;
    roles[index]!.push(delta.role);
  }
  assert.deepEqual(answers, texts);
  for (const [first, ...others] of roles) {
    assert.equal(first, "assistant");
    assert.ok(others.every((role) => role === undefined));
  }
});

Deno.test("/v1/chat/completions joins parts of a message, and takes a developer for the system", async () => {
  await using api = open();
  const messages = [
    { role: "developer", content: [{ type: "text", text: "On" }, { type: "text", text: "e" }] },
    { role: "user", content: "cat" },
    { role: "assistant", content: "and", refusal: null, tool_calls: [] },
    { role: "user", content: "" },
  ];
  const { choices } = await ask(api, CHAT, { ...QUESTION, messages, max_tokens: 4 });
  const expected = [{ role: "system", content: "One" }, ...messages.slice(1)]
    .map(({ role, content }) => ({ role, content: content as string }));
  const { texts: [text] } = await answersTo(expected, { maxNewTokens: 4 });
  assert.equal(choices[0].message.content, text);
});

Deno.test("/v1/chat/completions takes messages that leave room for one token, and refuses longer ones", async () => {
  await using api = open();
  const format = await createChatFormat(model.tokenizer), { contextLength } = model.gpt.config;
  const empty = format.promptIds([{ role: "user", content: "" }]).length;
  for (const [tokens, status] of [[contextLength - 1, 200], [contextLength, 400]] as const) {
    const messages = [{ role: "user", content: "\x01".repeat(tokens - empty) }];
    assert.equal(format.promptIds(messages).length, tokens);
    const answer = await ask(api, CHAT, { model: "tiny", messages, seed: 7 });
    assert.equal(answer.status, status);
    if (status === 200) assert.equal(answer.usage.completion_tokens, 1);
  }
});

Deno.test("/v1/chat/completions answers requests as Open WebUI and Continue send them", async () => {
  await using api = open();
  const history = [
    { role: "system", content: "S" },
    { role: "user", content: "One" },
    { role: "assistant", content: " " },
    { role: "user", content: [{ type: "text", text: "cat" }] },
  ];
  const model = "tiny", stream_options = { include_usage: true };
  const requests: Record<string, object> = {
    "Open WebUI": { stream: true, model, messages: history, stream_options },
    "Open WebUI with settings of the user": {
      ...{ stream: true, model, messages: history, stream_options, max_tokens: 3, seed: 1 },
      ...{ temperature: 0.8, top_p: 0.9, top_k: 40, min_p: 0.05, frequency_penalty: 0.1 },
      ...{ presence_penalty: 0.1, stop: ["###"], logit_bias: {}, user: "someone" },
    },
    "Open WebUI, title of a chat": {
      model,
      messages: history.slice(1, 2),
      stream: false,
      max_completion_tokens: 10,
    },
    "Continue": {
      ...{ model, messages: history, max_tokens: 10, stream: true, stop: ["\n#", "<|im_end|>"] },
      ...{ temperature: 0.5, top_p: 1, presence_penalty: 0, frequency_penalty: 0 },
    },
    "Continue, agent without tools": {
      ...{ model, messages: history, max_tokens: 3, stream: true, tools: [] },
      ...{ tool_choice: "auto", parallel_tool_calls: false },
    },
  };
  for (const [name, body] of Object.entries(requests)) {
    const response = await send(api, CHAT, body), text = await response.text();
    assert.equal(response.status, 200, `${name}: ${text}`);
    assert.match(text, /"finish_reason":"(length|stop)"/, name);
  }
});

Deno.test("/v1/chat/completions refuses to chat with a broken chat template, without its place", async () => {
  const broken = { chatTemplate: "{% for %}", chatTemplateFile: "/secret/chat_template.jinja" };
  const models = { tiny: { gpt, tokenizer: { ...tokenizer, ...broken } } };
  await using api = createApi({ models, slots: 1 });
  const { status, error } = await ask(api, CHAT, QUESTION);
  assert.deepEqual([status, error.param], [400, "messages"]);
  assert.match(error.message, /^Cannot use a chat template as it must be Jinja: /);
  assert.equal((await ask(api, COMPLETIONS, PLAIN)).status, 200);
});

Deno.test("/v1/chat/completions refuses by name what it cannot do", async () => {
  await using api = open();
  const user = (content: unknown) => ({ messages: [{ role: "user", content }] });
  const cases: [fields: Record<string, unknown>, param: string, message: RegExp][] = [
    [{ messages: undefined }, "messages", /messages must be a list of one or more messages$/],
    [{ messages: [] }, "messages", /a list of one or more messages: current value is \[\]$/],
    [{ messages: ["a"] }, "messages[0]", /must be an object with role and content/],
    [user(7), "messages[0].content", /a text or a list of texts: current value is 7$/],
    [user([{ type: "image_url" }]), "messages[0].content[0].type", /is "image_url"$/],
    [user([{ type: "text" }]), "messages[0].content[0].text", /must be a text/],
    [{ messages: [{ role: "tool", content: "" }] }, "messages[0].role", /one of system, dev/],
    [{ messages: [{ ...MESSAGES[0], name: "x" }] }, "messages[0].name", /it is not supported/],
    [
      { messages: [{ ...MESSAGES[0], ["\n".repeat(4e5)]: 1 }] },
      `messages[0].${"\\u{a}".repeat(200)}…`,
      /^.{1,1500} as it is not supported: current value is 1$/,
    ],
    [{ ["\n".repeat(4e5)]: 1 }, `${"\\u{a}".repeat(200)}…`, /^.{1,1500}$/],
    [{ messages: [{ ...MESSAGES[0], tool_calls: [{}] }] }, "messages[0].tool_calls", /not supp/],
    [user("cat ".repeat(40)), "messages", /fewer tokens than the model's context, which has 16/],
    [{ tools: [{}] }, "tools", /tools must be absent, as tools are not supported/],
    [{ tool_choice: "required" }, "tool_choice", /must be "none" or "auto"/],
    [{ response_format: { type: "json_object" } }, "response_format", /others are not supported/],
    [{ modalities: ["audio"] }, "modalities", /must be \["text"\], as others/],
    [{ logit_bias: { 1: 2 } }, "logit_bias", /must be {}, as others are not supported/],
    [{ reasoning_effort: "low" }, "reasoning_effort", /reasoning are not supported/],
    [{ top_logprobs: 2 }, "top_logprobs", /logprobs must be true/],
    [{ logprobs: true, top_logprobs: 21 }, "top_logprobs", /from 0 to 20/],
    [{ max_completion_tokens: 3 }, "max_tokens", /absent beside max_completion_tokens/],
    [{ max_tokens: 0 }, "max_tokens", /from 1 to 16384/],
    [{ prompt: "x" }, "prompt", /a field is unknown: "prompt"$/],
    [{ model: undefined }, "model", /model must be one of tiny$/],
    [{ model: "other" }, "model", /must be one of tiny$/],
  ];
  for (const [fields, param, message] of cases) {
    const { status, error } = await ask(api, CHAT, { ...QUESTION, ...fields });
    assert.match(error.message, message);
    assert.equal(error.param, param);
    assert.deepEqual([status, error.type], [
      fields["model"] === "other" ? 404 : 400,
      "invalid_request_error",
    ]);
    if (/context/.test(error.message)) assert.equal(error.code, "context_length_exceeded");
  }
  const empty = { tools: [], tool_choice: "none", response_format: { type: "text" }, user: "me" };
  assert.equal((await ask(api, CHAT, { ...QUESTION, ...empty, metadata: { a: "b" } })).status, 200);
});

Deno.test("/v1/completions refuses a prompt that is too long before it reads it, also if nothing is drawn", async () => {
  await using api = open({ maxTokens: 20 });
  const scoring = { model: "tiny", max_tokens: 0, echo: true, logprobs: 1 };
  for (const [length, expected] of [[20, 200], [21, 400]] as const) {
    const prompt = new Array(length).fill(1);
    const { status, error } = await ask(api, COMPLETIONS, { ...scoring, prompt });
    assert.equal(status, expected);
    if (status === 400) {
      assert.match(error.message, /at most 20 tokens: current number is 21 \+ 0$/);
    }
  }
  const metrics = await (await send(api, "/metrics")).text();
  assert.match(metrics, /\ntoy_tokens_total\{model="tiny",kind="prompt"\} 20\n/);
});

Deno.test("/v1/completions answers 503 once the device has failed", async () => {
  const check = () => {
    throw new DeviceError("the device ran out of memory", "memory");
  };
  const failed = { ...model, gpt: { ...gpt, device: { ...device, check } } };
  await using api = open({ models: { tiny: failed } });
  for (let i = 0; i < 2; i++) { // the engine refuses the second one
    const { status, error } = await ask(api, COMPLETIONS, PLAIN);
    assert.deepEqual([status, error.message], [503, "the device ran out of memory"]);
  }
});

Deno.test("/v1/completions ends all completions of a request if one fails", async () => {
  const records: RequestRecord[] = [];
  await using api = open({ maxTokens: 20_000, onEnd: (record) => records.push(record) });
  const prompt = [[1], new Array(9000).fill(1)];
  const { status, error } = await ask(api, COMPLETIONS, { ...ENDLESS, prompt });
  assert.equal(status, 400);
  assert.match(error.message, /at most 20000 tokens: current number is 9000 \+ 16384$/);
  assert.equal(records[0]!.completionTokens, 0); // the other one was not drawn to its end
  const metrics = await (await send(api, "/metrics")).text();
  assert.match(metrics, /toy_running\{model="tiny"\} 0\n/);
});

Deno.test("/v1/completions takes ids for a text, and echoes the prompt", async () => {
  await using api = open();
  const { choices: [{ text }] } = await ask(api, COMPLETIONS, PLAIN);
  const ids = model.tokenizer.encode("One cat");
  for (const prompt of [ids, [ids]]) {
    assert.equal((await ask(api, COMPLETIONS, { ...PLAIN, prompt })).choices[0].text, text);
    const echoed = await ask(api, COMPLETIONS, { ...PLAIN, prompt, echo: true });
    assert.equal(echoed.choices[0].text, `One cat${text}`);
  }
  const nothing = await ask(api, COMPLETIONS, { ...PLAIN, max_tokens: 0 });
  assert.deepEqual(
    [nothing.choices[0].text, nothing.choices[0].finish_reason, nothing.usage.completion_tokens],
    ["", "length", 0],
  );
});

Deno.test("/v1/completions echoes the prompt with its logprobs, and draws nothing if max_tokens is 0", async () => {
  await using api = open();
  const score = { ...PLAIN, echo: true, logprobs: 1, max_tokens: 0 };
  const { choices: [{ text, logprobs }] } = await ask(api, COMPLETIONS, score);
  assert.equal(text, "One cat");
  assert.equal(logprobs.tokens.join(""), text);
  const [first, ...others] = logprobs.token_logprobs;
  assert.equal(first, null);
  assert.ok(others.every((logprob: number) => logprob < 0));
  assert.deepEqual(logprobs.text_offset, [0, 3]);
  assert.equal(logprobs.top_logprobs[0], null);
  assert.ok(Object.keys(logprobs.top_logprobs[1]).length >= 1);
  const begun = await ask(api, COMPLETIONS, { ...score, prompt: "", max_tokens: 1 });
  assert.equal(begun.choices[0].logprobs.tokens.length, 1); // an empty prompt has no tokens
});

Deno.test("/v1/completions encodes a prompt once, and echoes it without the token that begins every text", async () => {
  const { endOfText: beginOfText } = tokenizer, encoded: string[] = [];
  const encode = (text: string) => {
    encoded.push(text);
    return tokenizer.encode(text);
  };
  const beginning = { gpt, tokenizer: { ...tokenizer, beginOfText, encode } };
  await using api = open({ models: { tiny: beginning } });
  const score = { ...PLAIN, echo: true, logprobs: 0, max_tokens: 0, return_token_ids: true };
  for (const prompt of ["One cat", ""]) {
    encoded.length = 0;
    const { choices: [choice] } = await ask(api, COMPLETIONS, { ...score, prompt });
    const ownIds = tokenizer.encode(prompt);
    assert.deepEqual(choice.token_ids, ownIds);
    assert.deepEqual(choice.prompt_token_ids, [beginOfText, ...ownIds]);
    assert.ok(choice.logprobs.token_logprobs.every((logprob: number) => logprob < 0));
    assert.deepEqual(encoded, [prompt]);
  }
});

Deno.test("/v1/completions sends a whole answer choice by choice, and describes each token once", async () => {
  const described: number[] = [];
  const bytes = (id: number) => {
    described.push(id);
    return tokenizer.bytes(id);
  };
  await using api = open({ models: { tiny: { gpt, tokenizer: { ...tokenizer, bytes } } } });
  const body = { ...PLAIN, n: 3, logprobs: 5 };
  const chunks = await Array.fromAsync((await send(api, COMPLETIONS, body)).body!);
  assert.equal(chunks.length, 3);
  const { choices } = await new Response(new Blob(chunks)).json();
  assert.deepEqual(choices.map(({ index }: { index: number }) => index), [0, 1, 2]);
  assert.equal(new Set(described).size, described.length);
});

Deno.test("/v1/completions says at which character tokens begin, within one too, whole or streamed", async () => {
  await using api = open();
  const prompt = "🦊 é1", promptIds = model.tokenizer.encode(prompt);
  const body = { ...PLAIN, temperature: 1.5, logprobs: 0, return_token_ids: true };
  for (const echo of [false, true]) {
    const utf8 = new TextDecoder();
    /** Characters that begin before each token, and after the last. */
    const placesOf = (ids: number[]) => {
      let place = 0;
      return [
        0,
        ...ids.map((id) =>
          place += [...utf8.decode(model.tokenizer.bytes(id), { stream: true })].length
        ),
      ];
    };
    for (const given of [prompt, promptIds]) {
      const asked = { ...body, echo, prompt: given };
      const { choices: [{ token_ids, logprobs }] } = await ask(api, COMPLETIONS, asked);
      const drawn = echo ? token_ids.slice(promptIds.length) : token_ids;
      const places = placesOf([...promptIds, ...drawn]).slice(echo ? 0 : promptIds.length, -1);
      assert.deepEqual(logprobs.text_offset, places);
      assert.equal(logprobs.text_offset[echo ? promptIds.length : 0], 4);
      const parts = await partsOf(await send(api, COMPLETIONS, { ...asked, stream: true }));
      const streamed = parts.flatMap(({ choices: [{ logprobs }] }) => logprobs.text_offset);
      assert.deepEqual(streamed, places);
    }
  }
});

Deno.test("createApi() frees the engines of all models if the device cannot hold one", async () => {
  const narrow = { ...device, maxBindingBytes: 8 };
  const models = { tiny: model, other: { ...model, gpt: { ...gpt, device: narrow } } };
  const { left } = await withLiveBuffers(() => {
    assert.throws(() => open({ models }), LimitError);
    return Promise.resolve();
  });
  assert.deepEqual(left, []);
});

Deno.test("createApi() lists its models, and finds one by its name", async () => {
  await using api = createApi({ models: { tiny: model, "a/b c": model }, slots: 1 });
  const { object, data } = await ask(api, "/v1/models");
  assert.equal(object, "list");
  assert.deepEqual(data.map(({ id }: { id: string }) => id), ["tiny", "a/b c"]);
  const { id, max_model_len } = await ask(api, "/v1/models/a/b%20c");
  assert.deepEqual([id, max_model_len], ["a/b c", 16]);
  for (const name of ["other", "%ff"]) {
    const { status, error } = await ask(api, `/v1/models/${name}`);
    assert.deepEqual([status, error.code], [404, "model_not_found"]);
  }
  const { status, error } = await ask(api, "/chat/completions", {});
  assert.equal(status, 404);
  assert.match(error.message, /must be one of .*\/v1\/chat\/completions/);
  assert.equal((await ask(api, CHAT)).status, 405);
  assert.equal((await ask(api, "/v1/models", {})).status, 405);
});

Deno.test("createApi() asks for its key, and for /health for none", async () => {
  await using api = open({ apiKey: "a key of many characters" });
  const asked = async (authorization?: string) => {
    const headers = authorization === undefined ? {} : { authorization };
    const { status, error } = await ask(api, "/v1/models", undefined, { headers });
    return [status, error?.code];
  };
  for (const key of [undefined, "Bearer x", "a key of many characters", "Bearer "]) {
    assert.deepEqual(await asked(key), [401, "invalid_api_key"]);
  }
  assert.deepEqual(await asked("bearer a key of many characters"), [200, undefined]);
  assert.deepEqual((await ask(api, "/health")).status, 200);
  assert.equal((await send(api, "/metrics")).status, 401);
});

Deno.test("createApi() answers to its own names and to addresses, and to pages that it allows", async () => {
  await using api = open({ hosts: ["Box.lan"], origins: ["http://page.example"] });
  const cases: [headers: Record<string, string>, status: number][] = [
    [{ host: "localhost" }, 200],
    [{ host: "box.lan:80" }, 200],
    [{ host: "192.168.1.7:8000" }, 200], // no page can make its name resolve to an address
    [{ host: "[fe80::1]:8000" }, 200],
    [{ host: "evil.example" }, 403],
    [{ host: "127.0.0.1.evil.example" }, 403],
    [{ host: "" }, 403],
    [{ origin: "http://127.0.0.1:8000" }, 200],
    [{ origin: "http://page.example" }, 200],
    [{ origin: "http://other.example" }, 403],
    [{ origin: "null" }, 403],
    [{ "sec-fetch-site": "cross-site" }, 403],
  ];
  for (const [headers, status] of cases) {
    const response = await send(api, "/v1/models", undefined, { headers });
    assert.equal(response.status, status, JSON.stringify(headers));
    const allowed = response.headers.get("access-control-allow-origin");
    assert.equal(allowed, headers["origin"] === "http://page.example" ? headers["origin"] : null);
    await response.body?.cancel();
  }
  const preflight = (origin: string) =>
    send(api, CHAT, undefined, {
      method: "OPTIONS",
      headers: {
        origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
      },
    });
  const { status, headers } = await preflight("http://page.example");
  assert.equal(status, 204);
  assert.equal(headers.get("access-control-allow-headers"), "authorization,content-type");
  assert.equal(headers.get("access-control-allow-methods"), "GET, POST");
  assert.equal((await preflight("http://other.example")).status, 403);
  await using closed = open();
  const own = await send(closed, "/health", undefined, { headers: { origin: "http://a.example" } });
  assert.deepEqual([own.status, own.headers.get("vary")], [403, null]);
});

Deno.test("createApi() refuses requests beyond its queue with 429, and names the seconds to wait", async () => {
  await using api = open({ slots: 1, queue: 1 });
  const long = new AbortController();
  const running = await send(api, COMPLETIONS, { ...ENDLESS, stream: true }, {
    signal: long.signal,
  });
  const reader = running.body!.getReader();
  await reader.read();
  const waiting = ask(api, COMPLETIONS, PLAIN);
  await new Promise((resolve) => setTimeout(resolve, 10)); // its body is read
  const { status, headers, error } = await ask(api, COMPLETIONS, PLAIN);
  assert.deepEqual([status, error.code], [429, "rate_limit_exceeded"]);
  assert.match(headers.get("retry-after")!, /^[1-9]\d?$/);
  const many = await ask(api, COMPLETIONS, { ...PLAIN, n: 3 });
  assert.deepEqual([many.status, many.error.param], [400, "n"]); // never fits
  await reader.cancel();
  assert.equal((await waiting).status, 200);
  assert.equal((await ask(api, COMPLETIONS, { ...PLAIN, n: 2 })).status, 200);
});

Deno.test("createApi() bounds the logprobs that answers keep", async () => {
  const records: RequestRecord[] = [];
  await using api = open({ onEnd: (record) => records.push(record) });
  const many = { ...ENDLESS, n: 128, logprobs: 4 };
  const chat = { ...QUESTION, n: 128, max_tokens: 16384, logprobs: true, top_logprobs: 20 };
  const echo = { ...many, echo: true, prompt: Array<number>(6000).fill(1), logprobs: 5 };
  const refused: [path: string, body: object, count: number][] = [
    [CHAT, chat, 128 * 16384 * 21],
    [COMPLETIONS, echo, 128 * (6000 + 16384) * 6],
  ];
  for (const [path, body, count] of refused) {
    const { status, error } = await ask(api, path, body);
    assert.deepEqual([status, error.param], [400, "logprobs"]);
    assert.match(error.message, new RegExp(`at most 16777216 .* current number is ${count}$`));
  }
  const running = (await send(api, COMPLETIONS, { ...many, stream: true })).body!.getReader();
  await running.read();
  const full = await ask(api, COMPLETIONS, many);
  assert.deepEqual([full.status, full.error.code], [429, "rate_limit_exceeded"]);
  assert.match(full.headers.get("retry-after")!, /^[1-9]\d?$/);
  assert.equal((await ask(api, COMPLETIONS, { ...PLAIN, logprobs: 5, max_tokens: 0 })).status, 200);
  await running.cancel();
  await recorded(records, 5);
  const later = await send(api, COMPLETIONS, { ...many, stream: true });
  assert.equal(later.status, 200); // they are free again
  await later.body!.cancel();
});

Deno.test("createApi() ends an answer that takes too long, whole or streamed", async () => {
  const { setTimeout } = globalThis, requestSeconds = 900; // kernels are compiled meanwhile
  let pass = () => {}; // lets the time of the last request pass
  globalThis.setTimeout = ((action: () => void, ms: number) => {
    if (ms === 1000 * requestSeconds) pass = action;
    return setTimeout(action, ms);
  }) as typeof setTimeout;
  try {
    await using api = open({ requestSeconds });
    const asked = ask(api, COMPLETIONS, ENDLESS);
    await new Promise((resolve) => setTimeout(resolve)); // it runs
    pass();
    const { status, error } = await asked;
    assert.equal(status, 503);
    assert.match(error.message, /an answer must be complete after 900 s$/);
    for (const stream of [false, true]) { // when the status is sent
      const response = await send(api, COMPLETIONS, { ...ENDLESS, stream });
      assert.equal(response.status, 200);
      pass();
      const [end] = (await response.text()).split("\n\n").slice(stream ? -2 : -1);
      assert.match(end!, /^(data: )?{"error":{"message":"Cannot answer as an answer must/);
    }
  } finally {
    globalThis.setTimeout = setTimeout;
  }
});

Deno.test("drain() lets answers end, and refuses others; close() ends them", async () => {
  const api = open();
  const running = await send(api, COMPLETIONS, { ...PLAIN, n: 4, stream: true });
  const drained = api.drain();
  const refused = await ask(api, COMPLETIONS, PLAIN);
  assert.deepEqual([refused.status, refused.headers.get("retry-after")], [503, "5"]);
  assert.deepEqual((await ask(api, "/health")).status, 503);
  assert.equal((await partsOf(running)).length >= 4, true);
  await drained;
  await api.close();
  const other = open();
  const cut = await send(other, COMPLETIONS, { ...ENDLESS, stream: true });
  const slow = new TransformStream<Uint8Array, Uint8Array>(), writer = slow.writable.getWriter();
  const late = ask(other, COMPLETIONS, "", { body: slow.readable });
  await other.close();
  assert.match(await cut.text(), /"message":"Cannot answer as the server is closed"/);
  await writer.write(new TextEncoder().encode(JSON.stringify(PLAIN)));
  await writer.close();
  const { status, error } = await late;
  assert.deepEqual([status, error.message], [503, "Cannot answer as the server is closed"]);
});

Deno.test("createApi() counts requests and tokens for Prometheus, and reports each request without its texts", async () => {
  const records: RequestRecord[] = [];
  await using api = open({ onEnd: (record) => records.push(record) });
  const { usage } = await ask(api, COMPLETIONS, PLAIN);
  await partsOf(await send(api, CHAT, { ...QUESTION, stream: true }));
  await recorded(records, 2);
  await ask(api, "/other/path");
  const metrics = await (await send(api, "/metrics")).text();
  for (const line of metrics.trimEnd().split("\n")) {
    assert.match(
      line,
      /^# (HELP|TYPE) |^[a-z_]+({[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*})? [\d.e+-]+$/,
    );
  }
  for (
    const line of [
      'toy_requests_total{path="/v1/completions",status="200"} 1',
      'toy_requests_total{path="other",status="404"} 1',
      'toy_slots{model="tiny"} 4',
      'toy_running{model="tiny"} 0',
      'toy_request_seconds_bucket{model="tiny",le="+Inf"} 2',
      'toy_first_piece_seconds_count{model="tiny"} 2',
    ]
  ) assert.ok(metrics.includes(`${line}\n`), line);
  assert.deepEqual(records.map(({ path, status, model }) => [path, status, model]), [
    [COMPLETIONS, 200, "tiny"],
    [CHAT, 200, "tiny"],
    ["/other/path", 404, undefined],
    ["/metrics", 200, undefined],
  ]);
  const [completion] = records;
  assert.deepEqual(
    [completion!.promptTokens, completion!.completionTokens, completion!.texts],
    [usage.prompt_tokens, usage.completion_tokens, undefined],
  );
  assert.ok(completion!.firstPieceMs! <= completion!.elapsedMs!);
});

Deno.test("a client that leaves frees its slot, whole or streamed", async () => {
  const records: RequestRecord[] = [];
  await using api = open({ slots: 1, queue: 0, onEnd: (record) => records.push(record) });
  for (const [i, body] of [ENDLESS, { ...ENDLESS, stream: true }].entries()) {
    await send(api, COMPLETIONS, body, { signal: AbortSignal.abort() }); // before the model is asked
    const gone = new AbortController();
    setTimeout(() => gone.abort(), 20); // before the response
    const early = await send(api, COMPLETIONS, body, { signal: gone.signal });
    await early.body?.cancel();
    await recorded(records, 4 * i + 2);
    const late = await send(api, COMPLETIONS, body);
    await late.body!.cancel();
    await recorded(records, 4 * i + 3);
    assert.equal((await ask(api, COMPLETIONS, PLAIN)).status, 200);
    await recorded(records, 4 * i + 4);
  }
  const left = [499, 499, 499, 200];
  assert.deepEqual(records.map(({ status }) => status), [...left, ...left]);
});

/** Runs a client in another process against an API, and returns what it prints. */
async function clientSays(api: Api, script: string) {
  let refused = 0;
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    (request) => {
      if (!request.headers.has("x-refuse") || refused === 2) return api.handle(request);
      refused++;
      const error = new ApiError(429, "Cannot answer now", { retryAfterSeconds: 0.01 });
      return errorResponse(error);
    },
  );
  try {
    const { stdout, stderr, success } = await new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--no-lock",
        "--no-prompt",
        "--allow-env",
        "--allow-sys=hostname",
        "--allow-net=127.0.0.1",
        join(dirname(fromFileUrl(import.meta.url)), script),
        `http://127.0.0.1:${server.addr.port}/v1`,
      ],
    }).output();
    assert.ok(success, new TextDecoder().decode(stderr));
    return { refused, ...JSON.parse(new TextDecoder().decode(stdout)) };
  } finally {
    await server.shutdown();
  }
}

Deno.test("OpenAI's client completes, chats, streams, aborts, tries again, and reports errors", async () => {
  await using api = open();
  const { logprobs, ...said } = await clientSays(api, "openai_client.ts");
  const { choices: [{ text }] } = await ask(api, COMPLETIONS, { ...PLAIN, max_tokens: 24 });
  const { texts: [answer] } = await answersTo(MESSAGES);
  assert.deepEqual(said, {
    refused: 2,
    text,
    streamed: text,
    isShort: true,
    aborted: true,
    retried: text,
    answer,
    streamedAnswer: answer,
    models: ["tiny"],
    absent: [404, "model_not_found", "model"],
    tools: [400, null, "tools"],
  });
  const bytes = logprobs.flatMap(([bytes]: [number[]]) => bytes);
  assert.equal(new TextDecoder().decode(new Uint8Array(bytes)), answer);
  assert.ok(logprobs.every(([, top]: [unknown, number]) => top === 3));
});

Deno.test("the AI SDK chats and streams, and knows the usage", async () => {
  await using api = open();
  const { text, streamed, finishReason, usages } = await clientSays(api, "ai_client.ts");
  const messages = [{ role: "system", content: "Be brief." }, ...MESSAGES];
  const expected = await ask(api, CHAT, { ...QUESTION, messages, temperature: 0 });
  const { prompt_tokens, completion_tokens } = expected.usage;
  const usage = [prompt_tokens, completion_tokens];
  assert.deepEqual([text, streamed], Array(2).fill(expected.choices[0].message.content));
  assert.deepEqual(usages, [usage, usage]);
  assert.equal(finishReason, expected.choices[0].finish_reason);
});
