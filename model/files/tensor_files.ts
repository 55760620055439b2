import { createHash } from "node:crypto";
import { closeSync, existsSync, fstatSync, openSync, statSync } from "node:fs";
import { join } from "node:path";
import { readAt, reading } from "../../files/disk.ts";
import { isObject, parseJsonObject, readText } from "../../files/json.ts";
import { printable, quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { GgufPlace } from "./gguf_reader.ts";
import { fromQ8 } from "./q8_0.ts";
import { HEAD, isBuffer, nameFromFile } from "./tensor_names.ts";
import {
  DTYPE_BYTES,
  parseSafetensorsHeader,
  type SafetensorsEntry,
  type SafetensorsPlace,
  toFloat32,
} from "./safetensors.ts";
import { parseTorchFile } from "./torch_file.ts";

/** A tensor of floats that is read part by part, so that memory never holds a whole model. */
export interface TensorReader {
  /** Dimensions, slowest first. */
  readonly shape: readonly number[];
  /**
   * Elements `first` to `first + count − 1`, widened or rounded to f32.
   *
   * @throws {UserError} if the tensor does not hold floats.
   */
  floats(first: number, count: number): Float32Array<ArrayBuffer>;
}

/** Returns the bytes of a file from `start` to before `end`. */
type Read = (start: number, end: number) => Uint8Array<ArrayBuffer>;

/** The reader of a tensor in memory. */
export function readerOf({ dtype, shape, data }: SafetensorsEntry): TensorReader {
  return placedReader({ dtype, shape, begin: 0 }, (start, end) => data.subarray(start, end));
}

/** Elements of a tensor that are read and converted at a time. */
export const PART = 2 ** 22;

/** Whether two tensors hold the same values; reads them part by part. */
export function haveSameValues(a: TensorReader, b: TensorReader): boolean {
  if (a.shape.join() !== b.shape.join()) return false;
  const count = a.shape.reduce((product, dim) => product * dim, 1);
  for (let first = 0; first < count; first += PART) {
    const length = Math.min(PART, count - first);
    const [some, others] = [a.floats(first, length), b.floats(first, length)];
    if (!some.every((value, i) => value === others[i])) return false;
  }
  return true;
}

/** The tensors of one or several files. */
export interface TensorFiles {
  /** Readers by the names in the files. */
  readonly tensors: ReadonlyMap<string, TensorReader>;
  /** The files' paths. */
  readonly paths: readonly string[];
  /** Closes the files. */
  close(): void;
}

/** Name of the file with a model's tensors. */
export const MODEL_FILE = "model.safetensors";

/**
 * Names of files with a model's tensors, or with an index that names the file of each tensor, in transformers' order
 * of preference. `.bin` is PyTorch's format.
 */
export const MODEL_FILES: readonly string[] = [MODEL_FILE, "pytorch_model.bin"]
  .flatMap((name) => [name, indexOf(name)]);

function indexOf(name: string): string {
  return `${name}.index.json`;
}

/** Whether a file of `MODEL_FILES` is an index. */
export function isIndex(name: string): boolean {
  return name.endsWith(".index.json");
}

/** Chooses one of `MODEL_FILES` among the files of a model; returns a notice if there was a choice. */
export function chooseModelFile(
  names: readonly string[],
): { name: string; notice?: string } | undefined {
  const name = MODEL_FILES.find((name) => names.includes(name));
  if (name === undefined || !names.includes(indexOf(name))) {
    return name === undefined ? name : { name };
  }
  return {
    name,
    notice: `using ${name}, which is whole, and not the files that ${indexOf(name)} names`,
  };
}

/**
 * Opens files of tensors and parses their headers, as strictly as `parseSafetensors()` does; the readers read the
 * tensors. A name with `.bin` at its end means PyTorch's format, any other safetensors.
 *
 * @throws {UserError} if a file cannot be read or has another format, or if two files hold a tensor of the same name.
 */
export function openTensorFiles(paths: readonly string[]): TensorFiles {
  const files: { close(): void }[] = [];
  const close = () => files.splice(0).forEach((file) => file.close());
  const tensors = new Map<string, TensorReader>();
  try {
    for (const path of paths) {
      const file = openParts(path), { size, read } = file;
      files.push(file);
      const places = path.endsWith(".bin")
        ? parseTorchFile(read, size, path)
        : parseSafetensorsHeader(read, size, path).tensors;
      for (const [name, place] of places) {
        if (tensors.has(name)) {
          throw new UserError(
            `Cannot read ${path} as ${quoted(name)} must be in one file: it is in two`,
          );
        }
        tensors.set(name, placedReader(place, read));
      }
    }
  } catch (error) {
    close();
    throw error;
  }
  return { tensors, paths, close };
}

/**
 * Names of the files that an index lists.
 *
 * @param text the index.
 * @throws {UserError} if the text is not an index.
 */
export function shardNames(text: string, where: string): string[] {
  return [...new Set(Object.values(parseIndex(text, where)))].sort();
}

/** Parses an index: the file of each tensor. */
function parseIndex(text: string, where: string): Readonly<Record<string, string>> {
  const { weight_map: map } = parseJsonObject(text, where);
  const names = isObject(map) ? [...new Set(Object.values(map))] : [];
  // a name is never a path
  const isName = (name: unknown) =>
    typeof name === "string" && /^\w[\w.-]*\.(safetensors|bin)$/.test(name);
  if (names.length === 0 || !names.every(isName)) {
    throw new UserError(
      `Cannot read ${where} as its weight_map must name files of tensors beside it: ` +
        `current names are ${names.slice(0, 5).map((name) => quoted(name)).join(", ") || "none"}`,
    );
  }
  return map as Record<string, string>;
}

/**
 * Opens the tensors of the model in a directory, in one file or several.
 *
 * @throws {UserError} as `openTensorFiles()` and `shardNames()`, or if a tensor of the index is missing.
 */
export function openModelTensors(directory: string): TensorFiles {
  const name = MODEL_FILES.find((name) => existsSync(join(directory, name))) ?? MODEL_FILE;
  const path = join(directory, name);
  if (!isIndex(name)) return openTensorFiles([path]);
  const index = parseIndex(readText(path), path),
    shards = [...new Set(Object.values(index))].sort();
  const absent = shards.filter((name) => !existsSync(join(directory, name)));
  if (absent.length > 0) {
    throw new UserError(
      `Cannot load ${path} as the files that it names must be beside it: ` +
        `there is no ${absent.slice(0, 3).join(", ")}`,
    );
  }
  const files = openTensorFiles(shards.map((name) => join(directory, name)));
  const missing = Object.keys(index).filter((name) =>
    // only the configuration says whether the head is a separate matrix
    !files.tensors.has(name) && nameFromFile(name) !== HEAD && !isBuffer(nameFromFile(name))
  );
  if (missing.length > 0) {
    files.close();
    throw new UserError(
      `Cannot load ${path} as its files must hold every tensor that it names: ` +
        `current missing ones are ${printable(missing.slice(0, 20).join(", "))}`,
    );
  }
  return files;
}

/** SHA-256 of the concatenation of files, in hexadecimal. */
export function hashFiles(paths: readonly string[]): string {
  const hash = createHash("sha256");
  for (const path of paths) {
    const { size, read, close } = openParts(path);
    try {
      for (let at = 0; at < size; at += PART_BYTES) {
        hash.update(read(at, Math.min(at + PART_BYTES, size)));
      }
    } finally {
      close();
    }
  }
  return hash.digest("hex");
}

const PART_BYTES = 2 ** 24;

/** The reader of a tensor at a place of a file. */
export function placedReader(
  { dtype, shape, begin }: Omit<SafetensorsPlace | GgufPlace, "end">,
  read: Read,
): TensorReader {
  if (dtype === "Q8_0") {
    const readBlocks: Read = (start, end) => read(begin + start, begin + end);
    return { shape, floats: (first, count) => fromQ8(readBlocks, first, count) };
  }
  const width = DTYPE_BYTES[dtype];
  return {
    shape,
    floats: (first, count) =>
      toFloat32({
        dtype,
        shape: [count],
        data: read(begin + first * width, begin + (first + count) * width),
      }),
  };
}

/**
 * Opens a file to read it part by part.
 *
 * @throws {UserError} if the path is not that of a file, or if the system refuses.
 */
export function openParts(path: string): { size: number; read: Read; close(): void } {
  const file = open(path);
  return {
    size: fstatSync(file).size,
    read: (start, end) => readPart(file, path, start, end),
    close: () => closeSync(file),
  };
}

function open(path: string): number {
  return reading(() => {
    if (statSync(path).isFile()) return openSync(path, "r");
    throw new UserError(`Cannot read ${path} as it must be a file`);
  }, (reason) => new UserError(`Cannot read ${path}: ${reason}`));
}

/** Reads a part of a file. */
function readPart(file: number, path: string, start: number, end: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(end - start);
  if (readAt(file, bytes, start) === bytes.length) return bytes;
  throw new UserError(`Cannot read ${path} as it has become shorter`);
}
