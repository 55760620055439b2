import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../data/random.ts";
import { sampleStories } from "../../data/text/stories.ts";
import { parseTokenizer } from "../../data/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../data/tokenizer/train.ts";
import { loadCorpus } from "../../data/tokens/corpus.ts";
import { documentsOf } from "../../data/text/documents.ts";
import { withoutMask } from "../../docs/collapse.ts";
import { normsOf } from "../../inspect/blocks.ts";
import { diagnose } from "../../inspect/diagnose.ts";
import { diagnoseRun } from "../../inspect/diagnose_run.ts";
import { openTestDevice } from "../gpu.ts";
import { createGpt, type Gpt } from "../../model/gpt.ts";
import { setElements } from "../../model/weights.ts";
import type { CheckName, CheckResult } from "../../train/record/checks.ts";
import { CHECKS } from "../../train/record/checks.ts";
import type { TrainOptions } from "../../train/options.ts";
import { train } from "../../train/train.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { directory } from "../checkpoints.ts";
import { leftOpen } from "../left_open.ts";
import { byteTokenizer, randomModel } from "../generate/models.ts";
import { device, REAL_TYPES } from "../kernels/harness.ts";
import { once } from "../once.ts";
import { corpusOf, type Recipe, SICK, texts, type Trained, trainSmall } from "./sick_models.ts";

const corpus = once(() => corpusOf(texts(1, 300)));
const deviceWithoutMask = once(async () => withoutMask(await openTestDevice()));

/** A healthy model per seed. */
const healthy = new Map<number, Promise<Trained>>();
function healthyFrom(seed: number): Promise<Trained> {
  const trained = healthy.get(seed) ??
    corpus().then((corpus) => trainSmall({ seed, device, corpus }));
  healthy.set(seed, trained);
  return trained;
}

/** Names of the checks with this verdict, in their order. */
function named(checks: readonly CheckResult[], wanted: CheckResult["verdict"]): CheckName[] {
  return checks.filter(({ verdict }) => verdict === wanted).map(({ name }) => name);
}

for (const [name, make] of Object.entries(SICK)) {
  const ignore = name === "leak" && !device.isCpu; // it changes the kernels for CPUs
  Deno.test(`diagnose() names ${name}, from each of three seeds`, { ignore }, async () => {
    // side by side, as their waits for the device overlap
    await Promise.all([1, 2, 3].map(async (seed) => {
      const trained = await make({
        seed,
        device,
        deviceWithoutMask,
        corpus: await corpus(),
        healthy: await healthyFrom(seed),
      });
      const checks = await diagnose(trained.model, trained), sick = named(checks, "sick");
      // a model that repeats tokens seems to know only those, too
      const before = name === "repetition" ? ["frequent-tokens"] : [];
      const [first] = sick.filter((name) => !before.includes(name));
      assert.equal(first, name, `seed ${seed}: ${sick}`);
    }));
  });
}

/** What healthy trainings may differ in, without a device and a seed. */
const HEALTHY: Record<string, () => Promise<Partial<Recipe> & Pick<Recipe, "corpus">>> = {
  "of one layer": async () => ({ corpus: await corpus() }),
  "of three layers with dropout": async () => (
    { corpus: await corpus(), config: { layers: 3 }, dropout: 0.1 }
  ),
  ...REAL_TYPES.includes("f16")
    ? { "in f16": async () => ({ corpus: await corpus(), precision: "f16" as const }) }
    : {},
  "of five steps": async () => ({ corpus: await corpus(), steps: 5, evalEvery: 5 }),
  "of fifty steps at a low rate": async () => (
    { corpus: await corpus(), steps: 50, learningRate: 0.001 }
  ),
  "on one long document": async () => (
    { corpus: await corpusOf([texts(2, 300).join(" ")], await corpus()) }
  ),
  "on built-in stories": async () => (
    { corpus: await corpusOf(sampleStories({ seed: 1, count: 100 })), config: { width: 32 } }
  ),
  "on bytes": async () => {
    const documents = texts(3, 100);
    const baseTokenizer = await trainTokenizer(documents, { vocabularySize: 257 });
    return { corpus: await loadCorpus({ data: documentsOf("texts", documents), baseTokenizer }) };
  },
  "on digits in random order": async () => {
    const random = new Random(1);
    const digits = () => Array.from({ length: 30 }, () => random.below(10)).join(" ");
    return { corpus: await corpusOf(Array.from({ length: 100 }, digits)) };
  },
};

