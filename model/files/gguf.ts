import { Q8_BLOCK } from "./q8_0.ts";

/**
 * Writer of GGUF files, which llama.cpp reads: named values, then tensors
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
 *
 * @module
 */

/** A value with its type, or an array with the type of its elements, named as in the format. */
export type GgufValue =
  | readonly [type: "uint32" | "float32", value: number]
  | readonly [type: "bool", value: boolean]
  | readonly [type: "string", value: string]
  | readonly [type: "int32" | "float32", values: readonly number[]]
  | readonly [type: "string", values: readonly string[]];

/** Numbers of the types of values in a file. */
const VALUE_TYPES = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8 } as const;
const ARRAY = 9;

/** Numbers of the types of tensors in a file, with elements and bytes per block. */
const TENSOR_TYPES = {
  F32: { number: 0, elements: 1, bytes: 4 },
  F16: { number: 1, elements: 1, bytes: 2 },
  Q8_0: { number: 8, ...Q8_BLOCK },
} as const;

/** A tensor as it is written. */
export interface GgufTensor {
  /** Element type. */
  readonly dtype: keyof typeof TENSOR_TYPES;
  /** Dimensions, slowest first. */
  readonly shape: readonly number[];
  /** The elements or blocks, little-endian, row-major. */
  readonly data: Uint8Array<ArrayBuffer>;
}

/** Version of the format. */
const VERSION = 3;

/** Alignment of tensors in bytes. */
const ALIGNMENT = 32;

/**
 * Serializes values and tensors as the chunks of a GGUF file, without copying the tensors.
 *
 * @param tensors slowest dimension first as everywhere in this project; the format has the fastest dimension first.
 * @throws {RangeError} if a name occurs twice, or if the data of a tensor does not fit its shape and dtype.
 */
export function serializeGguf(
  values: ReadonlyMap<string, GgufValue>,
  tensors: Iterable<readonly [string, GgufTensor]>,
): Uint8Array<ArrayBuffer>[] {
  const list = [...tensors];
  const header = new GgufWriter();
  header.bytes(new TextEncoder().encode("GGUF"));
  header.uint32(VERSION);
  header.uint64(list.length);
  header.uint64(values.size);
  for (const [name, value] of values) {
    header.string(name);
    header.value(value);
  }
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  const names = new Set<string>();
  let offset = 0;
  for (const [name, { dtype, shape, data }] of list) {
    if (names.has(name)) {
      throw new RangeError(`Cannot write GGUF as names must be unique: current name is "${name}"`);
    }
    names.add(name);
    const type = TENSOR_TYPES[dtype], columns = shape.at(-1)!;
    if (columns % type.elements !== 0) {
      throw new RangeError(
        `Cannot write tensor "${name}" as ${dtype} as its rows must be a multiple of ${type.elements} long: ` +
          `current length is ${columns}`,
      );
    }
    const bytes = shape.reduce((product, dim) => product * dim, type.bytes) / type.elements;
    if (data.length !== bytes) {
      throw new RangeError(
        `Cannot write tensor "${name}" as ${dtype} [${shape}] must have ${bytes} bytes: ` +
          `current size is ${data.length}`,
      );
    }
    header.string(name);
    header.uint32(shape.length);
    for (const dim of shape.toReversed()) header.uint64(dim);
    header.uint32(type.number);
    header.uint64(offset);
    const padding = paddingBehind(bytes);
    chunks.push(data, new Uint8Array(padding));
    offset += bytes + padding;
  }
  header.bytes(new Uint8Array(paddingBehind(header.length)));
  return [header.take(), ...chunks];
}

/** Bytes from an offset to the next multiple of the alignment. */
function paddingBehind(bytes: number): number {
  return (ALIGNMENT - bytes % ALIGNMENT) % ALIGNMENT;
}

/** A growing buffer of little-endian values. */
class GgufWriter {
  #bytes = new Uint8Array(2 ** 16);
  #view = new DataView(this.#bytes.buffer);
  length = 0;

  bytes(more: Uint8Array): void {
    const at = this.#grow(more.length);
    this.#bytes.set(more, at);
  }

  uint32(value: number): void {
    const at = this.#grow(4);
    this.#view.setUint32(at, value, true);
  }

  uint64(value: number): void {
    const at = this.#grow(8);
    this.#view.setBigUint64(at, BigInt(value), true);
  }

  /** Writes a string: its length in bytes, then UTF-8. */
  string(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.uint64(bytes.length);
    this.bytes(bytes);
  }

  /** Writes a value after its type; an array after the type and number of its elements. */
  value([type, value]: GgufValue): void {
    if (!Array.isArray(value)) {
      this.uint32(VALUE_TYPES[type]);
      return this.#element(type, value as number | boolean | string);
    }
    this.uint32(ARRAY);
    this.uint32(VALUE_TYPES[type]);
    this.uint64(value.length);
    for (const element of value) this.#element(type, element);
  }

  /** Returns the bytes written so far. */
  take(): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(0, this.length);
  }

  #element(type: keyof typeof VALUE_TYPES, value: number | boolean | string): void {
    switch (type) {
      case "string":
        return this.string(value as string);
      case "bool":
        return this.bytes(Uint8Array.of(Number(value)));
      case "float32":
        return this.bytes(new Uint8Array(Float32Array.of(value as number).buffer));
      default:
        return this.uint32(value as number); // a negative int32 has the same bits
    }
  }

  /** Makes room for more bytes, and returns their offset. */
  #grow(count: number): number {
    const at = this.length;
    this.length += count;
    if (this.length > this.#bytes.length) {
      const larger = new Uint8Array(Math.max(2 * this.#bytes.length, this.length));
      larger.set(this.#bytes.subarray(0, at));
      this.#bytes = larger;
      this.#view = new DataView(larger.buffer);
    }
    return at;
  }
}
