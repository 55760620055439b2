import assert from "node:assert/strict";
import { join } from "node:path";
import type { Batch } from "../../data/tokens/batch.ts";
import { Batches } from "../../data/tokens/batches.ts";
import type { Corpus } from "../../data/tokens/corpus.ts";
import { type TokenDataset, tokenDataset } from "../../data/tokens/token_dataset.ts";
import type { Tokenizer } from "../../data/tokenizer/tokenizer.ts";
import type { JsonObject } from "../../files/json.ts";
import { trainTokenizer } from "../../data/tokenizer/train.ts";
import { readTrainerState } from "../../model/files/checkpoint.ts";
import { oneRank } from "../../distributed/transport.ts";
import { createGpt } from "../../model/gpt.ts";
import { initializeParameters } from "../../model/weights.ts";
import type { OuterStep } from "../../train/diloco.ts";
import { openRunDirectory } from "../../train/directory/run_directory.ts";
import type { TrainEvent } from "../../train/events.ts";
import type { ResolvedOptions } from "../../train/options.ts";
import { openRecord } from "../../train/record/record.ts";
import { learningRateAt } from "../../train/schedule.ts";
import { createTrainStep } from "../../train/step.ts";
import type { StepReport } from "../../train/step_state.ts";
import { StepShare } from "../../train/step_share.ts";
import { steps } from "../../train/steps.ts";
import { directory, readFields } from "../checkpoints.ts";
import { device } from "../kernels/harness.ts";

const CONFIG = { vocabularySize: 257, contextLength: 4, width: 8, layers: 1, heads: 1 };

const OPTIONS = {
  steps: 6,
  endsWith: "epochs",
  batchSize: 2,
  contextLength: 4,
  gradientAccumulation: 3,
  syncEvery: 1,
  learningRate: 1,
  minLearningRate: 0.25,
  schedule: "cosine",
  warmupSteps: 2,
  cooldown: 0,
  dropout: 0,
  seed: 5,
  precision: "f16",
  evalEvery: 0,
  saveEvery: 0,
  sampleEvery: 0,
  patience: 0,
  keep: 9,
} as ResolvedOptions;

/** Of a step, where nothing is said of it. */
const REPORT: StepReport = {
  loss: 3,
  gradientNorm: 1,
  lossScale: 1024,
  skipped: false,
  consecutiveSkips: 0,
  skippedSteps: 0,
};

/** What a training is made of, with what the test says in place of the device's work. */
interface Script {
  options?: Partial<ResolvedOptions>;
  /** The report on a step, counted from 1. */
  report?: (step: number) => Partial<StepReport>;
  /** Losses of the evaluations, one after the other. */
  losses?: number[];
  first?: number;
  /** Whether their evaluation was cut off. */
  isEvaluationCut?: boolean;
  bestLoss?: number;
  /** Losses of the evaluations before `first`, which the record has. */
  earlierLosses?: number[];
  /** Milliseconds that a read-back of so many steps takes. */
  readBackMs?: (count: number) => number;
  /** Which evaluation the signal cuts off, from 1. */
  cutsEvaluation?: number;
  /** Time until the training must end. */
  secondsLeft?: () => number;
  /** Is called with each event. */
  onEvent?: (event: TrainEvent, abort: () => void) => void;
  /** The step, counted from 1, whose submission is interrupted. */
  abortAt?: number;
  /** Is called after each exchange of weights with the number of steps submitted. */
  onExchange?: (step: number) => void;
}

/** Held-out documents. */
function heldOut({ encodeDocument, endOfText }: Tokenizer, texts: string[]): TokenDataset {
  const documents = texts.map((text) => [...encodeDocument(text), endOfText]);
  return tokenDataset(Uint32Array.from(documents.flat()), [0, documents[0]!.length]);
}

