import assert from "node:assert/strict";
import { PRESETS } from "../../model/config.ts";
import { DEFAULT_OPTIONS, type ResolvedOptions, type TrainOptions } from "../../train/options.ts";
import {
  checkArchitecture,
  checkDimensions,
  checkInitial,
  checkOptimizer,
  checkRates,
  defaultsForData,
  fineTuningDefaults,
  presetDefaults,
  resolveOptions,
  resumeOptions,
  savedOptions,
  sizesOf,
  type TrainingDefaults,
  typedNames,
} from "../../train/resolve.ts";
import { ARCHITECTURES, newModel } from "../../train/architecture.ts";

const CHOSEN = {
  gpu: "native",
  preset: "nano",
  precision: "f32",
  ranks: 1,
  stepsIn: (epochs: number) => 30 * epochs,
} as const;

/** What a training begins with, and what its checkpoints keep of that. */
function begin(given: Partial<TrainOptions>, defaults: TrainingDefaults = presetDefaults("nano")) {
  const typed = typedNames(given);
  const options = { ...DEFAULT_OPTIONS, optimizer: "muon" as const, ...given };
  const resolved = resolveOptions(options, { ...CHOSEN, defaults, typed });
  const saved = JSON.parse(JSON.stringify(savedOptions(resolved)));
  return { resolved, kept: { options: saved, typed, step: 0 } };
}

/** What a training is resumed with, by a version whose defaults are all others. */
function resume(given: Partial<TrainOptions>, kept: ReturnType<typeof begin>["kept"]) {
  const { options, typed } = resumeOptions(given, kept, "x");
  const dimensions = { layers: 7, width: 77, heads: 7, kvHeads: 7, headSize: 11, hidden: 777 };
  const training = { batchSize: 7, steps: 77, learningRate: 0.77, contextLength: 77 };
  const architecture = { arch: "modern", ...ARCHITECTURES.modern } as const;
  const defaults = { ...training, ...dimensions, ...architecture };
  const began = kept.options as ResolvedOptions;
  const resolved = resolveOptions(options, { ...CHOSEN, defaults, typed, began });
  return { resolved, kept: { options: savedOptions(resolved), typed, step: kept.step } };
}

Deno.test("checkOptimizer() refuses an option that only another optimizer reads", () => {
  checkOptimizer({ muonMomentum: 0.9, beta1: 0.8 }, { optimizer: "muon" });
  checkOptimizer({ beta1: 0.8 }, { optimizer: "adamw" });
  assert.throws(() => checkOptimizer({ steps: 5, muonMomentum: 0.9 }, { optimizer: "adamw" }), {
    name: "OptionError",
    message: "Cannot train as muonMomentum needs optimizer muon: current optimizer is adamw",
  });
});

Deno.test("resolveOptions() gives Muon a tenth of its rate for a model that was trained", () => {
  assert.equal(begin({}).resolved.muonLearningRate, 0.01);
  assert.equal(begin({ initFrom: "gpt2" }).resolved.muonLearningRate, 0.001);
  assert.equal(begin({ muonLearningRate: 0.02 }).resolved.muonLearningRate, 0.02);
});

Deno.test("resumeOptions() lets a run of a version without an option keep its default", () => {
  const { kept } = begin({});
  delete kept.options.optimizer;
  delete kept.options.documents;
  assert.equal(resumeOptions({ optimizer: "adamw" }, kept, "x").options.optimizer, "adamw");
  assert.equal(resumeOptions({}, kept, "x").options.documents, "joined");
  assert.equal(resumeOptions({}, begin({}).kept, "x").options.documents, "apart");
  assert.throws(() => resumeOptions({ optimizer: "muon" }, kept, "x"), /must stay adamw/);
});

Deno.test("resolveOptions() gives a resumed run the values that it began with", () => {
  for (const given of [{}, { epochs: 2 }, { steps: 6 }, { evalEvery: 0, minLearningRate: 1e-5 }]) {
    const { resolved, kept } = begin(given);
    assert.deepEqual(resume({}, kept).resolved, resolved);
    assert.deepEqual(resume(given, kept).resolved, resolved);
    assert.deepEqual(resume({}, kept).kept.typed, kept.typed);
  }
});

