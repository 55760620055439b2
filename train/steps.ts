import { UserError } from "../files/user_error.ts";
import { generate } from "../generate/generate.ts";
import { DIVERGED } from "../kernels/sample/sample.ts";
import type { Evaluation } from "./evaluate.ts";
import { noticesOf, type TrainEvent } from "./events.ts";
import type { RunRecord } from "./record.ts";
import { learningRateAt } from "./schedule.ts";
import { saveCheckpoint, type Saved } from "./state.ts";
import { REPORT_ROWS } from "./step.ts";

/** Prompts of the samples during training, in turn. */
const SAMPLE_PROMPTS = ["Once upon a time", "One day"];

/** Tokens per sample. */
export const SAMPLE_TOKENS = 120;

/** Skipped steps in a row that end the training. */
const MOST_SKIPS = 100;

/** Milliseconds between reports: reading them back leaves the device idle for about 1 % of that time. */
const READ_BACK_MS = 1000;

/** What the training loop works with. */
export interface Loop extends Saved {
  record: RunRecord;
  /** Evaluates the model; throws the reason of `signal` if that aborts meanwhile. */
  evaluate: () => Promise<Evaluation>;
  signal: AbortSignal | undefined;
  /** Steps already done. */
  first: number;
  bestLoss: number | null;
  /** Checkpoint that the run was resumed from. */
  path?: string;
}

/**
 * Submits step after step. The host waits for the device only to read the reports of several steps together,
 * and before an evaluation, a sample or a checkpoint. An evaluation may take hours: one that the signal
 * interrupts is repeated when the run is resumed.
 */
