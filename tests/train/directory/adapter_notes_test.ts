import assert from "node:assert/strict";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { loadModel, type LoadOptions } from "../../../generate/load.ts";
import { listCheckpoints, readTrainerState } from "../../../model/files/checkpoint.ts";
import type { TrainOptions } from "../../../train/options.ts";
import { train } from "../../../train/train.ts";
import { device } from "../../kernels/harness.ts";
import { once } from "../../once.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => rmSync(directory, { recursive: true }));

const text = join(directory, "stories.txt");
writeFileSync(
  text,
  Array.from({ length: 30 }, (_, i) => `Story ${i} is about ${i * i}.`).join("\n<|endoftext|>\n"),
);

const OPTIONS: Partial<TrainOptions> = {
  data: [text],
  precision: "f32",
  contextLength: 8,
  batchSize: 1,
  steps: 2,
  warmupSteps: 0,
  learningRate: 1e-2,
  evalTokens: 8,
  evalEvery: 0,
  saveEvery: 1,
  sampleEvery: 0,
};

/** Trains in a folder and gives what was noticed. */
async function run(out: string, options: Partial<TrainOptions> = {}): Promise<string[]> {
  const notices = [];
  for await (const event of train({ ...OPTIONS, device, out, ...options })) {
    if (event.kind === "notice") notices.push(event.message);
  }
  return notices;
}

const BASE: Partial<TrainOptions> = { preset: "nano", vocabulary: "compact" };

const trained = once(async () => {
  const path = join(directory, "trained");
  await run(path, BASE);
  return path;
});

/** A folder with a run to start from, the checkpoint of its end, and a place for a run with adapters. */
async function folder(name: string) {
  const path = join(directory, name);
  mkdirSync(path);
  cpSync(await trained(), join(path, "base"), { recursive: true });
  return {
    path,
    base: join(path, "base"),
    initFrom: join(path, "base", "checkpoints", "000002"),
    lora: join(path, "lora"),
  };
}

const steps = (out: string) => listCheckpoints(out).map(({ step }) => step);
const sourceOf = (out: string) => readTrainerState(listCheckpoints(out)[0]!.path).source!;
const weights = (path: string) => readFileSync(join(path, "adapter_model.safetensors"));

/** Loads a model and gives what was noticed. */
async function load(options: LoadOptions): Promise<string[]> {
  const notices: string[] = [];
  const { gpt } = await loadModel(device, { ...options, onNotice: (text) => notices.push(text) });
  gpt.destroy();
  return notices;
}

Deno.test("train() keeps a checkpoint while adapters of another run need it, and says why", async () => {
  const { base, initFrom, lora } = await folder("kept"), second = `${lora}-too`;
  for (const out of [lora, second]) {
    assert.deepEqual((await run(out, { initFrom, loraRank: 1 })).filter((m) => /note/.test(m)), []);
  }
  await run(lora, { steps: 3 }); // notes nothing twice
  const notes = readFileSync(join(base, "adapters.jsonl"), "utf8").trim().split("\n");
  assert.deepEqual(notes.map((line) => JSON.parse(line)), [
    { checkpoint: "000002", run: lora, from: "../lora" },
    { checkpoint: "000002", run: second, from: "../lora-too" },
  ]);

  const notices = await run(base, { steps: 5, keep: 1 });
  assert.deepEqual(steps(base), [5, 2]);
  assert.deepEqual(notices.filter((message) => message.startsWith("keeping")), [
    `keeping ${initFrom}: the adapters in ${lora} need it`,
  ]);
  await load({ run: lora });

  rmSync(second, { recursive: true });
  renameSync(lora, `${lora}-renamed`);
  await run(base, { steps: 6, keep: 1 });
  assert.deepEqual(steps(base), [6, 2]);

  rmSync(`${lora}-renamed`, { recursive: true });
  await run(base, { steps: 7, keep: 1 });
  assert.deepEqual(steps(base), [7]);
});

Deno.test("train() gives a notice when the run of its base cannot note the adapters", async () => {
  const { base, initFrom, lora } = await folder("unnoted");
  mkdirSync(join(base, "adapters.jsonl"));
  const notices = await run(lora, { initFrom, loraRank: 1 });
  const notice = notices.find((message) => message.startsWith("Cannot note in "));
  assert.match(
    notice!,
    /need 000002 as .*: training .* may remove it; --keep-base copies it$/,
  );
});

