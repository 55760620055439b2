import { printable, quoted } from "../../files/printable.ts";
import { STAND_IN_BYTES, standIn } from "../../files/stand_in.ts";
import { UserError } from "../../files/user_error.ts";
import { DTYPE_BYTES, type SafetensorsDType, type SafetensorsPlace } from "./safetensors.ts";

/**
 * Files of PyTorch's `torch.save()`, such as `pytorch_model.bin`: a zip archive of uncompressed entries, one per
 * storage, and one, `data.pkl`, with a pickle that says which tensors lie in which storage. A pickle is a program
 * that may call anything. This parser reads it as the description of a table of tensors, and refuses everything
 * else that it asks for.
 *
 * Formats: https://pytorch.org/docs/stable/notes/serialization.html, Python's pickletools,
 * https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
 *
 * @module
 */

/** Returns the bytes of a file from `start` to before `end`. */
type Read = (start: number, end: number) => Uint8Array<ArrayBuffer>;

/** Most bytes of a pickle; a model with a thousand tensors needs 200 kB. */
const MOST_PICKLE_BYTES = 2 ** 25;

/** Most objects that a pickle may create or memoize; a thousand tensors need some ten thousand. */
const MOST_OBJECTS = 1_000_000;

/** Most entries of an archive: one per storage, and a few more. */
const MOST_ENTRIES = 200_000;

/** Most dimensions of a tensor, a limit of PyTorch. */
const MOST_DIMENSIONS = 64;

/** Element types, by the names of PyTorch's storages. */
const STORAGES: Readonly<Record<string, SafetensorsDType>> = {
  "torch FloatStorage": "F32",
  "torch HalfStorage": "F16",
  "torch BFloat16Storage": "BF16",
  "torch DoubleStorage": "F64",
  "torch LongStorage": "I64",
  "torch IntStorage": "I32",
  "torch ShortStorage": "I16",
  "torch CharStorage": "I8",
  "torch ByteStorage": "U8",
  "torch BoolStorage": "BOOL",
};

/**
 * Parses a file in which `torch.save()` has stored a table of tensors, such as a model's `state_dict()`.
 *
 * @param where path of the file, for error messages.
 * @returns the place of each tensor in the file.
 * @throws {UserError} if it is another file, or if it holds anything except tensors, or a tensor that is not
 * contiguous.
 */
export function parseTorchFile(
  read: Read,
  fileBytes: number,
  where: string,
): ReadonlyMap<string, SafetensorsPlace> {
  const entries = zipEntries(read, fileBytes, where);
  const pickle = [...entries.keys()].find((name) => /^[^/]+\/data\.pkl$/.test(name));
  const folder = pickle?.slice(0, -"data.pkl".length);
  const place = pickle === undefined ? undefined : entries.get(pickle)!;
  if (!place) {
    throw new UserError(
      `Cannot read ${where} as it must be a file of PyTorch's: it has no data.pkl`,
    );
  }
  if (place.end - place.begin > MOST_PICKLE_BYTES) {
    throw new UserError(
      `Cannot read ${where} as its data.pkl must have at most ${MOST_PICKLE_BYTES} bytes: ` +
        `current size is ${place.end - place.begin}`,
    );
  }
  const order = entries.get(`${folder}byteorder`),
    end = order && Math.min(order.begin + 8, order.end);
  if (order && new TextDecoder().decode(read(order.begin, end!)) !== "little") {
    throw new UserError(`Cannot read ${where} as its numbers must be little-endian`);
  }
  const table = unpickle(read(place.begin, place.end), where);
  if (!(table instanceof Map)) {
    throw new UserError(`Cannot read ${where} as it must hold a table of tensors`);
  }
  return new Map(
    Array.from(table as Map<unknown, unknown>, ([name, value]) => {
      const shown = typeof name === "string" ? quoted(name) : "what has no text for a name";
      if (typeof name !== "string" || !(value instanceof PickledTensor)) {
        throw new UserError(
          `Cannot read ${where} as it must hold only tensors: ${shown} is not a tensor`,
        );
      }
      const { storage, offset, shape } = value, width = DTYPE_BYTES[storage.dtype];
      // an impossible dimension is refused even if another one is zero
      const largest = shape.filter((dim) => dim > 0).reduce((product, dim) => product * dim, width);
      if (shape.length > MOST_DIMENSIONS || largest > Number.MAX_SAFE_INTEGER) {
        throw new UserError(
          `Cannot read ${where} as ${shown} must not be larger than any file: ` +
            `current shape is ${quoted(shape)}`,
        );
      }
      const bytes = shape.includes(0) ? 0 : largest;
      const data = entries.get(`${folder}data/${storage.key}`);
      const begin = (data?.begin ?? 0) + width * offset;
      if (!data || begin + bytes > data.end) {
        throw new UserError(
          `Cannot read ${where} as ${shown} must lie in it: its data ${data ? "ends" : "is"} ` +
            (data ? "before it does" : "missing"),
        );
      }
      if (!value.isContiguous()) {
        throw new UserError(
          `Cannot read ${where} as ${shown} must lie in one piece: it is a view of another tensor`,
        );
      }
      return [name, { dtype: storage.dtype, shape, begin, end: begin + bytes }];
    }),
  );
}

