import { printable, quoted } from "../../files/printable.ts";
import { STAND_IN_BYTES, standIn } from "../../files/stand_in.ts";
import { UserError } from "../../files/user_error.ts";

/** Element type of a tensor in a safetensors file. */
export type SafetensorsDType =
  | "BOOL"
  | "U8"
  | "I8"
  | "F8_E5M2"
  | "F8_E4M3"
  | "U16"
  | "I16"
  | "F16"
  | "BF16"
  | "U32"
  | "I32"
  | "F32"
  | "U64"
  | "I64"
  | "F64";

/** Bytes per element. */
export const DTYPE_BYTES: Readonly<Record<SafetensorsDType, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  U16: 2,
  I16: 2,
  F16: 2,
  BF16: 2,
  U32: 4,
  I32: 4,
  F32: 4,
  U64: 8,
  I64: 8,
  F64: 8,
};

/** One tensor of a safetensors file. */
export interface SafetensorsEntry {
  /** Element type. */
  readonly dtype: SafetensorsDType;
  /** Dimensions, slowest first. */
  readonly shape: readonly number[];
  /** The elements, little-endian, row-major. */
  readonly data: Uint8Array<ArrayBuffer>;
}

/** Contents of a safetensors file. */
export interface Safetensors {
  /** Tensors by name, in the order of the header. */
  readonly tensors: ReadonlyMap<string, SafetensorsEntry>;
  /** Metadata: strings by name. */
  readonly metadata: ReadonlyMap<string, string>;
}

const MAX_HEADER_BYTES = 100_000_000;
const MAX_TENSORS = 100_000;
const MAX_NAME_BYTES = 1024;
const MAX_RANK = 64;
const MAX_NESTING = 4;

/** Most characters of a message about a file, and of a name in it. */
const MAX_REASON = 300, LONGEST_SHOWN = 80;

/**
 * Parses a safetensors file and trusts nothing in it.
 *
 * The file has 8 bytes with the length of the header, a JSON header, and the bytes of the tensors, each exactly
 * once (https://huggingface.co/docs/safetensors). The parser refuses any deviation before it reads a tensor:
 * where one reader is lenient, another may read something else.
 *
 * @param where path of the file, for error messages.
 * @throws {UserError} if the header violates the format, or does not fit the length of the file.
 */
export function parseSafetensors(bytes: Uint8Array<ArrayBuffer>, where: string): Safetensors {
  const { tensors, metadata } = parseSafetensorsHeader(
    (start, end) => bytes.subarray(start, end),
    bytes.length,
    where,
  );
  return {
    tensors: new Map(
      Array.from(tensors, ([name, { dtype, shape, begin, end }]) => [
        name,
        { dtype, shape, data: bytes.subarray(begin, end) },
      ]),
    ),
    metadata,
  };
}

/** Place of a tensor in a file. */
export interface SafetensorsPlace {
  /** Element type. */
  readonly dtype: SafetensorsDType;
  /** Dimensions, slowest first. */
  readonly shape: readonly number[];
  /** Offset of its first byte in the file. */
  readonly begin: number;
  /** Offset of the byte after its last one. */
  readonly end: number;
}

/**
 * Parses the header of a safetensors file as strictly as `parseSafetensors()` does, and reads nothing else.
 *
 * @param read returns the bytes of the file from `start` to before `end`.
 * @throws {UserError} as `parseSafetensors()`.
 */
