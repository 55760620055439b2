import fs from "node:fs";

/** Every disk has this many free bytes until the result is disposed of, whose `bytes` a test may change. */
export function withFreeBytes(bytes: number): Disposable & { bytes: number } {
  const { statfsSync } = fs;
  const disk = {
    bytes,
    [Symbol.dispose]() {
      fs.statfsSync = statfsSync;
    },
  };
  fs.statfsSync = (() => ({ bavail: disk.bytes, bsize: 1 })) as unknown as typeof statfsSync;
  return disk;
}