Deno.test("resolveOptions() computes a value again when the option that it depends on changes at a resume", () => {
  const { resolved, kept } = begin({ steps: 6, sampleEvery: 3 });
  assert.deepEqual(
    [resolved.evalEvery, resolved.saveEvery, resolved.sampleEvery, resolved.logEvery],
    [1, 1, 3, 1],
  );
  const { learningRate, minLearningRate, warmupSteps } = resolved;
  const longer = resume({ steps: 400 }, kept);
  // what was typed stays, and the warm-up lies behind
  const expected = { ...resolved, steps: 400, evalEvery: 40, saveEvery: 40, logEvery: 4 };
  assert.deepEqual(longer.resolved, expected);
  assert.deepEqual([learningRate, minLearningRate, warmupSteps], [5e-3, 5e-5, 1]);
  assert.deepEqual(longer.kept.typed, ["steps", "sampleEvery"]);

  const slower = resume({ learningRate: 3e-4 }, longer.kept);
  assert.deepEqual(slower.resolved, { ...expected, learningRate: 3e-4, minLearningRate: 3e-6 });
  assert.deepEqual(slower.kept.typed, ["steps", "learningRate", "sampleEvery"]);
  // and again: what was typed at an earlier resume is typed
  assert.equal(resume({ steps: 6, evalEvery: 2 }, slower.kept).resolved.learningRate, 3e-4);
});

Deno.test("resolveOptions() computes the steps from the epochs, and the intervals from these", () => {
  const { resolved, kept } = begin({ epochs: 2 });
  assert.deepEqual([resolved.steps, resolved.endsWith, resolved.evalEvery], [60, "epochs", 6]);
  const more = resume({ epochs: 4 }, kept);
  assert.deepEqual(
    [more.resolved.steps, more.resolved.endsWith, more.resolved.evalEvery],
    [120, "epochs", 12],
  );
  const counted = resume({ steps: 100 }, more.kept);
  assert.deepEqual(
    [counted.resolved.steps, counted.resolved.endsWith, counted.resolved.epochs],
    [100, "steps", undefined],
  );
  assert.deepEqual(counted.kept.typed, ["steps"]);
  const passes = resume({ epochs: 3 }, counted.kept);
  assert.deepEqual([passes.resolved.steps, passes.resolved.endsWith], [90, "epochs"]);
  assert.deepEqual(passes.kept.typed, ["epochs"]);
  // both given: the one reached first
  const both = resume({ epochs: 3, steps: 80 }, passes.kept);
  assert.deepEqual([both.resolved.steps, both.resolved.endsWith], [80, "steps"]);
});

Deno.test("defaultsForData() makes rows and trainings long enough for the built-in conversations, and keeps the tokens per batch", () => {
  const of = (preset: "nano" | "mini" | "small", data: TrainOptions["data"]) => {
    const { contextLength, batchSize, steps } = defaultsForData(presetDefaults(preset), data);
    return [contextLength, batchSize, steps];
  };
  assert.deepEqual(of("nano", "conversations"), [320, 4, 2300]);
  assert.deepEqual(of("mini", "conversations"), [320, 13, 2300]);
  assert.deepEqual(of("small", "conversations"), [320, 26, 5000]);
  for (const data of ["auto", "sample", ["conversations"]] as const) {
    assert.deepEqual(of("nano", data), [64, 16, 1700]);
  }
});

Deno.test("resolveOptions() throws when the smallest learning rate is above the highest, given or computed", () => {
  const message = "Cannot train as minLearningRate must be at most learningRate, which is " +
    "0.0001: current value is 0.0005";
  const typed = { learningRate: 1e-4, minLearningRate: 5e-4 };
  assert.throws(() => checkRates(typed), { name: "OptionError", message });
  const defaults = { ...presetDefaults("nano"), learningRate: 1e-4 };
  assert.throws(() => begin({ minLearningRate: 5e-4 }, defaults), { message });
  const { kept } = begin({ minLearningRate: 5e-4 });
  assert.throws(() => resume({ learningRate: 1e-4 }, kept), {
    message: `${message}, which the run began with`,
  });
  assert.equal(resume({ ...typed, minLearningRate: 1e-5 }, kept).resolved.minLearningRate, 1e-5);
  assert.equal(begin({ learningRate: 0 }).resolved.minLearningRate, 0);
});