for (const [kind, recipe] of Object.entries(HEALTHY)) {
  Deno.test(`diagnose() finds nothing wrong with a training ${kind}`, async () => {
    const trained = await trainSmall({ seed: 4, device, ...await recipe() });
    const made: number[][] = [], names = Object.keys(CHECKS);
    const onChecked = (...counts: number[]) => void made.push(counts);
    const checks = await diagnose(trained.model, { ...trained, onChecked });
    assert.deepEqual(made, names.map((_, i) => [i + 1, names.length]));
    assert.deepEqual(named(checks, "sick"), [], JSON.stringify(checks, null, 2));
    assert.deepEqual(checks.map(({ name }) => name).sort(), Object.keys(CHECKS).sort());
    const findingOf = (wanted: CheckName) => checks.find(({ name }) => name === wanted)!.finding;
    assert.match(findingOf("vocabulary"), /, \d+\.\d bytes per token; /);
    assert.match(findingOf("leak"), /^another token at [1-9]\d* places changed no logit/);
  });
}

/** Trains a run on a text file. */
async function trainRun(name: string, options: Partial<TrainOptions>): Promise<string> {
  const file = join(directory, "texts.txt"), out = join(directory, name);
  Deno.writeTextFileSync(file, texts(5, 200).join("\n<|endoftext|>\n"));
  const sizes = { contextLength: 32, batchSize: 8, learningRate: 0.01, evalTokens: 300 };
  const reports = { sampleEvery: 0, evalEvery: 20, saveEvery: 0, tune: "off" } as const;
  for await (const _ of train({ device, data: [file], out, ...sizes, ...reports, ...options }));
  return out;
}

const run = once(() =>
  trainRun("run", { preset: "nano", layers: 1, width: 16, heads: 2, steps: 60 })
);

Deno.test("diagnoseRun() finds nothing wrong with runs that are resumed, fine-tuned, or have adapters", async () => {
  cpSync(await run(), join(directory, "resumed"), { recursive: true });
  const resumed = await trainRun("resumed", { steps: 70 });
  const initFrom = resumed, tuning = { initFrom, steps: 50, learningRate: 0.002 };
  const tuned = await trainRun("tuned", tuning);
  const adapters = await trainRun("adapters", { ...tuning, loraRank: 2 });
  for (const [run, step] of [[resumed, 70], [tuned, 50], [adapters, 50]] as const) {
    const diagnosis = await diagnoseRun(device, { run });
    assert.equal(diagnosis.step, step);
    assert.ok(diagnosis.model.endsWith(join(run, "checkpoints", `0000${step}`)));
    assert.deepEqual(named(diagnosis.checks, "sick"), [], JSON.stringify(diagnosis, null, 2));
    const unknown = named(diagnosis.checks, "unknown");
    assert.ok(
      unknown.every((name) => /^(below-entropy|frequent-tokens)$/.test(name)),
      `${unknown}`,
    );
  }
});

Deno.test("diagnoseRun() says why there is no verdict if text and record are missing", async () => {
  const copy = join(directory, "copy");
  cpSync(join(await run(), "checkpoints"), copy, { recursive: true });
  const notices: string[] = [], onNotice = (sentence: string) => notices.push(sentence);
  const checkpoint = join(copy, "000060");
  Deno.renameSync(join(directory, "texts.txt"), join(directory, "moved.txt"));
  try {
    const { checks } = await diagnoseRun(device, { checkpoint, onNotice });
    assert.deepEqual(named(checks, "sick"), []);
    const reasons = checks.flatMap(({ name, verdict, finding, value }) => {
      if (verdict !== "unknown") return [];
      assert.equal(value, null);
      return [[name, finding]];
    });
    const noRecord = "no record of its training";
    const noText = "the text of its training is missing";
    assert.deepEqual(Object.fromEntries(reasons), {
      ...Object.fromEntries(
        ["diverging", "overflowing-gradients", "below-entropy", "overfitting"].map((
          name,
        ) => [name, noRecord]),
      ),
      ...Object.fromEntries(
        ["unknown-tokens", "vocabulary", "frequent-tokens"].map((name) => [name, noText]),
      ),
    });
    assert.match(
      notices.join(),
      /^the text of the training cannot be used: .*texts\.txt.*--data names/,
    );

    const data = [join(directory, "moved.txt")];
    const other = await diagnoseRun(device, { checkpoint, data });
    assert.equal(other.checks.filter(({ finding }) => finding === noText).length, 0);
  } finally {
    Deno.renameSync(join(directory, "moved.txt"), join(directory, "texts.txt"));
  }
});

