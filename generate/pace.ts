import type { Device } from "../kernels/device.ts";
import type { Interval } from "../kernels/timing.ts";
import { LOGPROBS_KEPT } from "./slots.ts";

/**
 * Milliseconds of the device per chunk: tokens are read back, and requests join and leave, between chunks. While a chunk is
 * read back the device computes the next one; a shorter chunk would leave it idle.
 */
const CHUNK_MS = 16;

/** Milliseconds that Deno 2.9 takes to read back what the device has computed. */
const READ_BACK_MS = 10;

/**
 * Milliseconds of the device in the last chunk on Dawn: while the device computes it, the tokens before become text, and only
 * its own are left for the end. Natively it would not pay, as each chunk takes the host `READ_BACK_MS`.
 */
const LAST_CHUNK_MS = 4;

/** Share of a chunk's expected time after which the host begins to wait for it; until then it can do other work. */
const FREE_SHARE = 0.85;

/**
 * Milliseconds without work after which the host counts as late. On an H200 the device waits for 0.9 to 1.4 ms before each
 * chunk, however early the host asks for the last one (November 2026).
 */
const LEAST_IDLE_MS = 2;

/** Factors by which chunks grow each time that the host is late, and in all; they shrink as slowly. */
const GROWTH = 1.05, MOST_GROWTH = 2.5;

/** Tokens that a model draws in `CHUNK_MS`, before anything was measured. */
const FIRST_CHUNK = { gpu: 16, cpu: 2 };

/** Passes per chunk that prefill, at most. */
const MOST_PREFILLS = 16;

/** The work of a chunk. */
export interface Work {
  /** Steps that draw a token of every row. */
  readonly steps: number;
  readonly rows: number;
  /** Passes that prefill. */
  readonly prefills: number;
  /** Whether all requests begin, so that nobody's tokens wait for it. */
  readonly isFirst: boolean;
  /** When its submission began. */
  readonly sinceMs: number;
}

/** How a device is paced. */
export interface PaceOptions {
  /** Milliseconds of the device per chunk; those in which requests of a server join and leave by default. */
  readonly chunkMs?: number;
}

/** Numbers of rows with the same key take about as long. */
function rowsKey(rows: number): number {
  return Math.ceil(Math.log2(rows));
}

/** When a device computed the passes of a chunk that prefill, and the steps, if there are any. */
export interface DeviceTimes {
  readonly prefills?: Interval | undefined;
  readonly steps?: Interval | undefined;
}

/**
 * Chooses how much a chunk computes, so that it takes the device `chunkMs`. Times are measured by the device's clock, as a
 * host without a free core may wait for any chunk for tens of milliseconds. Without timestamp queries the first guesses stay.
 */
export class Pace {
  readonly #stepMs: Map<number, number> = new Map(); // by rowsKey()
  readonly #firstStepMs: number;
  readonly #pauses: boolean;
  readonly #leavesLast: boolean;
  readonly #leastChunkMs: number;
  readonly #mostChunkMs: number;
  #chunkMs: number;
  #prefillMs = CHUNK_MS / 4;
  #last = { hostMs: 0, deviceMs: 0 }; // when the last chunk was computed, by both clocks
  readonly #elapsed = { hostMs: 0, deviceMs: 0 }; // while chunks followed each other

  constructor(
    { isCpu, provider }: Pick<Device, "isCpu" | "provider">,
    { chunkMs = CHUNK_MS }: PaceOptions = {},
  ) {
    this.#pauses = !isCpu && provider === "native";
    this.#leavesLast = !isCpu && provider === "dawn";
    this.#leastChunkMs = this.#chunkMs = chunkMs;
    this.#mostChunkMs = isCpu ? chunkMs : MOST_GROWTH * chunkMs; // a CPU adapter has the host's cores
    this.#firstStepMs = CHUNK_MS / FIRST_CHUNK[isCpu ? "cpu" : "gpu"];
  }