Deno.test("resolveOptions() computes minimum and cool-down from schedule, rate and steps", () => {
  const of = ({ resolved }: { resolved: ResolvedOptions }) => {
    const { schedule, learningRate, minLearningRate, cooldown, steps } = resolved;
    return [schedule, learningRate, minLearningRate, cooldown, steps];
  };
  assert.deepEqual(of(begin({})), ["cosine", 5e-3, 5e-5, 0, 1700]);
  assert.deepEqual(of(begin({ schedule: "constant" })), ["constant", 5e-3, 5e-3, 0, 1700]);
  const { kept } = begin({ schedule: "wsd", steps: 101 });
  assert.deepEqual(of(resume({}, kept)), ["wsd", 5e-3, 0, 21, 101]);
  assert.deepEqual(of(resume({ steps: 200 }, kept)), ["wsd", 5e-3, 0, 40, 200]);
  assert.deepEqual(of(resume({ schedule: "cosine" }, kept)), ["cosine", 5e-3, 5e-5, 0, 101]);
  assert.deepEqual(of(resume({ schedule: "constant", learningRate: 1 }, kept)), [
    ...["constant", 1, 1, 0, 101],
  ]);
  const typed = begin({ schedule: "wsd", steps: 90, cooldown: 30, minLearningRate: 1e-5 }).kept;
  assert.deepEqual(of(resume({ steps: 95 }, typed)), ["wsd", 5e-3, 1e-5, 30, 95]);
  assert.deepEqual(of(resume({ schedule: "constant" }, typed)), ["constant", 5e-3, 5e-3, 0, 90]);
});

Deno.test("resumeOptions() lets a cool-down begin at once when it is given without steps", () => {
  const at = (step: number, given: Partial<TrainOptions>, began: Partial<TrainOptions>) => {
    const { kept } = begin(began);
    const next = resume(given, { ...kept, step });
    const { schedule, cooldown, steps, endsWith } = next.resolved;
    return { result: [schedule, cooldown, steps, endsWith], kept: next.kept };
  };
  for (const schedule of ["wsd", "constant"] as const) {
    for (const length of [{ steps: 1000 }, { epochs: 50 }]) {
      const cooled = at(500, { cooldown: 100 }, { schedule, ...length });
      assert.deepEqual(cooled.result, ["wsd", 100, 600, "steps"]);
      assert.ok(!cooled.kept.typed.includes("epochs"));
      // the same command, after an interruption and at the end
      for (const step of [500, 550, 600]) {
        const { cooldown, steps } = resume({ cooldown: 100 }, { ...cooled.kept, step }).resolved;
        assert.deepEqual([cooldown, steps], [100, 600]);
      }
      const { cooldown, steps } = resume({ cooldown: 10 }, { ...cooled.kept, step: 550 }).resolved;
      assert.deepEqual([cooldown, steps], [10, 560]);
    }
  }
  const planned = { schedule: "wsd", steps: 1000, cooldown: 100 } as const;
  assert.deepEqual(at(500, planned, planned).result, ["wsd", 100, 1000, "steps"]);
  assert.deepEqual(at(500, { cooldown: 100 }, planned).result, ["wsd", 100, 600, "steps"]);
  const both = { schedule: "wsd", cooldown: 100 } as const;
  assert.deepEqual(at(500, both, {}).result, ["wsd", 100, 600, "steps"]);
});

Deno.test("resolveOptions() refuses a cool-down without its schedule, its steps, or room in them", () => {
  const refused: [Partial<TrainOptions>, string][] = [
    [{ cooldown: 5, steps: 9 }, "cooldown needs schedule wsd: current value is cosine"],
    [
      { cooldown: 5, schedule: "constant", steps: 9 },
      "cooldown needs schedule wsd: current value is constant",
    ],
    [{ cooldown: 5, schedule: "wsd" }, "cooldown of a new run needs steps: current value is 5"],
    [
      { cooldown: 5, schedule: "wsd", steps: 4 },
      "cooldown must be at most steps, which is 4: current value is 5",
    ],
  ];
  for (const [given, reason] of refused) {
    assert.throws(() => begin(given), {
      name: "OptionError",
      message: `Cannot train as ${reason}`,
    });
  }
  assert.throws(() => resume({ cooldown: 5 }, begin({}).kept), /cooldown needs schedule wsd/);
  const begun = begin({ schedule: "constant" }).kept;
  assert.throws(
    () => resume({ cooldown: 1e9 }, { ...begun, step: 20 }),
    /cooldown must be at most 999999980 after step 20: current value is 1000000000/,
  );
  assert.throws(() => checkRates({ schedule: "constant", minLearningRate: 1e-5 }), {
    message:
      "Cannot train as minLearningRate must be given without schedule constant: current value is 0.00001",
  });
});

