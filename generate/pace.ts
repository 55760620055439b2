import type { Device } from "../kernels/device.ts";
import { LOGPROBS_KEPT } from "./slots.ts";

/**
 * Milliseconds of the device per chunk: tokens are read back, and requests join and leave, between chunks. While a chunk is
 * read back the device computes the next one; a shorter chunk would leave it idle.
 */
const CHUNK_MS = 16;

/** Milliseconds that Deno 2.9 takes to read back what the device has computed. */
const READ_BACK_MS = 10;

/**
 * Share of a chunk's expected time after which the host begins to wait for it. The host is late if it waits later than the
 * device has computed the chunk, and with a constant margin the expected time could grow with each chunk.
 */
const FREE_SHARE = 0.85;

/** Milliseconds for which the host waits at least if the device was still computing: less is the read-back alone. */
const LEAST_WAIT_MS = 1;

/** Factors by which a chunk grows each time that the host is late, and in all; it shrinks as slowly. */
const GROWTH = 1.05, MOST_GROWTH = 2.5;

/** Tokens that a model draws in `CHUNK_MS`, before anything was measured. */
const FIRST_CHUNK = { gpu: 16, cpu: 2 };

/**
 * Steps of a chunk that is not the first, at least. A host without a free core waits tens of milliseconds for any chunk,
 * which would seem to be the time of its steps, and make chunks shorter until they have one.
 */
const LEAST_STEPS = { gpu: 8, cpu: 1 };

/** Passes that read known tokens, per chunk, at most. */
const MOST_READS = 16;

/** The work of a chunk. */
export interface Work {
  /** Steps that draw a token of every row. */
  readonly steps: number;
  readonly rows: number;
  /** Passes that read known tokens. */
  readonly reads: number;
  /** When its submission began. */
  readonly sinceMs: number;
}

/** How a device is paced. */
export interface PaceOptions {
  /** Milliseconds of the device per chunk; those in which requests of a server join and leave by default. */
  readonly chunkMs?: number;
}

/** Chooses how much a chunk computes, so that it takes the device `chunkMs`. */
export class Pace {
  readonly #stepMs: Map<number, number> = new Map(); // by the logarithm of the number of rows
  readonly #firstStepMs: number;
  readonly #leastSteps: number;
  readonly #pauses: boolean;
  readonly #leastChunkMs: number;
  #chunkMs: number;
  #readMs = CHUNK_MS / 4;
  #idleMs = 0; // when the device had computed the last chunk

  constructor(
    { isCpu, provider }: Pick<Device, "isCpu" | "provider">,
    { chunkMs = CHUNK_MS }: PaceOptions = {},
  ) {
    this.#pauses = !isCpu && provider === "native";
    this.#leastChunkMs = this.#chunkMs = chunkMs;
    const kind = isCpu ? "cpu" : "gpu";
    this.#firstStepMs = CHUNK_MS / FIRST_CHUNK[kind];
    this.#leastSteps = LEAST_STEPS[kind];
  }

  /** Milliseconds of a step that draws a token of every row. */
  #stepOf(rows: number): number {
    return this.#stepMs.get(Math.ceil(Math.log2(rows))) ?? this.#firstStepMs;
  }

  /** Milliseconds that a chunk should take: of its steps, and of its passes that read. */
  #partsOf({ steps, rows, reads }: Work): [stepsMs: number, readsMs: number] {
    return [steps * this.#stepOf(rows), reads * this.#readMs];
  }

  /**
   * Steps of a chunk: of one in which all requests begin fewer, as nobody's tokens wait for it, and of one with logprobs no
   * more than are kept until they are read back. Of `left` steps none remain that take less time than to read back again.
   */
  tokens(
    rows: number,
    { isFirst, logprobs, left }: { isFirst: boolean; logprobs: boolean; left: number },
  ): number {
    const stepMs = this.#stepOf(rows);
    const count = isFirst
      ? Math.ceil(this.#chunkMs / stepMs / 4)
      : Math.max(this.#leastSteps, Math.ceil(this.#chunkMs / stepMs));
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
   * Learns that the device has just computed a chunk, for which the host has waited since some time. Chunks become longer
   * while the host is late more often than not, as its own work then takes longer than the device's.
   */
  computed(work: Work, waitingMs: number, now = performance.now()): void {
    const tookMs = now - Math.max(work.sinceMs, this.#idleMs);
    const isLate = now - waitingMs < LEAST_WAIT_MS; // the device was idle for an unknown time
    this.#idleMs = now;
    if (work.steps > 0) {
      this.#chunkMs = isLate
        ? Math.min(MOST_GROWTH * this.#leastChunkMs, GROWTH * this.#chunkMs)
        : Math.max(this.#leastChunkMs, this.#chunkMs / GROWTH);
    }
    const [stepsMs, readsMs] = this.#partsOf(work), errorMs = tookMs - stepsMs - readsMs;
    if (isLate && errorMs > 0) return;
    // the larger part has more of the error: in a server every chunk may have both, in different proportions
    const weight = errorMs / 2 / (stepsMs ** 2 + readsMs ** 2);
    const { rows } = work, stepMs = this.#stepOf(rows);
    this.#stepMs.set(Math.ceil(Math.log2(rows)), stepMs * (1 + weight * stepsMs));
    this.#readMs *= 1 + weight * readsMs;
  }

  /**
   * Waits until shortly before the device should have computed a chunk, as natively the host does nothing else when it waits
   * for it; on Dawn it does. It does not wait for a CPU adapter, whose read-back on a busy machine takes long: the wait
   * would be part of the time that `computed()` learns, and grow with each chunk.
   */
  pause(work: Work): Promise<void> {
    if (!this.#pauses) return Promise.resolve();
    const [stepsMs, readsMs] = this.#partsOf(work);
    const leftMs = Math.max(0, work.sinceMs + FREE_SHARE * (stepsMs + readsMs) - performance.now());
    return new Promise((resolve) => setTimeout(resolve, leftMs));
  }
}
