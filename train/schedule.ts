import type { OptimizerName } from "./optimizer.ts";

/** Learning rate over training: a linear warm-up, then what `schedule` says. */
export interface Schedule {
  /**
   * `cosine`: half a cosine down to the minimum (Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983,
   * without restarts). `wsd`, warm-up, stable, decay: the highest rate up to the cool-down (Hu et al. 2024,
   * https://arxiv.org/abs/2404.06395). `constant`: the highest rate to the end.
   */
  readonly schedule: "cosine" | "wsd" | "constant";
  /** Highest learning rate, reached at the end of the warm-up. */
  readonly learningRate: number;
  /** Learning rate at the end of the training. */
  readonly minLearningRate: number;
  /** Steps of linear warm-up. */
  readonly warmupSteps: number;
  /** Steps of the cool-down of `wsd`, the last of the training. */
  readonly cooldown: number;
  /** Steps of the whole training. */
  readonly steps: number;
}

/** The values of `schedule`. */
export const SCHEDULES = ["cosine", "wsd", "constant"] as const satisfies Schedule["schedule"][];

/**
 * Learning rate of a step, counted from 0.
 *
 * Warm-up begins at highest / (warmupSteps + 1), as a step at zero would change nothing. For the same reason the
 * cool-down of `wsd` would reach the minimum, which is 0 by default, in the step after the last; a cosine has it in
 * the last step.
 *
 * @param highest another learning rate of the same training, of which every step has the same share.
 *
 * @example The rates of a short training
 * ```ts
 * import { learningRateAt, type Schedule } from "../mod.ts";
 *
 * const schedule: Schedule = {
 *   schedule: "wsd",
 *   learningRate: 1e-3,
 *   minLearningRate: 0,
 *   warmupSteps: 3,
 *   cooldown: 5,
 *   steps: 20,
 * };
 * for (let step = 0; step < schedule.steps; step++) console.log(learningRateAt(step, schedule));
 * ```
 */
export function learningRateAt(
  step: number,
  schedule: Schedule,
  highest = schedule.learningRate,
): number {
  const { learningRate, minLearningRate, warmupSteps } = schedule;
  if (step < warmupSteps) return highest * (step + 1) / (warmupSteps + 1);
  const lowest = highest === learningRate
    ? minLearningRate
    : learningRate === 0
    ? 0
    : highest * (minLearningRate / learningRate);
  return lowest + (highest - lowest) * SHARES[schedule.schedule](step, schedule);
}

/** Learning rates of a step: AdamW's, and with Muon its own. */
export interface Rates {
  readonly learningRate: number;
  readonly muonLearningRate?: number;
}

/** The learning rates of a step of a training. */
export function ratesAt(
  step: number,
  { optimizer, muonLearningRate, ...schedule }: Schedule & {
    optimizer: OptimizerName;
    muonLearningRate: number;
  },
): Rates {
  const learningRate = learningRateAt(step, schedule);
  if (optimizer !== "muon") return { learningRate };
  return { learningRate, muonLearningRate: learningRateAt(step, schedule, muonLearningRate) };
}

/** Share of the way from the lowest to the highest rate in a step after the warm-up, by schedule. */
const SHARES: Readonly<Record<Schedule["schedule"], (step: number, schedule: Schedule) => number>> =
  {
    cosine(step, { warmupSteps, steps }) {
      if (step >= steps) return 0;
      const progress = (step - warmupSteps) / Math.max(1, steps - 1 - warmupSteps);
      return (1 + Math.cos(Math.PI * Math.min(progress, 1))) / 2;
    },
    /**
     * The cool-down falls as 1 − √progress, the best of the shapes in Hägele et al. 2024
     * (https://arxiv.org/abs/2405.18392), who match a cosine with a cool-down of 10 to 20 % of the steps.
     */
    wsd(step, schedule) {
      const first = cooldownStart(schedule), length = schedule.steps - first;
      if (step < first) return 1;
      return 1 - Math.sqrt(Math.min(1, (step - first + 1) / (length + 1)));
    },
    constant: () => 1,
  };

/** Steps before the cool-down of `wsd`, which begins after the warm-up; all steps if there is no cool-down. */
export function cooldownStart(
  { schedule, warmupSteps, cooldown, steps }: Omit<Schedule, "learningRate" | "minLearningRate">,
): number {
  if (schedule !== "wsd") return steps;
  return Math.min(steps, Math.max(warmupSteps, steps - cooldown));
}

/**
 * The last step up to the cool-down after which a checkpoint can be saved: where it begins, or the last exchange before,
 * if ranks average their weights every `syncEvery` steps.
 */
export function lastBeforeCooldown(
  { syncEvery = 1, ...schedule }: Parameters<typeof cooldownStart>[0] & {
    syncEvery?: number | undefined;
  },
): number {
  const first = cooldownStart(schedule);
  return first === schedule.steps ? first : first - first % syncEvery;
}

/** Relative change of the learning rate of which a notice is given. */
const NOTICEABLE = 0.1;

/**
 * A sentence if new options change the learning rate of the next step of a resumed run, or let a cool-down begin with
 * it.
 *
 * @param options.isSaved whether the run has the checkpoint of a step.
 */
export function jumpOf(
  step: number,
  { before, now, isSaved }: {
    before: Schedule & { syncEvery?: number };
    now: Schedule;
    isSaved: (step: number) => boolean;
  },
): string | undefined {
  const figure = (value: number) => `${Number(value.toPrecision(3))}`;
  const beforeCooldown = cooldownStart(before);
  const { steps, learningRate, minLearningRate } = now;
  const isNew = step !== beforeCooldown || step === before.steps;
  const isHighest = learningRateAt(step - 1, before) === learningRate;
  if (step < steps && step === cooldownStart(now) && isNew && isHighest) {
    return `the cool-down begins: the learning rate falls from ${figure(learningRate)} to ` +
      `${figure(minLearningRate)} up to step ${steps}`;
  }
  const [old, rate] = [learningRateAt(step, before), learningRateAt(step, now)];
  const isNear = (other: number) => Math.abs(rate - other) <= NOTICEABLE * other;
  const hasCooled = step > beforeCooldown, extendable = lastBeforeCooldown(before);
  // before its cool-down, a run that is made longer stays at the rate that it has
  if (isNear(old) || !hasCooled && isNear(learningRateAt(step, { ...before, cooldown: 0 }))) {
    return undefined;
  }
  return `the learning rate jumps: step ${step + 1} has ${figure(rate)} instead of ${figure(old)}` +
    (now.steps === before.steps
      ? ""
      : `; the schedule now has ${now.steps} steps instead of ${before.steps}`) +
    (rate > old && hasCooled && isSaved(extendable)
      ? `; --resume-from ${extendable} continues from before the cool-down`
      : "");
}
