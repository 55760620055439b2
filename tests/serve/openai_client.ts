/**
 * Asks a server through OpenAI's client, and prints what it answers. The client reads the environment, which tests may
 * not: it runs in a process of its own.
 *
 *     deno run --no-lock --allow-env --allow-net openai_client.ts http://127.0.0.1:8000/v1
 *
 * @module
 */
const specifier: string = "npm:openai@7.59.0"; // no other command is to download it
const { default: OpenAI, NotFoundError } = await import(specifier);
const client = new OpenAI({ baseURL: Deno.args[0], apiKey: "none", maxRetries: 0 });
const request = { model: "tiny", prompt: "One cat", max_tokens: 24, seed: 7 };

const { choices: [choice] } = await client.completions.create(request);

let streamed = "";
for await (const { choices } of await client.completions.create({ ...request, stream: true })) {
  streamed += choices[0].text;
}

// a reader that goes away
let isShort = false;
for await (
  const { choices } of await client.completions.create({
    ...request,
    temperature: 0,
    max_tokens: 16384,
    stream: true,
  })
) {
  isShort = choices[0].finish_reason === null;
  break;
}

try {
  await client.completions.create({ ...request, model: "other" });
} catch (error) {
  if (!(error instanceof NotFoundError)) throw error;
  const { status, code } = error as { status: number; code: string };
  console.log(JSON.stringify({ text: choice.text, streamed, isShort, status, code }));
}
