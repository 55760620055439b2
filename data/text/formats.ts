import { Buffer } from "node:buffer";
import type { JsonObject } from "../../files/json.ts";
import { standIn } from "../../files/stand_in.ts";
import type { Part, PartsOrigin, PlaceUnit } from "./blocks.ts";
import { csvParts } from "./csv.ts";
import { DataError, TO_UTF8 } from "./data_error.ts";
import type { OpenFile } from "./open_file.ts";
import { parquetParts, parquetSample } from "./parquet.ts";
import { arrayParts, lineParts, textParts } from "./readers.ts";
import { parseRow, RowError } from "./rows.ts";
import { extensionOf, packingOf, PACKINGS } from "./unpack.ts";

/**
 * Formats of data files: the name of a file decides its format, its first bytes are checked, and a reader finds its
 * documents.
 *
 * @module
 */

/** How the documents of a file are stored; JSON is lines or one array. */
export type Format = "text" | "lines" | "array" | "csv" | "tsv" | "parquet";

/** The supported formats, and how the names of their files end; a file of any other name is text. */
export const FORMATS = {
  text: [".txt"],
  JSON: [".jsonl", ".ndjson", ".json"],
  CSV: [".csv"],
  TSV: [".tsv"],
  Parquet: [".parquet"],
} as const satisfies Record<string, readonly string[]>;

const listed = (format: keyof typeof FORMATS) => `${format} (${FORMATS[format].join(", ")})`;

/** The supported formats, in a line of help or within a sentence. */
export const UNDERSTOOD: string =
  `text, ${listed("JSON")}, ${listed("CSV")}, ${listed("TSV")}, each of these also as ` +
  `${Object.keys(PACKINGS).join(" or ")}, or ${listed("Parquet")}`;

/** The line of help of `--text-field`. */
export const TEXT_FIELD = "field or column that holds the text, in JSON, CSV, TSV, Parquet";

/** Bytes at the beginning of a file's content that are checked. */
export const HEAD_BYTES = 2 ** 16;

/**
 * The format of a file.
 *
 * @param name decides the format, and names the file in messages.
 * @param head the first `HEAD_BYTES` of its content, unpacked, or all there is.
 * @throws {DataError} if the format is not supported.
 */
export function formatOf(name: string, head: Uint8Array): Format {
  const packing = packingOf(name), instead = standIn(head);
  if (instead !== undefined) throw new DataError(`${name} as ${instead}`);
  const extension = extensionOf(packing ? name.slice(0, -extensionOf(name).length) : name);
  const known = (Object.keys(FORMATS) as (keyof typeof FORMATS)[])
    .find((format) => FORMATS[format].some((ending) => ending === extension));
  const foreign = foreignContent(head, known);
  if (foreign) throw new DataError(`${name} as it must be ${UNDERSTOOD}: it is ${foreign}`);
  if (known === "Parquet" && packing) {
    throw new DataError(`${name} as Parquet must not be compressed once more: unpack it`);
  }
  if (known !== "JSON") return (known ?? "text").toLowerCase() as Format;
  return new TextDecoder().decode(head).trimStart().startsWith("[") ? "array" : "lines";
}

/** Files that are named as data by mistake: their first bytes, the offset of these, their kind, and advice. */
const FOREIGN: readonly [begins: string, at: number, what: string, advice: string][] = [
  ["\x1f\x8b", 0, "packed with gzip", "unpack it, or give it a name that ends in .gz"],
  ["\x28\xb5\x2f\xfd", 0, "packed with zstd", "unpack it, or give it a name that ends in .zst"],
  ["PAR1", 0, "Parquet", "give it a name that ends in .parquet"],
  ["BZh91AY&SY", 0, "packed with bzip2", "unpack it"],
  ["\xfd7zXZ\0", 0, "packed with xz", "unpack it"],
  ["PK\x03\x04", 0, "a zip archive, as documents of Office and EPUB are", "extract its text"],
  ["ustar", 257, "a tar archive", "unpack it"],
  ["%PDF-", 0, "a PDF document", "convert it to text"],
  ["{\\rtf", 0, "an RTF document", "convert it to text"],
];

/** The kind of any other file without text, and advice. */
const NO_TEXT = `binary, or text that is not UTF-8; ${TO_UTF8}`;

/** Largest share of control characters in the bytes of a text. */
const MOST_CONTROLS = 1 / 8;

/** What a file is whose format is not supported, and advice. */
function foreignContent(head: Uint8Array, format?: keyof typeof FORMATS): string | undefined {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.length);
  for (const [begins, at, what, advice] of FOREIGN) {
    const is = bytes.subarray(at, at + begins.length).equals(Buffer.from(begins, "latin1"));
    if (is && what !== format) return `${what}; ${advice}`;
  }
  if (format === "Parquet") return undefined;
  // not line ends, white space, backspace and escape; text in UTF-32 is full of these, most in UTF-16 as well
  const isControl = (byte: number) => byte < 0x08 || (byte > 0x0d && byte < 0x20 && byte !== 0x1b);
  const isText = bytes.filter(isControl).length <= MOST_CONTROLS * bytes.length;
  return isText && (format || isUtf8(head)) ? undefined : NO_TEXT;
}

/** Whether bytes whose end may be cut off are UTF-8. */
function isUtf8(head: Uint8Array): boolean {
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(head, { stream: true });
    return true;
  } catch {
    return false;
  }
}

/** Per format the unit of its documents' places, and what finds them. */
export const READERS: Readonly<
  Record<Format, {
    readonly placeUnit: PlaceUnit;
    partsOf(file: OpenFile, origin: PartsOrigin): AsyncIterable<Part[]>;
  }>
> = {
  text: { placeUnit: "byte", partsOf: (file) => textParts(file.content()) },
  lines: { placeUnit: "line", partsOf: (file, origin) => lineParts(file.content(), origin) },
  array: { placeUnit: "element", partsOf: (file, origin) => arrayParts(file.content(), origin) },
  csv: { placeUnit: "line", partsOf: (file, origin) => csvParts(file.content(), origin) },
  tsv: { placeUnit: "line", partsOf: (file, origin) => csvParts(file.content(), origin, "\t") },
  parquet: { placeUnit: "row", partsOf: parquetParts }, // which reads at random
};

/**
 * A row with the fields of a file of rows, whose lists are lists; empty if there is no row, or if JSON is damaged,
 * which its reader reports.
 *
 * @throws {DataError} if Parquet is damaged.
 */
export async function sampleRow(
  file: OpenFile,
  format: Format,
  origin: PartsOrigin,
  head: Uint8Array,
): Promise<JsonObject> {
  if (format === "parquet") return await parquetSample(file);
  if (format === "csv" || format === "tsv") {
    const [header] = new TextDecoder().decode(head).split(/[\r\n]/, 1);
    const names = header!.split(format === "csv" ? "," : "\t")
      .map((name) => name.trim().replace(/^"(.*)"$/, "$1"));
    return Object.fromEntries(names.map((name) => [name, ""]));
  }
  try {
    for await (const [first] of READERS[format].partsOf(file, origin)) {
      if (first) return parseRow(new TextDecoder().decode(first.bytes));
    }
  } catch (error) { // its reader reports it
    if (!(error instanceof RowError || error instanceof DataError)) throw error;
  }
  return {};
}
