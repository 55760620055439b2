import { cooldownStart, type Schedule } from "./schedule.ts";

/** Share of the time from which the present speed is taken. */
const RECENT_SHARE = 0.05;

/**
 * How many steps fit into the time of a training, by the present speed of its steps. What is between steps,
 * evaluations, samples and checkpoints, is expected to need the same share of the time as so far.
 */
export class TimeLimit {
  readonly #secondsLeft: () => number;
  /** Those before the first steps that were noted. */
  #startSeconds = NaN;
  #stepSeconds = 0;
  #recent: { steps: number; seconds: number }[] = [];

  /** @param secondsLeft time until the training must have ended. */
  constructor(secondsLeft: () => number) {
    this.#secondsLeft = secondsLeft;
  }

  /** Notes steps that were done, and the time that they took together. */
  add(steps: number, seconds: number): void {
    if (this.#stepSeconds === 0) this.#startSeconds = this.#secondsLeft() + seconds;
    this.#stepSeconds += seconds;
    this.#recent.push({ steps, seconds });
    const most = RECENT_SHARE * this.#startSeconds;
    let sum = this.#recent.reduce((sum, { seconds }) => sum + seconds, 0);
    while (this.#recent.length > 1 && sum - this.#recent[0]!.seconds >= most) {
      sum -= this.#recent.shift()!.seconds;
    }
  }

  /**
   * Steps that still fit; Infinity while too few have been noted to know their speed.
   *
   * @param reservedSeconds time for what comes after the last step.
   */
  stepsLeft(reservedSeconds: number): number {
    const left = this.#secondsLeft(), sum = { steps: 0, seconds: 0 };
    for (const { steps, seconds } of this.#recent) {
      sum.steps += steps;
      sum.seconds += seconds;
    }
    if (!(sum.seconds >= RECENT_SHARE * this.#startSeconds)) return Infinity;
    const share = Math.min(1, this.#stepSeconds / (this.#startSeconds - left));
    return Math.max(0, Math.floor((left - reservedSeconds) * share * sum.steps / sum.seconds));
  }
}

/**
 * The schedule of a training that ends earlier: its cool-down begins earlier, or at once and becomes shorter. A
 * cool-down that has begun continues at the rate that it has reached.
 *
 * @param step steps done.
 * @param steps steps of the whole training, fewer than before.
 */
export function shortened(
  schedule: Schedule,
  step: number,
  steps: number,
): Pick<Schedule, "steps" | "cooldown"> {
  const { cooldown } = schedule, first = cooldownStart(schedule), left = steps - step;
  if (schedule.schedule !== "wsd") return { steps, cooldown };
  if (step <= first) return { steps, cooldown: Math.min(cooldown, left) };
  // the same share of the cool-down, which would end one step after the last, is left
  const length = schedule.steps - first, share = (schedule.steps - step) / (length + 1);
  return { steps, cooldown: Math.max(left, Math.round(left / share) - 1) };
}
