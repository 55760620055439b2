/** A GGUF file as it was read: values by name, tensors by name. */
export interface GgufFile {
  version: number;
  values: Map<string, { type: string; value: unknown }>;
  tensors: Map<string, { dims: number[]; type: number; data: Uint8Array }>;
}

const TYPES = [
  ..."uint8 int8 uint16 int16 uint32 int32 float32 bool".split(" "),
  ..."string array uint64 int64 float64".split(" "),
];

/** Reads a GGUF file as its specification says, checking what it can; shares nothing with the writer. */
export function readGguf(bytes: Uint8Array): GgufFile {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let at = 0;
  const u32 = () => view.getUint32((at += 4) - 4, true);
  const u64 = () => Number(view.getBigUint64((at += 8) - 8, true));
  const text = () => {
    const length = u64();
    const part = bytes.subarray(at, at += length);
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(part);
  };
  const read = (type: string): unknown => {
    switch (type) {
      case "uint32":
        return u32();
      case "int32":
        return view.getInt32((at += 4) - 4, true);
      case "float32":
        return view.getFloat32((at += 4) - 4, true);
      case "bool":
        return [false, true][bytes[at++]!];
      case "string":
        return text();
      default:
        throw new Error(`no reader of ${type} at ${at}`);
    }
  };
  const check = (ok: boolean, what: string) => {
    if (!ok) throw new Error(`${what} at ${at}`);
  };
  check(new TextDecoder().decode(bytes.subarray(0, 4)) === "GGUF", "no magic");
  at = 4;
  const version = u32(), tensorCount = u64(), valueCount = u64();
  const values: GgufFile["values"] = new Map();
  for (let i = 0; i < valueCount; i++) {
    const name = text(), type = TYPES[u32()]!;
    check(/^[a-z0-9_]+(\.[a-z0-9_]+)*$/.test(name) && !values.has(name), `bad key ${name}`);
    if (type === "array") {
      const element = TYPES[u32()]!, count = u64();
      const value = Array.from({ length: count }, () => read(element));
      values.set(name, { type: `${element}[]`, value });
    } else {
      values.set(name, { type, value: read(type) });
    }
  }
  const alignment = (values.get("general.alignment")?.value ?? 32) as number;
  const infos = Array.from({ length: tensorCount }, () => {
    const name = text();
    const dims = Array.from({ length: u32() }, u64);
    return { name, dims, type: u32(), offset: u64() };
  });
  const start = Math.ceil(at / alignment) * alignment;
  const tensors: GgufFile["tensors"] = new Map();
  let end = 0;
  for (const { name, dims, type, offset } of infos) {
    check(!tensors.has(name) && new TextEncoder().encode(name).length <= 64, `bad name ${name}`);
    check(offset === Math.ceil(end / alignment) * alignment, `offset of ${name}`);
    // a block of type 8 has 32 elements in 34 bytes
    const bytesPerElement = ({ 0: 4, 1: 2, 8: 34 / 32 } as Record<number, number>)[type]!;
    const length = dims.reduce((product, dim) => product * dim, bytesPerElement);
    end = offset + length;
    check(start + end <= bytes.length, `${name} is cut off`);
    tensors.set(name, { dims, type, data: bytes.subarray(start + offset, start + end) });
  }
  return { version, values, tensors };
}
