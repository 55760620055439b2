import assert from "node:assert/strict";
import { byteCount } from "../../files/units.ts";
import { UserError } from "../../files/user_error.ts";
import { join } from "node:path";
import type { Device } from "../../kernels/device.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { RECOMPUTE_MODES, type RecomputeMode } from "../../model/activations.ts";
import { type GptConfig, PRESETS } from "../../model/config.ts";
import type { Precision } from "../../model/precision.ts";
import {
  type Allocation,
  checkTraining,
  evaluationRows,
  memoryOf,
  recomputationOf,
  recordTraining,
  type TrainingSpec,
} from "../../train/limits.ts";
import { flagOf } from "../../files/command_line.ts";
import {
  type OptionName,
  optionNamed,
  optionsWhere,
  type TrainOptions,
} from "../../train/options.ts";
import { train } from "../../train/train.ts";
import { directory } from "../checkpoints.ts";
import { withFreeMemory } from "../free_bytes.ts";
import { device, freshSeed, testRandom } from "../kernels/harness.ts";

/** A device of which nothing but the limits is there. */
function deviceWith(
  name: string,
  { isCpu, maxBindingBytes, maxBufferSize }: {
    isCpu: boolean;
    maxBindingBytes: number;
    maxBufferSize: number;
  },
): Device {
  const limits = {
    maxBufferSize,
    maxComputeWorkgroupsPerDimension: 65535,
    maxComputeWorkgroupStorageSize: 32768,
    maxComputeInvocationsPerWorkgroup: 1024,
    maxComputeWorkgroupSizeX: 1024,
    minStorageBufferOffsetAlignment: 256,
  };
  return {
    ...device,
    ...{ name, isCpu, maxBindingBytes, subgroupSize: isCpu ? 8 : undefined, choices: new Map() },
    features: new Set(["shader-f16"]),
    gpu: { limits } as GPUDevice,
  };
}

/** The limits of Mesa's lavapipe, and of an NVIDIA H200. */
const CPU = deviceWith("a CPU", {
  isCpu: true,
  maxBindingBytes: 2 ** 27,
  maxBufferSize: 2 ** 31,
});
const GPU = deviceWith("a GPU", {
  isCpu: false,
  maxBindingBytes: 2 ** 31 - 4,
  maxBufferSize: 2 ** 32,
});

const nano = (sizes: Partial<GptConfig> = {}) => ({
  vocabularySize: 1048,
  ...PRESETS.nano,
  ...sizes,
});

/** A training of nano with the preset's options but for those given. */
function specOf({ config = nano(), ...options }: Partial<TrainingSpec>): TrainingSpec {
  return {
    precision: "f32",
    batchSize: 16,
    gradientAccumulation: 1,
    documents: "joined",
    optimizer: "adamw",
    dropout: 0,
    ...{ beta1: 0.9, beta2: 0.98 },
    freeze: undefined,
    isResumed: false,
    histogramEvery: 0,
    syncEvery: 1,
    recompute: "auto",
    contextLength: config.contextLength,
    ...options,
    config,
  };
}

/** What checkTraining() says; undefined if it lets the training begin. */
function refusal(on: Device, spec: Partial<TrainingSpec>): string | undefined {
  try {
    checkTraining(on, specOf(spec));
    return undefined;
  } catch (error) {
    assert.ok(error instanceof UserError, `${error}`);
    return error.sentence;
  }
}

