import assert from "node:assert/strict";
import type { Conversation } from "../../data/text/conversations.ts";
import { ConversationError, createChatFormat } from "../../data/tokenizer/chat_format.ts";
import { trainTokenizer } from "../../data/tokenizer/train.ts";
import { type ChatAnswer, type ChatOptions, createChat } from "../../generate/chat.ts";
import type { GenerateResult } from "../../generate/completion.ts";
import { generate, generateBatch } from "../../generate/generate.ts";
import { Pace } from "../../generate/pace.ts";
import { Slots } from "../../generate/slots.ts";
import { device } from "../kernels/harness.ts";
import { randomModel } from "./models.ts";

const CONTEXT = 160;
const tokenizer = await trainTokenizer(["so on"], { vocabularySize: 257 });
const model = { gpt: randomModel(device, "f32", { contextLength: CONTEXT }), tokenizer };
const format = await createChatFormat(tokenizer);

const OPTIONS: ChatOptions = { seed: 7, maxNewTokens: 12 };

async function textOf({ pieces }: ChatAnswer): Promise<{ text: string; result: GenerateResult }> {
  let text = "";
  for (;;) {
    const { done, value } = await pieces.next();
    if (done) return { text, result: value };
    text += value;
  }
}

/** What the model answers to these messages. */
async function expected(messages: Conversation, seed: number): Promise<string> {
  const options = { promptIds: format.promptIds(messages), endIds: format.endIds };
  let text = "";
  for await (const piece of generate(model, { ...options, seed, maxNewTokens: 12 })) text += piece;
  return text;
}

const user = (content: string) => ({ role: "user", content });
const assistant = (content: string) => ({ role: "assistant", content });

Deno.test("ask() answers what was said so far, each time with the next seed", async () => {
  const chat = await createChat(model, OPTIONS);
  const first = await expected([user("a?")], 7);
  const { text, result } = await textOf(chat.ask("a?"));
  assert.deepEqual([text, result.reason, result.tokens <= 12], [first, "length", true]);
  const before = [user("a?"), assistant(first)];
  assert.deepEqual(chat.messages, before);
  const second = await expected([...before, user("b?")], 8);
  const answer = chat.ask("b?");
  assert.deepEqual([answer.seed, answer.omittedTurns, chat.seed], [8, 0, 9]);
  assert.equal((await textOf(answer)).text, second);
  assert.deepEqual(chat.messages, [...before, user("b?"), assistant(second)]);
});

Deno.test("ask() reads the conversation from where it differs from that of the question before", async () => {
  const prefill = Slots.prototype.prefill, passes: number[] = [];
  Slots.prototype.prefill = function (sequences) { // of this chat, as no other computes meanwhile
    passes.push(...sequences.map((sequence) => this.unread(sequence)));
    prefill.call(this, sequences);
  };
  try {
    await using chat = await createChat(model, OPTIONS);
    const piece = device.isCpu ? 16 : 64; // tokens that a pass reads
    let cached = 0; // tokens that are not read again
    for (const [seed, asked] of [[7, "a?".repeat(piece / 2)], [8, "a?"]] as const) {
      passes.length = 0;
      const { text } = await textOf(chat.ask(asked)), [unread] = passes;
      const question = chat.messages.slice(0, -1), read = format.promptIds(question).length - 1;
      assert.equal(unread, read - cached);
      assert.equal(text, await expected(question, seed));
      cached = read - read % piece;
    }
    assert.ok(cached >= piece);
    chat.messages = [user("Who?")];
    passes.length = 0;
    await textOf(chat.regenerate());
    assert.equal(passes[0], format.promptIds([user("Who?")]).length - 1);
  } finally {
    Slots.prototype.prefill = prefill;
  }
});

Deno.test("ask() leaves out the first turns, each of them whole, when the context is full", async () => {
  const system = { role: "system", content: "Be so." };
  const turns = ["a", "b", "c"].map((letter) => [
    user(letter.repeat(9)),
    assistant(letter.repeat(8)),
    assistant("."),
  ]);
  const chat = await createChat(model, OPTIONS), question = user("d");
  chat.messages = [system, ...turns.flat()];
  const answer = chat.ask("d");
  const kept = [0, 1, 2, 3].find((first) =>
    format.promptIds([system, ...turns.slice(first).flat(), question]).length <= CONTEXT - 12
  )!;
  assert.ok(kept > 0 && kept < 3, `${kept}`);
  const read = [system, ...turns.slice(kept).flat(), question];
  assert.deepEqual(
    [answer.omittedTurns, answer.promptTokens],
    [kept, format.promptIds(read).length],
  );
  const text = await expected(read, 7);
  assert.equal((await textOf(answer)).text, text);
  assert.deepEqual(chat.messages, [system, ...turns.flat(), question, assistant(text)]);
});

