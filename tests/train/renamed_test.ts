import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join, relative } from "node:path";
import { gpt2Tokenizer } from "../../data/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../data/tokenizer/train.ts";
import type { TrainOptions } from "../../train/options.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import { changeFields, directory, readFields } from "../checkpoints.ts";
import { device } from "../kernels/harness.ts";
import { once } from "../once.ts";
import { leftOpen } from "../left_open.ts";

const at = (...names: string[]) => join(directory, ...names);

function write(name: string, text: string): string {
  Deno.writeTextFileSync(at(name), text);
  return at(name);
}

const documents = Array.from({ length: 40 }, (_, i) => `Story ${i} goes on.`);
const text = write("stories.txt", documents.join("\n<|endoftext|>\n"));
const valid = write("valid.txt", "A story of its own.");
const tokenizerJson = (await trainTokenizer(documents, { vocabularySize: 264 })).json;
const tokenizer = write("tokenizer.json", tokenizerJson);

const SHAPE: Partial<TrainOptions> = {
  contextLength: 16,
  batchSize: 2,
  precision: "f32",
  evalEvery: 0,
  sampleEvery: 0,
  saveEvery: 0,
  tune: "off",
};

async function run(options: Partial<TrainOptions>): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of train({ ...SHAPE, device, ...options })) events.push(event);
  return events;
}

const checkpoint = (run: string, step = 1) =>
  join(run, "checkpoints", String(step).padStart(6, "0"));

/** Runs of one step, each made once: tests resume copies. */
const runs = {
  text: once(() => begin("text", { preset: "nano", data: [text] })),
  tokenizer: once(() => begin("tokenizer", { preset: "nano", data: [text], tokenizer })),
  validated: once(() =>
    begin("validated", { preset: "nano", data: [text], validationData: [valid] })
  ),
  sample: once(() => begin("sample", { preset: "nano", data: "sample" })),
  tuned: once(async () => {
    cpSync(checkpoint(await runs.text()), at("model"), { recursive: true });
    return await begin("tuned", { data: [text], initFrom: at("model") });
  }),
};

async function begin(name: string, options: Partial<TrainOptions>): Promise<string> {
  await run({ ...options, steps: 1, out: at("runs", name) });
  return at("runs", name);
}

let copies = 0;

/** Resumes a copy of a run, and returns its options as a second step begins. */
async function resume(name: keyof typeof runs, given: Partial<TrainOptions>) {
  const out = at("runs", `copy ${copies++}`);
  cpSync(await runs[name](), out, { recursive: true });
  for await (const event of train({ ...SHAPE, device, ...given, steps: 2, out })) {
    if (event.kind !== "start") continue;
    const { out: _, fresh: __, ...options } = event.options;
    return options;
  }
  assert.fail("it does not start");
}

Deno.test("train() resumes with the same text at another path, which it then notes", async () => {
  const moved = write("moved.txt", Deno.readTextFileSync(text));
  const lines = write(
    "lines.jsonl",
    documents.map((story) => JSON.stringify({ story })).join("\n"),
  );
  const plain = await resume("text", {});
  assert.deepEqual([plain.data, plain.vocabulary], [[text], "compact"]);
  const another = { data: [lines], textField: "story" };
  const cases: [Partial<TrainOptions>, Partial<TrainOptions>][] = [
    [{ data: [`./${relative(Deno.cwd(), text)}`] }, { data: [text] }],
    [{ data: [moved], vocabulary: "compact" }, { data: [moved] }],
    [{ data: [relative(Deno.cwd(), moved)] }, { data: [moved] }],
    [{ data: [at("move?.txt")] }, { data: [at("move?.txt")] }],
    [another, another],
  ];
  for (const [given, noted] of cases) {
    assert.deepEqual(await resume("text", given), { ...plain, ...noted });
  }
});

Deno.test("train() refuses to resume with other text, naming both", async () => {
  const other = write("other.txt", documents.slice(1).join("\n<|endoftext|>\n"));
  const path = at("runs", "copy");
  await assert.rejects(resume("text", { data: [other] }), {
    name: "UserError",
    message: new RegExp(
      `^Cannot resume ${path} \\d+\\S* as its data must stay ${text}: ${other} holds other text$`,
    ),
  });
  await assert.rejects(resume("sample", { data: "tinystories" }), {
    message: /as its data must stay sample: tinystories holds other text$/, // and is not downloaded
  });
  await assert.rejects(resume("text", { data: [at("gone.txt")] }), {
    message: `Cannot read data file ${at("gone.txt")}: there is no such file`,
  });
});