export async function* steps(loop: Loop): AsyncGenerator<TrainEvent> {
  const { run, record, options, corpus, batches, gpt, trainStep, signal } = loop;
  const { gradientAccumulation, steps: total } = options;
  const tokensPerStep = options.batchSize * options.contextLength * gradientAccumulation;
  const entropy = corpus.entropyPerToken === undefined
    ? {}
    : { entropyPerToken: corpus.entropyPerToken };
  let { first: step, bestLoss, path } = loop;
  let evaluated = false, best = false, saved = path !== undefined;
  let unreported: { learningRate: number }[] = []; // steps that were submitted
  let since = performance.now(), stepsPerReport = 1;
  let applied = step === total; // whether a step changed the model, or none was to be done
  let compiled = false; // drivers compile a kernel when it first runs: the first step has no speed

  const due = (every: number) => every > 0 && step % every === 0;
  const isEvaluating = () => due(options.evalEvery) || step === total;
  const evaluate = async function* (): AsyncGenerator<TrainEvent> {
    let evaluation: Evaluation;
    try {
      evaluation = await loop.evaluate();
    } catch (error) {
      if (!signal?.aborted || error !== signal.reason) throw error;
      return;
    }
    evaluated = true;
    best = Number.isFinite(evaluation.loss) && (bestLoss === null || evaluation.loss < bestLoss);
    if (best) bestLoss = evaluation.loss;
    const metric = { kind: "evaluation" as const, step, ...evaluation, ...entropy };
    record.note([metric]);
    await record.draw();
    yield { ...metric, best };
    yield* noticesOf(run);
    if (!Number.isFinite(evaluation.loss)) {
      throw new UserError(
        `Cannot continue training as the validation loss must be finite: current value is ` +
          `${evaluation.loss} at step ${step}`,
        { hint: DIVERGED },
      );
    }
  };
  const save = async function* (): AsyncGenerator<TrainEvent> {
    path = await saveCheckpoint(loop, { step, bestLoss, best: evaluated && best });
    saved = true;
    yield { kind: "checkpoint", step, path };
    yield* noticesOf(run);
  };

  /** Submits the next step without waiting for it. */
  const submit = async () => {
    const learningRate = learningRateAt(step, options);
    const first = step * gradientAccumulation;
    const microBatches = { length: gradientAccumulation, at: (i: number) => batches.at(first + i) };
    await trainStep.submit(step, microBatches, {
      learningRate,
      counted: batches.counted(first, gradientAccumulation),
    });
    unreported.push({ learningRate });
    step++;
    saved = evaluated = false;
  };
  /** Waits for the submitted steps and reports them; throws if the training has diverged. */
  const report = async function* (): AsyncGenerator<TrainEvent> {
    const count = unreported.length;
    const reports = await trainStep.reports(count), last = reports.at(-1)!;
    const elapsedMs = performance.now() - since;
    const tokensPerSecond = compiled ? tokensPerStep * count / elapsedMs * 1000 : undefined;
    compiled = true;
    stepsPerReport = Math.max(
      1,
      Math.min(REPORT_ROWS, Math.floor(count * READ_BACK_MS / elapsedMs)),
    );
    const metrics = reports.map(({ skippedSteps: skipped, ...report }, i) => ({
      kind: "step" as const,
      step: step - count + i + 1,
      loss: report.loss,
      learningRate: unreported[i]!.learningRate,
      gradientNorm: report.gradientNorm,
      lossScale: report.lossScale,
      skipped,
      ...(tokensPerSecond === undefined ? {} : { tokensPerSecond: Math.round(tokensPerSecond) }),
    }));
    unreported = [];
    record.note(metrics); // all in one write, as the device is idle meanwhile
    yield* noticesOf(run);
    const secondsLeft = tokensPerSecond === undefined ? {} : {
      secondsLeft: (total - step) * tokensPerStep / tokensPerSecond,
    };
    for (const [i, metric] of metrics.entries()) {
      yield { ...metric, steps: total, ...secondsLeft };
      const { consecutiveSkips } = reports[i]!;
      if (consecutiveSkips >= MOST_SKIPS) {
        throw new UserError(
          `Cannot continue training as ${consecutiveSkips} steps in a row had a gradient that is not ` +
            `finite: try a lower --learning-rate (it is ${options.learningRate}) or --precision f32`,
        );
      }
    }
    if (last.lossScale < 1 && options.precision === "f16") {
      const message = `the loss scale fell to ${last.lossScale}: gradients overflow f16`;
      yield { kind: "notice", message };
    }
    applied ||= reports.some(({ skipped }) => !skipped);
    if (step === total && !applied) {
      throw new UserError(
        `Cannot finish training as the gradient of every step since step ${loop.first} was not finite, ` +
          `and so none changed the model: try a lower --learning-rate (it is ` +
          `${options.learningRate}), --precision f32, or more --steps`,
      );
    }
  };
  const sample = async function* (): AsyncGenerator<TrainEvent> {
    const turn = Math.floor(step / options.sampleEvery);
    const prompt = SAMPLE_PROMPTS[turn % SAMPLE_PROMPTS.length]!;
    let text = "";
    const request = { prompt, maxNewTokens: SAMPLE_TOKENS, seed: step };
    for await (const piece of generate({ gpt, tokenizer: corpus.tokenizer }, request)) {
      text += piece;
    }
    yield { kind: "sample", step, prompt, text };
  };

  if (saved && isEvaluating() && record.lastEvaluation !== step) {
    yield* evaluate();
    if (evaluated) yield* save(); // this checkpoint may be the best one
    since = performance.now();
  } else {
    evaluated = true;
  }
  while (step < total && !signal?.aborted) {
    await submit();
    const isSaving = due(options.saveEvery), isSampling = due(options.sampleEvery);
    const isReporting = unreported.length >= stepsPerReport || isEvaluating() || isSaving ||
      isSampling || signal?.aborted;
    if (!isReporting) continue;
    yield* report();
    if (isEvaluating()) yield* evaluate();
    if (isSampling && !signal?.aborted) yield* sample();
    if (isSaving) yield* save();
    since = performance.now();
  }

  if (!saved) yield* save();
  const isDone = step >= total && evaluated;
  const reason = isDone ? options.endsWith : "interrupted";
  yield { kind: "end", reason, step, path: path! };
}
