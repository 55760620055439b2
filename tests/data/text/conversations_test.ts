import assert from "node:assert/strict";
import { join } from "node:path";
import { parquetWriteBuffer } from "npm:hyparquet-writer@0.17.0";
import type { Block } from "../../../data/text/blocks.ts";
import { clean } from "../../../data/text/clean.ts";
import type { Conversation } from "../../../data/text/conversations.ts";
import { openDataset } from "../../../data/text/dataset.ts";
import { conversationsOf, type Documents, readTexts } from "../../../data/text/documents.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

function write(name: string, content: string | Uint8Array): string {
  const path = join(directory, name);
  Deno.writeFileSync(
    path,
    typeof content === "string" ? new TextEncoder().encode(content) : content,
  );
  return path;
}

/** A file of JSON with these rows. */
const lines = (...rows: unknown[]) =>
  write(`${crypto.randomUUID()}.jsonl`, rows.map((row) => JSON.stringify(row)).join("\n"));

/** The conversations of documents, and what the reader says of them. */
async function read(documents: Documents) {
  const conversations: Conversation[] = [];
  assert.equal(documents.areConversations, true);
  for await (const block of documents.read() as AsyncIterable<Block>) {
    conversations.push(...clean(block).documents as Conversation[]);
  }
  return conversations;
}

const open = async (path: string, textField?: string) =>
  (await openDataset([path], { textField })).training;

const question = { role: "user", content: 'Who "is" Tim?\r\n' };
const answer = { role: "assistant", content: " Ein Bär 🐻 " };
const rules = { role: "system", content: "" };

Deno.test("openDataset() reads conversations by the names of OpenAI, ShareGPT and of pairs", async () => {
  const path = lines(
    { messages: [rules, question, answer], id: 7 },
    { messages: [question, { ...answer, tool_calls: null, name: "x" }], tools: [] },
    { messages: null },
    { messages: [{ role: "developer", content: "" }, question, { ...answer, role: "model" }] },
    {
      messages: [{
        ...question,
        content: [{ type: "text", text: "a" }, { type: "text", text: "b" }],
      }, answer],
    },
    { messages: JSON.stringify([question, answer]), system: "S" },
    { messages: [question] },
    { messages: [] },
  );
  assert.deepEqual(await read(await open(path)), [
    [rules, question, answer],
    [question, answer],
    [rules, question, answer],
    [{ ...question, content: "ab" }, answer],
    [{ role: "system", content: "S" }, question, answer],
  ]);
  const sharegpt = lines({
    conversations: [
      { from: "system", value: "" },
      { from: "human", value: question.content },
      { from: "gpt", value: answer.content },
    ],
  });
  assert.deepEqual(await read(await open(sharegpt)), [[rules, question, answer]]);
  const pairs = lines(
    { prompt: question.content, completion: answer.content },
    { prompt: [rules, question], completion: [answer] },
    { prompt: null, completion: "a" },
    { prompt: "", completion: "" },
  );
  assert.deepEqual(await read(await open(pairs)), [
    [question, answer],
    [rules, question, answer],
    [{ role: "user", content: "" }, { role: "assistant", content: "" }],
  ]);
  const named = lines({ text: "a", dialog: { turns: [question, answer] } });
  assert.deepEqual(await read(await open(named, "dialog.turns")), [[question, answer]]);
});

/** A column of whole numbers, and one of lists of messages. */
const LISTS: Parameters<typeof parquetWriteBuffer>[0]["schema"] = [
  { name: "root", num_children: 2 },
  { name: "n", type: "INT64", repetition_type: "OPTIONAL" },
  { name: "messages", repetition_type: "OPTIONAL", num_children: 1, converted_type: "LIST" },
  { name: "list", repetition_type: "REPEATED", num_children: 1 },
  { name: "element", repetition_type: "OPTIONAL", num_children: 2 },
  ...["role", "content"].map((name) => ({
    ...{ name, type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "OPTIONAL" } as const,
  })),
];

Deno.test("openDataset() reads conversations from an array, CSV, TSV and Parquet", async () => {
  const all = [[rules, question, answer], [question, answer]];
  const array = write("array.json", JSON.stringify(all.map((messages) => ({ messages }))));
  assert.deepEqual(await read(await open(array)), all);
  const cell = (text: string) => `"${text.replaceAll('"', '""')}"`;
  const pairs = [["n", "prompt", "completion"], ["1", question.content, answer.content]]
    .map((row) => row.map(cell).join(",")).join("\n");
  // line ends of a table are one character, in cells too
  const normal = { ...question, content: question.content.replace("\r", "") };
  assert.deepEqual(await read(await open(write("pairs.csv", pairs))), [[normal, answer]]);
  const table = ["messages\tn", ...all.map((messages) => `${cell(JSON.stringify(messages))}\t1`)]
    .join("\n");
  assert.deepEqual(await read(await open(write("table.tsv", table))), all);
  const columnData = [
    { name: "n", data: [1n, 2n, 3n] },
    { name: "messages", data: [all[0], null, all[1]] },
  ];
  for (const schema of [undefined, LISTS]) { // JSON, and lists of objects
    const file = parquetWriteBuffer({ columnData, ...(schema ? { schema } : {}) });
    assert.deepEqual(await read(await open(write("chat.parquet", new Uint8Array(file)))), all);
  }
  const texts = { name: "text", data: ["a", "b", "c"] };
  const file = parquetWriteBuffer({ columnData: [texts, ...columnData] });
  const both = write("both.parquet", new Uint8Array(file));
  const notices: string[] = [];
  const { training } = await openDataset([both], { onNotice: (notice) => notices.push(notice) });
  assert.equal(training.areConversations, undefined);
  assert.match(
    notices.join(),
    /and conversations in messages: these are used with --text-field messages$/,
  );
  assert.deepEqual(await read(await open(both, "messages")), all);
});

