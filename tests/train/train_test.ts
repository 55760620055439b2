import assert from "node:assert/strict";
import { join } from "node:path";
import { listCheckpoints, readTrainerState } from "../../model/files/checkpoint.ts";
import { serializeState } from "../../model/files/trainer_state.ts";
import { readMetrics } from "../../train/record/metrics.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import { device } from "../kernels/harness.ts";
import { findModel } from "../../generate/source.ts";
import { directory } from "../checkpoints.ts";

const OPTIONS = {
  device,
  preset: "nano",
  contextLength: 8,
  batchSize: 2,
  tune: "off",
  vocabulary: "compact",
  precision: "f32",
  sampleEvery: 0,
} as const;

const TEXTS = Array.from({ length: 40 }, (_, i) => `One cat and ${i} dogs met in the park.`);

async function* streamed(texts: readonly string[]) {
  yield* texts;
}

async function trained(options: Parameters<typeof train>[0]): Promise<number[]> {
  const losses: number[] = [];
  for await (const event of train({ ...OPTIONS, ...options })) {
    if (event.kind === "step") losses.push(event.loss!);
  }
  return losses;
}

Deno.test("train() reads the texts that it is given, as an array or a stream, and resumes with the same", async () => {
  const whole = await trained({ texts: TEXTS, steps: 4, out: join(directory, "array") });
  assert.equal(whole.length, 4);
  const out = join(directory, "stream"), warmupSteps = 1, learningRate = 1e-3;
  const schedule = { warmupSteps, learningRate, minLearningRate: learningRate };
  const first = await trained({ texts: streamed(TEXTS), steps: 2, out, ...schedule });
  const rest = await trained({ texts: new Set(TEXTS), steps: 4, out, ...schedule });
  const once = join(directory, "once");
  const all = await trained({ texts: TEXTS, steps: 4, out: once, ...schedule });
  assert.deepEqual([...first, ...rest], all);
});

Deno.test("train() refuses to resume with other texts, and texts beside data", async () => {
  const out = join(directory, "others");
  await trained({ texts: TEXTS, steps: 1, out });
  await assert.rejects(() => trained({ texts: TEXTS.slice(1), steps: 2, out }), {
    name: "UserError",
    message: /its data must be unchanged: the given text has changed since$/,
  });
  await assert.rejects(() => trained({ texts: TEXTS.slice(1), steps: 2, out }), {
    hint: "Give the same texts, choose another out, or start over with fresh: true",
  });
  await assert.rejects(() => trained({ texts: ["a", 3] as string[], steps: 2, out }), {
    name: "UserError",
    message:
      "Cannot use the given text as text 2 must be a string, or a list of messages: current value is 3",
  });
  await assert.rejects(() => trained({ texts: TEXTS, data: "sample", steps: 2, out }), {
    name: "UserError",
    message: /^Cannot train on texts and data/,
  });
  await assert.rejects(() => trained({ steps: 2, out }), {
    name: "UserError",
    message: /its data must be readable/,
  });
});