Deno.test("train() and loadModel() find a base by its hash after it was moved", async () => {
  const { path, base, initFrom, lora } = await folder("moving");
  await run(lora, { initFrom, loraRank: 1 });
  await run(base, { ...BASE, fresh: true }); // which renames the run
  const aside = join(path, "base-1", "checkpoints", "000002");
  const moved = `using ${aside} as the base of the adapters in ${
    join(lora, "checkpoints", "000002")
  }: it was ${initFrom}`;
  assert.deepEqual(await load({ run: lora }), []); // the new run came to the same weights
  await run(base, { ...BASE, fresh: true, seed: 2 });
  assert.deepEqual(await load({ run: lora }), [moved]);
  assert.ok((await run(lora, { initFrom, steps: 3 })).includes(moved));
  assert.equal(sourceOf(lora).spec, aside);

  // all of it, with a base that belongs to no run
  const elsewhere = await folder("with-model"), model = join(elsewhere.path, "models", "base");
  cpSync(elsewhere.initFrom, model, { recursive: true });
  rmSync(join(model, "trainer_state.json"));
  await run(elsewhere.lora, { initFrom: model, loraRank: 1 });
  rmSync(elsewhere.base, { recursive: true });
  renameSync(elsewhere.path, `${elsewhere.path}-moved`);
  const [notice] = await load({ run: join(`${elsewhere.path}-moved`, "lora") });
  assert.ok(notice?.includes(join("with-model-moved", "models", "base")), notice);
});

Deno.test("train() and loadModel() say which adapters need which base, and accept only the right one", async () => {
  const { path, base, initFrom, lora } = await folder("lost"),
    checkpoint = join(lora, "checkpoints");
  await run(lora, { initFrom, loraRank: 1, steps: 1 });
  const { sha256 } = sourceOf(lora), away = Deno.makeTempDirSync({ dir: directory });
  const saved = join(away, "saved"), other = join(away, "other");
  cpSync(initFrom, saved, { recursive: true });
  cpSync(join(base, "checkpoints", "000001"), other, { recursive: true });
  rmSync(base, { recursive: true });
  const missing = {
    name: "CheckpointError",
    message:
      `Cannot load the adapters in ${join(checkpoint, "000001")} as their base must be found, ` +
      `which is ${initFrom} with SHA-256 ${sha256}: there is no such directory; name it with base`,
  };
  await assert.rejects(load({ run: lora }), missing);
  await assert.rejects(run(lora), missing);
  const wrong = {
    name: "CheckpointError",
    message: new RegExp(
      `with the base ${other} as they belong to ${initFrom} with SHA-256 ${sha256}: current SHA-256 is \\w{64}$`,
    ),
  };
  await assert.rejects(load({ run: lora, base: other }), wrong);
  const adapters = `with the base ${join(checkpoint, "000001")} as a base must be a whole model`;
  await assert.rejects(load({ run: lora, base: lora }), { message: new RegExp(adapters) });
  await assert.rejects(run(lora, { base: other }), wrong);
  assert.deepEqual(await load({ run: lora, base: saved }), []);
  await run(lora, { initFrom: saved }); // also names it
  assert.deepEqual(sourceOf(lora), { spec: saved, sha256 });
  const resaved = join(away, "resaved");
  renameSync(saved, resaved);
  await run(lora, { base: resaved, steps: 3 });
  assert.deepEqual(sourceOf(lora), { spec: resaved, sha256 });

  // a model that has changed is another one
  rmSync(join(resaved, "trainer_state.json"));
  const file = join(resaved, "model.safetensors"), bytes = readFileSync(file);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(file, bytes);
  const changed = { message: /: it holds another model now; name it/ };
  await assert.rejects(load({ run: lora }), changed);
  await assert.rejects(run(lora, { steps: 4 }), changed);
  await assert.rejects(load({ checkpoint: other, base: resaved }), { name: "UserError" });
  await assert.rejects(run(join(path, "new"), { base: resaved }), {
    message: /base needs adapters/,
  });
});

Deno.test("train() with keepBase makes a run that needs no other, and resumes to the bit", async () => {
  const { base, initFrom, lora } = await folder("copied");
  await run(lora, { initFrom, loraRank: 1, steps: 1, keepBase: true });
  assert.ok(!existsSync(join(base, "adapters.jsonl")));
  assert.deepEqual(readdirSync(join(lora, "base")).sort(), [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
  ]);
  const straight = join(directory, "straight");
  await run(straight, { initFrom, loraRank: 1 });
  rmSync(base, { recursive: true });
  await run(lora, { keepBase: true });
  assert.deepEqual(
    weights(join(lora, "checkpoints", "000002")),
    weights(join(straight, "checkpoints", "000002")),
  );
  assert.equal(sourceOf(lora).spec, initFrom);
  assert.deepEqual(await load({ run: lora }), []);
  assert.deepEqual(await load({ run: straight, base: lora }), []); // which holds a copy of it

  writeFileSync(join(lora, "base", "model.safetensors"), "damaged");
  rmSync(straight, { recursive: true });
  await assert.rejects(load({ run: lora }), {
    message: /: there is no such directory, and its copy in .*base is damaged; name it/,
  });
  await assert.rejects(run(base, { ...BASE, keepBase: true }), { message: /keepBase needs/ });
});
