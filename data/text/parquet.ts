import { readSync } from "node:fs";
import { brotliDecompressSync, crc32, gunzipSync, zstdDecompressSync } from "node:zlib";
import { DataError } from "./data_error.ts";
import type { Piece } from "./documents.ts";
import { listOfNames } from "./fields.ts";
import { load, type Package } from "../../files/packages.ts";
import { UserError } from "../../files/user_error.ts";

/** A Parquet file that is open. */
export interface ParquetFile {
  /** What it is called in messages. */
  readonly file: string;
  readonly handle: number;
  readonly bytes: number;
  /** The column that holds documents, one per row; in a group, `group.column`. */
  readonly column: string;
}

/** Bytes of the smallest file: both magic numbers and a length. */
const LEAST_BYTES = 12;

/** Bytes of a page's header, as a rule; statistics in it can make it longer. */
const HEADER_BYTES = 2 ** 16;

/** Bytes in a page at most: it is unpacked whole. Writers make pages of a megabyte. */
const LARGEST_PAGE = 2 ** 26;

/** How a column is packed, beside Snappy, which the library knows, and LZ4. */
const COMPRESSORS = {
  GZIP: (packed: Uint8Array) => gunzipSync(packed),
  BROTLI: (packed: Uint8Array) => brotliDecompressSync(packed),
  ZSTD: (packed: Uint8Array) => zstdDecompressSync(packed),
};

/**
 * The documents of a Parquet file, a page at a time; a value that is null is an empty piece.
 *
 * The library reads a group of rows whole, and some writers put a million stories into one; so its parts
 * are used here page by page.
 *
 * @throws {DataError} if the file is damaged, or the column is absent or holds something else than text.
 */
export async function* parquetPieces(
  { file, handle, bytes, column }: ParquetFile,
): AsyncGenerator<{ pieces: Piece[]; file: string; bytesRead: number }> {
  const { parquetMetadataAsync, parquetSchema } = await load("hyparquet");
  const { parquetHeader, readPage } = await load("hyparquet/src/column.js");
  const { DEFAULT_PARSERS } = await load("hyparquet/src/convert.js");
  const read = (start: number, end: number) => {
    const buffer = new ArrayBuffer(Math.max(0, end - start));
    for (let done = 0; done < buffer.byteLength;) {
      const view = new Uint8Array(buffer, done);
      const length = readSync(handle, view, 0, view.length, start + done);
      if (length === 0) throw new Error(`it ends after ${bytes} bytes`);
      done += length;
    }
    return buffer;
  };
  let row = 0;
  try {
    if (bytes < LEAST_BYTES) throw new Error(`it ends after ${bytes} bytes`);
    const slice = (start: number, end = bytes) => read(start, Math.min(end, bytes));
    const metadata = await parquetMetadataAsync({ byteLength: bytes, slice });
    const schema = parquetSchema(metadata);
    const schemaPath = columnPath(schema, column);
    const field = schemaPath?.at(-1);
    if (!field) {
      throw new DataError(
        `${file} as it must have the column ${column}: ` +
          `it has ${listOfNames(columnNames(schema))}; choose with --text-field`,
      );
    }
    const isRepeated = schemaPath!.some(({ element }) => element.repetition_type === "REPEATED");
    if (field.element.type !== "BYTE_ARRAY" || isRepeated) {
      const held = isRepeated ? "lists" : field.element.type ?? "groups";
      throw new DataError(
        `${file} as its column ${column} must hold strings: it holds ` +
          `${held}; it has ${listOfNames(columnNames(schema))}; choose with --text-field`,
      );
    }
    for (const group of metadata.row_groups) {
      const chunk = group.columns.find(({ meta_data }) =>
        meta_data?.path_in_schema.join("\0") === field.path.join("\0")
      );
      const meta = chunk?.meta_data;
      if (!meta || chunk.file_path) throw new Error("a group of rows lacks the column");
      const decoder = {
        ...meta,
        pathInSchema: meta.path_in_schema,
        element: field.element,
        schemaPath: schemaPath!,
        compressors: meta.codec.startsWith("LZ4")
          ? (await load("hyparquet-compressors")).compressors
          : COMPRESSORS,
        parsers: { ...DEFAULT_PARSERS, stringFromBytes: (text: Uint8Array) => text },
      };
      let dictionary: Parameters<typeof readPage>[3];
      let at = Number(meta.dictionary_page_offset || meta.data_page_offset);
      const end = at + Number(meta.total_compressed_size);
      while (at < end) {
        const { header, length } = readHeader(at, end);
        at += length;
        const size = header.compressed_page_size;
        if (!(size >= 0) || Math.max(size, header.uncompressed_page_size) > LARGEST_PAGE) {
          throw new Error(`a page of ${header.uncompressed_page_size} bytes is too large`);
        }
        const page = read(at, at + size);
        at += size;
        if (header.crc !== undefined && crc32(new Uint8Array(page)) !== header.crc >>> 0) {
          throw new Error("a page's checksum does not match");
        }
        if (header.type === "INDEX_PAGE") continue;
        const reader = { view: new DataView(page), offset: 0 };
        const { data } = readPage(reader, header, decoder, dictionary, undefined, 0);
        if (header.type === "DICTIONARY_PAGE") dictionary = data;
        else yield { pieces: documentsOf(data as ArrayLike<unknown>), file, bytesRead: at };
      }
    }
  } catch (error) {
    if (error instanceof UserError) throw error;
    const { message } = error as Error;
    throw new DataError(
      `${file} as Parquet behind row ${row}: ${message}`,
      { cause: error }, // whatever the library throws at a damaged file
    );
  }

  function readHeader(start: number, end: number) {
    for (let guess = HEADER_BYTES;; guess *= 16) {
      const reader = { view: new DataView(read(start, Math.min(end, start + guess))), offset: 0 };
      try {
        return { header: parquetHeader(reader), length: reader.offset };
      } catch (error) {
        if (start + guess >= end) throw error;
      }
    }
  }

  function documentsOf(values: ArrayLike<unknown>): Piece[] {
    const pieces: Piece[] = [];
    for (let i = 0; i < values.length; i++) {
      row++;
      let value = values[i];
      while (Array.isArray(value)) value = value[0]; // a group that may be null is a list here
      const bytes = value ?? new Uint8Array(0);
      if (!(bytes instanceof Uint8Array)) throw new Error(`row ${row} is no string`);
      pieces.push({ bytes, begins: true, ends: true, place: row });
    }
    return pieces;
  }
}

/** The part of a tree of columns that is needed here. */
type Column = ReturnType<Package<"hyparquet">["parquetSchema"]>;

/** From the root to the column of a name; a column of the whole name goes before one in a group. */
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