Deno.test("train() resumes from an earlier checkpoint, of this run or in a new one, and loses nothing", async () => {
  const out = join(directory, "back"), branch = join(directory, "branch");
  const options = { texts: TEXTS, saveEvery: 1, keep: 9, learningRate: 1e-3, warmupSteps: 0 };
  const flat = { ...options, minLearningRate: 1e-3 };
  const losses = await trained({ ...flat, steps: 4, out });
  const names = (path: string) => [...Deno.readDirSync(path)].map(({ name }) => name).sort();
  const source = join(out, "checkpoints", "000002");
  assert.deepEqual(await trained({ ...flat, steps: 3, out: branch, resumeFrom: source }), [
    losses[2],
  ]);
  const record = (run: string, kind: string) =>
    readMetrics(join(run, "metrics.jsonl"), assert.fail).filter((line) => line.kind === kind);
  const [start] = record(branch, "start"), [, second] = record(out, "step");
  const { tokensBefore, secondsBefore, options: { gradientAccumulation } } = Object(start);
  assert.equal(tokensBefore, 2 * gradientAccumulation * 2 * 8);
  // the first step of a training has no speed, and counts as fast as the second
  assert.equal(secondsBefore, tokensBefore / second!.tokensPerSecond!);
  // the first is the evaluated start
  assert.deepEqual(names(join(branch, "checkpoints")), ["000002", "000003"]);
  assert.deepEqual(names(join(out, "checkpoints")), ["000001", "000002", "000003", "000004"]);

  assert.deepEqual(await trained({ ...flat, steps: 4, out, resumeFrom: "2" }), losses.slice(2));
  const starts = [...record(out, "start")];
  assert.deepEqual(starts.map((line) => line.tokensBefore), [undefined, undefined]);
  assert.deepEqual(names(join(out, "checkpoints-after-000002-1")), ["000003", "000004"]);
  assert.deepEqual(names(join(out, "checkpoints")), ["000001", "000002", "000003", "000004"]);

  const fails = (resumeFrom: string, message: RegExp, out: string) =>
    assert.rejects(() => trained({ ...flat, steps: 5, out, resumeFrom }), (error: Error) => {
      assert.match(error.message, message);
      return error.name === "UserError" || error.name === "CheckpointError";
    });
  await fails("7", /checkpoint "7" of .* its checkpoints are 1, 2, 3, 4$/, out);
  await fails(source, /must have no other checkpoints: it has 2$/, branch);
  await fails("3", /must have checkpoints: it has none$/, join(directory, "new"));
  await fails(out, /as resumeFrom must be best, .* checkpoint: it is a run$/, branch);
  await fails(
    "newest",
    /as resumeFrom must be best, .* checkpoint: there is no such directory$/,
    branch,
  );
  await assert.rejects(() => trained({ ...flat, steps: 5, out, resumeFrom: "2", fresh: true }), {
    message: /fresh must be given without resumeFrom, whose checkpoint it may move aside/,
  });

  // a new run has the checkpoint at once, its best evaluation is one of its own, and its time is that of both
  const lines = Deno.readTextFileSync(join(out, "metrics.jsonl"));
  Deno.writeTextFileSync(
    join(out, "metrics.jsonl"),
    lines.replace(/"tokensPerSecond":\d+/g, '"tokensPerSecond":0.01'),
  );
  const third = join(directory, "third"), later = { ...flat, steps: 9, evalEvery: 4, out: third };
  for await (const event of train({ ...OPTIONS, ...later, resumeFrom: source })) {
    if (event.kind === "step") break;
  }
  assert.deepEqual(names(join(third, "checkpoints")), ["000002"]);
  const events = await Array.fromAsync(train({ ...OPTIONS, ...later, steps: 4 }));
  const ofKind = <K extends TrainEvent["kind"]>(kind: K) =>
    events.filter((event): event is TrainEvent & { kind: K } => event.kind === kind);
  assert.deepEqual(ofKind("step").map(({ loss }) => loss), losses.slice(2));
  const [{ seconds, tokens }] = ofKind("end") as [TrainEvent & { kind: "end" }];
  assert.equal(tokens, 2 * tokensBefore);
  assert.ok(seconds > tokensBefore / 0.01, `${seconds} s`);
  assert.equal(Deno.readTextFileSync(join(third, "best")), "000004\n");
});

Deno.test("train() refuses texts that are none, and ends while it reads them", async () => {
  const out = join(directory, "none");
  for (const texts of ["one text", 5, null] as never[]) {
    await assert.rejects(() => trained({ texts, steps: 1, out }), {
      name: "UserError",
      message: /^Cannot use the given text as it must be an iterable of strings: current value is /,
    });
  }
  await assert.rejects(() => trained({ texts: [undefined] as never[], steps: 1, out }), {
    message:
      "Cannot use the given text as text 1 must be a string, or a list of messages: current value is undefined",
  });
  await assert.rejects(() => trained({ texts: TEXTS, validationTexts: "one", steps: 1, out }), {
    message:
      /^Cannot use the given validation text as it must be an iterable of strings: .* "one"$/,
  });
  const controller = new AbortController();
  async function* endless() {
    for (let read = 1;; read++) {
      if (read === 20) controller.abort();
      yield await new Promise<string>((resolve) => setTimeout(resolve, 0, "text"));
    }
  }
  await assert.rejects(
    () => trained({ texts: endless(), steps: 1, out, signal: controller.signal }),
    { name: "AbortError" },
  );
});

