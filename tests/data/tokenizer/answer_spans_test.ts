import assert from "node:assert/strict";
import type { Conversation } from "../../../data/text/conversations.ts";
import { addedSpans, spansOfTokens } from "../../../data/tokenizer/answer_spans.ts";
import { ConversationError } from "../../../data/tokenizer/chat_format.ts";
import { gpt2Tokenizer } from "../../../data/tokenizer/tokenizer.ts";

/** Messages of user and assistant in turn, after one of the system. */
function conversationOf(turns: number): Conversation {
  const turn = (i: number) => [
    { role: "user", content: `question ${i}` },
    { role: "assistant", content: `answer ${i}` },
  ];
  return [
    { role: "system", content: "rules" },
    ...Array.from({ length: turns }, (_, i) => turn(i)).flat(),
  ];
}

/** What `addedSpans()` finds with a way to render a message, and the messages that were rendered for it. */
function found(
  messages: Conversation,
  textOf: (message: Conversation[number], index: number, messages: Conversation) => string,
) {
  let rendered = 0;
  const render = (messages: Conversation, asks = false) => {
    rendered += messages.length;
    return { text: messages.map(textOf).join("") + (asks ? "assistant: " : "") };
  };
  const { text } = render(messages);
  rendered = 0;
  const spans = addedSpans(messages, { text, render, end: undefined });
  return { answers: spans.map(({ start, end }) => text.slice(start, end)), rendered };
}

const plain = ({ role, content }: Conversation[number]) => `${role}: ${content}\n`;

Deno.test("addedSpans() renders each message a few times when the conversation is long", () => {
  const messages = conversationOf(500), { answers, rendered } = found(messages, plain);
  assert.deepEqual(answers, Array.from({ length: 500 }, (_, i) => `answer ${i}\n`));
  assert.ok(rendered < 12 * messages.length, `${rendered} messages`);
});

Deno.test("addedSpans() renders whole beginnings when the parts do not make up the text", () => {
  const messages = conversationOf(12);
  const numbered = (message: Conversation[number], i: number) =>
    (message.role === "user" ? `[${i}] ` : "") + plain(message);
  const { answers, rendered } = found(messages, numbered);
  assert.deepEqual(answers, Array.from({ length: 12 }, (_, i) => `answer ${i}\n`));
  assert.ok(rendered > 10 * messages.length, `${rendered} messages`);
  const last = (message: Conversation[number], i: number, { length }: Conversation) =>
    plain(message) + (i + 1 === length ? "." : "");
  assert.throws(() => found(messages, last), ConversationError);
});

Deno.test("spansOfTokens() encodes each part of a text a few times when tokens change its bytes", async () => {
  const gpt2 = await gpt2Tokenizer();
  let encoded = 0;
  const tokenizer = {
    ...gpt2,
    byteLength: (id: number) => 2 * gpt2.byteLength(id), // so that bytes do not say where tokens end
    encode: (text: string) => {
      encoded += text.length;
      return gpt2.encode(text);
    },
  };
  const { endOfTextToken } = gpt2;
  let text = "";
  const answers = Array.from({ length: 300 }, (_, i) => {
    const start = (text += `question ${i}${endOfTextToken}`).length;
    return { start, end: (text += ` answer ${i}${endOfTextToken}`).length };
  });
  const ids = gpt2.encode(text), spans = spansOfTokens(tokenizer, { text, ids, spans: answers });
  assert.deepEqual(
    spans.map(({ start, end }) => gpt2.decode(ids.slice(start, end))),
    answers.map(({ start, end }) => text.slice(start, end)),
  );
  assert.deepEqual(spans, spansOfTokens(gpt2, { text, ids, spans: answers }));
  assert.ok(encoded < 12 * text.length, `${encoded} characters`);
});