/** Runs a training as the script says; its events, and what was submitted. */
async function runScript(
  name: string,
  {
    options,
    report,
    losses = [],
    readBackMs = () => 1e9,
    onEvent,
    onExchange,
    abortAt,
    cutsEvaluation,
    earlierLosses = [],
    ...rest
  }: Script,
) {
  const gpt = createGpt(device, CONFIG, { precision: "f32" });
  initializeParameters(gpt, { seed: 1 });
  const tokenizer = await trainTokenizer(["the cat"], { vocabularySize: 257 });
  const resolved = { ...OPTIONS, ...options };
  const trainStep = createTrainStep(gpt, {
    ...{ batchSize: 2, sequenceLength: 4, gradientAccumulation: 3, dropout: 0, seed: 5 },
    ...{ labelSmoothing: 0, gradientClip: 1, weightDecay: 0, beta1: 0.9, beta2: 0.99 },
  });
  const batches = new Batches(
    tokenDataset(Uint32Array.from({ length: 200 }, (_, i) => i)),
    { batchSize: 2, contextLength: 4, sequence: "packed", seed: 5, padding: 256 },
  );
  const run = openRunDirectory(join(directory, name)), controller = new AbortController();
  const submitted: { step: number; batches: readonly Batch[]; learningRate: number }[] = [];
  const readBacks: number[] = [], events: TrainEvent[] = [], evaluatedAfter: number[] = [];
  const record = await openRecord(run, 0), { first = 0 } = rest;
  if (first > 0 && !rest.isEvaluationCut) record.add({ kind: "evaluation", step: first });
  for (const loss of earlierLosses) {
    record.add({ kind: "evaluation", step: first, loss, bitsPerByte: loss / 2 });
  }
  let clock = 0;
  const { now } = performance;
  performance.now = () => clock;
  try {
    const loop = steps({
      ...{ directory: run, batches, gpt, options: resolved, source: undefined, typed: [] },
      record,
      corpus: {
        ...{ tokenizer, name: "x", hash: "y", entropyPerToken: 0.5 },
        validation: heldOut(tokenizer, ["the cat sat", "the hat fell down"]),
      } as unknown as Corpus,
      trainStep: {
        ...trainStep,
        submit(step, { length, at }, { learningRate, counted }) {
          const batches = Array.from({ length }, (_, i) => at(i)!);
          assert.equal(counted, batches.reduce((sum, batch) => sum + batch.counted, 0));
          submitted.push({ step, batches, learningRate });
          if (submitted.length === abortAt) controller.abort();
          return Promise.resolve(0.25);
        },
        state() {
          const optimizerSteps = (submitted.at(-1)?.step ?? first - 1) + 1;
          const skips = { skippedSteps: 0, consecutiveSkips: 0 };
          const scale = { lossScale: 65536, growthTracker: optimizerSteps };
          return Promise.resolve({ optimizerSteps, ...scale, ...skips });
        },
        reports(count) {
          clock += readBackMs(count);
          readBacks.push(count);
          const done = submitted.at(-1)!.step + 1;
          return Promise.resolve(Array.from({ length: count }, (_, i) => (
            { ...REPORT, ...report?.(done - count + 1 + i) }
          )));
        },
      },
      evaluate() {
        clock += 5e5; // which is not part of any step's time
        evaluatedAfter.push(submitted.length);
        if (evaluatedAfter.length === cutsEvaluation) {
          controller.abort();
          return Promise.reject(controller.signal.reason);
        }
        const loss = losses.shift() ?? 1;
        return Promise.resolve({ loss, perplexity: 2, bitsPerByte: 3, tokens: 4 });
      },
      signal: controller.signal,
      transport: oneRank,
      share: new StepShare(oneRank, batches, {
        ...{ step: first, batchIndex: 3 * first, gradientAccumulation: 3, syncEvery: 1 },
      }),
      ...(onExchange
        ? {
          outer: {
            momentum: trainStep.gradients.flat,
            takeMs: () => undefined,
            run: () => Promise.resolve(onExchange(submitted.length)),
          } as Partial<OuterStep> as OuterStep,
        }
        : {}),
      seconds: () => clock / 1000,
      secondsLeft: rest.secondsLeft,
      bestLoss: rest.bestLoss ?? null,
      ...(first > 0 ? { path: join(directory, name, "before") } : {}),
    });
    for await (const event of loop) {
      events.push(event);
      onEvent?.(event, () => controller.abort());
    }
  } finally {
    performance.now = now;
    run.close();
    trainStep.destroy();
    gpt.destroy();
  }
  return { events, submitted, readBacks, evaluatedAfter, batches };
}

const told = (events: TrainEvent[]) =>
  events.map((event) => "step" in event ? `${event.kind} ${event.step}` : event.kind);

