/** Folders of kernels/ whose shaders do not follow kernels/shader.ts yet. */
export const UNFINISHED = ["attention"];

/** Whether a file is in one of them, or is for them alone. */
export function isUnfinished(path: string): boolean {
  return UNFINISHED.includes(path.split("/")[1]!);
}
