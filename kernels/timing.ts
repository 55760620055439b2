import type { Device } from "./device.ts";
import type { Program } from "./program.ts";
import type { HostArray, Tensor } from "./tensor.ts";

/** A program, or some of its launches, to time. */
export interface Timed {
  readonly program: Program;
  /** Runs per pass. */
  readonly repeats: number;
  /** Indices in `program.labels` of the launches to time; all by default. */
  readonly launches?: readonly number[];
}

/** The clock of `timePasses()` on this device: the wall clock if the device has no timestamp queries. */
export function clockOf(device: Device): "timestamps" | "wall clock" {
  return device.features.has("timestamp-query") ? "timestamps" : "wall clock";
}

/** Most rounds of warm-up. */
const MOST_WARM_UPS = 1000;

/** Milliseconds of warm-up of a GPU; after 150 ms some times were still too long. */
const WARM_UP_MS = 400;

/** Milliseconds of warm-up that a device needs: 0 for a CPU adapter. */
export function warmUpMsOf({ isCpu }: Device): number {
  return isCpu ? 0 : WARM_UP_MS;
}

/** Most queries per set, by the WebGPU standard. */
const MAX_QUERIES = 4096;

/**
 * Measures the time of each program on the device, in several rounds. In a round each program has one pass, so
 * that a change of the device's clock affects all programs.
 *
 * All rounds are submitted together and read back together, because a wait costs 10 ms. The wall clock around a
 * submit would not measure the device. Without timestamp queries it must: then only long passes give useful
 * times.
 *
 * @param options.rounds passes per program.
 * @param options.warmUpMs approximate milliseconds of work before the first round. An idle GPU runs at a fraction
 * of its clock and needs a tenth of a second to reach it (H100: 345 of at most 1,980 MHz; a benchmark after a
 * compilation was three times too slow, November 2026).
 * @returns one array per round, with the milliseconds of each program in order.
 * @throws {DeviceError} if the device fails.
 */
export async function timePasses(
  device: Device,
  runs: readonly Timed[],
  { rounds = 1, warmUpMs = 0 }: { rounds?: number; warmUpMs?: number } = {},
): Promise<number[][]> {
  const time = clockOf(device) === "timestamps" ? timeByQueries : timeByWallClock;
  await Promise.all(new Set(runs.map(({ program }) => program)).values().map((p) => p.compiling()));
  let warmUps = 0;
  if (warmUpMs > 0) {
    const once = await time(device, runs, 1);
    warmUps = Math.ceil(warmUpMs / once.reduce((sum, ms) => sum + ms, 0));
    warmUps = Math.min(warmUps, MOST_WARM_UPS);
  }
  const ms = await time(device, runs, warmUps + rounds);
  return Array.from(
    { length: rounds },
    (_, round) => ms.slice((warmUps + round) * runs.length, (warmUps + round + 1) * runs.length),
  );
}

async function timeByQueries(
  device: Device,
  runs: readonly Timed[],
  rounds: number,
): Promise<number[]> {
  const { gpu } = device;
  const passes = rounds * runs.length, bytes = 2 * passes * 8;
  const resolved = gpu.createBuffer({ size: bytes, usage: 0x200 | 0x04 }); // QUERY_RESOLVE | COPY_SRC
  const staging = gpu.createBuffer({ size: bytes, usage: 0x01 | 0x08 }); // MAP_READ | COPY_DST
  const sets: GPUQuerySet[] = [];
  const encoder = gpu.createCommandEncoder();
  for (let first = 0; first < passes; first += MAX_QUERIES / 2) {
    const count = Math.min(MAX_QUERIES / 2, passes - first);
    const querySet = gpu.createQuerySet({ type: "timestamp", count: 2 * count });
    sets.push(querySet);
    for (let i = 0; i < count; i++) {
      const pass = encoder.beginComputePass({
        timestampWrites: {
          querySet,
          beginningOfPassWriteIndex: 2 * i,
          endOfPassWriteIndex: 2 * i + 1,
        },
      });
      encode(pass, runs[(first + i) % runs.length]!);
      pass.end();
    }
    encoder.resolveQuerySet(querySet, 0, 2 * count, resolved, first * 16);
  }
  encoder.copyBufferToBuffer(resolved, 0, staging, 0, bytes);
  gpu.queue.submit([encoder.finish()]);
  await staging.mapAsync(0x01); // READ
  device.check();
  const ticks = new BigUint64Array(staging.getMappedRange().slice(0));
  for (const resource of [...sets, resolved, staging]) resource.destroy();
  return Array.from({ length: passes }, (_, i) => Number(ticks[2 * i + 1]! - ticks[2 * i]!) / 1e6);
}