Deno.test("steps() evaluates, draws a sample and saves when it is due, and at the end", async () => {
  const { events } = await runScript("due", {
    options: { steps: 7, evalEvery: 3, saveEvery: 2, sampleEvery: 2 },
  });
  assert.deepEqual(told(events), [
    "step 1",
    ...["step 2", "sample 2", "checkpoint 2"],
    ...["step 3", "evaluation 3"],
    ...["step 4", "sample 4", "checkpoint 4"],
    "step 5",
    ...["step 6", "evaluation 6", "sample 6", "checkpoint 6"],
    ...["step 7", "evaluation 7", "checkpoint 7", "end 7"],
  ]);
  const samples = events.filter((event) => event.kind === "sample");
  assert.deepEqual(samples.map(({ prompt }) => prompt), [
    ...["the hat", "the", "the hat"],
  ]);
  assert.equal(new Set(samples.map(({ text }) => text)).size, 3, "each has a seed of its own");
  const end = events.at(-1)!;
  assert.ok(end.kind === "end" && end.reason === "epochs" && end.prompt === "the");
  assert.equal(end.path, join(directory, "due", "checkpoints", "000007"));
  const evaluation = events.find((event) => event.kind === "evaluation");
  assert.ok(evaluation?.kind === "evaluation" && evaluation.entropyPerToken === 0.5);
});

Deno.test("steps() appends what it reports of a run to its record", async () => {
  const { events } = await runScript("recorded", {
    options: { steps: 5, evalEvery: 1, sampleEvery: 4 },
    losses: [2, 1, 3, 3, 3],
    report: (step) => ({ loss: step === 2 ? NaN : 3, lossScale: step === 3 ? 0.5 : 1 }),
    readBackMs: () => 1,
  });
  const lines = Deno.readTextFileSync(join(directory, "recorded", "metrics.jsonl")).trim();
  const recorded = lines.split("\n").map((line) => {
    const { time, ...metric } = JSON.parse(line);
    assert.match(time, /^\d{4}-\d\d-\d\dT.*Z$/);
    return metric;
  });
  const unrecorded = ["steps", "secondsLeft", "best", "path"];
  const reported = events.filter(({ kind }) => kind !== "checkpoint").map((event) => {
    const isRecorded = (name: string) =>
      !unrecorded.includes(name) &&
      !(event.kind === "end" && !["kind", "step", "reason"].includes(name)) &&
      !(event.kind === "step" && name === "epoch");
    return JSON.parse(JSON.stringify(
      Object.fromEntries(Object.entries(event).filter(([name]) => isRecorded(name))),
    ));
  });
  assert.deepEqual(recorded, reported);
  assert.deepEqual(told(events).filter((name) => !name.startsWith("checkpoint")), [
    ...["step 1", "evaluation 1", "step 2", "evaluation 2"],
    ...["step 3", "warning 3", "evaluation 3", "step 4", "evaluation 4", "sample 4"],
    ...["step 5", "evaluation 5", "warning 5", "end 5"],
  ]);
  assert.deepEqual(recorded.at(-1), { kind: "end", step: 5, reason: "epochs" });
  assert.ok(recorded.every(({ kind, dataMs }) => kind !== "step" || dataMs === 0.25));
});

Deno.test("steps() saves and ends when its signal interrupts an evaluation, and evaluates when it resumes", async () => {
  const cut = await runScript("cut", {
    options: { steps: 7, evalEvery: 3, saveEvery: 10, sampleEvery: 3 },
    cutsEvaluation: 1,
  });
  assert.deepEqual(told(cut.events).slice(2), ["step 3", "checkpoint 3", "end 3"]);
  for (
    const [first, steps, after] of [[3, 4, ["step 4", "evaluation 4", "checkpoint 4"]], [7, 7, []]]
  ) {
    const { events } = await runScript(`cut before ${first}`, {
      options: { steps: steps as number, evalEvery: 3, saveEvery: 10 },
      ...{ first: first as number, isEvaluationCut: true },
    });
    assert.deepEqual(told(events), [
      ...[`evaluation ${first}`, `checkpoint ${first}`, ...after as string[]],
      `end ${steps}`,
    ]);
  }
  const last = await runScript("cut at the end", {
    options: { steps: 2, evalEvery: 0 },
    cutsEvaluation: 1,
  });
  assert.deepEqual(told(last.events).slice(2), ["checkpoint 2", "end 2"]);
  const end = last.events.at(-1)!;
  assert.ok(end.kind === "end" && end.reason === "interrupted");
});