Deno.test("openDataset() names file, line, field, value and remedy of a malformed conversation", async () => {
  const good = { messages: [question, answer] };
  const cases: [row: unknown, message: string | RegExp][] = [
    [
      { messages: 7 },
      "hold a list of messages in its field messages: current value is 7; a message is",
    ],
    [{ other: 1 }, "hold a list of messages in its field messages: it is absent; a message is"],
    [
      { messages: ["a"] },
      'hold an object with role and content in messages[0]: current value is "a"; a message is',
    ],
    [
      { messages: [question, { role: "narrator\x1b", content: "" }] },
      "hold one of system, developer, user, assistant, human, gpt, model in messages[1].role: " +
      'current value is "narrator\\u001b"; a message is',
    ],
    [
      { messages: [{ role: "constructor", content: "" }] },
      "model in messages[0].role: current",
    ],
    [
      { messages: [{ content: "a" }] },
      "model in messages[0].role: it is absent; a message is",
    ],
    [{ messages: [{ role: "tool", content: "a" }] }, "tools are not supported: leave out"],
    [
      { messages: [question, { ...answer, tool_calls: [{ id: 1 }] }] },
      'hold nothing in messages[1].tool_calls: current value is [{"id":1}]; tools are not supported: leave out',
    ],
    [
      { messages: [question, { ...answer, weight: 0 }] },
      "hold nothing but 1 in messages[1].weight: current value is 0; the loss counts",
    ],
    [
      { messages: [question, { ...answer, weight: 0.5 }] },
      "hold nothing but 1 in messages[1].weight: current value is 0.5; the loss counts",
    ],
    [{ ...good, tools: [{ name: "f" }] }, "hold nothing in tools: current value is"],
    [
      { messages: [{ role: "user", content: null }] },
      "hold a text or a list of texts in messages[0].content: current",
    ],
    [
      { messages: [{ role: "user", content: [{ type: "image" }] }] },
      'hold "text", as others are not supported in messages[0].content[0].type: current',
    ],
    [
      { messages: [{ from: "gpt" }] },
      "hold a text or a list of texts in messages[0].value: it is absent; a message",
    ],
    [{ ...good, system: 7 }, "hold a string in its field system: current value is 7"],
    [7, "be a JSON object: current value is 7"],
  ];
  for (const [row, message] of cases) {
    const path = lines(good, row);
    await assert.rejects(async () => await read(await open(path)), (error: Error) => {
      assert.equal(error.name, "DataError");
      assert.ok(
        error.message.startsWith(`Cannot read data file ${path} as line 2 must `),
        error.message,
      );
      assert.ok(error.message.includes(message as string), error.message);
      return true;
    });
  }
  await assert.rejects(openDataset([lines(good), write("tale.txt", "Once")]), {
    message:
      /must all hold conversations, or all texts: it holds conversations, and .*tale\.txt does not$/,
  });
});

Deno.test("openDataset() names the line of a table whose conversation is not UTF-8", async () => {
  const table = new TextEncoder().encode("prompt,completion\na,b\nc,d?\n");
  table[table.length - 2] = 0xff;
  const path = write("latin.csv", table);
  await assert.rejects(async () => await read(await open(path)), {
    name: "DataError",
    message:
      `Cannot read data file ${path} as line 3 must be UTF-8: it is not; convert text of another ` +
      "encoding, for example with iconv -f latin1 -t utf8",
  });
});

Deno.test("readTexts() gives the contents of conversations, and counts those without an answer", async () => {
  const notices: string[] = [];
  const onNotice = (notice: string) => notices.push(notice);
  const documents = conversationsOf("chat", [[question, answer], [question], [rules, answer]]);
  const texts = await Array.fromAsync(readTexts(documents, { onNotice }));
  assert.deepEqual(texts, [question.content, answer.content, "", answer.content]);
  assert.deepEqual(notices, [
    "left out 1 of 3 conversations of chat: the assistant says nothing in them",
  ]);
  await assert.rejects(Array.fromAsync(readTexts(conversationsOf("chat", [[question], []]))), {
    name: "UserError",
    message:
      "Cannot use chat as the assistant must say something in its conversations: it does in none of 2",
  });
});
