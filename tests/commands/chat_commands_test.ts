import assert from "node:assert/strict";
import { join } from "node:path";
import { ChatCommands } from "../../commands/chat_commands.ts";
import { trainTokenizer } from "../../data/tokenizer/train.ts";
import { type ChatOptions, createChat } from "../../generate/chat.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { randomModel } from "../generate/models.ts";
import { device } from "../kernels/harness.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const tokenizer = await trainTokenizer(["so on"], { vocabularySize: 257 });
const model = { gpt: randomModel(device, "f32", { contextLength: 80 }), tokenizer };

const MESSAGES = [{ role: "user", content: "a?" }, { role: "assistant", content: "A" }];

async function begin(options: ChatOptions = {}, columns?: number) {
  const chat = await createChat(model, { seed: 1, maxNewTokens: 4, ...options });
  const commands = new ChatCommands(chat, () => columns ?? 80);
  const say = (line: string) => {
    const effect = commands.execute(line);
    assert.ok(effect !== "end" && "say" in effect, line);
    return effect.say;
  };
  return { chat, commands, say };
}

Deno.test("/set sets every option of the sampler, and refuses what is out of range", async () => {
  const { chat, say, commands } = await begin();
  assert.equal(say("/set top-k 40"), "top-k 40");
  assert.equal(say("/set --temperature=0.5"), "temperature 0.5");
  assert.equal(say("/set max-new-tokens 9"), "max-new-tokens 9");
  assert.deepEqual(chat.sampler, { ...DEFAULT_SAMPLER, topK: 40, temperature: 0.5 });
  assert.equal(chat.maxNewTokens, 9);
  const listed = say("/set");
  assert.deepEqual(
    listed.split("\n").map((line) => line.split(/ +/)).slice(0, 3),
    [["temperature", "0.5"], ["top-k", "40"], ["top-p", "0.95"]],
  );
  for (const line of listed.split("\n")) say(`/set ${line}`); // each is an option with its value
  for (
    const [line, message] of [
      ["/set top-p 2", /Cannot sample as topP must be above 0 and at most 1: current value is 2$/],
      [
        "/set top-k many",
        /Cannot set top-k as its value must be a number: current value is "many"$/,
      ],
      ["/set top-k", /must be a number: current value is ""$/],
      ["/set max-new-tokens 0", /must be a whole number of at least 1: current value is 0$/],
      ["/set topk 3", /Cannot set "topk" as it must be one of the options temperature, top-k, /],
      ["/set a b c", /Cannot set "a b c" as /],
    ] as const
  ) assert.throws(() => commands.execute(line), message, line);
  assert.deepEqual(chat.sampler, { ...DEFAULT_SAMPLER, topK: 40, temperature: 0.5 });
});

Deno.test("/seed, /system, /undo and /clear change the conversation", async () => {
  const { chat, say, commands } = await begin();
  assert.equal(say("/seed 12"), "the next answer has seed 12");
  assert.equal(chat.seed, 12);
  assert.throws(() => commands.execute("/seed -1"), /whole number of at least 0: .* "-1"$/);
  assert.equal(say("/system"), "there is no system message");
  say("/system You are a bear.\nBe brief.");
  assert.equal(say("/system"), "You are a bear.\nBe brief.");
  chat.messages = [...chat.messages, ...MESSAGES, ...MESSAGES];
  assert.equal(say("/undo"), 'took back "a?"');
  assert.equal(chat.messages.length, 3);
  assert.equal(say("/clear"), "a new conversation; the system message stays");
  assert.equal(chat.messages.length, 1);
  assert.throws(() => commands.execute("/undo"), /Cannot undo as nothing was asked yet/);
  assert.equal(say('/system ""'), "the system message is removed");
  assert.deepEqual(chat.messages, []);
});

Deno.test("/regenerate answers again", async () => {
  const { chat, commands } = await begin();
  chat.messages = MESSAGES;
  const effect = commands.execute("/regenerate");
  assert.ok(effect !== "end" && "answer" in effect);
  while (!(await effect.answer.pieces.next()).done);
  assert.equal(chat.messages.length, 2);
  assert.notEqual(chat.messages[1]!.content, "A");
});

Deno.test("/save writes a new file or its own, and /load reads the last conversation of a file", async () => {
  const { chat, say, commands } = await begin(), path = join(directory, "a chat.jsonl");
  assert.throws(() => commands.execute(`/save ${path}`), /as it has no messages yet/);
  chat.messages = MESSAGES;
  assert.equal(say(`/save ${path}`), `saved 2 messages in ${path}`);
  chat.messages = MESSAGES.slice(0, 1);
  assert.equal(say(`/save ${path}`), `saved 1 message in ${path}`);
  const other = await begin();
  assert.equal(
    other.say(`/load ${path}`),
    `loaded 1 message from ${path}; /regenerate answers the last one`,
  );
  assert.deepEqual(other.chat.messages, MESSAGES.slice(0, 1));
  assert.throws(() => other.commands.execute(`/save ${path}`), /must be a new file, or one that/);
  assert.throws(() => other.commands.execute(`/save ${directory}/`), /must name a file/);
  if (Deno.build.os === "linux") {
    assert.throws(() => other.commands.execute("/save /dev/full"), {
      name: "UserError",
      message: /^Cannot use "\/dev\/full" as a path must not be in \/dev, /,
    });
  }
  const line = JSON.stringify({ messages: MESSAGES });
  Deno.writeTextFileSync(path, `{"prompt": "x", "completion": "X"}\n${line}\n`);
  assert.match(other.say(`/load ${path}`), /, the last of its 2 conversations$/);
  assert.deepEqual(other.chat.messages, MESSAGES);
  assert.throws(() => other.commands.execute("/load absent.jsonl"), /there is no such file/);
  assert.deepEqual(other.chat.messages, MESSAGES);
});

Deno.test("/help fits the terminal, and what is no command is refused", async () => {
  for (const columns of [40, 80]) {
    const { say } = await begin({}, columns), lines = say("/help").split("\n");
    assert.ok(lines.every(({ length }) => length <= columns), lines.join("\n"));
    assert.ok(lines.some((line) => line.startsWith("/regenerate")));
  }
  const { commands } = await begin();
  assert.equal(commands.execute("/exit"), "end");
  for (const line of ["/", "/foo", "/constructor", "/\x1b[2J"]) {
    assert.throws(() => commands.execute(line), {
      message: /^Cannot execute \/[\w\\[{}]* as there is no such command$/,
      hint: /\/help lists the commands/,
    }, line);
  }
  assert.throws(() => commands.execute("/undo 2"), /must have no argument: \/undo$/);
  assert.throws(() => commands.execute("/save"), /must have an argument: \/save FILE$/);
});