Deno.test("steps() submits every micro-batch once, in order, with the learning rate of its step", async () => {
  const { submitted, batches } = await runScript("submitted", { first: 2 });
  assert.deepEqual(submitted.map(({ step }) => step), [2, 3, 4, 5]);
  submitted.forEach(({ step, learningRate, batches: micro }) => {
    assert.equal(learningRate, learningRateAt(step, OPTIONS));
    assert.deepEqual(micro, [0, 1, 2].map((i) => batches.at(3 * step + i)), `step ${step}`);
  });
  const { batchIndex, epoch, step } = readTrainerState(
    join(directory, "submitted", "checkpoints", "000006"),
  );
  // an epoch has 49 rows, a step takes six
  assert.deepEqual([step, batchIndex, epoch], [6, 18, 0]);
});

Deno.test("steps() reads the reports of about a second together, before an evaluation, sample or checkpoint", async () => {
  const { events, readBacks, submitted } = await runScript("together", {
    options: { steps: 40, evalEvery: 16 },
    readBackMs: (count) => 100 * count,
    report: (step) => ({
      loss: step,
      gradientNorm: 2 * step,
      lossScale: 2 ** step,
      skippedSteps: 3,
    }),
  });
  assert.equal(submitted.length, 40);
  // one, ten as each takes 100 ms, the five to the evaluation, ten, six to the next, eight to the end
  assert.deepEqual(readBacks, [1, 10, 5, 10, 6, 8]);
  const reported = events.filter((event) => event.kind === "step");
  reported.forEach((event, i) => {
    const step = i + 1;
    const { learningRate, loss, gradientNorm, lossScale, skipped, steps } = event;
    assert.deepEqual([event.step, loss, gradientNorm, lossScale, skipped, steps], [
      ...[step, step, 2 * step, 2 ** step, 3, 40],
    ]);
    assert.equal(learningRate, learningRateAt(i, { ...OPTIONS, steps: 40 }), `step ${step}`);
  });
  // 2 rows of 4 tokens, three times, in 100 ms; the first step, which compiles, has no speed
  assert.ok(!("tokensPerSecond" in reported[0]!) && !("secondsLeft" in reported[0]!));
  for (const { tokensPerSecond } of reported.slice(1)) assert.equal(tokensPerSecond, 240);
  // of those that are read together all count from the last one
  assert.deepEqual(reported.slice(1).map(({ secondsLeft }) => Number(secondsLeft!.toFixed(6))), [
    ...new Array(10).fill(2.9),
    ...new Array(5).fill(2.4),
    ...new Array(10).fill(1.4),
    ...new Array(6).fill(0.8),
    ...new Array(8).fill(0),
  ]);
});

Deno.test("steps() marks the evaluation with the lowest loss as the best, also when a run is resumed", async () => {
  const bestOf = (events: TrainEvent[]) =>
    events.flatMap((event) => event.kind === "evaluation" ? [event.best] : []);
  const hint = (name: string) => Deno.readTextFileSync(join(directory, name, "best"));
  const options = { evalEvery: 1, saveEvery: 1 };
  const fresh = await runScript("best", { options, losses: [3, 2, 2.5, 2, 1.9, 1.95] });
  assert.deepEqual(bestOf(fresh.events), [true, true, false, false, true, false]);
  assert.equal(hint("best"), "000005\n");
  const path = join(directory, "best", "checkpoints", "000006");
  assert.equal(readTrainerState(path).bestValidationLoss, 1.9);
  const resumed = await runScript("best again", {
    options,
    ...{ first: 3, bestLoss: 2, losses: [2.1, 1.8, 1.9] },
  });
  assert.deepEqual(bestOf(resumed.events), [false, true, false]);
  // a checkpoint without an evaluation is not the best, however good the last one was
  const sparse = await runScript("sparse", {
    options: { evalEvery: 3, saveEvery: 2 },
    losses: [2, 3],
  });
  assert.deepEqual(bestOf(sparse.events), [true, false]);
  assert.throws(() => hint("sparse"), { code: "ENOENT" });
});

Deno.test("steps() ends in time when steps are slower than expected, with the cool-down done", async () => {
  const { events } = await runScript("in time", {
    options: {
      minutes: 1.5,
      steps: 1000,
      schedule: "wsd",
      cooldown: 3,
      minLearningRate: 0,
      warmupSteps: 0,
      saveEvery: 1000,
    },
    secondsLeft: () => 100 - performance.now() / 1000,
    readBackMs: (count) => 5000 * count,
  });
  const notices = events.flatMap((event) => event.kind === "notice" ? [event.message] : []);
  assert.deepEqual(notices, [
    "no more steps fit into --minutes 1.5: the training ends after step 20 instead of 1000, " +
    "and the cool-down begins after step 17",
  ]);
  const end = events.at(-1)!, steps = events.filter((event) => event.kind === "step");
  assert.ok(end.kind === "end" && end.reason === "epochs" && end.step === 20);
  const { learningRate } = steps.at(-1)!;
  assert.equal(learningRate, 1 - Math.sqrt(3 / 4));
  assert.equal(readFields(end.path).step, end.step);
  assert.equal((readFields(end.path).options as JsonObject).steps, end.step);
});

