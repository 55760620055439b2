import { brotliDecompressSync, gunzipSync, zstdDecompressSync } from "node:zlib";
import { readAt } from "../../files/disk.ts";
import { load, type Package } from "../../files/packages.ts";
import { UserError } from "../../files/user_error.ts";
import type { Part } from "./blocks.ts";
import { DataError } from "./data_error.ts";
import { listOfNames } from "./fields.ts";

/** A Parquet file that is open. */
export interface ParquetFile {
  /** Name of the file in messages. */
  readonly file: string;
  readonly handle: number;
  readonly bytes: number;
  /** The column that holds documents, one per row; in a group, `group.column`. */
  readonly column: string;
  /** Is set to the end of what has been read. */
  readonly progress: { bytesRead: number };
}

/** Bytes of the smallest file: both magic numbers and a length. */
const LEAST_BYTES = 12;

/**
 * Most bytes of the column in one row group, unpacked: a group is held whole in memory. Writers make groups
 * of 128 MB, or of a million rows, which takes a gigabyte of stories.
 */
const LARGEST_GROUP = 2 ** 31;

/** Compression of columns, beside Snappy, which hyparquet knows, and LZ4. */
const COMPRESSORS = {
  GZIP: (packed: Uint8Array) => gunzipSync(packed),
  BROTLI: (packed: Uint8Array) => brotliDecompressSync(packed),
  ZSTD: (packed: Uint8Array) => zstdDecompressSync(packed),
};

/**
 * The documents of a Parquet file; a value that is null is an empty document.
 *
 * Row groups are read one at a time, of each the one column, so memory holds the compressed and the
 * unpacked bytes of that column in one group.
 *
 * @throws {DataError} if the file is damaged, or the column is absent or does not hold strings.
 */
export async function* parquetParts(
  { file, handle, bytes, column, progress }: ParquetFile,
): AsyncGenerator<Part[]> {
  const { parquetMetadataAsync, parquetRead, parquetSchema } = await load("hyparquet");
  let row = 0;
  try {
    if (bytes < LEAST_BYTES) throw new Error(`it ends after ${bytes} bytes`);
    const slice = (start: number, end = bytes) =>
      readFully(handle, start, Math.max(start, Math.min(end, bytes)));
    const metadata = await parquetMetadataAsync({ byteLength: bytes, slice });
    const schema = parquetSchema(metadata);
    const path = columnPath(schema, column), leaf = path?.at(-1);
    const known = `it has ${listOfNames(columnNames(schema))}; choose with --text-field`;
    if (!path || !leaf) {
      throw new DataError(`${file} as it must have the column ${column}: ${known}`);
    }
    const isRepeated = path.some(({ element }) => element.repetition_type === "REPEATED");
    if (leaf.element.type !== "BYTE_ARRAY" || isRepeated) {
      const held = isRepeated ? "lists" : leaf.element.type ?? "groups";
      throw new DataError(
        `${file} as its column ${column} must hold strings: it holds ${held}; ${known}`,
      );
    }
    for (const group of metadata.row_groups) {
      const columns = group.columns.filter(({ meta_data }) =>
        meta_data?.path_in_schema.join("\0") === leaf.path.join("\0")
      );
      const [chunk] = columns, meta = chunk?.meta_data;
      if (!meta || chunk.file_path) throw new Error("a group of rows lacks the column");
      const size = Number(meta.total_uncompressed_size);
      if (size > LARGEST_GROUP) throw new Error(`a group of rows of ${size} bytes is too large`);
      const pages: ArrayLike<unknown>[] = [];
      await parquetRead({
        file: { byteLength: bytes, slice },
        metadata: { ...metadata, row_groups: [{ ...group, columns }] },
        columns: [leaf.path[0]!],
        compressors: meta.codec.startsWith("LZ4")
          ? (await load("hyparquet-compressors")).compressors
          : COMPRESSORS,
        utf8: false,
        parsers: { stringFromBytes: (text: Uint8Array) => text },
        onPage: ({ columnData }) => pages.push(columnData),
      });
      const rows = pages.reduce((sum, { length }) => sum + length, 0);
      if (rows !== Number(group.num_rows)) {
        throw new Error(`a group holds ${rows} of its ${group.num_rows} rows`);
      }
      progress.bytesRead = Number(meta.dictionary_page_offset || meta.data_page_offset) +
        Number(meta.total_compressed_size);
      for (const page of pages) yield partsOf(page);
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new DataError(`${file} as Parquet behind row ${row}: ${(error as Error).message}`, {
      cause: error, // anything that hyparquet throws at a damaged file
    });
  }

  function partsOf(values: ArrayLike<unknown>): Part[] {
    return Array.from(values, (value) => {
      row++;
      while (Array.isArray(value)) value = value[0]; // hyparquet nests values of groups that may be null
      const bytes = value ?? new Uint8Array(0);
      if (!(bytes instanceof Uint8Array)) throw new Error(`row ${row} is no string`);
      return { bytes, place: row };
    });
  }
}

function readFully(handle: number, start: number, end: number): ArrayBuffer {
  const bytes = new Uint8Array(end - start), count = readAt(handle, bytes, start);
  if (count === bytes.length) return bytes.buffer;
  throw new Error(`it ends after ${start + count} bytes`);
}

/** The part of a tree of columns that is needed here. */
type Column = ReturnType<Package<"hyparquet">["parquetSchema"]>;

/** From the root to the column of a name; a column of the whole name precedes one in a group. */
function columnPath(tree: Column, name: string): Column[] | undefined {
  for (const child of tree.children) {
    if (child.element.name === name) return [tree, child];
  }
  for (const child of tree.children) {
    if (!name.startsWith(`${child.element.name}.`)) continue;
    const rest = columnPath(child, name.slice(child.element.name.length + 1));
    if (rest) return [tree, ...rest];
  }
  return undefined;
}

/** The names by which `columnPath()` finds columns, lists as a whole. */
function columnNames(tree: Column): string[] {
  return tree.children.flatMap((child) => {
    const isGroup = child.children.length > 0 &&
      child.children.every(({ element }) => element.repetition_type !== "REPEATED");
    return isGroup ? columnNames(child) : [child.path.join(".")];
  });
}
