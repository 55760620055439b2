import { median } from "../kernels/timing.ts";
import type { ExchangeMs } from "../distributed/tensor_sum.ts";
import type { OuterStep } from "./diloco.ts";
import type { Rates } from "./schedule.ts";
import type { TrainStep } from "./step.ts";
import { REPORT_ROWS } from "./step_state.ts";

/** Milliseconds between reports: while they are read back, the device is idle for about 1 % of that time. */
const REPORT_MS = 1000;

/** Reports whose steps count for their usual time. */
const RECENT_REPORTS = 100;

/** Steps that were submitted and not reported yet, and how long those before them took. */
export class SubmittedSteps {
  readonly #trainStep: TrainStep;
  readonly #outer: OuterStep | undefined;
  readonly #tokensPerStep: number;
  #waiting: (Rates & { readonly dataMs: number })[] = [];
  #since = performance.now();
  #most = 1; // steps per report
  #isTimed = false; // drivers compile a kernel when it first runs, so the first step has no speed
  #recentMs: number[] = []; // per step, of the last reports

  constructor(
    { trainStep, outer }: { trainStep: TrainStep; outer?: OuterStep | undefined },
    tokensPerStep: number,
  ) {
    this.#trainStep = trainStep;
    this.#outer = outer;
    this.#tokensPerStep = tokensPerStep;
  }

  /** Notes a step that was submitted. @param dataMs see `TrainStep.submit()`. */
  add(rates: Rates, dataMs: number): void {
    this.#waiting.push({ ...rates, dataMs: Number(dataMs.toFixed(3)) });
  }

  /** Begins the time of the next steps, after something else was done. */
  restart(): void {
    this.#since = performance.now();
  }

  /** Steps that a report should have. */
  get perReport(): number {
    return this.#most;
  }

  /** Whether there are as many. */
  get areEnough(): boolean {
    return this.#waiting.length >= this.#most;
  }

  /** The median of the milliseconds of recent steps; NaN if there is none. */
  get usualMs(): number {
    return this.#recentMs.length === 0 ? NaN : median(this.#recentMs);
  }

  /**
   * Waits for the steps.
   *
   * @param last number of the last one, from 1.
   * @returns what each reports, and milliseconds per step; undefined of the first report.
   */
  async report(last: number) {
    const waiting = this.#waiting, count = waiting.length;
    const reports = await this.#trainStep.reports(count);
    const elapsedMs = performance.now() - this.#since, ms = elapsedMs / count;
    const exchangeMs = this.#outer ? this.#outer.takeMs() : this.#trainStep.takeExchangeMs();
    const isTimed = this.#isTimed;
    if (isTimed) this.#recentMs = [...this.#recentMs.slice(1 - RECENT_REPORTS), ms];
    this.#isTimed = true;
    this.#waiting = [];
    this.#most = Math.max(1, Math.min(REPORT_ROWS, Math.floor(REPORT_MS / ms)));
    const speed = isTimed ? { tokensPerSecond: Math.round(1000 * this.#tokensPerStep / ms) } : {};
    const exchange = isTimed && exchangeMs ? { exchangeShare: shareOf(exchangeMs, elapsedMs) } : {};
    const metrics = reports.map(({ loss, gradientNorm, lossScale, skippedSteps: skipped }, i) => {
      const { dataMs, ...rates } = waiting[i]!, step = last - count + i + 1;
      const figures = { loss, ...rates, gradientNorm, lossScale, skipped };
      return { kind: "step" as const, step, ...figures, ...speed, dataMs, ...exchange };
    });
    return { reports, metrics, ms: isTimed ? ms : undefined };
  }
}

/** The share of a time in which ranks exchanged something. */
function shareOf({ download, sum, upload }: ExchangeMs, elapsedMs: number): number {
  return Number(((download + sum + upload) / elapsedMs).toFixed(4));
}