Deno.test("steps() does all steps when the machine is slow for a while before the cool-down", async () => {
  let done = 0;
  const { events } = await runScript("slow for a while", {
    options: {
      steps: 60,
      schedule: "wsd",
      cooldown: 5,
      minLearningRate: 0,
      warmupSteps: 0,
      saveEvery: 1000,
    },
    secondsLeft: () => 100 - performance.now() / 1000,
    readBackMs: (count) => (done += count) <= 5 ? 5000 * count : 1000 * count,
  });
  assert.deepEqual(events.filter(({ kind }) => kind === "notice"), []);
  const end = events.at(-1)!;
  assert.ok(end.kind === "end" && end.step === 60);
});

Deno.test("steps() ends when --patience evaluations in a row are not better, and its best checkpoint stays", async () => {
  const endOf = (events: TrainEvent[]) => {
    const end = events.at(-1)!;
    assert.ok(end.kind === "end");
    return [end.reason, end.step, end.best];
  };
  const at = (name: string, step: number) => join(directory, name, "checkpoints", `00000${step}`);
  const options = { evalEvery: 1, patience: 2, keep: 1 };
  const { events } = await runScript("patient", { options, losses: [3, 2, 2.5, 1.9, 1.9, 2] });
  assert.deepEqual(endOf(events), ["epochs", 6, at("patient", 4)]);
  const short = await runScript("out of patience", { options, losses: [3, 2, 2, 2.1, 1] });
  assert.deepEqual(endOf(short.events), ["patience", 4, at("out of patience", 2)]);
  // each evaluation that is the best so far has a checkpoint, and the last step has one
  assert.deepEqual(told(short.events), [
    ...["step 1", "evaluation 1", "checkpoint 1"],
    ...["step 2", "evaluation 2", "checkpoint 2"],
    ...["step 3", "evaluation 3"],
    ...["step 4", "evaluation 4", "checkpoint 4", "end 4"],
  ]);
  assert.ok(Deno.statSync(at("out of patience", 2)).isDirectory);
  const never = await runScript("never impatient", {
    options: { ...options, patience: 0 },
    losses: [3, 4, 5, 6, 7, 8],
  });
  assert.deepEqual(endOf(never.events), ["epochs", 6, undefined]);
});

Deno.test("steps() counts the evaluations before a resume for --patience", async () => {
  const resume = (name: string, patience: number, losses: number[]) =>
    runScript(name, {
      options: { evalEvery: 1, patience },
      ...{ first: 3, bestLoss: 2, earlierLosses: [3, 2, 2.5], losses },
    });
  assert.deepEqual(told((await resume("second", 2, [2.1])).events), [
    ...["step 4", "evaluation 4", "checkpoint 4", "end 4"],
  ]);
  assert.deepEqual(told((await resume("better", 2, [1.9, 2, 2])).events).at(-1), "end 6");
  // it had ended, or --patience is lower than before: there is nothing to do
  const { events } = await resume("ended", 1, []);
  assert.deepEqual(told(events), ["end 3"]);
  const end = events[0]!;
  assert.ok(end.kind === "end" && end.reason === "patience");
  // of the evaluation before
  assert.deepEqual([end.loss, end.bitsPerByte, end.seconds], [2.5, 1.25, 0]);
});

Deno.test("steps() warns when the loss scale falls below 1, and throws after 100 skips in a row", async () => {
  const warnings = (events: TrainEvent[]) =>
    events.flatMap((event) => event.kind === "warning" ? [event] : []);
  const scales = [4, 1, 0.5, 1, 2, 4];
  const { events } = await runScript("fallen", {
    report: (step) => ({ lossScale: scales[step - 1]! }),
  });
  const [{ message, ...warning }, ...more] = warnings(events) as [TrainEvent & { kind: "warning" }];
  assert.deepEqual(warning, { kind: "warning", step: 3, name: "overflowing-gradients" });
  assert.match(message, /^the loss scale fell to 0\.5: gradients exceed 65,504/);
  assert.deepEqual(more, []);
  const skipping = (most: number, options = {}) =>
    runScript(`skipping ${most} ${Object.keys(options)}`, {
      options,
      report: (step) => ({ consecutiveSkips: step === 4 ? most : 0, skipped: step === 4 }),
    });
  assert.equal((await skipping(99)).events.at(-1)!.kind, "end");
  await assert.rejects(skipping(100), {
    name: "UserError",
    message: /as 100 steps in a row had a gradient that is not finite: .* \(it is 1\)/,
  });
  await assert.rejects(
    skipping(100, { optimizer: "muon", muonLearningRate: 2 }),
    /try a lower learningRate \(it is 1\) or muonLearningRate \(it is 2\) or precision f32$/,
  );
});

