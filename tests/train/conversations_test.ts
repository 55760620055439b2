import assert from "node:assert/strict";
import { join } from "node:path";
import type { Conversation } from "../../data/text/conversations.ts";
import { defaultChatTemplate } from "../../data/tokenizer/chat_format.ts";
import { readTokenizer } from "../../data/tokenizer/load.ts";
import type { TrainOptions } from "../../train/options.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import { device } from "../kernels/harness.ts";
import { once } from "../once.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const chat = join(directory, "chat.jsonl");
Deno.writeTextFileSync(
  chat,
  Array.from({ length: 60 }, (_, i) =>
    JSON.stringify({
      messages: [
        { role: "user", content: `What is ${i} + 1?` },
        ...i % 10 === 9 ? [] : [{ role: "assistant", content: `It is ${i + 1}.` }],
        { role: "user", content: "Thanks!" },
        ...i % 4 === 3 ? [{ role: "assistant", content: "You are welcome. ".repeat(i % 8) }] : [],
      ],
    })).join("\n"),
);

/** Trains, and collects what happens. */
async function run(
  out: string,
  options: Partial<TrainOptions> & { texts?: Conversation[] } = {},
): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  const all = {
    ...("texts" in options ? {} : { data: [chat] }),
    ...{ batchSize: 2, contextLength: 48 },
    ...options.initFrom === undefined ? { layers: 1, width: 16, heads: 1 } : {},
    ...{
      warmupSteps: 1,
      steps: 2,
      saveEvery: 1,
      sampleEvery: 2,
      evalEvery: 2,
      logEvery: 1,
      device,
    },
    ...{ tune: "off", optimizer: "adamw" } as const,
    ...options,
  };
  for await (const event of train({ ...all, out: join(directory, out) })) events.push(event);
  return events;
}

/** The sentences for the user among events. */
const noticesOf = (events: readonly TrainEvent[]) =>
  events.flatMap((event) => event.kind === "notice" ? [event.message] : []).join("\n");

/** A run whose cache no other has: what is left out is said when the text is tokenized. */
const ALL = join("own cache", "all");

/** The events of a training on `chat`, in the directory `ALL`. */
const trained = once(() => run(ALL));

Deno.test("train() on conversations keeps them apart, says what it leaves out, and saves the template", async () => {
  const events = await trained(), start = events.find(({ kind }) => kind === "start");
  assert.ok(start?.kind === "start");
  assert.deepEqual([start.options.documents, start.corpus.documents], ["apart", 57]);
  const notices = noticesOf(events);
  assert.match(
    notices,
    /^left out 3 of 60 conversations of chat\.jsonl: the assistant says nothing/m,
  );
  assert.match(
    notices,
    /^--context-length 48: left out 1 of 55 .*; left out the last messages of \d+ /m,
  );
  const sample = events.find(({ kind }) => kind === "sample");
  assert.ok(sample?.kind === "sample");
  assert.match(sample.prompt, /^<\|user\|>\nWhat is \d+ \+ 1\?<\|endoftext\|>\n<\|assistant\|>\n$/);
  const saved = await readTokenizer(join(directory, ALL, "checkpoints", "000002"));
  assert.equal(saved.chatTemplate, defaultChatTemplate(saved));

  const resumed = await run(ALL, { steps: 3 });
  assert.ok(resumed.some(({ kind }) => kind === "step"));
});

Deno.test("train() keeps the chat template of the model that it starts from", async () => {
  await trained();
  const before = join(directory, ALL, "checkpoints", "000002"), model = join(directory, "model");
  Deno.mkdirSync(model);
  const files = ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"];
  for (const name of files) Deno.copyFileSync(join(before, name), join(model, name));
  const config = JSON.parse(Deno.readTextFileSync(join(before, "tokenizer_config.json")));
  const chat_template =
    "{% for m in messages %}{{ m.role[0] + m.content + eos_token }}{% endfor %}" +
    "{% if add_generation_prompt %}a{% endif %}";
  Deno.writeTextFileSync(
    join(model, "tokenizer_config.json"),
    JSON.stringify({ ...config, chat_template }),
  );
  await run("tuned", { initFrom: model, steps: 1 });
  const saved = await readTokenizer(join(directory, "tuned", "checkpoints", "000001"));
  assert.equal(saved.chatTemplate, chat_template);
});

Deno.test("train() accepts conversations of a program, and refuses them among texts", async () => {
  const conversation = [{ role: "user", content: "Who?" }, { role: "assistant", content: "Me." }];
  const events = await run("given", { texts: Array(30).fill(conversation), steps: 1 });
  const start = events.find(({ kind }) => kind === "start");
  assert.ok(start?.kind === "start" && start.corpus.answerTokens! > 60);
  for (
    const [texts, message] of [
      [
        [conversation, "a"],
        /^Cannot use the given text as text 2 must be of the kind of those before/,
      ],
      [[{}], /^Cannot use the given text as text 1 must be a string, or a list of messages/],
      [
        [conversation, [{ role: "x" }]],
        /^Cannot read data file the given text as document 2 must hold one of system, /,
      ],
    ] as const
  ) {
    await assert.rejects(run("refused", { texts: texts as unknown as Conversation[] }), {
      message,
    });
  }
});

Deno.test("train() keeps conversations apart by the plan of a training that joined documents", async () => {
  const plan = join(directory, "plan.json");
  const planned = { layers: 1, width: 16, heads: 1, steps: 1, documents: "joined" };
  Deno.writeTextFileSync(plan, JSON.stringify({ options: planned }));
  const events = await run("planned", { plan });
  assert.match(noticesOf(events), /^--documents apart, as chat\.jsonl holds conversations$/m);
  assert.ok(events.some(({ kind }) => kind === "step"));
});

Deno.test("train() refuses to join conversations, and rows in which no answer fits", async () => {
  await assert.rejects(run("joined", { documents: "joined" }), {
    name: "UserError",
    message:
      "Cannot train on chat.jsonl with documents joined as each conversation must see only " +
      "itself: use documents apart",
  });
  await assert.rejects(run("short", { contextLength: 8 }), {
    name: "UserError",
    message:
      /^Cannot pack conversations into rows of 9 tokens as the first answer of at least one must fit /,
  });
});
