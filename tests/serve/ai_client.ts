/**
 * Asks a server through the AI SDK, and prints what it answers.
 *
 *     deno run --no-lock --allow-env --allow-net ai_client.ts http://127.0.0.1:8000/v1
 *
 * @module
 */
const specifiers: string[] = ["npm:ai@7.0.173", "npm:@ai-sdk/openai-compatible@3.0.92"];
const [{ generateText, streamText }, { createOpenAICompatible }] = await Promise.all(
  specifiers.map((specifier) => import(specifier)),
);
const provider = createOpenAICompatible({
  name: "toy-transformer",
  baseURL: Deno.args[0]!,
  includeUsage: true,
});
const question = {
  model: provider("tiny"),
  system: "Be brief.",
  prompt: "One",
  maxOutputTokens: 8,
  temperature: 0,
  seed: 7,
  maxRetries: 0,
};
const { text, usage, finishReason } = await generateText(question);
const stream = streamText(question);
let streamed = "";
for await (const part of stream.textStream) streamed += part;
console.log(JSON.stringify({
  text,
  streamed,
  finishReason,
  usages: [usage, await stream.usage].map(({ inputTokens, outputTokens }) => [
    inputTokens,
    outputTokens,
  ]),
}));
