import { byteCount, duration, shortDuration } from "../files/units.ts";
import type { Gpt } from "../model/gpt.ts";
import { parameterTable } from "../model/parameters.ts";
import { initializeParameters } from "../model/weights.ts";
import type { Estimate, EstimatedTime, TrainEvent } from "./events.ts";
import type { TrainingMemory } from "./limits.ts";
import { costOf } from "./cost.ts";
import type { Run } from "./run.ts";
import { cacheBeside } from "./training_data.ts";
import { lastBeforeCooldown } from "./schedule.ts";
import { tokensPerStepOf, type TrainOptions } from "./options.ts";
import { checkpointsAtEnd, type PlannedSaves } from "./directory/retention.ts";
import { checkpointSizes } from "./state.ts";
import type { TrainStep } from "./step.ts";
import { REPORT_ROWS } from "./step_state.ts";

/**
 * What a training needs before it begins: memory, operations, disk and time.
 *
 * @module
 */

/** The checkpoints that a run will save. */
export function plannedSaves(
  { options, config, corpus, share: { start: { step: first } } }: Run,
): PlannedSaves {
  const { steps, syncEvery, keep } = options, cooldownFrom = lastBeforeCooldown(options);
  const saveEvery = options.saveEvery && Math.max(options.saveEvery, syncEvery);
  const saves = Math.ceil(steps / saveEvery) - Math.floor(first / saveEvery) +
    Number(cooldownFrom > first && cooldownFrom < steps && cooldownFrom % saveEvery > 0);
  return {
    ...checkpointSizes(
      parameterTable(config, options.freeze),
      options.optimizer,
      corpus.tokenizer,
      options,
    ),
    keep,
    others: cooldownFrom < steps ? 2 : 1,
    saves: first >= steps ? 0 : saveEvery === 0 ? 1 : saves,
    startsOver: options.fresh,
  };
}

/** Estimates what a training needs, except its time. */
export function estimate(run: Run): Estimate {
  const { options, config, corpus, share } = run;
  const { flopsPerToken: perToken } = costOf(config, run);
  const steps = Math.max(0, options.steps - share.start.step);
  const perStep = perToken * tokensPerStepOf(options);
  const planned = plannedSaves(run), { checkpointBytes, weightsOnlyBytes } = planned;
  const { whole: checkpoints, weightsOnly } = checkpointsAtEnd(run.out, planned);
  return {
    memory: run.memory,
    flops: { perToken, perStep, total: perStep * steps },
    disk: {
      checkpointBytes,
      checkpoints,
      weightsOnlyBytes,
      weightsOnlyCheckpoints: weightsOnly,
      tokenBytes: corpus.fileBytes,
      hasTokens: corpus.cached,
    },
  };
}

/** Milliseconds that the timed steps take together, about; a single step may take longer. */
const TIMED_MS = 500;

/**
 * Times steps from random parameters with a learning rate of 0, which change no weight; undefined if the signal aborts
 * meanwhile.
 */
export async function timeSteps(
  { options, batches, signal }: Pick<Run, "batches" | "signal"> & {
    options: Pick<TrainOptions, "gradientAccumulation" | "seed">;
  },
  { gpt, trainStep }: { gpt: Gpt; trainStep: TrainStep },
): Promise<Pick<EstimatedTime, "secondsPerStep" | "timedSteps"> | undefined> {
  const { gradientAccumulation: length, seed } = options;
  initializeParameters(gpt, { seed, parameters: gpt.table });
  let step = 0;
  const runSteps = async (count: number) => {
    const since = performance.now();
    for (const end = step + count; step < end; step++) {
      const from = step * length, at = (i: number) => batches.at(from + i);
      const counted = batches.counted(from, length);
      await trainStep.submit(step, { length, at }, { learningRate: 0, counted });
    }
    await trainStep.reports(count);
    return performance.now() - since;
  };
  await runSteps(1); // compiles the kernels
  if (signal?.aborted) return undefined;
  let timedSteps = 1, elapsedMs = await runSteps(timedSteps);
  if (elapsedMs < TIMED_MS && !signal?.aborted) {
    timedSteps = Math.min(REPORT_ROWS, Math.ceil(TIMED_MS / elapsedMs));
    elapsedMs = await runSteps(timedSteps);
  }
  return { secondsPerStep: elapsedMs / 1000 / timedSteps, timedSteps };
}

/** The rows of memory, by their keys. */
const MEMORY_ROWS: Readonly<Record<keyof TrainingMemory, string>> = {
  total: "memory",
  parameters: "  parameters",
  optimizer: "  optimizer",
  gradients: "  gradients",
  activations: "  activations",
  logits: "  logits",
  other: "  batches and scratch",
  evaluation: "  evaluation",
  samples: "  samples",
};

/** The event that begins a training. */
type Start = Extract<TrainEvent, { kind: "start" }>;

/** An estimate as a table for people; `timeTable()` has the rest of its lines. */
export function estimateTable(
  { memory, flops, disk }: Estimate,
  { parameters, trainedParameters, device, options: { out, steps: total }, resumedFrom = 0 }: Start,
): string {
  const steps = Math.max(0, total - resumedFrom);
  const figure = (count: number) => count.toPrecision(3).replace("e+", "e");
  const { checkpoints, checkpointBytes, weightsOnlyCheckpoints, tokenBytes, hasTokens } = disk;
  const rows = [
    [
      "parameters",
      trainedParameters === parameters
        ? `${parameters}, all trained`
        : `${trainedParameters} trained of ${parameters}`,
    ],
    ...memoryRows(memory, device),
    ["FLOPs", `${figure(flops.perToken)} per token, ${figure(flops.perStep)} per step`],
    ["", `${figure(flops.total)} for ${steps} steps`],
    [
      "disk",
      `${checkpoints} checkpoint${checkpoints === 1 ? "" : "s"} of at most ${
        byteCount(checkpointBytes)
      } in ${out}`,
    ],
    ...(weightsOnlyCheckpoints === 0 ? [] : [[
      "",
      `${weightsOnlyCheckpoints} more that hold only weights, of at most ${
        byteCount(disk.weightsOnlyBytes)
      }`,
    ]]),
    [
      "",
      `${byteCount(tokenBytes)} of tokens ${hasTokens ? "are" : "will be"} in ${cacheBeside(out)}`,
    ],
  ];
  return linesOf(rows);
}

/** The time of a training as lines for people; `time` is undefined if it was not measured. */
export function timeTable(time: EstimatedTime | undefined): string {
  if (!time) return linesOf([["time", "not measured"]]);
  const { seconds, steps, secondsPerStep, timedSteps } = time;
  return linesOf([
    ["time", `${duration(seconds)} for ${steps} steps of ${shortDuration(secondsPerStep)}`],
    ["", `measured now over ${timedSteps} steps; evaluations, samples and saving add to it`],
  ]);
}

/** Bytes of a training by role, as lines for people. */
export function memoryTable(memory: TrainingMemory, device: string): string {
  return linesOf(memoryRows(memory, device));
}

function memoryRows(memory: TrainingMemory, device: string): string[][] {
  return Object.entries(MEMORY_ROWS).map(([key, name]) => [
    name,
    byteCount(memory[key as keyof TrainingMemory]) + (key === "total" ? ` on ${device}` : ""),
  ]);
}

function linesOf(rows: readonly (readonly string[])[]): string {
  return rows.map(([name, text]) => `${name!.padEnd(LABEL_WIDTH)}${text}\n`).join("");
}

/** Columns of the names in the table. */
const LABEL_WIDTH = 24;
