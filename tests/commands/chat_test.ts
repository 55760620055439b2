import assert from "node:assert/strict";
import { join } from "node:path";
import { saveConversations } from "../../data/text/conversation_file.ts";
import { withChatFormat } from "../../data/tokenizer/chat_format.ts";
import { trainTokenizer } from "../../data/tokenizer/train.ts";
import { createChat } from "../../generate/chat.ts";
import { loadModel } from "../../generate/load.ts";
import { exportModel } from "../../train/export.ts";
import { randomModel } from "../generate/models.ts";
import { device } from "../kernels/harness.ts";
import { task } from "./task.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const base = join(directory, "base"), trained = join(directory, "trained");
{
  using gpt = randomModel(device, "f32", { contextLength: 96 });
  const tokenizer = await trainTokenizer(["so on"], { vocabularySize: 257 });
  await exportModel({ gpt, tokenizer }, { to: "hf", out: base });
  const chatting = { gpt, tokenizer: await withChatFormat(tokenizer) };
  await exportModel(chatting, { to: "hf", out: trained });
}

Deno.test("chat answers each line of a pipe, and prints the answers alone", async () => {
  const chat = await createChat(await loadModel(device, { model: trained }), {
    seed: 5,
    maxNewTokens: 8,
    system: "S",
  });
  const answers: { content: string; seed: number; omittedTurns: number }[] = [];
  for (const question of ["a?", "/help\nme", "c?", "d?"]) {
    const { pieces, ...answer } = chat.ask(question);
    let content = "";
    for await (const piece of pieces) content += piece;
    answers.push({ content, ...answer });
  }
  const input = 'a?\n/help\\\nme\n"""c?"""\nd?';
  const options = ["--model", trained, ..."--seed 5 --max-new-tokens 8 --system S".split(" ")];
  const { code, stdout, stderr } = await task("chat", options, { input });
  assert.equal(code, 0, stderr);
  assert.equal(stdout, answers.map(({ content }) => content.replace(/\n?$/, "\n")).join(""));
  assert.match(stderr, /^the first turn no longer fits the context of 96 tokens$/m);
  assert.doesNotMatch(stderr, /> |lists the commands|trained on no/);

  const json = await task("chat", [...options, "--json"], { input });
  const lines = json.stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(
    lines.map(({ role, reason: _, tokens, ...answer }) => {
      assert.ok(role === "assistant" && tokens <= 8);
      return answer;
    }),
    answers,
  );
});

Deno.test("chat says that a model was trained on no conversations, and which message is too long", async () => {
  const { code, stdout, stderr } = await task("chat", ["--model", base, "--seed", "1"], {
    input: `hi\n${"x".repeat(90)}\n`,
  });
  assert.deepEqual([code, stdout !== ""], [1, true]);
  assert.match(
    stderr,
    /^the model was trained on no conversations, .*\n.* runs\/chat\n.*: deno task train --init-from \S+ --data chat\.jsonl --out runs\/mine\n/,
  );
  assert.match(stderr, /^Error: Cannot answer as the message must have at most 72 tokens, /m);
});

Deno.test("generate names the command that talks with a model of conversations", async () => {
  const options = ["--model", trained, "--quantize", "int8", "--max-new-tokens", "1"];
  const { code, stderr } = await task("generate", options);
  assert.equal(code, 0, stderr);
  const command = `deno task chat --model ${trained} --quantize int8`;
  assert.equal(stderr, `the model has a chat template; to talk with it: ${command}\n`);
});

Deno.test("chat talks with a run that was trained on conversations, as the training says", async () => {
  const data = join(directory, "chat.jsonl"), run = join(directory, "run");
  const messages = [{ role: "user", content: "Who?" }, { role: "assistant", content: "Tim." }];
  saveConversations(data, new Array(40).fill(messages));
  const { code, stderr } = await task("train", [
    ..."--preset nano --layers 1 --width 16 --heads 2 --steps 1 --batch-size 1".split(" "),
    ..."--context-length 40 --sample-every 0 --eval-tokens 50 --tune off".split(" "),
    ...["--data", data, "--out", run],
  ]);
  assert.equal(code, 0, stderr);
  const [, words] = /done: 1 steps; to talk with it: deno task chat (.*)\n$/.exec(stderr)!;
  const chat = await task("chat", words!.split(" "), { input: "Who?\n" });
  assert.deepEqual([chat.code, chat.stdout !== ""], [0, true], chat.stderr);
  assert.doesNotMatch(chat.stderr, /trained on no conversations/);
});
