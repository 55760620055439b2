import assert from "node:assert/strict";
import { join } from "node:path";
import { readConversations, saveConversations } from "../../../data/text/conversation_file.ts";
import type { Conversation } from "../../../data/text/conversations.ts";
import { openDataset } from "../../../data/text/dataset.ts";
import { readTexts } from "../../../data/text/documents.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));
const path = join(directory, "chat.jsonl");

const conversations: Conversation[] = [
  [{ role: "system", content: "" }, { role: "user", content: 'a "\n' }, {
    role: "assistant",
    content: "ä\u2028🐻",
  }],
  [{ role: "user", content: "b" }, { role: "assistant", content: "B" }],
];

Deno.test("saveConversations() writes a file that readConversations() and --data read", async () => {
  saveConversations(path, conversations);
  assert.deepEqual(readConversations(path), conversations);
  const { training } = await openDataset([path]);
  assert.equal(training.areConversations, true);
  const contents = await Array.fromAsync(readTexts(training));
  assert.deepEqual(contents, conversations.flat().map(({ content }) => content));
});

Deno.test("readConversations() reads the shapes that --data reads, and says which line holds none", () => {
  const refuses = (text: string, message: RegExp) => {
    Deno.writeTextFileSync(path, text);
    assert.throws(() => readConversations(path), message);
  };
  Deno.writeTextFileSync(path, '\n{"prompt": "b", "completion": "B"}\r\n\n');
  assert.deepEqual(readConversations(path), [conversations[1]]);
  Deno.writeTextFileSync(path, '\ufeff{"text": "a", "prompt": "b", "completion": "B"}');
  assert.deepEqual(readConversations(path), [conversations[1]]);
  refuses("", /^DataError: .*chat\.jsonl as it must hold a conversation: it has none$/);
  refuses('{"messages": null}', /it has none$/);
  refuses('\n{"text": "a", "b\\u001b": 1}', /line 2 must hold .* are text, b\\u\{1b\}$/);
  refuses("{}", /its fields are none$/);
  refuses(
    '{"messages": [{"role": "bear", "content": ""}]}',
    /chat\.jsonl as line 1 must hold one of system, /,
  );
  Deno.writeFileSync(path, Uint8Array.of(...new TextEncoder().encode('{"messages": "'), 0xff));
  assert.throws(() => readConversations(path), {
    name: "UserError",
    message: `Cannot read ${path} as it must be UTF-8`,
  });
  refuses("[", /^DataError: .*chat\.jsonl as line 1 must be JSON: /);
});