export function parseSafetensorsHeader(
  read: (start: number, end: number) => Uint8Array<ArrayBuffer>,
  fileBytes: number,
  where: string,
): {
  tensors: ReadonlyMap<string, SafetensorsPlace>;
  metadata: ReadonlyMap<string, string>;
} {
  const refuse = (reason: string) => new UserError(`Cannot read ${where} as ${clip(reason)}`);
  if (fileBytes < 8) {
    throw refuse(`it must have at least 8 bytes: current size is ${fileBytes}`);
  }
  const instead = standIn(read(0, Math.min(fileBytes, STAND_IN_BYTES)));
  if (instead) throw refuse(instead);
  const { buffer, byteOffset } = read(0, 8);
  const headerBytes = new DataView(buffer, byteOffset).getBigUint64(0, true);
  if (headerBytes === 0n || headerBytes > MAX_HEADER_BYTES || 8n + headerBytes > fileBytes) {
    throw refuse(
      `its header must have 1 to ${Math.min(MAX_HEADER_BYTES, fileBytes - 8)} bytes: ` +
        `current length is ${headerBytes}`,
    );
  }
  const dataStart = 8 + Number(headerBytes);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
      .decode(read(8, dataStart));
  } catch {
    throw refuse("its header must be UTF-8");
  }
  if (!text.startsWith("{")) {
    throw refuse(
      `its header must begin with {: it begins with ${quoted(text.slice(0, 1))}`,
    );
  }
  const header = parseStrictJson(text, (requirement) => refuse(`its header ${requirement}`));

  const metadata = new Map<string, string>();
  const placed: { name: string; begin: number; end: number }[] = [];
  const tensors = new Map<string, SafetensorsPlace>();
  for (const [name, value] of header) {
    if (name === "__metadata__") {
      if (!(value instanceof Map)) throw refuse("its __metadata__ must be an object");
      for (const [key, entry] of value) {
        if (typeof entry !== "string") {
          throw refuse(`its __metadata__ must hold strings: ${quoted(key)} is none`);
        }
        metadata.set(key, entry);
      }
      continue;
    }
    const shown = quoted(name, LONGEST_SHOWN), problem = problemOf(name);
    if (problem) throw refuse(`a tensor's name must ${problem}: current name is ${shown}`);
    const { dtype, shape, begin, end } = parseEntry(
      value,
      (reason) => refuse(`tensor ${shown} ${reason}`),
    );
    const elements = shape.reduce((product, dim) => product * dim, 1);
    // an impossible dimension is refused even if another one is zero
    const largest = shape.filter((dim) => dim > 0).reduce((product, dim) => product * dim, 1);
    if (largest * DTYPE_BYTES[dtype] > Number.MAX_SAFE_INTEGER) {
      throw refuse(`tensor ${shown} must not be larger than any file: current shape is [${shape}]`);
    }
    if (end < begin || dataStart + end > fileBytes) {
      throw refuse(
        `tensor ${shown} must lie within the ${fileBytes - dataStart} bytes of data: ` +
          `current offsets are ${begin} to ${end}`,
      );
    }
    if (end - begin !== elements * DTYPE_BYTES[dtype]) {
      throw refuse(
        `tensor ${shown} must have ${
          elements * DTYPE_BYTES[dtype]
        } bytes for ${dtype} [${shape}]: ` +
          `current size is ${end - begin}`,
      );
    }
    placed.push({ name, begin, end });
    tensors.set(name, { dtype, shape, begin: dataStart + begin, end: dataStart + end });
  }

  placed.sort((a, b) => a.begin - b.begin || a.end - b.end);
  let at = 0;
  for (const { name, begin, end } of placed) {
    if (begin !== at) {
      throw refuse(
        `its tensors must follow each other without holes or overlaps: ` +
          `${quoted(name)} begins at ${begin}, the one before ends at ${at}`,
      );
    }
    at = end;
  }
  if (dataStart + at !== fileBytes) {
    throw refuse(
      `its tensors must fill the file: ${fileBytes - dataStart - at} bytes are left over`,
    );
  }
  return { tensors, metadata };
}

/** Checks an entry of the header, field by field. */
function parseEntry(
  value: Json,
  fail: (reason: string) => Error,
): { dtype: SafetensorsDType; shape: number[]; begin: number; end: number } {
  if (!(value instanceof Map)) throw fail("must be an object");
  const fields = [...value.keys()].sort().join();
  if (fields !== "data_offsets,dtype,shape") {
    throw fail(`must have dtype, shape and data_offsets: current fields are ${fields || "none"}`);
  }
  const dtype = value.get("dtype")!;
  if (typeof dtype !== "string" || !Object.hasOwn(DTYPE_BYTES, dtype)) {
    throw fail(`must have a known dtype: current value is ${show(dtype)}`);
  }
  const integers = (name: string): number[] => {
    const list = value.get(name)!;
    if (!Array.isArray(list)) {
      throw fail(`must have a list as ${name}: current value is ${show(list)}`);
    }
    return list.map((item) => {
      const integer = item instanceof JsonNumber && /^(0|[1-9]\d*)$/.test(item.source)
        ? Number(item.source)
        : NaN;
      if (!Number.isSafeInteger(integer)) {
        throw fail(
          `must have plain non-negative integers in ${name}: current value is ${show(item)}`,
        );
      }
      return integer;
    });
  };
  const shape = integers("shape"), offsets = integers("data_offsets");
  if (offsets.length !== 2) throw fail(`must have two data_offsets: it has ${offsets.length}`);
  return { dtype: dtype as SafetensorsDType, shape, begin: offsets[0]!, end: offsets[1]! };
}

