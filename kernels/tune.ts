import { type Device, LimitError } from "./device.ts";
import { dryDevice } from "./dry_device.ts";
import { Program, type Tunable } from "./program.ts";
import { clockOf, median, type Timed, timePasses, warmUpMsOf } from "./timing.ts";

/** Records the kernel that was measured to be the fastest on this device, or the preferred one. */
export function recordFastest(program: Program, tunable: Tunable): void {
  program.tunables.set(tunable.key, tunable);
  tunable.record(program, choiceOf(program.device, tunable) ?? tunable.preferred);
}

/** The kernel that was chosen for some work, if it exists: a choice may come from a file of another version. */
function choiceOf({ choices }: Device, { key, variants }: Tunable): string | undefined {
  const choice = choices.get(key);
  return choice !== undefined && variants.includes(choice) ? choice : undefined;
}

/** Work whose chosen kernel does not exist on this device or in this version. */
export function unavailable(device: Device, tunables: Iterable<Tunable>): Tunable[] {
  return [...tunables].filter((tunable) =>
    device.choices.has(tunable.key) && choiceOf(device, tunable) === undefined
  );
}

/**
 * Work that has several kernels and no choice yet; none if the device has no timestamp queries, because the wall
 * clock is too coarse to compare kernels.
 */
export function untuned(device: Device, tunables: Iterable<Tunable>): Tunable[] {
  if (clockOf(device) === "wall clock") return [];
  return [...tunables].filter((tunable) =>
    tunable.variants.length > 1 && choiceOf(device, tunable) === undefined
  );
}

/** Passes per variant in the first round, of which the fastest counts. */
const TRIES = 3;

/** Variants that enter the second round. */
const FINALISTS = 4;

/** Passes per variant in the second round, of which the median counts. */
const PASSES = 5;

/** Milliseconds of a pass in the second round, which repeats the kernel until the clock's resolution suffices. */
const PASS_MS = 1;

/** Most repeats of a kernel per pass. */
const MOST_REPEATS = 200;

/** Records a variant; returns whether it is within the limits of the device. */
function recordsWithin(program: Program, { record }: Tunable, variant: string): boolean {
  try {
    record(program, variant);
    return true;
  } catch (error) {
    if (error instanceof LimitError) return false;
    throw error;
  }
}

/** A variant of some work that is timed. */
interface Candidate extends Timed {
  readonly key: string;
  readonly variant: string;
}

/**
 * Compares kernels by their speed. `add()` compiles the variants of one kind of work, which takes most of the
 * time; where shaders compile in the background, add all work before you wait for any. `choose()` times the variants of all work together, with three waits for the device in all, because each
 * wait costs 10 ms and lets the device's clock fall.
 */
export class Tuner {
  readonly #device: Device;
  readonly #program: Program; // holds all variants, so that they share scratch tensors
  readonly #candidates: Candidate[] = [];

  /** Creates a tuner for some work, with scratch tensors that suffice for all of its variants. */
  constructor(device: Device, tunables: Iterable<Tunable>) {
    this.#device = device;
    this.#program = new Program(device);
    const planned = new Program(dryDevice(device));
    for (const tunable of tunables) {
      for (const variant of tunable.variants) recordsWithin(planned, tunable, variant);
    }
    this.#program.reserveScratch(planned);
  }

  /**
   * Compiles all variants except those that would exceed a limit of the device.
   *
   * @returns a promise that resolves when they are compiled; undefined if they are.
   */
  add(tunable: Tunable): Promise<unknown> | undefined {
    const program = this.#program, { key } = tunable;
    for (const variant of tunable.variants) {
      const first = program.length;
      if (!recordsWithin(program, tunable, variant)) continue;
      const launches = Array.from({ length: program.length - first }, (_, i) => first + i);
      this.#candidates.push({ key, variant, program, launches, repeats: 1 });
    }
    return program.compiling();
  }

  /**
   * Writes the fastest variant of each work to `device.choices`. The kernels overwrite their output tensors.
   *
   * @throws {DeviceError} if the device fails.
   */
  async choose(): Promise<void> {
    const tries = await this.#time(this.#candidates, TRIES, (times) => Math.min(...times), {
      warmUpMs: warmUpMsOf(this.#device),
    });
    const finalists = [...tries.values()].flatMap((candidates) =>
      candidates.slice(0, FINALISTS).map(({ ms, ...candidate }) => ({
        ...candidate,
        repeats: Math.max(1, Math.min(MOST_REPEATS, Math.round(PASS_MS / ms))),
      }))
    );
    for (const [key, [fastest]] of await this.#time(finalists, PASSES, median)) {
      this.#device.choices.set(key, fastest!.variant);
    }
  }

  /** Times candidates and returns them by the key of their work, the fastest first. */
  async #time(
    candidates: readonly Candidate[],
    rounds: number,
    average: (times: number[]) => number,
    { warmUpMs = 0 }: { warmUpMs?: number } = {},
  ): Promise<Map<string, (Candidate & { ms: number })[]>> {
    const ms = await timePasses(this.#device, candidates, { rounds, warmUpMs });
    const timed = candidates.map((candidate, i) => ({
      ...candidate,
      ms: average(ms.map((times) => times[i]! / candidate.repeats)),
    }));
    return Map.groupBy(timed.sort((a, b) => a.ms - b.ms), ({ key }) => key);
  }

  /** Frees the scratch tensors of the kernels. */
  [Symbol.dispose](): void {
    this.#program.destroy();
  }
}

/** Chooses the fastest kernel for all work that has no choice yet; see `Tuner`. */
export async function tune(
  device: Device,
  tunables: Iterable<Tunable>,
  onProgress: (done: number, of: number) => void = () => {},
): Promise<void> {
  const open = untuned(device, tunables);
  if (open.length === 0) return;
  using tuner = new Tuner(device, open);
  const added = open.map((tunable) => tuner.add(tunable));
  for (const [done, compiling] of added.entries()) {
    onProgress(done, open.length);
    await compiling;
  }
  await tuner.choose();
  // programs that were recorded before have shaders that nobody needs any more: while these compile, the host is slow
  await Promise.all(device.pipelines.all.map(({ compiling }) => compiling));
  onProgress(open.length, open.length);
}