Deno.test("train() makes a model of the dimensions that are given, which a resumed run and another start keep", async () => {
  const out = join(directory, "dimensions"), texts = TEXTS;
  const given = { layers: 3, width: 24, heads: 3, hidden: 30 };
  await trained({ texts, steps: 1, out, ...given });
  const [checkpoint] = listCheckpoints(out);
  const { options, ...state } = readTrainerState(checkpoint!.path);
  for (const [name, value] of Object.entries(given)) assert.equal(options[name], value);
  const { config } = await findModel(out);
  const { layers, width, heads, innerWidth } = config;
  assert.deepEqual({ layers, width, heads, hidden: innerWidth }, given);

  // as an earlier version saved it
  const { layers: _l, width: _w, heads: _h, hidden: _f, ...old } = options;
  const file = join(checkpoint!.path, "trainer_state.json");
  Deno.writeTextFileSync(file, serializeState({ ...state, options: old }));
  await assert.rejects(() => trained({ texts, steps: 2, out, hidden: 96 }), {
    name: "UserError",
    message: /as hidden must stay 30: current value is 96$/,
  });
  await trained({ texts, steps: 2, out, ...given });

  const { preset: _, vocabulary: __, ...others } = OPTIONS;
  const tune = async (options: Parameters<typeof train>[0]) => {
    const target = { steps: 1, out: join(directory, "tuned"), initFrom: out, texts };
    for await (const event of train({ ...others, ...target, ...options })) {
      if (event.kind === "start") return event.options;
    }
  };
  await assert.rejects(() => tune({ layers: 2 }), {
    name: "OptionError",
    message: /^Cannot train as layers must be 3, as in the model of initFrom: current/,
  });
  const { layers: L, hidden: F } = (await tune({ layers: 3 }))!;
  assert.deepEqual([L, F], [3, 30]);
});

Deno.test("train() validates with texts that it is given, and trains on all others", async () => {
  const out = join(directory, "validated"), validationTexts = streamed(["A cat.", "A dog."]);
  let start, tokens;
  for await (const event of train({ ...OPTIONS, texts: TEXTS, validationTexts, steps: 1, out })) {
    if (event.kind === "start") start = event.corpus;
    if (event.kind === "evaluation") tokens = event.tokens;
  }
  assert.ok(start?.ownValidation);
  assert.equal(tokens, start.validationTokens);
  assert.equal(tokens, 8); // and the ends of both
  await assert.rejects(
    () => trained({ texts: TEXTS, validationTexts: TEXTS, validationData: ["x"], out }),
    { name: "UserError", message: /^Cannot validate with validationTexts and validationData/ },
  );
});

Deno.test("train() leaves a run as it is when it has done more than the steps", async () => {
  const out = join(directory, "further"), options = { texts: TEXTS, out, evalEvery: 0 };
  const losses = await trained({ ...options, steps: 5, saveEvery: 1, warmupSteps: 0 });
  const state = () => Deno.readTextFileSync(join(out, "checkpoints/000005/trainer_state.json"));
  const before = state();
  assert.deepEqual(await trained({ ...options, steps: 1, evalEvery: 1 }), []);
  assert.equal(state(), before);
  assert.equal((await trained({ ...options, steps: 6 })).length, 1);
  assert.equal(losses.length, 5);
  await assert.rejects(
    () =>
      trained({
        ...options,
        steps: 4,
        resumeFrom: join(out, "checkpoints/000005"),
        out: `${out}-on`,
      }),
    { name: "UserError", message: /must be above its 5: current value is 4$/ },
  );
});

Deno.test("train() with fresh gives a run its name back when it cannot start over", async () => {
  const out = join(directory, "kept"), options = { texts: TEXTS, out, fresh: true };
  await trained({ texts: TEXTS, out, steps: 1 });
  const names = () =>
    [...Deno.readDirSync(directory)].map(({ name }) => name)
      .filter((name) => name.startsWith("kept")).sort();
  await assert.rejects(() => trained({ ...options, width: 30 }), { name: /Error$/ });
  await assert.rejects(() => trained({ ...options, resumeFrom: "best" }), {
    name: "OptionError",
    message: /fresh must be given without resumeFrom/,
  });
  assert.deepEqual(names(), ["kept"]);
  await trained({ ...options, steps: 1 });
  assert.deepEqual(names(), ["kept", "kept-1"]);
});
