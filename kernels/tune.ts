import type { Device } from "./device.ts";
import { Program } from "./program.ts";
import { median, timePasses } from "./timing.ts";

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
  const { key, variants, preferred } = tunable;
  program.tunables.set(key, tunable);
  const choice = program.device.choices.get(key);
  tunable.record(program, choice !== undefined && variants.includes(choice) ? choice : preferred);
}

/** Each variant is timed in so many passes; the median counts. */
const PASSES = 5;

/** A pass repeats a kernel until it takes about this long, so that the clock's ticks do not matter. */
const PASS_MS = 2;

/**
 * Times every variant of every tunable that has no choice yet, and keeps the fastest in
 * `device.choices`. The tensors' contents are overwritten.
 *
 * Variants are timed in turns, PASSES times over, so that a change of the clock hits all alike.
 *
 * @param onProgress hears how many of how many tunables are done.
 * @throws {DeviceError} if the device fails.
 */
export async function tune(
  device: Device,
  tunables: Iterable<Tunable>,
  onProgress: (done: number, of: number) => void = () => {},
): Promise<void> {
  const open = [...tunables].filter(({ key, variants }) =>
    variants.length > 1 && !device.choices.has(key)
  );
  for (const [i, { key, variants, record }] of open.entries()) {
    onProgress(i, open.length);
    const programs = variants.map((variant) => {
      const program = new Program(device);
      record(program, variant);
      return program;
    });
    const [once] = await timePasses(device, programs.map((program) => ({ program, repeats: 1 })));
    const runs = programs.map((program, j) => ({
      program,
      repeats: Math.max(1, Math.min(200, Math.round(PASS_MS / once![j]!))),
    }));
    const rounds = await timePasses(device, runs, { rounds: PASSES });
    const medians = runs.map(({ repeats }, j) =>
      median(rounds.map((round) => round[j]! / repeats))
    );
    device.choices.set(key, variants[medians.indexOf(Math.min(...medians))]!);
    for (const program of programs) program.destroy();
  }
  onProgress(open.length, open.length);
}