/** Words of shaders and tensors, which help nobody who typed a flag. */
const SHADERS_WORDS = /wgsl|Cannot (bind|dispatch|create tensor|slice|run)|\[\d+,|NaN|undefined/;

function assertUsersTerms(message: string): void {
  assert.match(message, /^Cannot \w+ as .*--[a-z]/, message);
  assert.doesNotMatch(message, SHADERS_WORDS, message);
}

Deno.test("checkTraining() gives the batch size and accumulation that train on the same rows", () => {
  assert.equal(
    refusal(CPU, { batchSize: 65536 }),
    "Cannot train as --batch-size must be at most 2048 with --context-length 64 on a CPU: current " +
      "value is 65536 (a buffer holds at most 2.15 GB, and this would need 3.22 GB); " +
      "--batch-size 2048 --gradient-accumulation 32 trains on the same rows",
  );
  // 96 rows are no whole number of batches of 10
  const gpt2 = { vocabularySize: 50257, ...PRESETS.gpt2 };
  const spec = { config: gpt2, batchSize: 96, gradientAccumulation: 3 };
  assert.match(refusal(CPU, spec)!, /at most 10 .*; --batch-size 8 --gradient-accumulation 36 /);
  const many = refusal(CPU, { ...spec, gradientAccumulation: 4096 })!;
  assert.match(many, /--batch-size must be at most 10 .* would have [\d.]+ [MG]B\)$/);
  assert.match(refusal(CPU, { ...spec, isResumed: true })!, /\); a resumed run cannot change it: /);
});

Deno.test("checkTraining() allows contexts of 6,144 tokens and more on a GPU, where loops have no bound", () => {
  for (const contextLength of [6144, 8192, 32768]) {
    const config = { vocabularySize: 50257, ...PRESETS.mini, contextLength };
    assert.equal(refusal(GPU, { config, batchSize: 4 }), undefined, `${contextLength}`);
    assert.equal(refusal(GPU, { config, batchSize: 4, precision: "f16" }), undefined);
  }
  assert.equal(refusal(CPU, { config: nano({ contextLength: 32768 }), batchSize: 4 }), undefined);
  const config = nano({ contextLength: 1, heads: 1 });
  assert.equal(refusal(GPU, { config, batchSize: 40000 }), undefined);
  assert.match(
    refusal(CPU, { config, batchSize: 40000 })!,
    /at most 32768 with .*\(a loop on a CPU adapter has at most 32768 iterations, .* need 40000\)/,
  );
});

