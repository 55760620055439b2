/** The first bytes of the text that Git LFS leaves in place of a file that it has not fetched. */
export const LFS_POINTER = "version https://git-lfs.github.com/spec/";

/**
 * Recognizes what is in place of a file that was not fetched.
 *
 * @param beginning the first `STAND_IN_BYTES` bytes or characters of the file, or more.
 * @returns the second half of a sentence, with what to do; undefined if it may be the file itself.
 */
export function standIn(beginning: string | Uint8Array): string | undefined {
  const text = typeof beginning === "string"
    ? beginning.slice(0, STAND_IN_BYTES)
    : new TextDecoder().decode(beginning.subarray(0, STAND_IN_BYTES));
  if (text.startsWith(LFS_POINTER)) {
    return "it is a pointer of Git LFS and not the file itself: fetch that with git lfs pull";
  }
  if (/^\s*<(!doctype html|html|head|body|\?xml)\b/i.test(text)) {
    return "it is a web page and not the file itself: download that anew";
  }
  return undefined;
}

/** Bytes or characters at the beginning of a file that `standIn()` looks at. */
export const STAND_IN_BYTES = 256;
