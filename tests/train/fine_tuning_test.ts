import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bytesBelow } from "../../files/disk.ts";
import { beginningWith } from "../../data/tokenizer/tokenizer_file.ts";
import { parseTokenizer } from "../../data/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../data/tokenizer/train.ts";
import { loadModel } from "../../generate/load.ts";
import { download } from "../../kernels/tensor.ts";
import { createGpt } from "../../model/gpt.ts";
import { initializeParameters } from "../../model/weights.ts";
import { parameterTable } from "../../model/parameters.ts";
import type { SafetensorsEntry } from "../../model/files/safetensors.ts";
import { parseSafetensors } from "../../model/files/safetensors.ts";
import { exportModel } from "../../train/export.ts";
import { checkpointSizes, readCheckpoint } from "../../train/state.ts";
import type { TrainOptions } from "../../train/options.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import { device } from "../kernels/harness.ts";
import { once } from "../once.ts";
import { leftOpen } from "../left_open.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const text = join(directory, "stories.txt");
Deno.writeTextFileSync(
  text,
  Array.from(
    { length: 40 },
    (_, i) => `Story ${i} is about number ${i * i} and ${"so ".repeat(i % 7)}on.`,
  )
    .join("\n<|endoftext|>\n"),
);

const precision = device.features.has("shader-f16") ? "f16" : "f32";
const OPTIONS: Partial<TrainOptions> = {
  data: [text],
  precision,
  contextLength: 16,
  batchSize: 2,
  gradientAccumulation: 2,
  dropout: 0.1,
  steps: 8,
  warmupSteps: 1,
  learningRate: 5e-3,
  evalEvery: 8,
  saveEvery: 4,
  sampleEvery: 0,
  logEvery: 1,
};

async function run(out: string, options: Partial<TrainOptions>): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of train({ ...OPTIONS, device, out: join(directory, out), ...options })) {
    events.push(event);
  }
  return events;
}

Deno.test("train() continues a Llama, and keeps its chat template and what begins its texts", async () => {
  const file = JSON.parse((await trainTokenizer(["so on"], { vocabularySize: 257 })).json);
  file.added_tokens.push({ id: 258, content: "<s>", special: true, normalized: false });
  file.post_processor = beginningWith({ id: 258, content: "<s>" });
  const chatTemplate = "{{ bos_token }}{% for m in messages %}\r\n{{ m }}\t é{% endfor %}\n";
  const tokenizer = {
    ...await parseTokenizer(JSON.stringify(file)),
    ...{ chatTemplate, bosToken: "<s>" },
  };
  const config = {
    ...{ vocabularySize: 259, contextLength: 32, width: 32, layers: 1, heads: 4, keyHeads: 2 },
    ...{ family: "llama", qkNorm: true } as const,
  };
  const initFrom = join(directory, "llama");
  {
    using gpt = createGpt(device, config, { precision: "f32" });
    initializeParameters(gpt, { seed: 1 });
    await exportModel({ gpt, tokenizer }, { to: "hf", out: initFrom });
  }
  await assertResumes("from-llama", { initFrom });
  await run("adapters-of-llama", { initFrom, steps: 4, loraRank: 2 });
  for (const name of ["from-llama", "adapters-of-llama"]) {
    const model = join(directory, name), out = `${model}-exported`;
    const loaded = await loadModel(device, { model, precision: "f32" });
    const { endOfText, beginOfText, bosToken } = loaded.tokenizer;
    assert.deepEqual(loaded.gpt.config, {
      ...config,
      contextLength: loaded.gpt.config.contextLength,
    });
    assert.deepEqual([endOfText, beginOfText, bosToken], [256, 258, "<s>"]);
    await exportModel(loaded, { to: "hf", out });
    const fields = JSON.parse(Deno.readTextFileSync(join(out, "tokenizer_config.json")));
    assert.deepEqual([fields.chat_template, fields.bos_token], [chatTemplate, "<s>"]);
    loaded.gpt.destroy();
  }
});