/** Place of an entry of an archive. */
interface ZipEntry {
  readonly begin: number;
  readonly end: number;
}

/** A 64-bit number; files use at most 53 bits of it. */
function wide(view: DataView, at: number): number {
  return Number(view.getBigUint64(at, true));
}

/** Finds the entries of a zip archive, none of which may be compressed. */
function zipEntries(read: Read, fileBytes: number, where: string): Map<string, ZipEntry> {
  const cutOff = new UserError(
    `Cannot read ${where} as it must be a whole archive: it is cut off`,
  );
  const view = (start: number, bytes: number) => {
    if (!(start >= 0 && start + bytes <= fileBytes)) throw cutOff;
    const { buffer, byteOffset } = read(start, start + bytes);
    return new DataView(buffer, byteOffset, bytes);
  };
  const instead = standIn(read(0, Math.min(fileBytes, STAND_IN_BYTES)));
  if (instead) throw new UserError(`Cannot read ${where} as ${instead}`);
  // the end of the directory is the last record of the file; only a comment may follow
  const tail = view(Math.max(0, fileBytes - 65557), Math.min(fileBytes, 65557));
  let end = tail.byteLength - 22;
  while (end >= 0 && tail.getUint32(end, true) !== 0x06054b50) end--;
  if (end < 0) {
    throw new UserError(
      `Cannot read ${where} as it must be a zip archive, as PyTorch writes them since version 1.6: ` +
        `it has no directory; save it again with a later one`,
    );
  }
  let count = tail.getUint16(end + 10, true), at = tail.getUint32(end + 16, true);
  const isWide = end >= 20 && tail.getUint32(end - 20, true) === 0x07064b50;
  if (isWide) {
    const directory = view(wide(tail, end - 12), 56);
    [count, at] = [wide(directory, 32), wide(directory, 48)];
  }
  if (at + 46 * count > fileBytes) throw cutOff;
  if (count > MOST_ENTRIES) {
    throw new UserError(
      `Cannot read ${where} as it must have at most ${MOST_ENTRIES} entries: it has ${count}`,
    );
  }
  const entries = new Map<string, ZipEntry>();
  for (; count > 0; count--) {
    const header = view(at, 46);
    const [nameBytes, extraBytes, commentBytes] = [28, 30, 32].map((i) =>
      header.getUint16(i, true)
    );
    const more = view(at + 46, nameBytes! + extraBytes!);
    const name = new TextDecoder().decode(new Uint8Array(more.buffer, more.byteOffset, nameBytes));
    // after the name come the values that exceed 32 bits: both sizes, and the offset
    const sizes = [24, 20, 42].map((i) => header.getUint32(i, true));
    for (let extra = nameBytes!; extra + 4 <= more.byteLength;) {
      const bytes = more.getUint16(extra + 2, true);
      if (more.getUint16(extra, true) === 1) {
        let from = extra + 4;
        sizes.forEach((size, i) => {
          if (size !== 0xffffffff || from + 8 > more.byteLength) return;
          sizes[i] = wide(more, from);
          from += 8;
        });
      }
      extra += 4 + bytes;
    }
    const [bytes, storedBytes, place] = sizes as [number, number, number];
    if (
      header.getUint32(0, true) !== 0x02014b50 || header.getUint16(10, true) !== 0 ||
      bytes !== storedBytes
    ) {
      throw new UserError(
        `Cannot read ${where} as it must be an archive of PyTorch's, where nothing is compressed: ` +
          `${quoted(name)} is`,
      );
    }
    const local = view(place, 30);
    const begin = place + 30 + local.getUint16(26, true) + local.getUint16(28, true);
    if (begin + bytes > fileBytes) throw cutOff;
    if (entries.has(name)) {
      throw new UserError(
        `Cannot read ${where} as its entries must have different names: ${
          quoted(name)
        } is there twice`,
      );
    }
    entries.set(name, { begin, end: begin + bytes });
    at += 46 + nameBytes! + extraBytes! + commentBytes!;
  }
  return entries;
}