Deno.test("resolveOptions() computes a hundredth of the learning rate without the noise of binary fractions", () => {
  for (const [rate, text] of [[3e-3, "0.00003"], [7e-2, "0.0007"], [1e-2, "0.0001"]] as const) {
    assert.equal(`${begin({ learningRate: rate }).resolved.minLearningRate}`, text);
  }
});

Deno.test("typedNames() leaves out options that are auto and those that no checkpoint stores", () => {
  const given = { out: "x", fresh: true, workers: 2, preset: "auto", steps: 3, seed: 1 } as const;
  assert.deepEqual(typedNames({ ...given, epochs: undefined }), ["steps", "seed"]);
  const { options } = begin({ ...given, steps: 3 }).kept;
  for (const name of ["out", "fresh", "workers"]) assert.ok(!(name in options), name);
});

Deno.test("resolveOptions() computes the intervals from the number of steps", () => {
  const of = (steps: number) => {
    const { warmupSteps, evalEvery, saveEvery, sampleEvery, logEvery } = begin({ steps }).resolved;
    return [warmupSteps, evalEvery, saveEvery, sampleEvery, logEvery];
  };
  // a twentieth, at most 200; a tenth; a tenth; two tenths; a hundredth
  assert.deepEqual(of(1), [1, 1, 1, 2, 1]);
  assert.deepEqual(of(45), [3, 5, 5, 10, 1]);
  assert.deepEqual(of(2000), [100, 200, 200, 400, 20]);
  assert.deepEqual(of(10_000), [200, 1000, 1000, 2000, 100]);
});

Deno.test("resolveOptions() ends with the steps or the epochs, whichever come first", () => {
  const of = (given: Partial<TrainOptions>) => { // of 30 steps a pass
    const { steps, endsWith } = begin(given).resolved;
    return [steps, endsWith];
  };
  assert.deepEqual(of({}), [1700, "steps"]);
  assert.deepEqual(of({ epochs: 1.01 }), [31, "epochs"]);
  assert.deepEqual(of({ epochs: 1e-3 }), [1, "epochs"]);
  assert.deepEqual(of({ epochs: 2, steps: 59 }), [59, "steps"]);
  assert.deepEqual(of({ epochs: 2, steps: 61 }), [60, "epochs"]);
});

Deno.test("resolveOptions() takes dimensions from the preset unless they are given, and the rate from the width", () => {
  const of = (given: Partial<TrainOptions>) => {
    const { layers, width, heads, kvHeads, headSize, hidden, learningRate } = begin(given).resolved;
    return [layers, width, heads, kvHeads, headSize, hidden, learningRate];
  };
  assert.deepEqual(of({}), [2, 64, 2, 2, 32, 256, 5e-3]);
  assert.deepEqual(of({ layers: 3, heads: 4 }), [3, 64, 4, 4, 16, 256, 5e-3]);
  assert.deepEqual(of({ width: 512 }), [2, 512, 2, 2, 256, 2048, 6.3e-4]);
  assert.deepEqual(of({ width: 512, hidden: 100, learningRate: 1 }), [2, 512, 2, 2, 256, 100, 1]);
  assert.deepEqual(of({ kvHeads: 1, headSize: 8 }), [2, 64, 2, 1, 8, 256, 5e-3]);
  // 8/3 of the width, in whole 32s
  assert.deepEqual(of({ arch: "llama" }), [2, 64, 2, 2, 32, 192, 5e-3]);
  assert.deepEqual(of({ mlp: "swiglu", width: 512 }), [2, 512, 2, 2, 256, 1376, 6.3e-4]);
});

