import { Buffer } from "node:buffer";
import type { Part } from "./blocks.ts";
import { UserError } from "../../files/user_error.ts";
import { DataError } from "./data_error.ts";
import {
  hasByteOrderMark,
  joinLineEnds,
  LARGEST_PART,
  LONGEST_RECORD,
  regroup,
  tooLong,
} from "./readers.ts";
import { listOfNames } from "./fields.ts";
import { load } from "../../files/packages.ts";

/** Name and form of a table. */
export interface CsvOptions {
  /** Name of the file in messages. */
  readonly file: string;
  /** Name of the column that holds documents, in the first line. */
  readonly column: string;
  /** Whether it is TSV. */
  readonly tabs: boolean;
}

/**
 * The documents in a column of CSV or TSV.
 *
 * Quotes enclose a whole field, and are doubled inside. TSV may also be written without quoting: other
 * quotes are text there. A quote that begins a field and is closed in another field or row is refused:
 * everything between them would become one document.
 *
 * @throws {DataError} if the table is malformed, the column is absent or a row is too long.
 */
export async function* csvParts(
  chunks: AsyncIterable<Uint8Array>,
  { file, column, tabs }: CsvOptions,
): AsyncGenerator<Part[]> {
  const { parse } = await load("csv-parse");
  let parts: Part[] = [];
  let header: string[] | undefined;
  let place = 0; // of the column in a row
  let bytes = 0, lines = 0; // up to the end of the last row
  const parser = parse({
    delimiter: tabs ? "\t" : ",",
    record_delimiter: ["\n", "\r"],
    skip_empty_lines: true,
    relax_quotes: tabs,
    encoding: null, // fields stay bytes, so that what is not UTF-8 is found
    on_record(row: unknown, info) {
      const fields = row as Buffer[];
      if (tabs && isJoined(fields, info.bytes - bytes)) {
        throw Object.assign(new SyntaxError("fields are joined"), {
          code: JOINED,
          lines: info.lines,
        });
      }
      [bytes, lines] = [info.bytes, info.lines];
      if (header) {
        parts.push({ bytes: fields[place]!, place: lines });
      } else {
        header = fields.map(String);
        place = placeOf(header, { file, column });
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
    for await (const chunk of withoutReturns(chunks)) {
      await write(chunk);
      written += chunk.length;
      if (written - bytes > LONGEST_RECORD) {
        throw tooLong(file, { record: `the row behind line ${lines}`, longest: LONGEST_RECORD });
      }
      yield parts;
      parts = [];
    }
    await write();
    yield parts;
  } catch (error) {
    const { code, lines: line, record } = error as Error & Partial<CsvError>;
    if (!code || error instanceof UserError) throw error;
    const wrong = {
      [JOINED]: [
        `line ${line} must ${QUOTING}`,
        "a quote at the beginning of a field is not closed at its end",
      ],
      CSV_QUOTE_NOT_CLOSED: [`the row behind line ${lines} must close its quotes`, "it does not"],
      CSV_RECORD_INCONSISTENT_FIELDS_LENGTH: [
        `line ${line} must have ${header?.length} fields, as the first line has`,
        `it has ${record?.length}`,
      ],
      INVALID_OPENING_QUOTE: [`line ${line} must ${QUOTING}`, "a quote is inside a field without"],
      CSV_INVALID_CLOSING_QUOTE: [
        `line ${line} must ${QUOTING}`,
        "a field continues behind a quote",
      ],
    }[code] ?? [`line ${line} must be ${tabs ? "TSV" : "CSV"}`, code];
    throw new DataError(`${file} as ${wrong.join(": ")}`);
  } finally {
    parser.destroy();
  }
}

/** Code of the error about a quote that begins a field and is closed in another. */
const JOINED = "FIELDS_JOINED";

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

/** Errors of the parser. */
interface CsvError {
  code: string;
  lines: number;
  record: readonly unknown[];
}

const TAB = 0x09, LINE_FEED = 0x0a, RETURN = 0x0d, QUOTE = 0x22;

const QUOTING = 'have " around whole fields, and "" for one inside them';

function placeOf(
  header: readonly string[],
  { file, column }: Pick<CsvOptions, "file" | "column">,
): number {
  const places = header.flatMap((name, i) => name === column ? [i] : []);
  if (places.length === 1) return places[0]!;
  throw new DataError(
    `${file} as its first line must name one column ${column}: it has ${listOfNames(header)}; ` +
      `choose with --text-field`,
  );
}

/**
 * A table without a byte order mark, and with `\n` for `\r\n`, which the parser counts as two lines if it
 * is quoted.
 */
async function* withoutReturns(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  let held: Uint8Array = new Uint8Array(0); // a return that a line feed may follow
  let first = true;
  for await (const { chunk, last } of regroup(chunks, 4 * LARGEST_PART)) {
    const bytes = Buffer.concat([held, chunk]);
    const start = first && hasByteOrderMark(bytes) ? 3 : 0;
    first = false;
    const whole = !last && bytes.at(-1) === 0x0d ? bytes.length - 1 : bytes.length;
    held = bytes.subarray(whole);
    yield bytes.subarray(start, joinLineEnds(bytes, start, whole));
  }
}