Deno.test("checkTraining() names the context when no batch fits, and the model when no context does", () => {
  const small = { ...CPU, maxBindingBytes: 2 ** 20 };
  assert.equal(
    refusal(small, { config: nano({ contextLength: 2048 }) }),
    "Cannot train as --context-length must be at most 1024 on a CPU, whatever the --batch-size: " +
      "current value is 2048 (a kernel can bind at most 1.05 MB of a tensor, which would have 8.39 MB)",
  );
  const wide = nano({ width: 16384, heads: 128, layers: 12 });
  assert.match(
    refusal(CPU, { config: wide })!,
    /^Cannot train as the model must be smaller on a CPU, with another --preset, --width, --layers, --init-from or --tokenizer: it has \d+ parameters and 1048 tokens \(a buffer holds at most 2\.15 GB/,
  );
});

Deno.test("checkTraining() names the tokenizer when it has too many tokens", () => {
  assert.equal(
    refusal(GPU, { config: nano({ vocabularySize: 1_000_001 }) }),
    "Cannot train as --tokenizer must have at most 1000000 tokens: current number is 1000001",
  );
});

/** Calls a function while so many bytes of memory are free. */
function withFree<T>(available: number, call: () => T): T {
  using _ = withFreeMemory(available);
  return call();
}

Deno.test("checkTraining() compares with the free memory on a CPU adapter", () => {
  assert.match(
    withFree(15e6, () => refusal(CPU, {}))!,
    /at most \d+ .* current value is 16 \(15\.0 MB of memory are free, and this would need 2\d\.\d MB\); --batch-size [48] --gradient-accumulation [24] trains on the same rows$/,
  );
  assert.equal(withFree(15e6, () => refusal(GPU, {})), undefined);
});

/** Bytes of a training by what they are for, if its backward pass computes that again. */
function memoryWith(on: Device, recompute: RecomputeMode, spec: Partial<TrainingSpec>) {
  const { allocations } = recordTraining(dryDevice(on), { ...specOf(spec), recompute });
  return { ...memoryOf(allocations), step: stepBytes(allocations) };
}

const stepBytes = (allocations: readonly Allocation[]) =>
  allocations.filter(({ work }) => work === "step").reduce((sum, { bytes }) => sum + bytes, 0);

Deno.test("recordTraining() counts weights and momentum of the outer step of DiLoCo", () => {
  const options = { config: nano(), freeze: "embeddings" };
  const [without, exchanging] = [1, 50].map((syncEvery) =>
    memoryWith(GPU, "none", { ...options, syncEvery })
  );
  const uniforms = 4096, bytes = 2 * without!.gradients;
  const added = exchanging!.optimizer - without!.optimizer;
  assert.ok(added >= bytes && added < bytes + uniforms, `${added}`);
  assert.equal(exchanging!.total - without!.total, added);
});

Deno.test("recomputationOf() chooses with auto the first mode that fits the free memory of a CPU adapter", () => {
  const spec = { config: nano({ layers: 6 }) };
  const needs = RECOMPUTE_MODES.map((mode) => memoryWith(CPU, mode, spec).total);
  assert.ok(needs[0]! > needs[1]! && needs[1]! > needs[2]!, `${needs}`);
  const chosen = (on: Device, recompute: TrainingSpec["recompute"]) =>
    recomputationOf(on, specOf({ ...spec, recompute }));
  assert.deepEqual(withFree(needs[0]!, () => chosen(CPU, "auto")), { recompute: "none" });
  for (const [i, mode] of RECOMPUTE_MODES.entries()) {
    if (i === 0) continue;
    const { recompute, shortage } = withFree(needs[i]!, () => chosen(CPU, "auto"));
    assert.equal(recompute, mode);
    assert.deepEqual(shortage!.exceeded, { limit: "memory", most: needs[i], need: needs[0] });
    assert.equal(withFree(needs[i]!, () => refusal(CPU, spec)), undefined);
    assert.match(
      withFree(needs[i]!, () => refusal(CPU, { ...spec, recompute: "none" }))!,
      new RegExp(
        `^Cannot train as --recompute must be ${mode} with --batch-size 16 on a CPU: ` +
          "current value is none \\([\\d.]+ MB of memory are free, and this would need [\\d.]+ MB\\)$",
      ),
    );
  }
  const { recompute } = withFree(needs[2]! - 1, () => chosen(CPU, "auto"));
  assert.equal(recompute, "block");
  assert.match(
    withFree(needs[2]! - 1, () => refusal(CPU, spec))!,
    / as --batch-size must be at most 15 /,
  );
  for (const mode of RECOMPUTE_MODES) {
    assert.deepEqual(withFree(1, () => chosen(CPU, mode)), { recompute: mode });
  }
  assert.deepEqual(withFree(1, () => chosen(GPU, "auto")), { recompute: "none" });
});

Deno.test("docs/inspect.md says what a step of gpt2 needs in each mode of recomputing", () => {
  const config = { vocabularySize: 50257, ...PRESETS.gpt2 };
  const page = Deno.readTextFileSync(new URL("../../docs/inspect.md", import.meta.url));
  const shares = RECOMPUTE_MODES.map((mode) => {
    const of = (mode: RecomputeMode) =>
      memoryWith(GPU, mode, { config, batchSize: 8, precision: "f16" });
    const { activations, step } = of(mode), kept = of("none");
    const [, ...cells] = new RegExp(
      `^\\| \`${mode}\` .*\\| +(\\S+ [MG]B) \\| +(\\S+ [MG]B) \\|`,
      "m",
    )
      .exec(page)!;
    assert.deepEqual(cells, [activations, step].map((bytes) => byteCount(bytes)));
    return { activations: activations / kept.activations, step: step / kept.step };
  });
  assert.ok(shares[1]!.step <= 0.8 && shares[2]!.step <= 0.65);
  assert.ok(shares[2]!.activations <= 0.35);
});

Deno.test("train() refuses what does not fit before it reads data or computes", async () => {
  const kinds: string[] = [];
  await assert.rejects(async () => {
    const options = { device, out: join(directory, "large"), data: ["nowhere.txt"] };
    for await (const { kind } of train({ ...options, contextLength: 32768, batchSize: 65536 })) {
      kinds.push(kind);
    }
  }, { name: "UserError", message: /^Cannot train as batchSize must be at most / });
  assert.deepEqual(kinds, ["notice"]);
});

Deno.test("evaluationRows() returns the rows that fit, and throws when not even one does", () => {
  const shape = { config: nano(), precision: "f32" as Precision, sequenceLength: 64 };
  assert.equal(evaluationRows(CPU, { ...shape, batchSize: 16 }), 16);
  const rows = evaluationRows(CPU, { ...shape, batchSize: 65536 });
  assert.ok(rows >= 2048 && rows < 65536, `${rows}`);
  const small = { ...CPU, maxBindingBytes: 2 ** 14 };
  assert.throws(() => evaluationRows(small, { ...shape, batchSize: 16 }), {
    name: "UserError",
    message: /^Cannot evaluate as the model must be smaller on a CPU: it has \d+ parameters and /,
  });
});

/** One of some values. */
const oneOf = <T>(random: () => number, values: readonly T[]): T =>
  values[Math.floor(random() * values.length)]!;

/**
 * The edges of an option's range, the smallest step within them, a value in between, and numbers that are
 * 0 as an f32, or subnormal.
 */
function edgesOf(name: OptionName, random: () => number): number[] {
  const { type, range: [least, greatest] = [0, 0] } = optionNamed(name);
  const between = least * (greatest / Math.max(least, 1e-3)) ** random(); // as likely small as large
  const inner = type !== "real"
    ? [least + 1, greatest - 1, Math.round(between)]
    : [between, Number.MIN_VALUE, 1e-320, 1e-40];
  return [least, greatest, ...inner].filter((value) => value >= least && value <= greatest);
}

Deno.test("checkTraining() computes or refuses what the options' edges and large models ask for", () => {
  const seed = freshSeed(), random = testRandom(seed);
  let refused = 0;
  for (let draw = 0; draw < 40; draw++) {
    const vocabularySize = oneOf(random, [1, 2, 257, 1048, 50257, 262_145, 500_000, 1_000_000]);
    // narrow rows and large batches would make many chunks of wide logits, which take long to record
    const isWide = vocabularySize > 50257;
    const [heads, headSize] = isWide
      ? [8, oneOf(random, [132, 256])]
      : [oneOf(random, [1, 2, 3, 8]), oneOf(random, [20, 32, 64, 128, 132, 256])];
    const edges = (name: OptionName) => edgesOf(name, random);
    const contextLength = oneOf(random, [...edges("contextLength"), 64, 6144]);
    const config: GptConfig = {
      ...{ width: heads * headSize, heads, contextLength, vocabularySize },
      layers: oneOf(random, [1, 2, 5]),
      ...(random() < 0.2 ? { innerWidth: oneOf(random, [1, 30, 65_536]) } : {}),
      ...(random() < 0.2 ? { ownHead: true } : {}),
      ...(random() < 0.2
        ? { lora: { rank: oneOf(random, edges("loraRank")), alpha: 8, targets: ["c_attn"] } }
        : {}),
    };
    const spec = {
      config,
      precision: oneOf(random, ["f32", "f16"] as const),
      batchSize: oneOf(random, isWide ? [1, 2, 16, 1024] : [...edges("batchSize"), 16, 32768]),
      gradientAccumulation: oneOf(random, edges("gradientAccumulation")),
      dropout: oneOf(random, edges("dropout")),
      recompute: oneOf(random, RECOMPUTE_MODES),
    };
    for (const on of [CPU, GPU]) {
      const what = `seed ${seed}, draw ${draw}, ${on.name}: ${JSON.stringify(spec)}`;
      const message = refusal(on, spec);
      if (message === undefined) continue;
      refused++;
      assertUsersTerms(message);
      const [, rows, batches] = / --batch-size (\d+) --gradient-accumulation (\d+) trains/
        .exec(message) ?? [];
      if (rows === undefined) continue;
      const same = { batchSize: Number(rows), gradientAccumulation: Number(batches) };
      const { batchSize, gradientAccumulation } = spec;
      assert.equal(
        same.batchSize * same.gradientAccumulation,
        batchSize * gradientAccumulation,
        what,
      );
      assert.equal(refusal(on, { ...spec, ...same }), undefined, what);
    }
  }
  // half of the draws are refused on both devices: all of them by chance once in 10¹⁰ runs
  assert.ok(refused > 0 && refused < 80, `${refused} refused, seed ${seed}`);
});

/** Options whose edges a step of a small model shows, beside those that are drawn below. */
const SMALL: Partial<TrainOptions> = {
  ...{ preset: "nano", steps: 1, contextLength: 3, batchSize: 2, precision: "f32", tune: "off" },
  ...{ positions: "rotary" },
  ...{ optimizer: "muon", schedule: "wsd" }, // which read options that others refuse
};

/** Values within the ranges that would take long, or that checkTraining() was asked about. */
const LONG: Partial<Record<keyof TrainOptions, readonly number[]>> = {
  layers: [1, 3],
  width: [8, 24, 64],
  heads: [1, 2],
  kvHeads: [1],
  headSize: [4, 12],
  hidden: [1, 7, 30],
  contextLength: [1, 2, 7],
  batchSize: [1, 3],
  gradientAccumulation: [1, 3],
  steps: [1],
  cooldown: [0, 1],
  sampleEvery: [0, 1e9],
  workers: [1],
};

Deno.test("train() computes a step at every edge of every option, or names the flag to change", async () => {
  const seed = freshSeed(), random = testRandom(seed);
  const text = join(directory, "edges.txt");
  const stories = Array.from({ length: 20 }, (_, i) => `Story ${i} has an end, of ${i * i}.`);
  Deno.writeTextFileSync(text, stories.join("\n<|endoftext|>\n"));
  const names = optionsWhere(({ range }) => range !== undefined)
    .filter((name) => !name.startsWith("lora"))
    .filter((name) => name !== "depth" && name !== "minutes"); // which choose most of the others
  const edges = new Map(names.map((name) => {
    const values = LONG[name] ?? edgesOf(name, random);
    // values are tried in any order, and each at least once
    return [name, values.map((value) => ({ value, at: random() })).sort((a, b) => a.at - b.at)];
  }));
  const runs = Math.max(...[...edges.values()].map(({ length }) => length));
  let trained = 0;
  for (let i = 0; i < runs; i++) {
    const drawn = Object.fromEntries(
      [...edges].map(([name, values]) => [name, values[i % values.length]!.value]),
    );
    drawn.minLearningRate = Math.min(drawn.learningRate!, drawn.minLearningRate!);
    const what = `seed ${seed}: ${JSON.stringify(drawn)}`;
    const out = join(directory, `edges ${i}`);
    let last = "";
    try {
      const options = { ...SMALL, ...drawn, data: [text], device, out };
      for await (const { kind } of train(options)) last = kind;
      assert.equal(last, "end", what);
      trained++;
    } catch (error) {
      assert.ok(error instanceof UserError, `${what}: ${(error as Error).stack}`);
      assertUsersTerms(error.sentence);
      const flags = [...error.sentence.matchAll(/--[a-z0-9-]+/g)].map(([flag]) => flag);
      assert.ok(flags.some((flag) => names.map(flagOf).includes(flag)), what);
    }
  }
  assert.ok(trained >= runs / 2, `${trained} of ${runs} trained, seed ${seed}`);
});
