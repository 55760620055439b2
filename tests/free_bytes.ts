import fs from "node:fs";

/** Free bytes of a disk, or a function that is asked for them each time. */
type FreeBytes = number | (() => number);

/** Every disk has this many free bytes until the result is disposed of, whose `bytes` a test may change. */
export function withFreeBytes(bytes: FreeBytes): Disposable & { bytes: FreeBytes } {
  const { statfsSync } = fs;
  const disk = {
    bytes,
    [Symbol.dispose]() {
      fs.statfsSync = statfsSync;
    },
  };
  const free = () => typeof disk.bytes === "number" ? disk.bytes : disk.bytes();
  fs.statfsSync = (() => ({ bavail: free(), bsize: 1 })) as unknown as typeof statfsSync;
  return disk;
}

/** So many bytes of memory are free until the result is disposed of. */
export function withFreeMemory(available: number): Disposable {
  const { systemMemoryInfo } = Deno;
  Deno.systemMemoryInfo = () => ({ ...systemMemoryInfo(), available });
  return {
    [Symbol.dispose]() {
      Deno.systemMemoryInfo = systemMemoryInfo;
    },
  };
}
