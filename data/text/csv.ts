import { Buffer } from "node:buffer";
import { load } from "../../files/packages.ts";
import { quoted } from "../../files/printable.ts";
import type { Part, PartsOrigin } from "./blocks.ts";
import { conversationColumns } from "./conversations.ts";
import { DataError } from "./data_error.ts";
import { checkLength, windows } from "./readers.ts";
import { listOfNames } from "./rows.ts";

/**
 * The documents in a column of CSV, or of TSV, whose delimiters are tabs.
 *
 * Quotes enclose a whole field, and are doubled inside. TSV may also be written without quoting: other
 * quotes are text there. A quote that begins a field and is closed in another field or row is refused,
 * because everything between them would become one document. Of conversations each part is a JSON object with the
 * columns that hold them.
 *
 * @throws {DataError} if the table is malformed, the column is absent or a row is too long.
 */
export async function* csvParts(
  chunks: AsyncIterable<Uint8Array>,
  { file, field, conversation }: Pick<PartsOrigin, "file" | "field" | "conversation">,
  delimiter: "," | "\t" = ",",
): AsyncGenerator<Part[]> {
  const { parse } = await load("csv-parse"), tabs = delimiter === "\t";
  let parts: Part[] = [];
  let documentOf: ((fields: readonly Buffer[]) => Uint8Array) | undefined; // known after the first line
  let bytes = 0, lines = 0; // up to the end of the last row
  const parser = parse({
    delimiter,
    record_delimiter: ["\n", "\r"],
    skip_empty_lines: true,
    relax_quotes: tabs,
    encoding: null, // fields stay bytes, so that bytes that are not UTF-8 are found
    on_record(row: unknown, info) {
      const fields = row as Buffer[];
      if (tabs && isJoined(fields, info.bytes - bytes)) {
        throw Object.assign(new Error("a quote joins fields"), { code: "JOINED" });
      }
      checkLength(info.bytes - bytes, `${file} as the row after line ${lines}`);
      [bytes, lines] = [info.bytes, info.lines];
      if (documentOf) {
        parts.push({ bytes: documentOf(fields), place: lines });
      } else {
        const header = fields.map(String);
        documentOf = conversation
          ? objectOf(header, conversationColumns(conversation))
          : columnOf(header, field, file);
      }
      return null; // the parser keeps nothing
    },
  });
  parser.on("error", () => {}); // the callback of a write reports it
  const write = (chunk?: Uint8Array) =>
    new Promise<void>((resolve, reject) => {
      const done = (error?: Error | null) => error ? reject(error) : resolve();
      if (chunk) parser.write(chunk, done);
      else parser.end(done);
    });
  let written = 0;
  try {
    for await (const window of windows(chunks)) {
      // in quotes the parser counts \r\n as two lines; a last \r waits for what follows it
      const isCut = !window.isLast && window.bytes.at(-1) === RETURN;
      window.used = window.bytes.length - (isCut ? 1 : 0);
      let rows = window.bytes.subarray(0, window.used);
      if (rows.includes("\r\n")) {
        rows = Buffer.from(rows.toString("latin1").replaceAll("\r\n", "\n"), "latin1");
      }
      await write(rows);
      written += rows.length;
      checkLength(written - bytes, `${file} as the row after line ${lines}`);
      yield parts;
      parts = [];
    }
    await write();
    yield parts;
  } catch (error) {
    const problem = PROBLEMS[(error as NodeJS.ErrnoException).code ?? ""];
    if (problem === undefined) throw error;
    throw new DataError(`${file} as ${tabs ? "TSV" : "CSV"} after line ${lines}: ${problem}`);
  }
}

/** What is wrong with a table, by the codes of errors. */
const PROBLEMS: Readonly<Record<string, string>> = {
  CSV_INVALID_CLOSING_QUOTE: "a field continues after its closing quote",
  CSV_QUOTE_NOT_CLOSED: "a quote is not closed",
  CSV_RECORD_INCONSISTENT_FIELDS_LENGTH: "a row must have as many fields as the first line",
  INVALID_OPENING_QUOTE: "a quote is inside a field that has none around it",
  JOINED: "a quote at the beginning of a field is not closed at its end",
};

/**
 * Whether the parser has joined several fields or rows into one, as it does if a quote begins the first
 * and is closed within another: the row then has fewer bytes than the field has when quoted.
 */
function isJoined(fields: readonly Buffer[], bytes: number): boolean {
  const isOdd = (field: Buffer) =>
    field[0] === QUOTE && [TAB, LINE_FEED, RETURN].some((byte) => field.includes(byte));
  if (!fields.some(isOdd)) return false;
  let least = fields.length - 1; // for the tabs between them
  for (const field of fields) {
    least += field.length;
    if (isOdd(field)) least += 2 + field.filter((byte) => byte === QUOTE).length;
  }
  return bytes < least;
}

const TAB = 0x09, LINE_FEED = 0x0a, RETURN = 0x0d, QUOTE = 0x22;

/** The function that gives the columns of a row that are there as a JSON object. */
function objectOf(
  header: readonly string[],
  columns: readonly string[],
): (fields: readonly Buffer[]) => Uint8Array {
  const places = columns.map((name) => [name, header.indexOf(name)] as const)
    .filter(([, place]) => place >= 0);
  return (fields) => {
    // a character per byte, so that bytes that are not UTF-8 are found where the object is parsed
    const values = places.map(([name, place]) => [name, fields[place]!.toString("latin1")]);
    return Buffer.from(JSON.stringify(Object.fromEntries(values)), "latin1");
  };
}

/** The function that gives the column of a row. */
function columnOf(
  header: readonly string[],
  column: string,
  file: string,
): (fields: readonly Buffer[]) => Uint8Array {
  const place = header.indexOf(column);
  if (place >= 0 && place === header.lastIndexOf(column)) return (fields) => fields[place]!;
  const [only] = header, separator = header.length > 1 ? undefined : /[;\t|]/.exec(only!)?.[0];
  const advice = separator === undefined
    ? "choose with --text-field"
    : `the fields seem to be separated by ${quoted(separator)}; ` +
      `only commas are read in CSV, tabs in TSV`;
  throw new DataError(
    `${file} as its first line must name one column ${column}: it has ${listOfNames(header)}; ` +
      advice,
  );
}
