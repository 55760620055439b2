/** Bytes or characters at the beginning of a file that `standIn()` examines. */
export const STAND_IN_BYTES = 256;

/**
 * Recognizes files that stand in for one that was not downloaded: pointers of Git LFS and web pages.
 *
 * @param beginning the first `STAND_IN_BYTES` bytes or characters of the file, or more.
 * @returns the second half of a sentence, with advice; undefined if it may be the file itself.
 */
export function standIn(beginning: string | Uint8Array): string | undefined {
  const text = typeof beginning === "string"
    ? beginning.slice(0, STAND_IN_BYTES)
    : new TextDecoder().decode(beginning.subarray(0, STAND_IN_BYTES));
  if (text.startsWith("version https://git-lfs.github.com/spec/")) {
    return "it is a pointer of Git LFS and not the file itself: fetch the file with git lfs pull";
  }
  if (/^\s*<(!doctype html|html|head|body)\b/i.test(text)) {
    return "it is a web page and not the file itself: download the file again";
  }
  return undefined;
}
