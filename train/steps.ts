import { UserError } from "../files/user_error.ts";
import { generate } from "../generate/generate.ts";
import { DIVERGED } from "../kernels/sample/sample.ts";
import type { Evaluation } from "./evaluate.ts";
import { noticesOf, type TrainEvent } from "./events.ts";
import type { RunRecord } from "./record.ts";
import { learningRateAt } from "./schedule.ts";
import { saveCheckpoint, type Saved } from "./state.ts";
import { REPORT_ROWS } from "./step.ts";

/** Prompts of the samples drawn during training, taken in turn. */
const SAMPLE_PROMPTS = ["Once upon a time", "One day"];

/** Tokens of a sample. */
export const SAMPLE_TOKENS = 120;

/** Steps skipped in a row after which the training gives up. */
const MOST_SKIPS = 100;

/** Time between reports: to read one back leaves the device idle for a hundredth of it. */
const READ_BACK_MS = 1000;

/** What the loop over steps works with. */
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
 * Submits step after step. The device is waited for only when enough steps are under way to read their
 * reports together, and before an evaluation, a sample or a checkpoint. An evaluation that the signal cuts
 * off, which may take hours, is done when the run is resumed.
 */
export async function* steps(loop: Loop): AsyncGenerator<TrainEvent> {
  const { run, record, options, corpus, batches, gpt, trainStep, signal } = loop;
  const { gradientAccumulation, steps: total } = options;
  const tokensPerStep = options.batchSize * options.contextLength * gradientAccumulation;
  const entropy = corpus.entropyPerToken === undefined
    ? {}
    : { entropyPerToken: corpus.entropyPerToken };
  const due = (every: number, step: number) => every > 0 && step % every === 0;
  let { first: step, bestLoss, path } = loop;
  let evaluated = false, best = false, saved = path !== undefined;
  let waiting: { learningRate: number }[] = []; // steps submitted and not yet reported
  let since = performance.now(), patience = 1;
  let applied = step === total; // whether a step changed the model, or none was to be done
  let compiled = false; // drivers compile a kernel when it first runs: the first step has no speed

  const isEvaluating = () => due(options.evalEvery, step) || step === total;
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

  if (saved && isEvaluating() && record.lastEvaluation !== step) {
    yield* evaluate();
    if (evaluated) yield* save(); // it may be the best one
    since = performance.now();
  } else {
    evaluated = true;
  }
  while (step < total && !signal?.aborted) {
    const learningRate = learningRateAt(step, options);
    const first = step * gradientAccumulation;
    const micro = { length: gradientAccumulation, at: (i: number) => batches.at(first + i) };
    await trainStep.submit(step, micro, {
      learningRate,
      counted: batches.counted(first, gradientAccumulation),
    });
    waiting.push({ learningRate });
    step++;
    saved = evaluated = false;

    const evaluating = isEvaluating();
    const saving = due(options.saveEvery, step);
    const sampling = due(options.sampleEvery, step);
    const isDue = waiting.length >= patience || evaluating || saving || sampling;
    if (!isDue && !signal?.aborted) continue;

    const reports = await trainStep.reports(waiting.length);
    applied ||= reports.some(({ skipped }) => !skipped);
    const elapsedMs = performance.now() - since;
    const speed = compiled ? tokensPerStep * waiting.length / elapsedMs * 1000 : undefined;
    compiled = true;
    patience = Math.max(
      1,
      Math.min(REPORT_ROWS, Math.floor(waiting.length * READ_BACK_MS / elapsedMs)),
    );
    const metrics = reports.map(({ skippedSteps: skipped, ...report }, i) => ({
      kind: "step" as const,
      step: step - waiting.length + i + 1,
      loss: report.loss,
      learningRate: waiting[i]!.learningRate,
      gradientNorm: report.gradientNorm,
      lossScale: report.lossScale,
      skipped,
      ...(speed === undefined ? {} : { tokensPerSecond: Math.round(speed) }),
    }));
    record.note(metrics); // all in one, as the device waits
    yield* noticesOf(run);
    for (const [i, metric] of metrics.entries()) {
      const secondsLeft = speed === undefined ? {} : {
        secondsLeft: (total - step) * tokensPerStep / speed,
      };
      yield { ...metric, steps: total, ...secondsLeft };
      const { consecutiveSkips } = reports[i]!;
      if (consecutiveSkips >= MOST_SKIPS) {
        throw new UserError(
          `Cannot continue training as ${consecutiveSkips} steps in a row had a gradient that is not ` +
            `finite: try a lower --learning-rate (it is ${options.learningRate}) or --precision f32`,
        );
      }
    }
    if (reports.at(-1)!.lossScale < 1 && options.precision === "f16") {
      const message = `the loss scale fell to ${reports.at(-1)!.lossScale}: gradients overflow f16`;
      yield { kind: "notice", message };
    }
    waiting = [];
    if (step === total && !applied) {
      throw new UserError(
        `Cannot finish training as the gradient of every step since step ${loop.first} was not finite, ` +
          `and so none changed the model: try a lower --learning-rate (it is ` +
          `${options.learningRate}), --precision f32, or more --steps`,
      );
    }

    if (evaluating) yield* evaluate();
    if (sampling && !signal?.aborted) {
      const prompt =
        SAMPLE_PROMPTS[Math.floor(step / options.sampleEvery) % SAMPLE_PROMPTS.length]!;
      let text = "";
      const sample = { prompt, maxNewTokens: SAMPLE_TOKENS, seed: step };
      for await (const piece of generate({ gpt, tokenizer: corpus.tokenizer }, sample)) {
        text += piece;
      }
      yield { kind: "sample", step, prompt, text };
    }
    if (saving) yield* save();
    since = performance.now();
  }

  if (!saved) yield* save();
  const isDone = step >= total && evaluated;
  const reason = isDone ? options.endsWith : "interrupted";
  yield { kind: "end", reason, step, path: path! };
}
