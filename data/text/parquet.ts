import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import type { JsonObject } from "../../files/json.ts";
import { load, type Package } from "../../files/packages.ts";
import { printable } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { Part, PartsOrigin } from "./blocks.ts";
import { conversationColumns } from "./conversations.ts";
import { DataError } from "./data_error.ts";
import { fieldOf, listOfNames } from "./rows.ts";
import type { OpenFile } from "./open_file.ts";

/** Decoders of columns that hyparquet does not have; Snappy it has. */
const COMPRESSORS = {
  GZIP: (packed: Uint8Array) => gunzipSync(packed),
  BROTLI: (packed: Uint8Array) => brotliDecompressSync(packed),
  ZSTD: (packed: Uint8Array) => zstdDecompressSync(packed),
};

/** Rows of a group, at most: memory holds a group at once, in some 300 bytes per row beside its text. */
const MOST_GROUP_ROWS = 2 ** 23;

type Column = ReturnType<Package<"hyparquet">["parquetSchema"]>;

/**
 * A row with the columns of a Parquet file: a list in those that hold lists, perhaps as JSON, and null in others.
 *
 * @throws {DataError} if the file is damaged.
 */
export async function parquetSample(file: OpenFile): Promise<JsonObject> {
  const { parquetMetadataAsync, parquetSchema } = await load("hyparquet");
  return await attempt(file.name, 0, async () => {
    const { children } = parquetSchema(await parquetMetadataAsync(file));
    return Object.fromEntries(children.map((child) => {
      const isJson = child.element.converted_type === "JSON";
      const isList = child.children.length > 0 && !isGroup(child);
      return [child.element.name, isList || isJson ? [] : null];
    }));
  });
}

/**
 * The documents of a Parquet file; a value that is null is an empty document. Of conversations each part is a JSON
 * object with the columns that hold them.
 *
 * Memory holds the columns of one row group at a time, packed and unpacked.
 *
 * @throws {DataError} if the file is damaged, a group has too many rows, or the column is absent or does not hold strings.
 */
export async function* parquetParts(
  file: OpenFile,
  { field, conversation }: Pick<PartsOrigin, "field" | "conversation">,
): AsyncGenerator<Part[]> {
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await load("hyparquet");
  const metadata = await attempt(file.name, 0, () => parquetMetadataAsync(file));
  const { children } = parquetSchema(metadata);
  const refuse = (requirement: string) =>
    new DataError(
      `${file.name} as ${requirement} the column ${field}: its columns are ` +
        `${listOfNames(children.flatMap(columnNames))}; choose with --text-field`,
    );
  const wanted = conversation ? conversationColumns(conversation) : [field];
  const columns = wanted.flatMap((name) =>
    children.find(({ element }) => element.name === name) ??
      children.find((child) => columnNames(child).includes(name)) ?? []
  );
  if (columns.length === 0) throw refuse("it must have");
  let row = 0;
  for (const group of metadata.row_groups) {
    if (group.num_rows > MOST_GROUP_ROWS) {
      throw new DataError(
        `${file.name} as a row group may have at most ${MOST_GROUP_ROWS} rows: ` +
          `current number is ${group.num_rows}; write the file with smaller row groups`,
      );
    }
    const needsLz4 = group.columns.some(({ meta_data }) => meta_data?.codec.startsWith("LZ4"));
    const compressors = needsLz4 ? (await load("hyparquet-compressors")).compressors : COMPRESSORS;
    const rows = await attempt(file.name, row, async () => {
      const rows = await parquetReadObjects({
        file,
        metadata: { ...metadata, row_groups: [group] },
        columns: columns.map(({ element }) => element.name),
        compressors,
        ...(conversation
          ? {}
          : { utf8: false, parsers: { stringFromBytes: (text: Uint8Array) => text } }),
      });
      if (rows.length === Number(group.num_rows)) return rows;
      throw new Error(`a group holds ${rows.length} of its ${group.num_rows} rows`);
    });
    yield rows.map((object) => {
      row++;
      if (conversation) return { bytes: jsonOf(object), place: row };
      const text = fieldOf(object, field) ?? new Uint8Array(0);
      if (text instanceof Uint8Array) return { bytes: text, place: row };
      throw refuse(`row ${row} must hold a string in`);
    });
  }
}

/** A row as JSON, in which a whole number of 64 bits is written as a usual one. */
function jsonOf(row: unknown): Uint8Array {
  const json = JSON.stringify(row, (_, value) => typeof value === "bigint" ? Number(value) : value);
  return new TextEncoder().encode(json);
}

/** Runs an action of hyparquet, which throws errors of all kinds if a file is damaged; a `TypeError` explains nothing. */
async function attempt<T>(file: string, row: number, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (error instanceof UserError) throw error;
    const what = error instanceof TypeError ? "it is damaged" : printable((error as Error).message);
    throw new DataError(`${file} as Parquet after row ${row}: ${what}`, { cause: error });
  }
}

/** The names by which `fieldOf()` finds columns, lists as a whole. */
function columnNames(column: Column): string[] {
  return isGroup(column) ? column.children.flatMap(columnNames) : [column.path.join(".")];
}

/** Whether a column holds objects of several columns. */
function isGroup({ children }: Column): boolean {
  return children.length > 0 &&
    children.every(({ element }) => element.repetition_type !== "REPEATED");
}