  /** Milliseconds of a step that draws a token of every row. */
  #stepOf(rows: number): number {
    return this.#stepMs.get(rowsKey(rows)) ?? this.#firstStepMs;
  }

  /**
   * Steps of the next chunk.
   *
   * @param options.isFirst whether all requests begin: then the chunk takes a quarter of the time.
   * @param options.logprobs whether there are logprobs: then the chunk has no more tokens than the device keeps them for.
   * @param options.left steps until all requests have ended: a rest that takes less time than to read it back is included, but
   * on Dawn the chunk leaves the last `LAST_CHUNK_MS` to another one, if it has more than as many itself.
   */
  steps(
    rows: number,
    { isFirst, logprobs, left }: { isFirst: boolean; logprobs: boolean; left: number },
  ): number {
    const stepMs = this.#stepOf(rows);
    const count = Math.ceil((isFirst ? this.#chunkMs / 4 : this.#chunkMs) / stepMs);
    const withRest = (left - count) * stepMs < READ_BACK_MS ? left : count;
    const last = this.#leavesLast && withRest === left ? Math.ceil(LAST_CHUNK_MS / stepMs) : 0;
    const steps = withRest > 2 * last ? withRest - last : withRest;
    return Math.max(1, Math.min(logprobs ? LOGPROBS_KEPT : Infinity, steps));
  }

  /** Passes of the next chunk that prefill, at most: while others draw, they may take as long as the steps. */
  prefills(othersDraw: boolean): number {
    return othersDraw
      ? Math.max(1, Math.min(MOST_PREFILLS, Math.floor(this.#chunkMs / this.#prefillMs)))
      : MOST_PREFILLS;
  }

  /**
   * Learns from when the device computed a chunk. Chunks become longer while the device waits for more than half of them, as
   * the host's work for a chunk then takes longer than the device's.
   */
  observe(
    { steps, rows, prefills, isFirst }: Work,
    times: DeviceTimes,
    now = performance.now(),
  ): void {
    const { beginMs = 0 } = times.prefills ?? times.steps ?? {};
    const { endMs = 0 } = times.steps ?? times.prefills ?? {};
    if (!(endMs > beginMs)) return;
    const last = this.#last, elapsed = this.#elapsed;
    this.#last = { hostMs: now, deviceMs: endMs };
    if (!isFirst) {
      elapsed.hostMs += now - last.hostMs;
      elapsed.deviceMs += endMs - last.deviceMs;
    }
    const unit = this.#unit(),
      msOf = (interval: Interval) => (interval.endMs - interval.beginMs) * unit;
    if (times.prefills) this.#prefillMs = msOf(times.prefills) / prefills;
    if (times.steps) this.#stepMs.set(rowsKey(rows), msOf(times.steps) / steps);
    if (steps === 0 || isFirst) return;
    this.#chunkMs = (beginMs - last.deviceMs) * unit > LEAST_IDLE_MS
      ? Math.min(this.#mostChunkMs, GROWTH * this.#chunkMs)
      : Math.max(this.#leastChunkMs, this.#chunkMs / GROWTH);
  }

  /**
   * Milliseconds per millisecond of the device's clock: 1, unless the host's clock contradicts it. Deno 2.9 gives the ticks of
   * the device, which are nanoseconds on NVIDIA's GPUs and CPUs only.
   */
  #unit(): number {
    const { hostMs, deviceMs } = this.#elapsed, measured = hostMs / deviceMs;
    return measured > 2 || measured < 0.5 ? measured : 1;
  }

  /**
   * Waits until shortly before the device should have computed a chunk, as natively the host does nothing else when it waits
   * for the device; on Dawn it does. A CPU adapter has no free core for other work.
   */
  pause({ steps, rows, prefills, sinceMs }: Work): Promise<void> {
    if (!this.#pauses) return Promise.resolve();
    const takesMs = steps * this.#stepOf(rows) + prefills * this.#prefillMs;
    const leftMs = Math.max(0, sinceMs + FREE_SHARE * takesMs - performance.now());
    return new Promise((resolve) => setTimeout(resolve, leftMs));
  }
}
