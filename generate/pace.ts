import type { Device } from "../kernels/device.ts";
import { LOGPROBS_KEPT } from "./slots.ts";

/**
 * Milliseconds of the device per chunk: tokens are read back, and requests join and leave, between chunks. A read-back
 * takes Deno 2.9 another 10 ms, in which the device computes the next chunk; a shorter chunk would leave it idle.
 */
const CHUNK_MS = 16;

/**
 * Share of a chunk's expected time after which the host begins to wait for it. The host is late if it waits later than the
 * device has computed the chunk, and with a constant margin the expected time could grow with each chunk.
 */
const FREE_SHARE = 0.85;

/** Milliseconds for which the host waits at least if the device was still computing: less is the read-back alone. */
const LEAST_WAIT_MS = 1;

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
  /** When its submission began. */
  readonly sinceMs: number;
}

/** How a device is paced. */
export interface PaceOptions {
  /** Milliseconds of the device per chunk; those in which requests of a server join and leave by default. */
  readonly chunkMs?: number;
  /** Whether the logprobs of all tokens of a chunk must be kept until it is read back; true by default. */
  readonly logprobs?: boolean;
}

/** Chooses how much a chunk computes, so that it takes the device `chunkMs`. */
export class Pace {
  readonly #stepMs: Map<number, number> = new Map(); // by the logarithm of the number of rows
  readonly #firstStepMs: number;
  readonly #isCpu: boolean;
  readonly #chunkMs: number;
  readonly #mostTokens: number;
  #readMs = CHUNK_MS / 4;
  #idleMs = 0; // when the device had computed the last chunk

  constructor(
    { isCpu }: Pick<Device, "isCpu">,
    { chunkMs = CHUNK_MS, logprobs = true }: PaceOptions = {},
  ) {
    this.#isCpu = isCpu;
    this.#chunkMs = chunkMs;
    this.#mostTokens = logprobs ? LOGPROBS_KEPT : Infinity;
    this.#firstStepMs = CHUNK_MS / FIRST_CHUNK[isCpu ? "cpu" : "gpu"];
  }

  /** Milliseconds of a step that draws a token of every row. */
  #stepOf(rows: number): number {
    return this.#stepMs.get(Math.ceil(Math.log2(rows))) ?? this.#firstStepMs;
  }

  /** Steps of a chunk; of one in which all requests begin fewer, as nobody's tokens wait for it. */
  tokens(rows: number, { isFirst }: { isFirst: boolean }): number {
    const count = this.#chunkMs / this.#stepOf(rows);
    return Math.max(1, Math.min(this.#mostTokens, Math.ceil(isFirst ? count / 4 : count)));
  }

  /** Passes of a chunk that read known tokens: they may take as long as its steps. */
  reads(othersDraw: boolean): number {
    return othersDraw
      ? Math.max(1, Math.min(MOST_READS, Math.floor(this.#chunkMs / this.#readMs)))
      : MOST_READS;
  }

  /** Learns that the device has just computed a chunk, for which the host has waited since some time. */
  computed({ steps, rows, reads, sinceMs }: Work, waitingMs: number): void {
    const now = performance.now(), tookMs = now - Math.max(sinceMs, this.#idleMs);
    const isLate = now - waitingMs < LEAST_WAIT_MS; // the device was idle for an unknown time
    const stepMs = this.#stepOf(rows),
      setStep = (ms: number) => this.#stepMs.set(Math.ceil(Math.log2(rows)), ms);
    this.#idleMs = now;
    if (isLate && steps > 0) setStep(0.8 * stepMs);
    else if (isLate) this.#readMs *= 0.8;
    else if (reads === 0) setStep((stepMs + tookMs / steps) / 2);
    else this.#readMs = (this.#readMs + Math.max(0, tookMs - steps * stepMs) / reads) / 2;
  }

  /**
   * Waits until shortly before the device should have computed a chunk, as the host does nothing else when it waits for it.
   * It does not wait for a CPU adapter, whose read-back on a busy machine takes long: the wait would be part
   * of the time that `computed()` learns, and grow with each chunk.
   */
  pause({ steps, rows, reads, sinceMs }: Work): Promise<void> {
    if (this.#isCpu) return Promise.resolve();
    const freeMs = FREE_SHARE * (steps * this.#stepOf(rows) + reads * this.#readMs);
    const leftMs = Math.max(0, sinceMs + freeMs - performance.now());
    return new Promise((resolve) => setTimeout(resolve, leftMs));
  }
}