/** Trains for 8 steps at once and in two halves, and asserts that this makes no difference. */
async function assertResumes(out: string, options: Partial<TrainOptions>): Promise<void> {
  await run(out, options);
  for await (
    const event of train({ ...OPTIONS, device, out: join(directory, `${out}-halves`), ...options })
  ) {
    if (event.kind === "step" && event.step === 6) break; // killed: 4 is the last checkpoint
  }
  const { config, tokenizer } = await readCheckpoint(checkpoint(out), {});
  const table = parameterTable(config, options.freeze ?? "");
  const bytes = bytesBelow(checkpoint(out));
  const alone = { ranks: 1, syncEvery: 1, wire: "f32" } as const;
  const sizes = checkpointSizes(table, "adamw", tokenizer, alone);
  const weights = bytes - statSync(join(checkpoint(out), "optimizer.safetensors")).size;
  for (
    const [most, actual] of [[sizes.checkpointBytes, bytes], [sizes.weightsOnlyBytes, weights]]
  ) {
    assert.ok(most! >= actual! && most! < actual! + 2 ** 17, `${most} for ${actual}`);
  }
  const events = await run(`${out}-halves`, options);
  assert.equal(find(events, "start").resumedFrom, 4);
  assert.deepEqual(hashes(`${out}-halves`), hashes(out));
}

function find<K extends TrainEvent["kind"]>(events: TrainEvent[], kind: K) {
  return events.find((event) => event.kind === kind) as TrainEvent & { kind: K };
}

const checkpoint = (out: string, step = "000008") => join(directory, out, "checkpoints", step);

function hashes(out: string): Record<string, string> {
  const path = checkpoint(out);
  return Object.fromEntries(
    readdirSync(path).sort().map((name) => [
      name,
      createHash("sha256").update(readFileSync(join(path, name))).digest("hex"),
    ]),
  );
}

async function tensorsOf(
  out: string,
  name: string,
): Promise<ReadonlyMap<string, SafetensorsEntry>> {
  return parseSafetensors(await Deno.readFile(join(checkpoint(out), name)), name).tensors;
}

/** The model that the others start from. */
const initFrom = checkpoint("base");
const base = once(() =>
  run("base", { preset: "nano", arch: "gpt2", contextLength: 24, vocabulary: "compact" })
);

/** Eight steps with adapters, at once and in two halves. */
const LORA = { initFrom, loraRank: 3, loraTargets: "c_attn,mlp.c_proj" };
const lora = once(async () => {
  await base();
  await assertResumes("lora", LORA);
});

/** A copy of a run, to be changed. */
function copy(out: string, name: string): string {
  cpSync(join(directory, out), join(directory, name), { recursive: true });
  return name;
}

Deno.test("train() starts from a model, records which, and resumes to the bit without it", async () => {
  const source = join(directory, "moved");
  await base();
  cpSync(initFrom, source, { recursive: true });
  // a model of others, whose texts end at more tokens than one
  Deno.removeSync(join(source, "trainer_state.json"));
  const generation = join(source, "generation_config.json");
  const { eos_token_id: end } = JSON.parse(readFileSync(generation, "utf8"));
  writeFileSync(generation, JSON.stringify({ eos_token_id: [3, end] }));
  const options = { initFrom: source, contextLength: 16 };
  const events = await run("tuned", options);
  assert.ok(
    events.some(({ kind, ...event }) =>
      kind === "notice" && Object(event).message.startsWith(`starting from ${source}`)
    ),
  );
  const state = JSON.parse(readFileSync(join(checkpoint("tuned"), "trainer_state.json"), "utf8"));
  const sha256 = createHash("sha256").update(readFileSync(join(source, "model.safetensors")))
    .digest("hex");
  assert.deepEqual(state.source, { spec: source, sha256 });
  const config = JSON.parse(readFileSync(join(checkpoint("tuned"), "config.json"), "utf8"));
  assert.deepEqual(config.eos_token_id, [3, end]);
  assert.equal(config.n_positions, 16); // of 24
  for await (
    const event of train({ ...OPTIONS, ...options, device, out: join(directory, "tuned-halves") })
  ) {
    if (event.kind === "step" && event.step === 5) break;
  }
  Deno.removeSync(source, { recursive: true });
  await run("tuned-halves", options);
  assert.deepEqual(hashes("tuned-halves"), hashes("tuned"));
});

