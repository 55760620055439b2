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

/** Passes that read known tokens, per chunk, at most. */
const MOST_READS = 16;

/** The work of a chunk. */
export interface Work {
  /** Steps that draw a token of every row. */
  readonly steps: number;
  readonly rows: number;
  /** Passes that read known tokens. */
  readonly reads: number;
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

/** When a device computed the passes of a chunk that read, and the steps, if there are any. */
export interface DeviceTimes {
  readonly reads?: Interval | undefined;
  readonly steps?: Interval | undefined;
}

/**
 * Chooses how much a chunk computes, so that it takes the device `chunkMs`. Times are those of the device, as a host without a
 * free core may wait for any chunk for tens of milliseconds. Of a device without timestamp queries nothing is learnt.
 */
export class Pace {
  readonly #stepMs: Map<number, number> = new Map(); // by rowsKey()
  readonly #firstStepMs: number;
  readonly #pauses: boolean;
  readonly #leastChunkMs: number;
  readonly #mostChunkMs: number;
  #chunkMs: number;
  #readMs = CHUNK_MS / 4;
  #last = { hostMs: 0, deviceMs: 0 }; // when the last chunk was computed, by both clocks
  readonly #elapsed = { hostMs: 0, deviceMs: 0 }; // while chunks followed each other

  constructor(
    { isCpu, provider }: Pick<Device, "isCpu" | "provider">,
    { chunkMs = CHUNK_MS }: PaceOptions = {},
  ) {
    this.#pauses = !isCpu && provider === "native";
    this.#leastChunkMs = this.#chunkMs = chunkMs;
    this.#mostChunkMs = isCpu ? chunkMs : MOST_GROWTH * chunkMs; // a CPU adapter has the host's cores
    this.#firstStepMs = CHUNK_MS / FIRST_CHUNK[isCpu ? "cpu" : "gpu"];
  }

  /** Milliseconds of a step that draws a token of every row. */
  #stepOf(rows: number): number {
    return this.#stepMs.get(rowsKey(rows)) ?? this.#firstStepMs;
  }

  /**
   * Steps of a chunk: of one in which all requests begin a quarter, and of one with logprobs no more than are kept until they
   * are read back. Of `left` steps none remain that take less time than to read back again.
   */
  tokens(
    rows: number,
    { isFirst, logprobs, left }: { isFirst: boolean; logprobs: boolean; left: number },
  ): number {
    const stepMs = this.#stepOf(rows);
    const count = Math.ceil((isFirst ? this.#chunkMs / 4 : this.#chunkMs) / stepMs);
    const withRest = (left - count) * stepMs < READ_BACK_MS ? left : count;
    return Math.max(1, Math.min(logprobs ? LOGPROBS_KEPT : Infinity, withRest));
  }

  /** Passes of a chunk that read known tokens: they may take as long as its steps. */
  reads(othersDraw: boolean): number {
    return othersDraw
      ? Math.max(1, Math.min(MOST_READS, Math.floor(this.#chunkMs / this.#readMs)))
      : MOST_READS;
  }

  /**
   * Learns when the device computed a chunk. Chunks become longer while the device had to wait for them more often than not,
   * as the host's own work then takes longer than the device's.
   */
  computed(
    { steps, rows, reads, isFirst }: Work,
    times: DeviceTimes,
    now = performance.now(),
  ): void {
    const { beginMs = 0 } = times.reads ?? times.steps ?? {};
    const { endMs = 0 } = times.steps ?? times.reads ?? {};
    if (!(endMs > beginMs)) return;
    const last = this.#last, elapsed = this.#elapsed;
    this.#last = { hostMs: now, deviceMs: endMs };
    if (!isFirst) {
      elapsed.hostMs += now - last.hostMs;
      elapsed.deviceMs += endMs - last.deviceMs;
    }
    const unit = this.#unit(),
      msOf = (interval: Interval) => (interval.endMs - interval.beginMs) * unit;
    if (times.reads) this.#readMs = msOf(times.reads) / reads;
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
  pause({ steps, rows, reads, sinceMs }: Work): Promise<void> {
    if (!this.#pauses) return Promise.resolve();
    const takesMs = steps * this.#stepOf(rows) + reads * this.#readMs;
    const leftMs = Math.max(0, sinceMs + FREE_SHARE * takesMs - performance.now());
    return new Promise((resolve) => setTimeout(resolve, leftMs));
  }
}
