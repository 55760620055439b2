/**
 * Asks a server through OpenAI's client, and prints what it answers. The client reads the environment, which tests may
 * not: it runs in a process of its own.
 *
 *     deno run --no-lock --allow-env --allow-net openai_client.ts http://127.0.0.1:8000/v1
 *
 * @module
 */
const specifier: string = "npm:openai@7.59.0"; // no other command is to download it
const { default: OpenAI, APIUserAbortError, BadRequestError, NotFoundError } = await import(
  specifier
);
const client = new OpenAI({ baseURL: Deno.args[0], apiKey: "none", maxRetries: 0 });
const request = { model: "tiny", prompt: "One cat", max_tokens: 24, seed: 7 };
const endless = { ...request, temperature: 0, max_tokens: 16384, stream: true };
const question = {
  model: "tiny",
  messages: [{ role: "user", content: [{ type: "text", text: "One" }] }],
  max_completion_tokens: 8,
  seed: 7,
};

const { choices: [choice] } = await client.completions.create(request);

let streamed = "";
for await (const { choices } of await client.completions.create({ ...request, stream: true })) {
  streamed += choices[0].text;
}

// a reader that goes away
let isShort = false;
for await (const { choices } of await client.completions.create(endless)) {
  isShort = choices[0].finish_reason === null;
  break;
}

// a request that is aborted
const abort = new AbortController();
setTimeout(() => abort.abort(), 50);
const aborted = await client.completions
  .create({ ...endless, stream: false }, { signal: abort.signal })
  .catch((error: unknown) => error instanceof APIUserAbortError);

// the server is asked again, as it answers 429 first
const retrying = { maxRetries: 2, headers: { "x-refuse": "twice" } };
const retried = (await client.completions.create(request, retrying)).choices[0].text;

const { choices: [{ message, logprobs }] } = await client.chat.completions.create({
  ...question,
  logprobs: true,
  top_logprobs: 3,
});
let answer = "";
for await (
  const { choices: [part] } of await client.chat.completions.create({ ...question, stream: true })
) {
  answer += part.delta.content;
}

const { data } = await client.models.list();

const errorOf = async (request: Promise<unknown>, Kind: new () => Error) => {
  const error = await request.catch((error) => error);
  if (!(error instanceof Kind)) throw error;
  const { status, code, param } = error as unknown as Record<string, unknown>;
  return [status, code, param];
};
console.log(JSON.stringify({
  text: choice.text,
  streamed,
  isShort,
  aborted,
  retried,
  answer: message.content,
  streamedAnswer: answer,
  logprobs: logprobs.content.map((token: { bytes: number[]; top_logprobs: unknown[] }) => [
    token.bytes,
    token.top_logprobs.length,
  ]),
  models: data.map(({ id }: { id: string }) => id),
  absent: await errorOf(client.completions.create({ ...request, model: "x" }), NotFoundError),
  tools: await errorOf(
    client.chat.completions.create({ ...question, tools: [{ type: "function" }] }),
    BadRequestError,
  ),
}));