Deno.test("resolveOptions() takes the parts of an architecture from arch unless they are given", () => {
  const partsOf = (given: Partial<TrainOptions>) => {
    const { arch, norm, positions, mlp, biases, qkNorm, zeroInit } = begin(given).resolved;
    return { arch, norm, positions, mlp, biases, qkNorm, zeroInit };
  };
  assert.deepEqual(partsOf({}), { arch: "neox", ...ARCHITECTURES.neox });
  assert.deepEqual(partsOf({ arch: "gpt2" }), { arch: "gpt2", ...ARCHITECTURES.gpt2 });
  assert.deepEqual(partsOf({ arch: "neox" }), {
    ...{ arch: "neox", ...ARCHITECTURES.gpt2, positions: "rotary" },
  });
  assert.deepEqual(partsOf({ arch: "modern" }), { arch: "modern", ...ARCHITECTURES.modern });
  assert.deepEqual(partsOf({ arch: "llama", biases: "on", qkNorm: "on" }), {
    ...{ arch: "llama", ...ARCHITECTURES.llama, biases: "on", qkNorm: "on" },
  });
});

Deno.test("newModel() makes the configuration that the options describe, however they describe it", () => {
  const made = (given: Partial<TrainOptions>) => {
    const { vocabularySize: _, ...config } = newModel({
      ...begin(given).resolved,
      vocabularySize: 9,
    });
    return config;
  };
  const { nano } = PRESETS;
  assert.deepEqual(made({}), { ...nano, family: "gpt_neox" });
  assert.deepEqual(made({ arch: "gpt2" }), nano);
  assert.deepEqual(made({ arch: "llama", kvHeads: 1, rotaryBase: 500, windows: "0,8" }), {
    ...{ ...nano, family: "llama", keyHeads: 1, rotaryBase: 500, attentionWindows: [0, 8] },
  });
  assert.deepEqual(made({ arch: "modern", hidden: 100 }), {
    ...{ ...nano, family: "llama", activation: "relu2", gatedMlp: false, qkNorm: true },
    innerWidth: 100,
  });
  assert.deepEqual(made({ arch: "gpt2", norm: "rmsnorm", biases: "off" }), {
    ...{ ...nano, norm: "rmsnorm", qkvBias: false, projectionBias: false, mlpBias: false },
  });
  const parts = { norm: "rmsnorm", positions: "rotary", mlp: "swiglu", biases: "off" } as const;
  assert.deepEqual(made(parts), made({ arch: "llama" }));
});

Deno.test("checkArchitecture() throws on windows and bases that have no meaning", () => {
  const check = (given: Partial<TrainOptions>) => {
    const options = { ...DEFAULT_OPTIONS, ...given };
    checkArchitecture(options, sizesOf(options, presetDefaults("nano")));
  };
  check({ windows: "0", arch: "llama", rotaryBase: 1e5 });
  check({ windows: "8,0" });
  for (const windows of ["8,0,8", "1.5", "-1", "", "8,", "1e3", "9999999"]) {
    assert.throws(() => check({ windows }), {
      name: "OptionError",
      message:
        "Cannot train as windows must be whole numbers up to 1000000, separated by commas, " +
        `at most one per layer of 2: current value is ${windows}`,
    });
  }
  check({ rotaryBase: 1e5 });
  assert.throws(() => check({ arch: "gpt2", rotaryBase: 1e5 }), {
    name: "OptionError",
    message:
      "Cannot train as rotaryBase needs positions rotary: current value of positions is learned",
  });
});

Deno.test("checkDimensions() throws when the heads do not divide the width, or are too large", () => {
  const check = (given: Partial<TrainOptions>) => {
    const options = { ...DEFAULT_OPTIONS, ...given };
    checkDimensions(sizesOf(options, presetDefaults("nano")), options, "nano");
  };
  check({ width: 1024, heads: 4 });
  check({ width: 100, heads: 3, headSize: 8 });
  for (
    const [given, message] of [
      [
        { kvHeads: 4 },
        "heads must be a multiple of kvHeads: current values are heads 2 of preset nano and kvHeads 4",
      ],
      [
        { headSize: 6 },
        "width and headSize must be multiples of 4: current values are width 64 of preset nano and headSize 6",
      ],
    ] as const
  ) {
    assert.throws(() => check(given), {
      name: "OptionError",
      message: `Cannot train as ${message}`,
    });
  }
  const start =
    "Cannot train as width must be a multiple of 4 · heads and at most 256 · heads: current values are ";
  for (
    const [given, current] of [
      [{ heads: 3 }, "width 64 of preset nano and heads 3"],
      [{ width: 100 }, "width 100 and heads 2 of preset nano"],
      [{ width: 1028, heads: 4 }, "width 1028 and heads 4"],
      [{ width: 2048, heads: 4 }, "width 2048 and heads 4"],
    ] as const
  ) {
    assert.throws(() => check(given), { name: "OptionError", message: start + current });
  }
});