/** A number as it is written, since a header may hold 2 but not 2.0 or 2e0. */
class JsonNumber {
  constructor(readonly source: string) {}
}

type Json = string | boolean | null | JsonNumber | Json[] | JsonObject;
type JsonObject = Map<string, Json>;

/** Cuts a reason, into which a hostile file could put megabytes. */
function clip(reason: string): string {
  return printable(reason, MAX_REASON);
}

/** The first requirement that a name violates; undefined if it meets all. */
function problemOf(name: string): string | undefined {
  if (name === "" || new TextEncoder().encode(name).length > MAX_NAME_BYTES) {
    return `have 1 to ${MAX_NAME_BYTES} bytes`;
  }
  // deno-lint-ignore no-control-regex
  if (/[\u0000-\u001f\u007f-\u009f]/.test(name)) return "have no control characters";
  return name.isWellFormed() ? undefined : "be Unicode, without halves of surrogate pairs";
}

function show(value: Json): string {
  if (value instanceof JsonNumber) return printable(value.source);
  if (value instanceof Map) return "an object";
  return Array.isArray(value) ? "a list" : quoted(value);
}

/** Any token except a string: on a string of megabytes a regular expression exhausts the stack. */
const TOKEN = /[{}[\],:]|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;

/**
 * Parses a JSON object into Maps, which accept any key, even `__proto__`. Unlike JSON.parse() it refuses
 * duplicate keys, keeps numbers as they are written, and allows only spaces after the object. It stops at the
 * first list or object that is too large for a header, before memory fills up.
 *
 * @param refuse creates the error of a requirement, such as "must be valid JSON".
 */
function parseStrictJson(
  text: string,
  refuse: (requirement: string) => Error,
): JsonObject {
  let at = 0, depth = 0;
  const invalid = () => refuse(`must be valid JSON: it is not at character ${at}`);
  const next = (): string => {
    while (" \t\n\r".includes(text[at] ?? "x")) at++;
    if (text[at] === '"') {
      const start = at++;
      while (at < text.length && text[at] !== '"') at += text[at] === "\\" ? 2 : 1;
      return text.slice(start, ++at);
    }
    TOKEN.lastIndex = at;
    const token = TOKEN.exec(text)?.[0];
    if (token === undefined) throw invalid();
    at += token.length;
    return token;
  };
  const string = (token: string): string => {
    let text: string;
    try {
      text = JSON.parse(token);
    } catch {
      throw invalid();
    }
    if (text.isWellFormed()) return text;
    throw refuse(`must have no halves of surrogate pairs: current text is ${quoted(text)}`);
  };
  const value = (token: string): Json => {
    if (token === "{" || token === "[") {
      if (++depth > MAX_NESTING) throw refuse(`must nest at most ${MAX_NESTING} deep`);
      const result = token === "{" ? object() : array();
      depth--;
      return result;
    }
    if (token.startsWith('"')) return string(token);
    if (/^[-\d]/.test(token)) return new JsonNumber(token);
    if (token === "true" || token === "false") return token === "true";
    if (token === "null") return null;
    throw invalid();
  };
  const object = (): JsonObject => {
    const map: JsonObject = new Map();
    let token = next();
    while (token !== "}") {
      if (!token.startsWith('"')) throw invalid();
      const key = string(token);
      if (map.has(key)) throw refuse(`must not have the key ${quoted(key)} twice`);
      if (next() !== ":") throw invalid();
      map.set(key, value(next()));
      if (map.size > MAX_TENSORS + Number(map.has("__metadata__"))) {
        throw refuse(`must name at most ${MAX_TENSORS} tensors or texts`);
      }
      token = next();
      if (token === ",") {
        token = next();
        if (token === "}") throw invalid();
      } else if (token !== "}") throw invalid();
    }
    return map;
  };
  const array = (): Json[] => {
    const list: Json[] = [];
    let token = next();
    while (token !== "]") {
      list.push(value(token));
      if (list.length > MAX_RANK) {
        throw refuse(`must have no list over ${MAX_RANK} long, which is the highest rank`);
      }
      token = next();
      if (token === ",") {
        token = next();
        if (token === "]") throw invalid();
      } else if (token !== "]") throw invalid();
    }
    return list;
  };
  const root = value(next());
  if (!/^ *$/.test(text.slice(at))) {
    throw refuse("must have nothing but spaces after its object");
  }
  return root as JsonObject;
}