/** Name of a Python function or class. */
class PickledName {
  constructor(readonly name: string) {}
}

/** A storage: the elements of one or several tensors. */
class PickledStorage {
  constructor(readonly dtype: SafetensorsDType, readonly key: string) {}
}

/** A tensor: a storage, and its layout in the storage. */
class PickledTensor {
  constructor(
    readonly storage: PickledStorage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}

  /** Whether its elements are contiguous, the last dimension fastest. */
  isContiguous(): boolean {
    if (this.shape.includes(0)) return true;
    let expected = 1;
    for (let i = this.shape.length - 1; i >= 0; i--) {
      if (this.shape[i]! > 1 && this.strides[i] !== expected) return false;
      expected *= this.shape[i]!;
    }
    return true;
  }
}

const areCounts = (list: unknown): list is number[] =>
  Array.isArray(list) && list.every((n) => Number.isSafeInteger(n) && n >= 0);

/** Result of one of the few calls that a description of tensors makes. */
function call(name: string, values: readonly unknown[]): unknown {
  switch (name) {
    case "collections OrderedDict":
      return values.length === 0 ? new Map() : undefined;
    case "torch._utils _rebuild_parameter":
      return values[0];
    case "torch._utils _rebuild_tensor_v2": {
      const [storage, offset, shape, strides] = values;
      const ok = storage instanceof PickledStorage && areCounts([offset]) && areCounts(shape) &&
        areCounts(strides) && strides.length === shape.length;
      return ok ? new PickledTensor(storage, offset as number, shape, strides) : undefined;
    }
  }
}

/** A storage from its description in the pickle, ("storage", type, key, device, elements). */
function storageOf(id: unknown): PickledStorage | undefined {
  if (!Array.isArray(id) || id[0] !== "storage") return undefined;
  const [, type, key] = id, dtype = type instanceof PickledName ? STORAGES[type.name] : undefined;
  return dtype && typeof key === "string" ? new PickledStorage(dtype, key) : undefined;
}

/**
 * Reads the pickle of a table of tensors. Tuples and lists become arrays, dictionaries become Maps.
 *
 * @throws {UserError} if it ends early, or asks for anything else, which the message names.
 */
