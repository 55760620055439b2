import { Buffer } from "node:buffer";
import { LFS_POINTER } from "../../files/stand_in.ts";
import { DataError } from "./data_error.ts";

/**
 * Formats of data files: a file's name decides, and its first bytes are checked.
 *
 * @module
 */

/** How to read a file. */
export interface Format {
  /** How its documents are stored; JSON is either lines or one array. */
  readonly kind: "text" | "lines" | "array" | "csv" | "tsv" | "parquet";
  /** Compression, if any. */
  readonly packing?: Packing;
  /** How its text is encoded, if not as UTF-8. */
  readonly encoding?: "utf-16le" | "utf-16be";
}

/** Compression of a file. */
export type Packing = "gzip" | "zstd";

/** A row of the table of supported formats. */
interface Understood {
  readonly kind: "text" | "json" | "csv" | "tsv" | "parquet";
  readonly title: string;
  readonly extensions: readonly string[];
  /** Where its documents are, as docs/data.md says it. */
  readonly documents: string;
}

/** The supported formats, by the end of a file's name; any other name means text. */
export const FORMATS: readonly Understood[] = [
  {
    kind: "text",
    title: "text",
    extensions: [".txt"],
    documents: "between end-of-text marks, anywhere in a line",
  },
  {
    kind: "json",
    title: "JSON",
    extensions: [".jsonl", ".ndjson", ".json"],
    documents: "a field of objects, which are one per line or in one array",
  },
  {
    kind: "csv",
    title: "CSV",
    extensions: [".csv"],
    documents: 'a column that the first line names; commas, `"` around fields',
  },
  {
    kind: "tsv",
    title: "TSV",
    extensions: [".tsv"],
    documents: "a column that the first line names; tabs",
  },
  {
    kind: "parquet",
    title: "Parquet",
    extensions: [".parquet"],
    documents: "a column of strings",
  },
];

/** Compression of all formats but Parquet, by the end of a file's name. */
export const PACKINGS: Readonly<Record<string, Packing>> = { ".gz": "gzip", ".zst": "zstd" };

/** The supported formats, in a line of help or within a sentence. */
export const UNDERSTOOD: string = (() => {
  const [text, ...others] = FORMATS.map(({ kind, title, extensions }) =>
    kind === "text" ? title : `${title} (${extensions.join(", ")})`
  );
  const last = others.pop();
  const packed = Object.keys(PACKINGS).join(" or ");
  return `${text}, ${others.join(", ")}, each of these also as ${packed}, or ${last}`;
})();

/** The line of help of `--text-field`. */
export const TEXT_FIELD = `field or column that holds the text, in ${
  FORMATS.flatMap(({ kind, title }) => kind === "text" ? [] : [title]).join(", ")
}`;

/** Bytes at the beginning of a file's content that are checked. */
export const HEAD_BYTES = 2 ** 16;

/** The compression that a file's name declares. */
export function packingOf(name: string): Packing | undefined {
  return PACKINGS[extensionOf(name)];
}

/**
 * The format of a file.
 *
 * @param name decides the format, and names the file in messages.
 * @param head the first `HEAD_BYTES` of its content, unpacked, or all there is.
 * @throws {DataError} if the format is not supported.
 */
export function formatOf(name: string, head: Uint8Array): Format {
  const packing = packingOf(name);
  const inner = packing ? name.slice(0, -extensionOf(name).length) : name;
  const known = FORMATS.find(({ extensions }) => extensions.includes(extensionOf(inner)));
  const { kind } = known ?? FORMATS[0]!;
  const encoding = encodingOf(head);
  const foreign = foreignContent(head, kind) ??
    (known || encoding || decoded("utf-8", head) !== undefined ? undefined : "not UTF-8");
  if (foreign) {
    throw new DataError(`${name} as it must be ${UNDERSTOOD}: it is ${foreign}`);
  }
  if (kind === "parquet") {
    if (!packing) return { kind };
    throw new DataError(`${name} as Parquet must not be compressed once more: unpack it`);
  }
  const isArray = kind === "json" &&
    new TextDecoder(encoding ?? "utf-8").decode(head).trimStart().startsWith("[");
  return {
    kind: kind !== "json" ? kind : isArray ? "array" : "lines",
    ...(packing ? { packing } : {}),
    ...(encoding ? { encoding } : {}),
  };
}

/** The last part of a name, with its dot. */
function extensionOf(name: string): string {
  return /\.[^./\\]*$/.exec(name)?.[0].toLowerCase() ?? "";
}