Deno.test("train() resumes with the same text to validate with at another path, and with no other", async () => {
  const moved = write("moved valid.txt", Deno.readTextFileSync(valid));
  const other = write("other valid.txt", "Another story.");
  assert.deepEqual((await resume("validated", {})).validationData, [valid]);
  const { data, validationData } = await resume("validated", { validationData: [moved] });
  assert.deepEqual([data, validationData], [[text], [moved]]);
  await assert.rejects(resume("validated", { validationData: [other] }), {
    name: "UserError",
    message: new RegExp(
      `as its data must stay ${text} validationData ${valid}: ` +
        `${text} validationData ${other} holds other text$`,
    ),
  });
  await assert.rejects(resume("text", { validationData: [valid] }), {
    message: new RegExp(`must stay ${text}: ${text} validationData ${valid} holds other text$`),
  });
});

Deno.test("train() names the file of a run's text when it is missing, and the flag to use", async () => {
  const out = at("runs", "orphan"), gone = at("gone.txt");
  cpSync(await runs.text(), out, { recursive: true });
  const { options } = readFields(checkpoint(out)) as { options: object };
  changeFields(checkpoint(out), { options: { ...options, data: [gone] } });
  await assert.rejects(run({ out, steps: 2 }), {
    message: `Cannot resume ${checkpoint(out)} as its data must be readable: ` +
      `${gone}: there is no such file`,
  });
  await run({ out, steps: 2, data: [text] });
  assert.deepEqual((readFields(checkpoint(out, 2)).options as TrainOptions).data, [text]);
});

Deno.test("train() resumes with the same tokenizer under another name, and with no other", async () => {
  Deno.mkdirSync(at("a tokenizer"));
  Deno.writeTextFileSync(at("a tokenizer", "tokenizer.json"), tokenizerJson);
  for (const name of [at("a tokenizer"), relative(Deno.cwd(), at("a tokenizer"))]) {
    assert.equal((await resume("tokenizer", { tokenizer: name })).tokenizer, at("a tokenizer"));
  }
  // the run's own is a compact part of GPT-2's
  const gpt2 = write("gpt2.json", (await gpt2Tokenizer()).json);
  assert.equal((await resume("text", { tokenizer: "gpt2" })).tokenizer, undefined);
  assert.equal((await resume("text", { tokenizer: gpt2 })).tokenizer, gpt2);
  for (const [name, other] of [["tokenizer", gpt2], ["text", tokenizer]] as const) {
    await assert.rejects(resume(name, { tokenizer: other }), {
      name: "UserError",
      message: new RegExp(`as tokenizer must stay .*: current value is ${other}$`),
    });
  }
});

Deno.test("train() resumes with the same model under another name, and with no other", async () => {
  const out = await runs.tuned(), moved = at("moved model");
  const { source: before } = readFields(checkpoint(out)) as { source: { spec: string } };
  assert.equal(before.spec, at("model"));
  cpSync(at("model"), moved, { recursive: true });
  const copy = at("runs", "of a moved model");
  cpSync(out, copy, { recursive: true });
  await run({ out: copy, steps: 2, initFrom: relative(Deno.cwd(), moved) });
  const { source, options } = readFields(checkpoint(copy, 2)) as {
    source: object;
    options: Partial<TrainOptions>;
  };
  assert.deepEqual(source, { ...before, spec: moved });
  assert.equal(options.initFrom, moved);

  cpSync(at("model"), at("other model"), { recursive: true });
  Deno.removeSync(at("other model", "trainer_state.json"));
  const file = at("other model", "model.safetensors"), bytes = Deno.readFileSync(file);
  bytes[bytes.length - 1]! ^= 1;
  Deno.writeFileSync(file, bytes);
  for (const [name, saved] of [["tuned", at("model")], ["text", "absent"]] as const) {
    await assert.rejects(resume(name, { initFrom: at("other model") }), {
      name: "UserError",
      message: new RegExp(`as initFrom must stay ${saved}: current value is .*other model$`),
    });
  }
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
