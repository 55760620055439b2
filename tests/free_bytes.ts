import fs from "node:fs";

/** Runs an action as if every disk had this many free bytes. */
export async function withFreeBytes(bytes: number, action: () => Promise<void>): Promise<void> {
  const { statfsSync } = fs;
  fs.statfsSync = (() => ({ bavail: bytes, bsize: 1 })) as unknown as typeof statfsSync;
  try {
    await action();
  } finally {
    fs.statfsSync = statfsSync;
  }
}
