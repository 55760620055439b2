import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import { readAt } from "../../files/disk.ts";
import { load, type Package } from "../../files/packages.ts";
import { UserError } from "../../files/user_error.ts";
import type { Part } from "./blocks.ts";
import { DataError } from "./data_error.ts";
import { fieldOf, listOfNames } from "./fields.ts";
import type { OpenFile } from "./readers.ts";

/** Decoders of columns that hyparquet does not have; Snappy it has. */
const COMPRESSORS = {
  GZIP: (packed: Uint8Array) => gunzipSync(packed),
  BROTLI: (packed: Uint8Array) => brotliDecompressSync(packed),
  ZSTD: (packed: Uint8Array) => zstdDecompressSync(packed),
};

/**
 * The documents of a Parquet file; a value that is null is an empty document.
 *
 * Memory holds the column of one row group at a time, packed and unpacked.
 *
 * @throws {DataError} if the file is damaged, or the column is absent or does not hold strings.
 */
export async function* parquetParts(
  { file, handle, bytes, column, progress }: OpenFile,
): AsyncGenerator<Part[]> {
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await load("hyparquet");
  const asyncBuffer = {
    byteLength: bytes,
    slice(start: number, end = bytes) {
      const buffer = new Uint8Array(end - start);
      if (readAt(handle, buffer, start) < buffer.length) throw new Error("it breaks off");
      progress.bytesRead = end;
      return buffer.buffer;
    },
  };
  let row = 0;
  try {
    const metadata = await parquetMetadataAsync(asyncBuffer);
    const { children } = parquetSchema(metadata);
    const outer = children.find(({ element }) => element.name === column) ??
      children.find((child) => columnNames(child).includes(column));
    const refuse = (requirement: string) =>
      new DataError(
        `${file} as ${requirement} the column ${column}: its columns are ` +
          `${listOfNames(children.flatMap(columnNames))}; choose with --text-field`,
      );
    if (!outer) throw refuse("it must have");
    for (const group of metadata.row_groups) {
      const needsLz4 = group.columns.some(({ meta_data }) => meta_data?.codec.startsWith("LZ4"));
      const rows = await parquetReadObjects({
        file: asyncBuffer,
        metadata: { ...metadata, row_groups: [group] },
        columns: [outer.element.name],
        compressors: needsLz4 ? (await load("hyparquet-compressors")).compressors : COMPRESSORS,
        utf8: false,
        parsers: { stringFromBytes: (text: Uint8Array) => text },
      });
      if (rows.length !== Number(group.num_rows)) {
        throw new Error(`a group holds ${rows.length} of its ${group.num_rows} rows`);
      }
      yield rows.map((object) => {
        row++;
        const text = fieldOf(object, column) ?? new Uint8Array(0);
        if (text instanceof Uint8Array) return { bytes: text, place: row };
        throw refuse(`row ${row} must hold a string in`);
      });
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new DataError(`${file} as Parquet after row ${row}: ${(error as Error).message}`, {
      cause: error, // hyparquet throws errors of all kinds if a file is damaged
    });
  }
}

/** The names by which `fieldOf()` finds columns, lists as a whole. */
function columnNames(column: ReturnType<Package<"hyparquet">["parquetSchema"]>): string[] {
  const { children, path } = column;
  const isGroup = children.length > 0 &&
    children.every(({ element }) => element.repetition_type !== "REPEATED");
  return isGroup ? children.flatMap(columnNames) : [path.join(".")];
}