Deno.test("ask() refuses a message that does not fit the context, and an answer ends where the context does", async () => {
  const chat = await createChat(model, { ...OPTIONS, maxNewTokens: 1000 });
  const empty = format.promptIds([user("")]).length, most = CONTEXT - CONTEXT / 4;
  assert.throws(
    () => chat.ask("x".repeat(most - empty + 1)),
    new RegExp(
      `^UserError: Cannot answer as the message must have at most ${most} tokens, .* context of ` +
        `${CONTEXT}: current number is ${most + 1}, `,
    ),
  );
  assert.deepEqual([chat.messages, chat.seed], [[], 7]);
  chat.seed = 3;
  const answer = chat.ask("x".repeat(most - empty));
  const { result } = await textOf(answer);
  assert.ok(result.tokens <= CONTEXT / 4);
  assert.deepEqual([answer.promptTokens, result.reason], [most, "length"]);
});

Deno.test("regenerate() replaces the last answer, and undo() removes the last turn", async () => {
  const chat = await createChat(model, OPTIONS);
  assert.throws(() => chat.regenerate(), /^UserError: Cannot answer again as nothing was asked/);
  assert.equal(chat.undo(), undefined);
  await textOf(chat.ask("a?"));
  const text = await expected([user("a?")], 8);
  assert.equal((await textOf(chat.regenerate())).text, text);
  assert.deepEqual(chat.messages, [user("a?"), assistant(text)]);
  chat.messages = [user("a?"), assistant("A"), user("b?")];
  const answer = await expected(chat.messages, 9);
  await textOf(chat.regenerate());
  assert.deepEqual(chat.messages.slice(2), [user("b?"), assistant(answer)]);
  assert.deepEqual(chat.undo(), user("b?"));
  assert.deepEqual(chat.messages, [user("a?"), assistant("A")]);
});

Deno.test("an answer that is stopped is kept as far as it was drawn", async () => {
  const steps = Pace.prototype.steps;
  Pace.prototype.steps = () => 2; // however fast the device is, the answer takes many chunks
  try {
    const chat = await createChat(model, { ...OPTIONS, maxNewTokens: 60 });
    const stop = new AbortController();
    const answer = chat.ask("a?", stop);
    const { value } = await answer.pieces.next();
    stop.abort();
    const { text, result } = await textOf(answer);
    assert.ok(result.reason === "aborted" && result.tokens < 60, `${result.tokens}`);
    assert.deepEqual(chat.messages, [user("a?"), assistant(value + text)]);
    const { result: second } = await textOf(chat.ask("b?", stop));
    assert.deepEqual([second, chat.messages.length], [{ reason: "aborted", tokens: 0 }, 2]);
    // a caller that stops reading
    for await (const piece of chat.ask("c?").pieces) {
      assert.notEqual(piece, "");
      break;
    }
    assert.deepEqual(chat.messages[2], user("c?"));
    assert.equal(chat.messages.length, 4);
  } finally {
    Pace.prototype.steps = steps;
  }
});

Deno.test("an answer that is empty since it ends at once is kept as a message", async () => {
  const requests = [{ promptIds: format.promptIds([user("a?")]), seed: 7 }], endIds: number[] = [];
  for await (const { ids } of generateBatch(model, { requests, maxNewTokens: 1 })) {
    endIds.push(...ids);
  }
  const chat = await createChat({ ...model, tokenizer: { ...tokenizer, endIds } }, OPTIONS);
  const { result } = await textOf(chat.ask("a?"));
  assert.deepEqual(result, { reason: "end-of-text", tokens: 1 });
  assert.deepEqual(chat.messages, [user("a?"), assistant("")]);
});

Deno.test("setSystem() replaces and removes the system message, which a chat template may refuse", async () => {
  const chat = await createChat(model, { ...OPTIONS, system: "A" });
  await textOf(chat.ask("a?"));
  const [, ...turn] = chat.messages;
  chat.setSystem("B");
  assert.deepEqual([chat.system, chat.messages], ["B", [
    { role: "system", content: "B" },
    ...turn,
  ]]);
  chat.setSystem(undefined);
  assert.deepEqual([chat.system, chat.messages], [undefined, turn]);
  const chatTemplate = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}" +
    "{% endif %}{{ messages[0].content }}";
  const strict = await createChat({ ...model, tokenizer: { ...tokenizer, chatTemplate } }, OPTIONS);
  assert.throws(() => strict.setSystem("A"), ConversationError);
  assert.equal(strict.system, undefined);
});