/**
 * Serializes tensors as the chunks of a safetensors file, header first, without copying them.
 *
 * The tensors keep their order. Spaces pad the header to a multiple of eight bytes.
 *
 * @throws {RangeError} if `parseSafetensors()` would refuse the file: if a name occurs twice, is `__metadata__` or
 * is not valid, or if the data of a tensor does not fit its shape and dtype.
 *
 * @example Write a file and read it back
 * ```ts
 * import { parseSafetensors, serializeSafetensors } from "./safetensors.ts";
 *
 * const data = new Uint8Array(Float32Array.of(1, 2, 3, 4, 5, 6).buffer);
 * const tensors = new Map([["weight", { dtype: "F32", shape: [2, 3], data } as const]]);
 * const bytes = new Uint8Array(await new Blob(serializeSafetensors(tensors)).arrayBuffer());
 *
 * const weight = parseSafetensors(bytes, "weights.safetensors").tensors.get("weight")!;
 * console.log(weight.shape, new Float32Array(weight.data.slice().buffer)); // [2, 3] 1 to 6
 * ```
 */
export function serializeSafetensors(
  tensors: Iterable<readonly [string, SafetensorsEntry]>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array<ArrayBuffer>[] {
  // a Map, since an object would put the name "0" first
  const header = new Map<string, unknown>();
  const broken = Object.entries(metadata).flat().find((text) => !text.isWellFormed());
  if (broken !== undefined) {
    throw new RangeError(
      `Cannot write safetensors as metadata must be Unicode: current text is ${quoted(broken)}`,
    );
  }
  if (Object.keys(metadata).length > 0) header.set("__metadata__", metadata);
  const chunks: Uint8Array<ArrayBuffer>[] = [];
  let at = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    if (name === "__metadata__" || header.has(name)) {
      throw new RangeError(
        `Cannot write safetensors as names must be unique: current name is ${quoted(name)}`,
      );
    }
    const problem = problemOf(name);
    if (problem) {
      throw new RangeError(
        `Cannot write safetensors as a tensor's name must ${problem}: current name is ${
          quoted(name)
        }`,
      );
    }
    const bytes = shape.reduce((product, dim) => product * dim, DTYPE_BYTES[dtype]);
    if (data.length !== bytes) {
      throw new RangeError(
        `Cannot write tensor "${name}" as ${dtype} [${shape}] must have ${bytes} bytes: ` +
          `current size is ${data.length}`,
      );
    }
    header.set(name, { dtype, shape, data_offsets: [at, at + bytes] });
    at += bytes;
    chunks.push(data);
  }
  const fields = [...header].map(([name, value]) =>
    `${JSON.stringify(name)}:${JSON.stringify(value)}`
  );
  const json = new TextEncoder().encode(`{${fields.join()}}`);
  const padded = new Uint8Array(Math.ceil(json.length / 8) * 8).fill(0x20);
  padded.set(json);
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, BigInt(padded.length), true);
  return [prefix, padded, ...chunks];
}

/**
 * Converts the elements of a float tensor to f32.
 *
 * @throws {UserError} if the tensor does not hold floats.
 */
export function toFloat32({ dtype, data }: SafetensorsEntry): Float32Array<ArrayBuffer> {
  const buffer = data.slice().buffer; // aligned, as tensors may start at any byte
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer);
    case "F64":
      return new Float32Array(new Float64Array(buffer));
    case "F16":
      return new Float32Array(new Float16Array(buffer));
    case "BF16": {
      const halves = new Uint16Array(buffer), bits = new Uint32Array(halves.length);
      for (let i = 0; i < bits.length; i++) bits[i] = halves[i]! << 16; // from() takes thirty times as long
      return new Float32Array(bits.buffer);
    }
    default:
      throw new UserError(
        `Cannot read a tensor as floats as its dtype must be a float: it is ${dtype}`,
      );
  }
}

/** Makes a tensor of f32 elements, or of f16 elements rounded to nearest even. */
export function fromFloat32(
  values: Float32Array<ArrayBuffer>,
  shape: readonly number[],
  dtype: "F32" | "F16",
): SafetensorsEntry & { readonly dtype: "F32" | "F16" } {
  const elements = dtype === "F32" ? values : new Float16Array(values);
  const data = new Uint8Array(elements.buffer, elements.byteOffset, elements.byteLength);
  return { dtype, shape, data };
}
