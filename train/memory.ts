import { byteCounts } from "../files/disk.ts";
import type { Device } from "../kernels/device.ts";

/**
 * Makes sure that what a training allocates fits the memory that is free, where the device computes on
 * the CPU: there memory is taken as it is written to, and where none is left the system ends the process
 * without a word. A GPU reports what it cannot allocate.
 *
 * @throws {RangeError} if it does not fit.
 */
export function checkMemory(
  { isCpu, name }: Pick<Device, "isCpu" | "name">,
  { neededBytes, freeBytes = freeMemory() }: { neededBytes: number; freeBytes?: number },
): void {
  if (!isCpu || neededBytes <= freeBytes) return;
  const [needed, free] = byteCounts(neededBytes, freeBytes);
  throw new RangeError(
    `Cannot train on ${name} as ${free} of memory are free: current need is ` +
      `${needed}; use a smaller --batch-size, --context-length or --preset`,
  );
}

/** Bytes that are free, or without end where one may not know. */
function freeMemory(): number {
  const asked = { name: "sys", kind: "systemMemoryInfo" } as const;
  if (Deno.permissions.querySync(asked).state !== "granted") return Infinity;
  return Deno.systemMemoryInfo().available;
}
