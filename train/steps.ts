import { UserError } from "../files/user_error.ts";
import { generate } from "../generate/generate.ts";
import { DIVERGED } from "../kernels/sample/sample.ts";
import type { Evaluation } from "./evaluate.ts";
import { notice, noticesOf, type TrainEvent } from "./events.ts";
import type { Histograms } from "./histograms.ts";
import { flopsPerToken } from "./cost.ts";
import { givenPrompt, heldOutPrompt, SAMPLE_TOKENS } from "./prompts.ts";
import { tokensPerStepOf } from "./options.ts";
import type { RunRecord } from "./record/record.ts";
import { haveOwnStates } from "./rank_states.ts";
import { announce } from "./ranks.ts";
import { cooldownStart, lastBeforeCooldown, ratesAt } from "./schedule.ts";
import type { Run } from "./run.ts";
import { allSkipped, checkSkips } from "./skips.ts";
import { saveCheckpoint, type Saved } from "./state.ts";
import { SubmittedSteps } from "./submitted_steps.ts";
import { shortened, TimeLimit } from "./time_limit.ts";

/** Share of the steps that fit into the time to which a training is shortened, so that this is seldom done again. */
const SAFE_SHARE = 0.95;

/** Usual times of a step within which ranks must make progress in one. */
const MOST_MEDIANS = 20;

/** What the training loop works with. */
export interface Loop extends Saved, Pick<Run, "signal" | "share"> {
  record: RunRecord;
  /** Evaluates the model; throws the reason of `signal` if that aborts meanwhile. */
  evaluate: () => Promise<Evaluation>;
  /** Counts weights and gradients, if `histogramEvery` asks for that. */
  histograms?: Histograms;
  /** Validation loss of the best evaluation of this run so far. */
  bestLoss: number | null;
  /** Checkpoint of this run from which it was resumed. */
  path?: string;
  /** Time of the training up to now, see `TrainEvent`. */
  seconds: () => number;
  /** Time until the training must end, if it is limited. */
  secondsLeft?: (() => number) | undefined;
}

/**
 * The training loop. It submits step after step, and waits for the device only to read the reports of several steps
 * together, and for an evaluation, a sample or a checkpoint. An evaluation may take hours: one that the signal
 * interrupts is repeated when the run is resumed.
 */