Deno.test("checkInitial() throws when an option contradicts the initial model", () => {
  const config = { ...PRESETS.nano, vocabularySize: 9, innerWidth: 100 };
  const same = { layers: 2, width: 64, heads: 2, hidden: 100 };
  checkInitial({ ...DEFAULT_OPTIONS, ...same }, config);
  assert.throws(() => checkInitial({ ...DEFAULT_OPTIONS, hidden: 256 }, config), {
    name: "OptionError",
    message:
      "Cannot train as hidden must be 100, as in the model of initFrom: current value is 256",
  });
});

Deno.test("fineTuningDefaults() gives a tenth of GPT-2's rate by width, and ten times as much for adapters", () => {
  const gpt2 = { ...PRESETS.gpt2, vocabularySize: 50257 };
  assert.deepEqual(fineTuningDefaults(gpt2), {
    ...{ batchSize: 8, contextLength: 1024, learningRate: 4e-5, steps: 1000 },
    ...{ layers: 12, width: 768, heads: 12, kvHeads: 12, headSize: 64, hidden: 3072 },
  });
  const narrow = fineTuningDefaults({ ...gpt2, width: 384, contextLength: 100 });
  assert.deepEqual([narrow.learningRate, narrow.batchSize], [8e-5, 32]);
  const lora = { rank: 4, alpha: 8, targets: ["c_attn"] };
  assert.equal(fineTuningDefaults({ ...gpt2, lora, contextLength: 8193 }).learningRate, 4e-4);
  assert.equal(fineTuningDefaults({ ...gpt2, contextLength: 8193 }).batchSize, 1);
});

Deno.test("resumeOptions() throws only when an option changes that the checkpoint's tensors depend on", () => {
  const saved = {
    ...DEFAULT_OPTIONS,
    ...{ preset: "nano", vocabulary: "compact", precision: "f32", contextLength: 8, batchSize: 2 },
  };
  const resume = (given: Partial<TrainOptions>) =>
    resumeOptions(given, { options: saved, typed: [], step: 0 }, "x").options;
  const fixed: Partial<TrainOptions> = {
    preset: "mini",
    layers: 3,
    width: 8,
    heads: 1,
    hidden: 9,
    vocabulary: "full",
    freeze: "0",
    loraRank: 4,
    loraAlpha: 4,
    loraTargets: "c_attn",
    sequence: "padded",
    precision: "f16",
    contextLength: 9,
    batchSize: 3,
    gradientAccumulation: 2,
    seed: 2,
  };
  for (const [name, value] of Object.entries(fixed)) {
    assert.throws(() => resume({ [name]: value }), {
      name: "UserError",
      message: new RegExp(`^Cannot resume x as ${name} must stay .*: current value is ${value}$`),
    });
    assert.equal(resume({ [name]: "auto" })[name as keyof TrainOptions], saved[name as "seed"]);
  }
  const free: Partial<TrainOptions> = {
    ...{ learningRate: 1e-4, minLearningRate: 1e-5, warmupSteps: 3, weightDecay: 0.2, beta1: 0.8 },
    ...{ beta2: 0.9, gradientClip: 2, dropout: 0.2, labelSmoothing: 0.1, evalEvery: 3, keep: 9 },
    ...{ evalTokens: 9, saveEvery: 3, sampleEvery: 3, logEvery: 3, tune: "off" },
  };
  for (const [name, value] of Object.entries(free)) {
    assert.equal(resume({ [name]: value })[name as keyof TrainOptions], value);
  }
});

Deno.test("resumeOptions() keeps a number of checkpoints of an earlier version, until auto is given", () => {
  const state = { options: { ...DEFAULT_OPTIONS, keep: 3, tune: "off" }, typed: ["tune"], step: 0 };
  assert.equal(DEFAULT_OPTIONS.keep, "auto");
  assert.equal(resumeOptions({}, state, "x").options.keep, 3);
  const { options } = resumeOptions({ keep: "auto", tune: "auto" }, state, "x");
  assert.deepEqual([options.keep, options.tune], ["auto", "auto"]);
});