async function timeByWallClock(
  device: Device,
  runs: readonly Timed[],
  rounds: number,
): Promise<number[]> {
  const { queue } = device.gpu;
  const ms: number[] = [];
  for (let i = 0; i < rounds * runs.length; i++) {
    const encoder = device.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    encode(pass, runs[i % runs.length]!);
    pass.end();
    await queue.onSubmittedWorkDone();
    const start = performance.now();
    queue.submit([encoder.finish()]);
    await queue.onSubmittedWorkDone();
    ms.push(performance.now() - start);
  }
  device.check();
  return ms;
}

/** Measures on the device the time from the begin of a pass to the end of that pass or of a later one. */
export class PassTimer implements Disposable {
  readonly #device: Device;
  readonly #querySet: GPUQuerySet | undefined; // undefined if the device has no timestamp queries
  readonly #ticks: Tensor | undefined;
  #isRunning = false;

  /** Creates a timer that is not running. */
  constructor(device: Device) {
    this.#device = device;
    if (clockOf(device) !== "timestamps") return;
    this.#querySet = device.gpu.createQuerySet({ type: "timestamp", count: 2 });
    const buffer = device.gpu.createBuffer({ size: 16, usage: 0x200 | 0x04 }); // QUERY_RESOLVE | COPY_SRC
    this.#ticks = { name: "ticks", shape: [4], dtype: "u32", buffer, offsetBytes: 0 };
  }

  /** What the next pass has to write. */
  writes(): GPUComputePassTimestampWrites | undefined {
    if (!this.#querySet) return undefined;
    const isFirst = !this.#isRunning;
    this.#isRunning = true;
    return {
      querySet: this.#querySet,
      ...isFirst ? { beginningOfPassWriteIndex: 0 } : {},
      endOfPassWriteIndex: 1,
    };
  }

  /** Stops after the last pass; returns what `intervalOf()` reads, undefined without a pass or timestamp queries. */
  stop(): Tensor | undefined {
    if (!this.#isRunning) return undefined;
    this.#isRunning = false;
    const encoder = this.#device.gpu.createCommandEncoder();
    encoder.resolveQuerySet(this.#querySet!, 0, 2, this.#ticks!.buffer, 0);
    this.#device.gpu.queue.submit([encoder.finish()]);
    return this.#ticks;
  }

  /** Frees the queries. */
  [Symbol.dispose](): void {
    this.#querySet?.destroy();
    this.#ticks?.buffer.destroy();
  }
}

/** An interval on the clock of a device. */
export interface Interval {
  readonly beginMs: number;
  readonly endMs: number;
}

/** The interval that a timer has measured, if a tick is a nanosecond, as the standard says. */
export function intervalOf(ticks: HostArray): Interval {
  const at = (i: number) => (ticks[i]! + ticks[i + 1]! * 2 ** 32) / 1e6;
  return { beginMs: at(0), endMs: at(2) };
}

function encode(pass: GPUComputePassEncoder, { program, repeats, launches }: Timed): void {
  for (let r = 0; r < repeats; r++) program.encode(pass, launches);
}

/** The median, of an even number of values the upper one. */
export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}
