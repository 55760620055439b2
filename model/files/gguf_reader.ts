import { printable, quoted } from "../../files/printable.ts";
import { STAND_IN_BYTES, standIn } from "../../files/stand_in.ts";
import { UserError } from "../../files/user_error.ts";
import { Q8_BLOCK } from "./q8_0.ts";

/**
 * Reader of GGUF files, in which llama.cpp keeps models: named values, then tensors
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). It trusts nothing in a file.
 *
 * @module
 */

/** A value of a GGUF file; the elements of an array have one type. */
export type GgufReadValue = number | boolean | string | readonly (number | boolean | string)[];

/** Supported types of tensors, by their numbers in a file, with elements and bytes per block. */
const TENSOR_TYPES = {
  0: { dtype: "F32", elements: 1, bytes: 4 },
  1: { dtype: "F16", elements: 1, bytes: 2 },
  8: { dtype: "Q8_0", ...Q8_BLOCK },
  30: { dtype: "BF16", elements: 1, bytes: 2 },
} as const;

/** Names of other types in ggml.h, for messages. */
const OTHER_TYPES: Readonly<Record<number, string>> = {
  2: "Q4_0",
  3: "Q4_1",
  6: "Q5_0",
  7: "Q5_1",
  9: "Q8_1",
  10: "Q2_K",
  11: "Q3_K",
  12: "Q4_K",
  13: "Q5_K",
  14: "Q6_K",
  15: "Q8_K",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
};

/** Place of a tensor in a file. */
export interface GgufPlace {
  /** Element type. */
  readonly dtype: "F32" | "F16" | "BF16" | "Q8_0";
  /** Dimensions, slowest first. */
  readonly shape: readonly number[];
  /** Offset of its first byte in the file. */
  readonly begin: number;
  /** Offset of the byte after its last one. */
  readonly end: number;
}

/** Most bytes of a header; 262,144 tokens with their merges need some ten million. */
const MOST_HEADER_BYTES = 100_000_000;

/** Most tensors, and most values. */
const MOST_ENTRIES = 100_000;

/** Most bytes of a name. */
const MOST_NAME_BYTES = 65_535;

/** Most dimensions of a tensor, a limit of ggml. */
const MOST_DIMENSIONS = 4;

/** Largest alignment of tensors in bytes. */
const MOST_ALIGNMENT = 2 ** 20;

/** Bytes that are read at a time. */
const PART_BYTES = 2 ** 20;

/**
 * Parses the header of a GGUF file: its values, and the places of its tensors.
 *
 * @param read returns the bytes of the file from `start` to before `end`.
 * @param where path of the file, for error messages.
 * @throws {UserError} if it is another file, or if anything in it violates the format, which the message names.
 */
