import { type Device, LimitError } from "./device.ts";
import { Program, type Tunable } from "./program.ts";
import { clockOf, median, type Timed, timePasses, warmUpMsOf } from "./timing.ts";

/** Records the kernel that was measured to be the fastest on this device, or the preferred one. */
export function recordFastest(program: Program, tunable: Tunable): void {
  program.tunables.set(tunable.key, tunable);
  tunable.record(program, choiceOf(program.device, tunable) ?? tunable.preferred);
}

/** The kernel that was chosen for some work, if there still is one of that name: a choice may come from an older file. */
function choiceOf({ choices }: Device, { key, variants }: Tunable): string | undefined {
  const choice = choices.get(key);
  return choice !== undefined && variants.includes(choice) ? choice : undefined;
}

/** Work for which a kernel is chosen that this device or this version does not have. */
export function unavailable(device: Device, tunables: Iterable<Tunable>): Tunable[] {
  return [...tunables].filter((tunable) =>
    device.choices.has(tunable.key) && choiceOf(device, tunable) === undefined
  );
}

/**
 * The work that has several kernels and no choice yet. None if the device has no timestamps: the wall clock
 * cannot tell kernels apart.
 */
export function untuned(device: Device, tunables: Iterable<Tunable>): Tunable[] {
  if (clockOf(device) === "wall clock") return [];
  return [...tunables].filter((tunable) =>
    tunable.variants.length > 1 && choiceOf(device, tunable) === undefined
  );
}

/** Runs of every variant in the first round; the fastest run counts. */
const TRIES = 3;

/** Variants that enter the second round. */
const FINALISTS = 4;

/** Passes of each variant in the second round, in turns with the others; the median counts. */
const PASSES = 5;

/** Milliseconds that a pass takes: it repeats the kernel, so that the clock's ticks do not matter. */
const PASS_MS = 1;

/** Most repeats in a pass. */
const MOST_REPEATS = 200;

/** A variant of some work, among those that are timed. */
interface Candidate extends Timed {
  readonly key: string;
  readonly variant: string;
}

/**
 * Compares kernels by their speed: `add()` compiles those for one kind of work, which takes most of the
 * time; `choose()` times all that were added, in three turns together, as each wait for the device costs
 * 10 ms and lets its clock fall.
 */
export class Tuner {
  readonly #device: Device;
  readonly #program: Program; // of all variants, so that they share their scratch
  readonly #candidates: Candidate[] = [];

  /** A tuner that compares nothing yet. */
  constructor(device: Device) {
    this.#device = device;
    this.#program = new Program(device);
  }

  /** Compiles all variants but those that would leave a limit of the device. */
  add({ key, variants, record }: Tunable): void {
    const program = this.#program;
    for (const variant of variants) {
      const first = program.length;
      try {
        record(program, variant);
      } catch (error) {
        if (error instanceof LimitError) continue;
        throw error;
      }
      const launches = Array.from({ length: program.length - first }, (_, i) => first + i);
      this.#candidates.push({ key, variant, program, launches, repeats: 1 });
    }
  }

  /**
   * Keeps the fastest variant of each work in `device.choices`. The tensors' contents are overwritten.
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

  /** Candidates by the work that they do, the fastest first. */
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

  /** Frees the scratch of the kernels. */
  [Symbol.dispose](): void {
    this.#program.destroy();
  }
}

/** Tunes whatever has no choice yet; see `Tuner`. */
export async function tune(
  device: Device,
  tunables: Iterable<Tunable>,
  onProgress: (done: number, of: number) => void = () => {},
): Promise<void> {
  const open = untuned(device, tunables);
  if (open.length === 0) return;
  using tuner = new Tuner(device);
  for (const [done, tunable] of open.entries()) {
    onProgress(done, open.length);
    tuner.add(tunable);
  }
  await tuner.choose();
  onProgress(open.length, open.length);
}
