import { byteCounts } from "../files/units.ts";
import { type Device, LimitError } from "./device.ts";
import { type DryDevice, dryDevice } from "./dry_device.ts";

/**
 * Finds out whether some work fits a device before the work begins, by recording it on a `dryDevice()`, which
 * allocates nothing.
 *
 * @module
 */

/** Free bytes of memory; infinite without the permission to ask. */
export function freeMemory(): number {
  const asked = { name: "sys", kind: "systemMemoryInfo" } as const;
  if (Deno.permissions.querySync(asked).state !== "granted") return Infinity;
  return Deno.systemMemoryInfo().available;
}

/**
 * The limit of a device that some work exceeds; undefined if the work fits.
 *
 * Free memory is checked only on a CPU adapter: the system provides its memory at the first write, and kills the
 * process without a message if none is left. A GPU reports what it cannot allocate.
 */
export function misfitOf(
  device: Device,
  record: (dry: DryDevice) => void,
  { freeBytes = freeMemory() }: { freeBytes?: number } = {},
): LimitError | undefined {
  const dry = dryDevice(device);
  try {
    record(dry);
  } catch (error) {
    if (error instanceof LimitError) return error;
    throw error;
  }
  if (!device.isCpu || dry.bytes <= freeBytes) return undefined;
  return new LimitError(
    `Cannot allocate ${dry.bytes} bytes on ${device.name} as ${freeBytes} bytes are free`,
    { limit: "memory", most: freeBytes, need: dry.bytes },
  );
}

/** The limit that some work exceeds, in words and brackets, for the end of a sentence. */
export function shortageOf({ exceeded: { limit, most, need } }: LimitError): string {
  const [needBytes, mostBytes] = byteCounts(need, most);
  const words = {
    binding: `a kernel can bind at most ${mostBytes} of a tensor, which would have ${needBytes}`,
    buffer: `a buffer holds at most ${mostBytes}, and this would need ${needBytes}`,
    "workgroup memory": `a workgroup has ${mostBytes} of memory, and this would need ${needBytes}`,
    memory: `${mostBytes} of memory are free, and this would need ${needBytes}`,
    workgroups:
      `a kernel starts at most ${most} workgroups per dimension, and this would need ${need}`,
    launches: `a pass has at most ${most} launches, and this would need more`,
    loop: `a loop on a CPU adapter has at most ${most} iterations, and this would need ${need}`,
  };
  return `(${words[limit]})`;
}

/** The largest number from 1 to `most` that fits, if all smaller ones fit too; 0 if none does. */
export function largestThat(fits: (value: number) => boolean, most: number): number {
  let low = 0, high = most + 1;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle)) low = middle;
    else high = middle;
  }
  return low;
}