export function parseGgufHeader(
  read: (start: number, end: number) => Uint8Array<ArrayBuffer>,
  fileBytes: number,
  where: string,
): {
  readonly values: ReadonlyMap<string, GgufReadValue>;
  readonly tensors: ReadonlyMap<string, GgufPlace>;
} {
  const refuse = (reason: string) => new UserError(`Cannot read ${where} as ${reason}`);
  const beginning = read(0, Math.min(fileBytes, STAND_IN_BYTES)), instead = standIn(beginning);
  if (instead) throw refuse(instead);
  if (new TextDecoder().decode(beginning.subarray(0, 4)) !== "GGUF") {
    throw refuse(`it must begin with GGUF: current size is ${fileBytes}`);
  }
  const header = new Header(read, fileBytes, refuse);
  header.bytes(4);
  const version = header.number("uint32");
  if (version !== 2 && version !== 3) {
    throw refuse(
      version > 0xffff
        ? "its numbers must be little-endian"
        : `its version must be 2 or 3: current version is ${version}`,
    );
  }
  const [tensorCount, valueCount] = [header.count("tensors"), header.count("values")];

  const values = new Map<string, GgufReadValue>();
  for (let i = 0; i < valueCount; i++) {
    const name = header.name();
    if (values.has(name)) throw refuse(`it must have one value ${quoted(name, 80)}: it has two`);
    values.set(name, header.value(name));
  }
  const alignment = values.get("general.alignment") ?? 32;
  if (
    !(Number.isInteger(alignment) && alignment as number >= 1 &&
      alignment as number <= MOST_ALIGNMENT)
  ) {
    throw refuse(
      `general.alignment must be an integer from 1 to ${MOST_ALIGNMENT}: ` +
        `current value is ${quoted(alignment)}`,
    );
  }

  const found: {
    name: string;
    dtype: GgufPlace["dtype"];
    shape: number[];
    offset: number;
    bytes: number;
  }[] = [];
  for (let i = 0; i < tensorCount; i++) {
    const name = header.name(), shown = printable(name, 80);
    const rank = header.number("uint32");
    if (rank < 1 || rank > MOST_DIMENSIONS) {
      throw refuse(
        `${shown} must have 1 to ${MOST_DIMENSIONS} dimensions: current number is ${rank}`,
      );
    }
    const shape = Array.from({ length: rank }, () => header.number("uint64")).reverse();
    const number = header.number("uint32"), offset = header.number("uint64");
    const type = TENSOR_TYPES[number as keyof typeof TENSOR_TYPES];
    if (!type) {
      throw refuse(
        `tensors must be ${Object.values(TENSOR_TYPES).map(({ dtype }) => dtype).join(", ")}: ` +
          `current type of ${shown} is ${OTHER_TYPES[number] ?? number}`,
      );
    }
    const elements = shape.reduce((product, dim) => product * dim, 1);
    if (elements === 0 || elements > Number.MAX_SAFE_INTEGER / 4) {
      throw refuse(
        `${shown} must have elements, and fewer than any file: current shape is [${shape}]`,
      );
    }
    if (shape.at(-1)! % type.elements !== 0) {
      throw refuse(
        `rows of ${shown} must be multiples of ${type.elements} in ${type.dtype}: ` +
          `current shape is [${shape}]`,
      );
    }
    found.push({
      name,
      dtype: type.dtype,
      shape,
      offset,
      bytes: elements / type.elements * type.bytes,
    });
  }

  const data = Math.ceil(header.at / (alignment as number)) * (alignment as number);
  const tensors = new Map<string, GgufPlace>();
  let last = 0;
  for (
    const { name, dtype, shape, offset, bytes } of found.toSorted((a, b) => a.offset - b.offset)
  ) {
    const shown = printable(name, 80), begin = data + offset, end = begin + bytes;
    if (tensors.has(name)) throw refuse(`it must have one tensor ${shown}: it has two`);
    if (offset % (alignment as number) !== 0 || offset < last) {
      throw refuse(
        `${shown} must begin at a multiple of ${alignment} behind the tensor before it: ` +
          `current offset is ${offset}`,
      );
    }
    if (end > fileBytes) {
      throw refuse(
        `the file is cut off: ${shown} ends at byte ${end}, current size is ${fileBytes}`,
      );
    }
    tensors.set(name, { dtype, shape, begin, end });
    last = offset + bytes;
  }
  return { values, tensors };
}

/** Types of numbers, with their size in bytes and their reader. */
const NUMBERS = {
  uint8: [1, (view, at) => view.getUint8(at)],
  int8: [1, (view, at) => view.getInt8(at)],
  uint16: [2, (view, at) => view.getUint16(at, true)],
  int16: [2, (view, at) => view.getInt16(at, true)],
  uint32: [4, (view, at) => view.getUint32(at, true)],
  int32: [4, (view, at) => view.getInt32(at, true)],
  float32: [4, (view, at) => view.getFloat32(at, true)],
  uint64: [8, (view, at) => Number(view.getBigUint64(at, true))],
  int64: [8, (view, at) => Number(view.getBigInt64(at, true))],
  float64: [8, (view, at) => view.getFloat64(at, true)],
} as const satisfies Record<string, readonly [number, (view: DataView, at: number) => number]>;