Deno.test("steps() ends interrupted with a checkpoint after the step that is under way", async () => {
  const { events } = await runScript("aborted", {
    onEvent: (event, abort) => {
      if (event.kind === "step" && event.step === 3) abort();
    },
  });
  assert.deepEqual(told(events), ["step 1", "step 2", "step 3", "checkpoint 3", "end 3"]);
  const end = events.at(-1)!;
  assert.ok(end.kind === "end" && end.reason === "interrupted");
});

Deno.test("steps() saves nothing when all steps are done", async () => {
  const { events } = await runScript("done", { first: 6 });
  assert.deepEqual(told(events), ["end 6"]);
});

Deno.test("steps() reports every step before it ends interrupted", async () => {
  const { events, readBacks } = await runScript("aborted while steps wait", {
    readBackMs: () => 1, // so that many steps are read back together
    abortAt: 4,
  });
  assert.deepEqual(readBacks, [1, 3]);
  const steps = events.filter((event) => event.kind === "step").map(({ step }) => step);
  assert.deepEqual(steps, [1, 2, 3, 4]);
  const end = events.at(-1)!;
  assert.ok(end.kind === "end" && end.reason === "interrupted" && end.step === 4);
});

Deno.test("steps() evaluates, draws a sample and saves at the first exchange after it is due", async () => {
  const exchanged: number[] = [];
  const { events } = await runScript("exchanged", {
    options: { steps: 11, syncEvery: 4, evalEvery: 3, saveEvery: 5, sampleEvery: 8 },
    onExchange: (step) => exchanged.push(step),
  });
  assert.deepEqual(told(events).filter((name) => !name.startsWith("step")), [
    "evaluation 4",
    ...["evaluation 8", "sample 8", "checkpoint 8"],
    ...["evaluation 11", "checkpoint 11", "end 11"],
  ]);
  assert.deepEqual(exchanged, [4, 8, 11]);
});

Deno.test("steps() exchanges weights at once when its signal aborts between exchanges, and then at the same steps as before", async () => {
  const exchanged: number[] = [], options = { steps: 11, syncEvery: 4, evalEvery: 3 };
  const onExchange = (step: number) => exchanged.push(step);
  const cut = await runScript("cut-exchange", { options, abortAt: 6, onExchange });
  assert.deepEqual(told(cut.events).slice(-2), ["checkpoint 6", "end 6"]);
  const rest = await runScript("rest-exchange", { options, first: 6, onExchange });
  assert.deepEqual(told(rest.events).filter((name) => !name.startsWith("step")), [
    ...["evaluation 8", "evaluation 11", "checkpoint 11", "end 11"],
  ]);
  assert.deepEqual(exchanged, [4, 6, 2, 5]);
});

Deno.test("steps() saves at the last exchange before a cool-down", async () => {
  const { events } = await runScript("before-cooldown", {
    options: { steps: 12, syncEvery: 4, schedule: "wsd", cooldown: 5, saveEvery: 12 },
    onExchange: () => {},
  });
  const saved = told(events).filter((name) => name.startsWith("checkpoint"));
  assert.deepEqual(saved, ["checkpoint 4", "checkpoint 12"]);
});

Deno.test("steps() exchanges weights after the last step when the training becomes shorter between exchanges", async () => {
  const exchanged: number[] = [];
  const { events } = await runScript("short exchange", {
    options: { steps: 1000, syncEvery: 30, warmupSteps: 0 },
    secondsLeft: () => 100 - performance.now() / 1000,
    readBackMs: (count) => 5000 * count,
    onExchange: (step) => exchanged.push(step),
  });
  assert.deepEqual(told(events).slice(-3), ["evaluation 20", "checkpoint 20", "end 20"]);
  assert.deepEqual(exchanged, [20]);
});