Deno.test("train() says at the start when a text needs many tokens in the vocabulary of its model", async () => {
  await base();
  const other = join(directory, "report.txt");
  Deno.writeTextFileSync(other, "Quarterly revenue exceeded all projections. ".repeat(50));
  const misfits = async (out: string, data: string) => {
    const events = await run(out, { initFrom, data: [data], contextLength: 8, steps: 1 });
    const start = events.findIndex(({ kind }) => kind === "start");
    return events.slice(0, start).filter((event) =>
      event.kind === "notice" && event.message.startsWith("the text becomes ")
    ).length;
  };
  assert.equal(await misfits("misfit", other), 1);
  assert.equal(await misfits("fit", text), 0);
  const stopped = { initFrom, data: [other], contextLength: 8, out: join(directory, "stopped") };
  for await (const event of train({ ...OPTIONS, device, ...stopped })) {
    if (event.kind === "notice" && event.message.startsWith("the text becomes ")) break;
  }
  assert.deepEqual(leftOpen(directory), []);
});

Deno.test("train() begins where the model that it starts from ended", async () => {
  await base();
  const lossOf = (events: TrainEvent[]) => find(events, "evaluation").loss;
  const options = {
    initFrom,
    contextLength: 24,
    steps: 1,
    evalEvery: 1,
    learningRate: 0,
    minLearningRate: 0,
  };
  const events = await run("again", options), again = lossOf(events);
  const evaluations = events.filter((event) => event.kind === "evaluation");
  assert.deepEqual(
    evaluations.map(({ step, loss, best }) => [step, loss, best]),
    [[0, again, false], [1, again, true]],
    "first the model to start from",
  );
  assert.equal(find(events, "start").options.vocabulary, "auto", "its tokens are kept");
  const expected = lossOf(
    await run(copy("base", "continued"), {
      preset: "nano",
      contextLength: 24,
      steps: 9,
      evalEvery: 1,
      learningRate: 0,
      minLearningRate: 0,
    }),
  );
  assert.equal(again, expected);
  // adapters add nothing at first
  assert.equal(lossOf(await run("again-lora", { ...options, loraRank: 4 })), expected);
});

Deno.test("train() with --freeze leaves parts unchanged, without moments, and resumes to the bit", async () => {
  await base();
  await assertResumes("frozen", { initFrom, freeze: "embeddings,0,final-norm" });
  const before = await tensorsOf("base", "model.safetensors");
  const after = await tensorsOf("frozen", "model.safetensors");
  const moments = await tensorsOf("frozen", "optimizer.safetensors");
  assert.deepEqual([...after.keys()], [...before.keys()]);
  for (const [name, { data }] of after) {
    const isTrained = name.startsWith("transformer.h.1.");
    const old = before.get(name)!.data.subarray(0, data.length); // of more positions the first
    assert.equal(data.every((byte, i) => byte === old[i]), !isTrained, name);
    assert.equal(moments.has(`m.${name.slice("transformer.".length)}`), isTrained, name);
  }
  assert.equal(moments.size, 2 * 12);
});

Deno.test("train() saves only the adapters, as PEFT does, and resumes to the bit", async () => {
  await lora();
  const start = find(await run(copy("lora", "longer lora"), { ...LORA, steps: 9 }), "start");
  assert.ok(start.trainedParameters < start.parameters / 10);
  assert.equal(start.options.loraAlpha, 6);
  assert.deepEqual(readdirSync(checkpoint("lora")).sort(), [
    "adapter_config.json",
    "adapter_model.safetensors",
    "generation_config.json",
    "optimizer.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "trainer_state.json",
  ]);
  const config = JSON.parse(readFileSync(join(checkpoint("lora"), "adapter_config.json"), "utf8"));
  assert.equal(config.base_model_name_or_path, initFrom);
  assert.deepEqual([config.r, config.lora_alpha, config.target_modules], [3, 6, [
    "c_attn",
    "mlp.c_proj",
  ]]);
  const tensors = await tensorsOf("lora", "adapter_model.safetensors");
  const shapes = new Map([...tensors].map(([name, { shape }]) => [name, shape.join()]));
  const beginning = "base_model.model.transformer.h.1";
  assert.equal(shapes.get(`${beginning}.attn.c_attn.lora_A.weight`), "3,64");
  assert.equal(shapes.get(`${beginning}.attn.c_attn.lora_B.weight`), "192,3");
  assert.equal(shapes.get(`${beginning}.mlp.c_proj.lora_A.weight`), "3,256");
  assert.equal(shapes.size, 8);
});