/** Types of values, in the order of their numbers in a file. */
const VALUE_TYPES = [
  ...["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"] as const,
  ...["bool", "string", "array", "uint64", "int64", "float64"] as const,
];

/** Cursor over a header, which reads the file part by part. */
class Header {
  /** Offset of the next byte. */
  at = 0;
  readonly #read: (start: number, end: number) => Uint8Array<ArrayBuffer>;
  readonly #end: number;
  readonly #refuse: (reason: string) => Error;
  #part = new Uint8Array(0);
  #partAt = 0;

  constructor(
    read: (start: number, end: number) => Uint8Array<ArrayBuffer>,
    fileBytes: number,
    refuse: (reason: string) => Error,
  ) {
    this.#read = read;
    this.#end = fileBytes;
    this.#refuse = refuse;
  }

  /** Reads the next bytes. */
  bytes(count: number): Uint8Array<ArrayBuffer> {
    const start = this.at, end = start + count;
    if (end > this.#end) {
      throw this.#refuse(`the file is cut off in its header: current size is ${this.#end}`);
    }
    if (end > MOST_HEADER_BYTES) {
      throw this.#refuse(`its header must have at most ${MOST_HEADER_BYTES} bytes`);
    }
    this.at = end;
    if (end > this.#partAt + this.#part.length) {
      this.#part = this.#read(start, Math.min(this.#end, start + Math.max(count, PART_BYTES)));
      this.#partAt = start;
    }
    return this.#part.subarray(start - this.#partAt, end - this.#partAt);
  }

  number(type: keyof typeof NUMBERS): number {
    const [size, get] = NUMBERS[type], { buffer, byteOffset } = this.bytes(size);
    return get(new DataView(buffer, byteOffset), 0);
  }

  /** Reads a number of entries. */
  count(what: string): number {
    const count = this.number("uint64");
    if (count <= MOST_ENTRIES) return count;
    throw this.#refuse(`it must have at most ${MOST_ENTRIES} ${what}: current number is ${count}`);
  }

  text(): string {
    const bytes = this.bytes(this.number("uint64"));
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      throw this.#refuse(`its texts must be UTF-8: one before byte ${this.at} is none`);
    }
  }

  name(): string {
    const name = this.text();
    if (name !== "" && name.length <= MOST_NAME_BYTES) return name;
    throw this.#refuse(
      `names must have 1 to ${MOST_NAME_BYTES} characters: current number is ${name.length}`,
    );
  }

  /** Reads a value after its type; an array after the type and number of its elements. */
  value(name: string): GgufReadValue {
    const type = this.#type(name);
    if (type !== "array") return this.#element(type);
    const element = this.#type(name), count = this.number("uint64");
    if (element === "array") {
      throw this.#refuse(`${printable(name, 80)} must not hold lists of lists`);
    }
    // each element has at least one byte
    if (count > this.#end - this.at) {
      throw this.#refuse(
        `the file is cut off in its header: ${printable(name, 80)} has ${count} elements`,
      );
    }
    const values: (number | boolean | string)[] = [];
    for (let i = 0; i < count; i++) values.push(this.#element(element));
    return values;
  }

  #type(name: string): (typeof VALUE_TYPES)[number] {
    const number = this.number("uint32"), type = VALUE_TYPES[number];
    if (type !== undefined) return type;
    throw this.#refuse(
      `${
        printable(name, 80)
      } must have a type below ${VALUE_TYPES.length}: current type is ${number}`,
    );
  }

  #element(type: Exclude<(typeof VALUE_TYPES)[number], "array">): number | boolean | string {
    if (type === "string") return this.text();
    if (type === "bool") return this.bytes(1)[0] !== 0;
    return this.number(type);
  }
}
