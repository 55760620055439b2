/**
 * What stands in place of a file that was not fetched, from how it begins: the second half of a sentence, with
 * what to do, or undefined where it looks like a file itself.
 */
export function standIn(beginning: string | Uint8Array): string | undefined {
  const text = typeof beginning === "string"
    ? beginning.slice(0, LOOKED_AT)
    : new TextDecoder().decode(beginning.subarray(0, LOOKED_AT));
  if (text.startsWith("version https://git-lfs.github.com/spec/")) {
    return "it is a pointer of Git LFS and not the file itself: fetch that with git lfs pull";
  }
  if (/^\s*<(!doctype html|html|head|body|\?xml)\b/i.test(text)) {
    return "it is a web page and not the file itself: download that anew";
  }
  return undefined;
}

/** How much of a file tells. */
const LOOKED_AT = 256;