export async function* steps(loop: Loop): AsyncGenerator<TrainEvent> {
  const { directory, record, corpus, batches, gpt, trainStep, outer, signal, transport, share } =
    loop;
  let { options } = loop; // their steps change if the time is short

  let { step } = share.start, { bestLoss, path } = loop;
  let isSaved = path !== undefined; // whether there is a checkpoint of this step
  let exchangedAt = step; // the last step after which all ranks hold the same weights
  let isEvaluated = true; // whether the evaluation that is due at this step, if one is, is done
  let isBest = false; // whether the last evaluation is the best
  let { evaluationsSinceBest } = record;
  let hasLearned = step === options.steps; // whether a step changed the model, or there is none to do
  let lossScale = 1; // of the last step that was reported
  const submitted = new SubmittedSteps(loop, tokensPerStepOf(options));
  const limit = loop.secondsLeft && new TimeLimit(loop.secondsLeft);
  let evaluationSeconds = 0;

  const { samplePrompt } = options;
  const given = samplePrompt === undefined ? undefined : await givenPrompt(corpus, samplePrompt);
  const promptOf = (turn: number) => given ?? heldOutPrompt(corpus, turn);
  /** Milliseconds in which any rank must make progress in a step: without a limit until its usual time is known. */
  const limitMs = () => {
    const { usualMs } = submitted;
    if (options.timeout === 0 || Number.isNaN(usualMs)) return Infinity;
    return Math.max(1000 * options.timeout, MOST_MEDIANS * usualMs);
  };
  const isExchanging = () => step % options.syncEvery === 0 || step === options.steps;
  // what is due between two exchanges is done at the second, when all ranks hold the same weights
  const isDue = (every: number) => {
    const before = options.syncEvery * (Math.ceil(step / options.syncEvery) - 1);
    return every > 0 && isExchanging() && Math.floor(step / every) > Math.floor(before / every);
  };
  const isEvaluating = () => isDue(options.evalEvery) || step === options.steps;
  const isPatient = () => options.patience === 0 || evaluationsSinceBest < options.patience;

  const isSaving = () =>
    isDue(options.saveEvery) || options.saveEvery > 0 && step === lastBeforeCooldown(options);

  if (step > options.steps) { // there is nothing to do, and a checkpoint would have fewer steps in its schedule than done
    return yield* end("steps");
  }
  const isResumed = isSaved || step > 0; // from a checkpoint of this run or of another
  if (isResumed && isEvaluating() && record.lastEvaluation?.step !== step) { // it was interrupted
    yield* evaluate();
    if (isEvaluated) yield* save(); // this checkpoint may be the best one
  }
  if (isResumed && !isSaved) yield* save(); // else the next start would begin with random parameters
  if (loop.source && !isResumed && isEvaluating()) { // the model to start from, on the new text
    yield* evaluate();
    isEvaluated = true; // if a signal interrupted it, nothing is lost
  }
  submitted.restart();
  while (step < options.steps && isPatient() && !signal?.aborted) {
    await submit();
    const isSampling = isDue(options.sampleEvery);
    const isCounting = loop.histograms !== undefined && isDue(options.histogramEvery);
    const isReporting = submitted.areEnough || isEvaluating() || isCounting ||
      isSampling || isSaving() || signal?.aborted;
    if (!isReporting) continue;
    yield* report();
    yield* endInTime();
    if (isCounting) yield* count();
    if (isEvaluating()) yield* evaluate();
    if (isSampling && !signal?.aborted) yield* sample();
    // a run with patience may end with this as its best
    if (isSaving() || options.patience > 0 && isEvaluated && isBest) yield* save();
    submitted.restart();
  }
  if (!isSaved) yield* save();
  const isDone = step >= options.steps && isEvaluated;
  yield* end(isDone ? options.endsWith : isPatient() ? "interrupted" : "patience");

  /** Submits the next step, without waiting for it unless ranks exchange weights after it. */
  async function submit(): Promise<void> {
    const rates = ratesAt(step, options);
    const announcement = { kind: "step", step, ...rates } as const;
    const dataMs = await transport.watch(limitMs(), async () => {
      await announce(transport, announcement);
      return await share.submit({ gpt, trainStep }, announcement);
    });
    submitted.add(rates, dataMs);
    step++;
    isSaved = isEvaluated = false;
    if (isExchanging()) await exchange();
  }

  /** Gives all ranks the same weights. */
  async function exchange(): Promise<void> {
    if (outer && exchangedAt < step) {
      await transport.watch(limitMs(), async () => {
        await announce(transport, { kind: "exchange" });
        await share.exchange({ gpt, outer });
      });
    }
    exchangedAt = step;
  }

  /** Waits for the submitted steps and reports them. */
  async function* report(): AsyncGenerator<TrainEvent> {
    const { reports, metrics, ms } = await transport.watch(limitMs(), () => submitted.report(step));
    if (ms !== undefined) limit?.add(reports.length, reports.length * ms / 1000);
    const total = options.steps;
    const left = ms === undefined ? {} : { secondsLeft: (total - step) * ms / 1000 };
    const warnings = record.note(metrics); // all in one write, as the device is idle meanwhile
    yield* noticesOf(directory);
    for (const [i, metric] of metrics.entries()) {
      const epoch = batches.epochsBefore(share.batchesBefore(metric.step));
      yield { ...metric, steps: total, epoch, ...left };
      checkSkips(reports[i]!, options);
    }
    yield* warnings;
    lossScale = reports.at(-1)!.lossScale;
    hasLearned ||= reports.some(({ skipped }) => !skipped);
    if (step === total && !hasLearned) throw allSkipped(share.start.step, options);
  }

  /** Makes the training shorter if it would not end in time. */
  function* endInTime(): Generator<TrainEvent> {
    const fitting = limit?.stepsLeft(evaluationSeconds) ?? Infinity, planned = options.steps;
    if (step + fitting >= planned) return;
    const isCooling = step > cooldownStart(options);
    // up to the cool-down no step depends on the last one, and the machine may become faster again
    const soonest = options.cooldown + submitted.perReport;
    if (options.schedule === "wsd" && !isCooling && SAFE_SHARE * fitting > soonest) return;
    options = { ...options, ...shortened(options, step, step + Math.ceil(SAFE_SHARE * fitting)) };
    const first = cooldownStart(options);
    yield notice(
      `no more steps fit into --minutes ${options.minutes}: the training ends after step ` +
        `${options.steps} instead of ${planned}` +
        (isCooling || first === options.steps
          ? ""
          : `, and the cool-down begins after step ${first}`),
    );
  }

  /** Counts weights and gradients after the step that was reported last, outside the time of any step. */
  async function* count(): AsyncGenerator<TrainEvent> {
    const metrics = (await loop.histograms!.run(lossScale))
      .map((histogram) => ({ kind: "histogram" as const, step, ...histogram }));
    record.note(metrics);
    yield* metrics;
    yield* noticesOf(directory);
  }

  /** Evaluates the model, unless the signal interrupts that. */
  async function* evaluate(): AsyncGenerator<TrainEvent> {
    await exchange(); // the training may just have become shorter
    isEvaluated = false;
    const since = performance.now();
    let evaluation: Evaluation;
    try {
      evaluation = await loop.evaluate();
    } catch (error) {
      if (signal?.aborted && error === signal.reason) return;
      throw error;
    }
    isEvaluated = true;
    evaluationSeconds = (performance.now() - since) / 1000;
    const { loss } = evaluation, { entropyPerToken } = corpus;
    // the model at step 0 is that of another run, not the best of this one
    isBest = step > 0 && Number.isFinite(loss) && (bestLoss === null || loss < bestLoss);
    if (isBest) bestLoss = loss;
    evaluationsSinceBest = isBest || step === 0 ? 0 : evaluationsSinceBest + 1;
    const entropy = entropyPerToken === undefined ? {} : { entropyPerToken };
    const epoch = batches.epochsBefore(share.batchesBefore(step));
    const metric = { kind: "evaluation" as const, step, epoch, ...evaluation, ...entropy };
    const warnings = record.note([metric]);
    await record.draw();
    yield { ...metric, best: isBest };
    yield* warnings;
    yield* noticesOf(directory);
    if (Number.isFinite(loss)) return;
    throw new UserError(
      `Cannot continue training as the validation loss must be finite: current value is ${loss} ` +
        `at step ${step}`,
      { hint: DIVERGED },
    );
  }

  /** Generates a text with the model. */
  async function* sample(): AsyncGenerator<TrainEvent> {
    const turn = Math.floor(step / options.sampleEvery);
    const prompt = promptOf(turn), request = { prompt, maxNewTokens: SAMPLE_TOKENS, seed: step };
    let text = "";
    for await (const piece of generate({ gpt, tokenizer: corpus.tokenizer }, request)) {
      text += piece;
    }
    const metric = { kind: "sample" as const, step, prompt, text };
    record.note([metric]);
    yield metric;
    yield* noticesOf(directory);
  }

  /** Saves a checkpoint. */
  async function* save(): AsyncGenerator<TrainEvent> {
    await exchange(); // a signal may have ended the steps of each rank
    if (haveOwnStates(loop)) await announce(transport, { kind: "save" });
    path = await saveCheckpoint({ ...loop, options }, {
      step,
      batchIndex: share.batchesBefore(step),
      bestLoss,
      best: isEvaluated && isBest,
    });
    isSaved = true;
    yield { kind: "checkpoint", step, path };
    yield* noticesOf(directory);
  }

  /** Reports the end of the training. */
  async function* end(reason: "steps" | "epochs" | "patience" | "interrupted") {
    const { best } = directory;
    if (step <= options.steps) record.note([{ kind: "end", step, reason }]);
    yield* noticesOf(directory);
    const prompt = promptOf(0);
    const tokens = share.batchesBefore(step) * options.batchSize * options.contextLength;
    const { loss, bitsPerByte } = record.lastEvaluation ?? {};
    yield {
      kind: "end" as const,
      reason,
      step,
      path: path!,
      prompt,
      ...(best ? { best } : {}),
      seconds: Number(loop.seconds().toFixed(1)),
      tokens,
      flops: tokens * flopsPerToken(gpt.config, { options, batches }),
      ...(typeof loss === "number" ? { loss } : {}),
      ...(typeof bitsPerByte === "number" ? { bitsPerByte } : {}),
    };
  }
}
