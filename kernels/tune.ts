import type { Device } from "./device.ts";
import { Program } from "./program.ts";
import { clockOf, median, type Timed, timePasses } from "./timing.ts";

/** Work that several kernels can do, one faster here and another there. */
export interface Tunable {
  /** Operation, shapes and types: where the key is the same, so is the fastest kernel. */
  readonly key: string;
  /** Names of the kernels. */
  readonly variants: readonly string[];
  /** The kernel to take where nothing was measured. */
  readonly preferred: string;
  /** Records the work as one of the kernels does it. */
  record(program: Program, variant: string): void;
}

/** Records the kernel that was measured to be the fastest on this device, or else the preferred one. */
export function recordFastest(program: Program, tunable: Tunable): void {
  program.tunables.set(tunable.key, tunable);
  tunable.record(program, choiceOf(program.device, tunable) ?? tunable.preferred);
}

/** The kernel chosen for some work, if there is one; a choice may come from a file that is older. */
function choiceOf({ choices }: Device, { key, variants }: Tunable): string | undefined {
  const choice = choices.get(key);
  return choice !== undefined && variants.includes(choice) ? choice : undefined;
}

/**
 * Those with something to choose and nothing chosen yet. None where the device has no timestamps: the
 * wall clock cannot tell kernels apart.
 */
export function untuned(device: Device, tunables: Iterable<Tunable>): Tunable[] {
  if (clockOf(device) === "wall clock") return [];
  return [...tunables].filter((tunable) =>
    tunable.variants.length > 1 && choiceOf(device, tunable) === undefined
  );
}

/** Every variant is run so many times; the fastest run counts. */
const TRIES = 3;

/** So many variants, the fastest of them, are timed with care. */
const FINALISTS = 4;

/** Each of those in so many passes, in turns with the others; the median counts. */
const PASSES = 5;

/** A pass repeats a kernel until it takes about this long, so that the clock's ticks do not matter. */
const PASS_MS = 1;

/**
 * Times the variants of every tunable that has no choice yet, and keeps the fastest in
 * `device.choices`. The tensors' contents are overwritten.
 *
 * @throws {DeviceError} if the device fails.
 */
export async function tune(device: Device, tunables: Iterable<Tunable>): Promise<void> {
  for (const { key, variants, record } of untuned(device, tunables)) {
    const program = new Program(device); // all variants in one, so that they share their scratch
    const runs = variants.map((variant): Timed & { variant: string } => {
      const first = program.length;
      record(program, variant);
      const launches = Array.from({ length: program.length - first }, (_, i) => first + i);
      return { variant, program, launches, repeats: 1 };
    });
    const tries = await timePasses(device, runs, { rounds: TRIES });
    const finalists = runs
      .map((run, i) => ({ ...run, ms: Math.min(...tries.map((times) => times[i]!)) }))
      .sort((a, b) => a.ms - b.ms)
      .slice(0, FINALISTS)
      .map((run) => ({
        ...run,
        repeats: Math.max(1, Math.min(200, Math.round(PASS_MS / run.ms))),
      }));
    const rounds = await timePasses(device, finalists, { rounds: PASSES });
    const medians = finalists.map(({ repeats }, i) =>
      median(rounds.map((times) => times[i]! / repeats))
    );
    device.choices.set(key, finalists[medians.indexOf(Math.min(...medians))]!.variant);
    program.destroy();
  }
}