/** Files that are named as data by mistake: their first bytes, the offset of these, their kind, and advice. */
const FOREIGN: readonly [begins: string, at: number, what: string, advice: string][] = [
  [LFS_POINTER, 0, "a Git LFS pointer", "fetch it with git lfs pull"],
  ["\x1f\x8b", 0, "packed with gzip", "unpack it, or give it a name that ends in .gz"],
  ["\x28\xb5\x2f\xfd", 0, "packed with zstd", "unpack it, or give it a name that ends in .zst"],
  ["PAR1", 0, "Parquet", "give it a name that ends in .parquet"],
  ["BZh91AY&SY", 0, "packed with bzip2", "unpack it"],
  ["\xfd7zXZ\0", 0, "packed with xz", "unpack it"],
  ["\x04\x22\x4d\x18", 0, "packed with lz4", "unpack it"],
  ["PK\x03\x04", 0, "a zip archive, as documents of Office and EPUB are", "take its text out"],
  ["7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "unpack it"],
  ["ustar", 257, "a tar archive", "unpack it"],
  ["%PDF-", 0, "a PDF document", "convert it to text"],
  ["{\\rtf", 0, "an RTF document", "convert it to text"],
  ["ARROW1", 0, "an Arrow file", "convert it to Parquet"],
  ["\x89PNG\r\n\x1a\n", 0, "a PNG image", "name files of text"],
  ["\xff\xd8\xff", 0, "a JPEG image", "name files of text"],
  ["GIF8", 0, "a GIF image", "name files of text"],
];

/** The kind of a file whose format is not supported, and advice. */
function foreignContent(head: Uint8Array, kind: Understood["kind"]): string | undefined {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.length);
  for (const [begins, at, what, advice] of FOREIGN) {
    const is = bytes.subarray(at, at + begins.length).equals(Buffer.from(begins, "latin1"));
    if (is && !(kind === "parquet" && what === "Parquet")) return `${what}; ${advice}`;
  }
  // other markup, such as XML, may be the text to train on
  const start = bytes.toString("latin1", 0, 1000).replace(/^\xef\xbb\xbf/, "");
  if (/^\s*<(!doctype html|html)\b/i.test(start)) {
    return "an HTML page; take its text out, or fetch the file that the page is about";
  }
  if (kind === "parquet") return undefined;
  const encoding = encodingOf(head);
  const wide = utf32Of(head) ?? (encoding || isUtf8Text(head) ? undefined : utf16Of(head));
  if (wide) return `${wide}; convert it with iconv -f ${wide} -t UTF-8`;
  const controls = encoding ? 0 : controlsIn(head);
  return controls > MOST_CONTROLS * head.length
    ? `binary, as ${controls} of its first ${head.length} bytes are control characters; ` +
      `name files of text`
    : undefined;
}

/** The encoding that a byte order mark names, if it is not UTF-8. */
function encodingOf(head: Uint8Array): Format["encoding"] {
  if (head[0] === 0xff && head[1] === 0xfe) return "utf-16le";
  if (head[0] === 0xfe && head[1] === 0xff) return "utf-16be";
  return undefined;
}

/** Largest share of control characters in the bytes of a text. */
const MOST_CONTROLS = 1 / 8;

/** Number of control characters other than line ends, white space, backspaces and escapes. */
function controlsIn(bytes: Uint8Array): number {
  return bytes.reduce(
    (sum, byte) => sum + (byte < 0x08 || (byte > 0x0d && byte < 0x20 && byte !== 0x1b) ? 1 : 0),
    0,
  );
}

function isUtf8Text(head: Uint8Array): boolean {
  return decoded("utf-8", head) !== undefined && controlsIn(head) <= MOST_CONTROLS * head.length;
}

/** Decodes a text whose end may be cut off; undefined if it is not in this encoding. */
function decoded(encoding: string, head: Uint8Array): string | undefined {
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(head, { stream: true });
  } catch {
    return undefined;
  }
}

/** The UTF-16 encoding of bytes without a byte order mark, if they have one. */
function utf16Of(head: Uint8Array): string | undefined {
  return ["UTF-16LE", "UTF-16BE"].find((encoding) => isUsual(decoded(encoding, head)));
}

/** The UTF-32 encoding of bytes, with or without a byte order mark, if they have one. */
function utf32Of(head: Uint8Array): string | undefined {
  const view = new DataView(head.buffer, head.byteOffset, head.length);
  return ["UTF-32LE", "UTF-32BE"].find((encoding) => {
    let text = "";
    for (let at = 0; at + 4 <= head.length; at += 4) {
      const codePoint = view.getUint32(at, encoding === "UTF-32LE");
      if (codePoint > 0x10ffff) return false;
      text += String.fromCodePoint(codePoint);
    }
    return isUsual(text);
  });
}

/** Whether a text consists of letters and signs, with blanks and ends of lines or sentences between them. */
function isUsual(text: string | undefined): boolean {
  if (!text) return false;
  const unusual = text.replace(/[\p{L}\p{M}\p{N}\p{P}\p{S}\p{Zs}\s]/gu, "").length;
  const blanks = text.split(/[ \n\u3001\u3002]/).length - 1;
  return 20 * unusual <= text.length && 100 * blanks >= text.length;
}