Deno.test("train() says that the adapters of the model to start from are merged", async () => {
  await lora();
  const events = await run("from-adapters", { initFrom: checkpoint("lora"), steps: 1 });
  const notices = events.flatMap((event) => event.kind === "notice" ? [event.message] : []);
  assert.match(notices.join("\n"), /^the adapters of \S+ are merged into their base, \S+$/m);
});

Deno.test("train() says that Muon has nothing to update among adapters", async () => {
  await base();
  const options = { ...LORA, optimizer: "muon", steps: 1, dryRun: true } as const;
  const events = await run("lora with muon", options);
  const notices = events.flatMap((event) => event.kind === "notice" ? [event.message] : []);
  const expected = "--optimizer muon has nothing to update, as no matrix of a block is trained";
  assert.ok(notices.some((notice) => notice.startsWith(expected)), notices.join("\n"));
});

Deno.test("loadModel() merges adapters into their base", async () => {
  await lora();
  const path = checkpoint("lora");
  const [whole, merged] = [
    await loadModel(device, { model: initFrom, precision: "f32" }),
    await loadModel(device, { model: path, precision: "f32" }),
  ];
  assert.equal(merged.gpt.config.contextLength, 24); // that of the base
  assert.equal(merged.gpt.config.lora, undefined);
  const of = async (model: typeof whole, name: string) =>
    (await download(device, model.gpt.parameters.tensors.get(name)!))[0]!;
  for (const name of ["h.0.attn.c_attn.weight", "h.1.mlp.c_proj.weight"]) {
    assert.notDeepEqual(await of(merged, name), await of(whole, name));
  }
  assert.deepEqual(await of(merged, "h.1.mlp.c_fc.weight"), await of(whole, "h.1.mlp.c_fc.weight"));
  whole.gpt.destroy();
  merged.gpt.destroy();
});

const MISTAKES: [what: string, options: Partial<TrainOptions>, message: RegExp][] = [
  [
    "a longer context than the model's",
    { initFrom, contextLength: 25 },
    /a model of 24 positions for contexts of 25 tokens: choose at most 24/,
  ],
  ["adapters beside nothing", { loraRank: 4 }, /loraRank needs initFrom/],
  [
    "alpha without adapters",
    { initFrom, loraAlpha: 4 },
    /loraAlpha needs loraRank: current value is 4/,
  ],
  [
    "adapters of an unknown layer",
    { initFrom, loraRank: 4, loraTargets: "c_attn,q_proj" },
    /linear layers of the model, which are attn\.c_attn, .*: current targets are q_proj$/,
  ],
  [
    "a frozen layer that is not there",
    { initFrom, freeze: "0-2" },
    /freeze "0-2" .* blocks, 0-1 or some of them/,
  ],
  [
    "a frozen head that is the embedding",
    { initFrom, freeze: "head" },
    /the head of this model is the token embedding/,
  ],
  [
    "everything frozen",
    { initFrom, freeze: "embeddings,0-1,final-norm" },
    /freeze must leave something to train/,
  ],
  [
    "frozen parts beside adapters",
    { initFrom, freeze: "0", loraRank: 4 },
    /freeze must be given without loraRank/,
  ],
  [
    "a preset of another size",
    { initFrom, preset: "mini" },
    /preset must be given without initFrom/,
  ],
  ["a model that is not there", { initFrom: "nowhere" }, /Cannot find the model "nowhere"/],
  [
    "another model than it started from",
    { initFrom, out: join(directory, "base"), contextLength: 24 },
    /initFrom must stay absent/,
  ],
];

for (const [i, [what, options, message]] of MISTAKES.entries()) {
  Deno.test(`train() refuses ${what} in a sentence`, async () => {
    await base();
    await assert.rejects(run(`mistake-${i}`, { steps: 1, ...options }), { message });
  });
}

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