Deno.test("diagnoseRun() reads the record up to the checkpoint, and says that it is damaged or cannot be read, or that the text has changed", async () => {
  const damaged = join(directory, "damaged");
  cpSync(await run(), damaged, { recursive: true });
  const file = join(damaged, "metrics.jsonl");
  const evaluation = (step: number) => ({ kind: "evaluation", step, loss: 99, tokens: 9 });
  const later = [1001, 1002, 1003].map((step) => JSON.stringify(evaluation(step)));
  Deno.writeTextFileSync(file, `{"kind"\n${later.join("\n")}\n`, { append: true });
  const notices: string[] = [];
  const { result: { checks }, left } = await withLiveBuffers(() =>
    diagnoseRun(device, { run: damaged, onNotice: (sentence) => notices.push(sentence) })
  );
  assert.deepEqual(left, []);
  assert.ok(!named(checks, "sick").includes("overfitting"));
  assert.match(notices.join(), /metrics\.jsonl is damaged in line \d+, which is skipped/);
  Deno.removeSync(file);
  Deno.mkdirSync(file);
  const path = join(directory, "texts.txt"), text = Deno.readTextFileSync(path);
  Deno.writeTextFileSync(path, `${text}<|endoftext|>\n${text}`);
  (await loadCorpus({ data: [path], cacheDirectory: join(directory, "cache") })).close();
  const other = await diagnoseRun(device, { run: damaged, onNotice: (s) => notices.push(s) });
  assert.ok(named(other.checks, "unknown").includes("overfitting"));
  Deno.writeTextFileSync(path, text);
  assert.match(
    notices.at(-2)!,
    /^the text of the training cannot be used: .*texts\.txt has changed since; --data names /,
  );
  assert.match(notices.at(-1)!, /^the record of the training cannot be read: /);
});

Deno.test("diagnose() says that the logits of a broken model are not finite", async () => {
  const gpt = randomModel(device, "f32"), tokenizer = { ...byteTokenizer(), json: "{}" };
  setElements(gpt, "ln_f.weight", 0, Float32Array.of(NaN));
  const checks = await diagnose({ gpt, tokenizer });
  for (const name of ["leak", "copies-input", "repetition"]) {
    const { verdict, finding } = checks.find((check) => check.name === name)!;
    assert.deepEqual([verdict, finding], ["unknown", "its logits are not finite"]);
  }
});

Deno.test("diagnose() names characters that the vocabulary lacks", async () => {
  const words = ["[UNK]", "[SEP]", "the", "cat", "dog", "sat"];
  const tokenizer = await parseTokenizer(
    JSON.stringify({
      model: {
        ...{ type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##" },
        max_input_chars_per_word: 100,
        vocab: Object.fromEntries(words.map((word, id) => [word, id])),
      },
      pre_tokenizer: { type: "Whitespace" },
      decoder: { type: "WordPiece", prefix: "##", cleanup: false },
      added_tokens: [0, 1].map((id) => ({ id, content: words[id], special: true })),
    }),
    "tokenizer.json",
  );
  const documents = Array.from({ length: 40 }, (_, i) => `the ${i % 2 ? "cat" : "dog"} sat on it`);
  const corpus = await corpusOf(documents, { tokenizer });
  const trained = await trainSmall({ seed: 1, device, corpus, steps: 1 });
  const checks = await diagnose(trained.model, trained);
  const { verdict, value } = checks.find(({ name }) => name === "unknown-tokens")!;
  assert.deepEqual([verdict, value], ["sick", 2 / 5]);
});

Deno.test("diagnose() gives no verdict on a model that reads a single token", async () => {
  const gpt = createGpt(device, { ...randomModel(device, "f32").config, contextLength: 1 }, {
    precision: "f32",
  });
  const checks = await diagnose({ gpt, tokenizer: byteTokenizer() });
  assert.ok(checks.every(({ verdict }) => verdict === "unknown"));
  assert.equal(checks.length, Object.keys(CHECKS).length);
});

Deno.test("diagnose() does not take blocks that are frozen for dead", async () => {
  const { model, ...trained } = await healthyFrom(1);
  const { table } = createGpt(device, model.gpt.config, {
    precision: "f32",
    freeze: "embeddings,0",
  });
  const gpt = { ...model.gpt, table };
  assert.ok(table.some(({ trained }) => !trained));
  const norms = (gpt: Gpt) => normsOf(gpt, [1, 2, 3, 4], { targetsPerStep: 3, lossScale: 1 });
  assert.deepEqual(await norms(gpt), await norms(model.gpt));
  assert.ok(!named(await diagnose({ ...model, gpt }, trained), "sick").includes("dead-block"));
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