function unpickle(bytes: Uint8Array<ArrayBuffer>, where: string): unknown {
  const refuse = (what: string): never => {
    throw new UserError(
      `Cannot read ${where} as its pickle must describe tensors and nothing else: it ${what}`,
    );
  };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const MARK = Symbol("mark");
  const stack: unknown[] = [], memo = new Map<number, unknown>();
  let at = 0, made = 0;
  const make = <T>(object: T): T => {
    if (++made > MOST_OBJECTS) refuse(`makes more than ${MOST_OBJECTS} objects`);
    return object;
  };
  const push = (object: unknown) => void stack.push(make(object));
  const remember = (place: number) => void memo.set(place, make(stack.at(-1)));
  const take = (count: number) => {
    if (at + count > bytes.length) refuse("ends early");
    at += count;
    return at - count;
  };
  const text = (count: number) => {
    const from = take(count);
    return new TextDecoder().decode(bytes.subarray(from, from + count));
  };
  const line = () => {
    const end = bytes.indexOf(10, at);
    if (end < 0) refuse("ends early");
    const found = text(end - at);
    at++;
    return found;
  };
  const pop = () => stack.length > 0 ? stack.pop() : refuse("takes from an empty stack");
  const popToMark = () => {
    const mark = stack.lastIndexOf(MARK);
    if (mark < 0) refuse("has no mark");
    return stack.splice(mark).slice(1);
  };
  const setItems = (values: unknown[]) => {
    const map = stack.at(-1);
    if (!(map instanceof Map)) return refuse("puts items into something else than a dictionary");
    for (let i = 0; i + 1 < values.length; i += 2) {
      if (map.has(values[i])) {
        refuse(
          `gives a name twice: ${typeof values[i] === "string" ? quoted(values[i]) : "no text"}`,
        );
      }
      map.set(values[i], values[i + 1]);
    }
  };
  const appendTo = (values: unknown[]) => {
    const list = stack.at(-1);
    if (!Array.isArray(list)) return refuse("appends to something else than a list");
    for (const value of values) list.push(value);
  };
  const OPERATIONS: Record<number, () => void> = {
    0x80: () => void take(1), // PROTO
    0x95: () => void take(8), // FRAME
    0x28: () => push(MARK),
    0x30: () => pop(), // POP
    0x4e: () => push(null), // NONE
    0x88: () => push(true),
    0x89: () => push(false),
    0x4b: () => push(view.getUint8(take(1))), // BININT1
    0x4d: () => push(view.getUint16(take(2), true)), // BININT2
    0x4a: () => push(view.getInt32(take(4), true)), // BININT
    0x47: () => push(view.getFloat64(take(8))), // BINFLOAT
    0x8a: () => { // LONG1
      const count = view.getUint8(take(1)), from = take(count);
      let value = 0n;
      for (let i = count - 1; i >= 0; i--) value = value << 8n | BigInt(bytes[from + i]!);
      push(Number(count === 0 ? 0n : BigInt.asIntN(8 * count, value)));
    },
    0x58: () => push(text(view.getUint32(take(4), true))), // BINUNICODE
    0x8c: () => push(text(view.getUint8(take(1)))), // SHORT_BINUNICODE
    0x7d: () => push(new Map()), // EMPTY_DICT
    0x5d: () => push([]), // EMPTY_LIST
    0x29: () => push([]), // EMPTY_TUPLE
    0x74: () => push(popToMark()), // TUPLE
    0x85: () => push([pop()]), // TUPLE1
    0x86: () => { // TUPLE2
      const b = pop(), a = pop();
      push([a, b]);
    },
    0x87: () => { // TUPLE3
      const c = pop(), b = pop(), a = pop();
      push([a, b, c]);
    },
    0x73: () => { // SETITEM
      const value = pop(), key = pop();
      setItems([key, value]);
    },
    0x75: () => setItems(popToMark()), // SETITEMS
    0x61: () => appendTo([pop()]), // APPEND
    0x65: () => appendTo(popToMark()), // APPENDS
    0x71: () => remember(view.getUint8(take(1))), // BINPUT
    0x72: () => remember(view.getUint32(take(4), true)), // LONG_BINPUT
    0x94: () => remember(memo.size), // MEMOIZE
    0x68: () => push(memo.get(view.getUint8(take(1)))), // BINGET
    0x6a: () => push(memo.get(view.getUint32(take(4), true))), // LONG_BINGET
    0x63: () => push(new PickledName(`${line()} ${line()}`)), // GLOBAL
    0x93: () => { // STACK_GLOBAL
      const name = pop(), module = pop();
      if (typeof name !== "string" || typeof module !== "string") refuse("calls what has no name");
      push(new PickledName(`${module} ${name}`));
    },
    0x51: () => { // BINPERSID
      const storage = storageOf(pop());
      push(storage ?? refuse("names a storage of an unknown kind"));
    },
    0x52: () => { // REDUCE
      const values = pop(), called = pop();
      const name = called instanceof PickledName ? called.name : "nothing";
      const found = Array.isArray(values) ? call(name, values) : undefined;
      push(found ?? refuse(`calls ${printable(name.replace(" ", "."))}`));
    },
    0x62: () => pop(), // BUILD: attributes, such as _metadata of a state_dict
  };
  for (;;) {
    const code = view.getUint8(take(1));
    if (code === 0x2e) return pop(); // STOP
    const operation = OPERATIONS[code];
    if (operation) operation();
    else refuse(`has the operation 0x${code.toString(16).padStart(2, "0")}`);
  }
}
