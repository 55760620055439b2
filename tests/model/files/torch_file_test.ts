import assert from "node:assert/strict";
import { openTensorFiles } from "../../../model/files/tensor_files.ts";
import { parseTorchFile } from "../../../model/files/torch_file.ts";
import { freshSeed, testRandom } from "../../kernels/harness.ts";

// what tests/golden/make_torch_file.py saved with PyTorch
const golden = new URL("../../golden/torch_file.bin", import.meta.url);
const file = Deno.readFileSync(golden);

const parse = (bytes: Uint8Array<ArrayBuffer>) =>
  parseTorchFile((start, end) => bytes.subarray(start, end), bytes.length, "m.bin");

Deno.test("openTensorFiles() reads the tensors that PyTorch saved", () => {
  const { tensors, close } = openTensorFiles([golden.pathname]);
  const values = (name: string) => {
    const { shape, floats } = tensors.get(name)!;
    return [shape, [...floats(0, shape.reduce((a, b) => a * b, 1))]];
  };
  const wte = Array.from({ length: 12 }, (_, i) => i / 8);
  assert.deepEqual(values("wte.weight"), [[3, 4], wte]);
  assert.deepEqual(values("lm_head.weight"), [[3, 4], wte]);
  assert.deepEqual(values("half"), [[2], [1.5, -2]]);
  assert.deepEqual(values("brain"), [[2, 1], [1.5, -2]]);
  assert.deepEqual(values("rows"), [[2, 2], [2, 3, 4, 5]]);
  assert.deepEqual(values("scalar"), [[], [-1e9]]);
  assert.deepEqual(values("parameter"), [[2, 0], []]);
  assert.deepEqual([...tensors.get("rows")!.floats(1, 2)], [3, 4]);
  assert.throws(() => values("mask"), {
    name: "UserError",
    message: /must be a float: it is BOOL/,
  });
  assert.deepEqual([...tensors.keys()].toSorted(), [
    ...["brain", "bytes", "half", "lm_head.weight", "mask", "parameter", "rows", "scalar"],
    "wte.weight",
  ]);
  close();
});

/** A zip archive of uncompressed entries. */
function archive(
  entries: Record<string, Uint8Array | number[] | string> | [
    string,
    Uint8Array | number[] | string,
  ][],
  { method = 0, grown = 0 } = {},
): Uint8Array<ArrayBuffer> {
  const chunks: Uint8Array[] = [], directory: number[] = [];
  let at = 0;
  const add = (bytes: Uint8Array | number[]) =>
    at += chunks[chunks.push(Uint8Array.from(bytes)) - 1]!.length;
  const u16 = (...values: number[]) => values.flatMap((v) => [v & 255, v >> 8 & 255]);
  const u32 = (...values: number[]) => values.flatMap((v) => u16(v & 65535, v >>> 16));
  const list = Array.isArray(entries) ? entries : Object.entries(entries);
  for (const [name, content] of list) {
    const data = typeof content === "string" ? new TextEncoder().encode(content) : content;
    const nameBytes = new TextEncoder().encode(name), extra = [0x46, 0x42, 1, 0, 90];
    const common = [...u16(0, method, 0, 0), ...u32(0, data.length, data.length + grown)];
    directory.push(
      ...u32(0x02014b50),
      ...u16(0, 0),
      ...common,
      ...u16(nameBytes.length, 0, 0, 0, 0),
      ...u32(0, at),
      ...nameBytes,
    );
    add([...u32(0x04034b50), ...u16(0), ...common, ...u16(nameBytes.length, extra.length)]);
    for (const bytes of [nameBytes, extra, data]) add(bytes);
  }
  const count = list.length, start = at;
  add(directory);
  add([...u32(0x06054b50), ...u16(0, 0, count, count), ...u32(directory.length, start), ...u16(0)]);
  const bytes = new Uint8Array(at);
  for (const [i, chunk] of chunks.entries()) {
    bytes.set(chunk, chunks.slice(0, i).reduce((sum, { length }) => sum + length, 0));
  }
  return bytes;
}

/** Pickle operations: names, texts, numbers and bytes as they are. */
const text = (value: string) => [0x58, value.length, 0, 0, 0, ...new TextEncoder().encode(value)];
const name = (module: string, value: string) => [
  0x63,
  ...new TextEncoder().encode(`${module}\n${value}\n`),
];
const MARK = 0x28, TUPLE = 0x74, REDUCE = 0x52, STOP = 0x2e, SET = 0x73, MAP = 0x7d;
const tuple = (...items: number[][]) => [MARK, ...items.flat(), TUPLE];
const number = (value: number) => [0x4b, value];
const storage = (type: string, key: string) => [
  ...tuple(text("storage"), name("torch", type), text(key), text("cpu"), number(4)),
  0x51,
];
const tensor = (
  { type = "FloatStorage", key = "0", offset = 0, shape = [2], strides = [1], integer = number } =
    {},
) => [
  ...name("torch._utils", "_rebuild_tensor_v2"),
  ...tuple(
    storage(type, key),
    integer(offset),
    tuple(...shape.map(integer)),
    tuple(...strides.map(integer)),
    [0x89],
    tuple(),
  ),
  REDUCE,
];
const table = (...value: number[]) => [0x80, 2, MAP, ...text("x"), ...value, SET, STOP];

const saved = (pickle: number[] | Uint8Array, more: Record<string, string | number[]> = {}) =>
  archive({ "m/data.pkl": pickle, "m/data/0": new Array(16).fill(0), ...more });

Deno.test("parseTorchFile() finds tensors, whatever comes with them", () => {
  for (
    const integer of [
      number,
      (value: number) => [0x4d, value, 0], // of two bytes
      (value: number) => [0x4a, value, 0, 0, 0], // of four
    ]
  ) {
    const bytes = saved(table(...tensor({ offset: 2, integer })), {
      "m/byteorder": "little",
      "m/version": "3",
    });
    const [[key, { dtype, shape, begin, end }]] = [...parse(bytes)] as [[string, never]];
    assert.deepEqual([key, dtype, shape, end - begin], ["x", "F32", [2], 8]);
  }
});

/** A pickle of one operation over and over, with a value on the stack. */
const flood = (operation: number) =>
  saved(Uint8Array.from({ length: 1_100_000 }, (_, i) => i === 0 ? 0x4e : operation));
const wide = (value: number) => [
  0x8a,
  8,
  ...new Uint8Array(BigInt64Array.of(BigInt(value)).buffer),
];
const huge = (...shape: number[]) => [
  ...name("torch._utils", "_rebuild_tensor_v2"),
  ...tuple(
    storage("FloatStorage", "0"),
    number(0),
    tuple(...shape.map(wide)),
    tuple(...shape.map(() => number(1))),
    [0x89],
    tuple(),
  ),
  REDUCE,
];

const refused: [what: string, bytes: Uint8Array<ArrayBuffer>, message: RegExp][] = [
  [
    "no archive",
    new Uint8Array(100),
    /must be a zip archive, as PyTorch writes them since version 1\.6/,
  ],
  ["an empty file", new Uint8Array(), /must be a zip archive/],
  ["another archive", archive({ "m/x": "" }), /must be a file of PyTorch's: it has no data\.pkl/],
  [
    "a compressed archive",
    archive({ "m/x": "" }, { method: 8 }),
    /nothing is compressed: "m\/x" is/,
  ],
  [
    "an archive whose entries grow as they are unpacked",
    archive({ "m/x": "" }, { grown: 1 }),
    /nothing is compressed: "m\/x" is/,
  ],
  ["a cut archive", file.slice(20), /must be|is cut off/],
  [
    "a pickle that calls a function",
    saved(table(...name("os", "system"), ...tuple(text("true")), REDUCE)),
    /describe tensors and nothing else: it calls os\.system$/,
  ],
  [
    "a pickle that makes an object",
    saved(table(...name("m", "C"), ...tuple(), 0x81)),
    /it has the operation 0x81$/,
  ],
  ["a pickle that names a mark", saved([0x28, 0x28, 0x93, STOP]), /calls what has no name$/],
  ["a pickle that ends early", saved(table().slice(0, -2)), /it ends early$/],
  ["a pickle of nothing", saved([STOP]), /takes from an empty stack$/],
  ["a text in place of a table", saved([...text("x"), STOP]), /must hold a table of tensors$/],
  [
    "a number in place of a tensor",
    saved(table(...number(1))),
    /hold only tensors: "x" is not a tensor$/,
  ],
  [
    "a storage of an unknown type",
    saved(table(...tensor({ type: "QInt8Storage" }))),
    /names a storage of an unknown kind$/,
  ],
  [
    "a tensor whose data is missing",
    saved(table(...tensor({ key: "1" }))),
    /"x" must lie in it: its data is missing$/,
  ],
  [
    "a tensor beyond its data",
    saved(table(...tensor({ offset: 3 }))),
    /"x" must lie in it: its data ends before it does$/,
  ],
  [
    "a tensor of bytes of which one lies beyond its data",
    saved(table(...tensor({ type: "ByteStorage", offset: 15 }))),
    /"x" must lie in it: its data ends before it does$/,
  ],
  [
    "a tensor on its side",
    saved(table(...tensor({ shape: [2, 2], strides: [1, 2] }))),
    /"x" must lie in one piece: it is a view of another tensor$/,
  ],
  ...[[0x94, "MEMOIZE"], [0x5d, "empty lists"], [0x7d, "empty dictionaries"], [0x28, "marks"]].map(
    ([operation, what]): [string, Uint8Array<ArrayBuffer>, RegExp] => [
      `a flood of ${what}`,
      flood(operation as number),
      /it makes more than 1000000 objects$/,
    ],
  ),
  [
    "a huge shape times zero",
    saved(table(...huge(2 ** 52, 2 ** 40, 0))),
    /"x" must not be larger than any file: current shape is \[4503599627370496,1099511627776,0\]$/,
  ],
  ["a rank over 64", saved(table(...huge(...new Array(65).fill(1)))), /"x" must not be larger/],
  [
    "two entries of one name",
    archive([["m/data.pkl", table(...tensor())], ["m/data/\x1b", ""], ["m/data/\x1b", ""]]),
    /must have different names: "m\/data\/\\u001b" is there twice$/,
  ],
  [
    "a name that is given twice",
    saved([MAP, ...text("\x1b"), ...number(1), SET, ...text("\x1b"), ...number(1), SET, STOP]),
    /it gives a name twice: "\\u001b"$/,
  ],
  [
    "names with escape sequences",
    saved([MAP, ...text("\x1b[2J"), ...number(1), SET, STOP]),
    /hold only tensors: "\\u001b\[2J" is not a tensor$/,
  ],
  [
    "a call with escape sequences",
    saved(table(...name("os", "\x1b[2J"), ...tuple(), REDUCE)),
    /it calls os\.\\u\{1b\}\[2J$/,
  ],
  [
    "numbers of the other order",
    saved(table(...tensor()), { "m/byteorder": "big" }),
    /must be little-endian$/,
  ],
];

for (const [what, bytes, message] of refused) {
  Deno.test(`parseTorchFile() refuses ${what} in a sentence`, () => {
    assert.throws(() => parse(bytes), (error: Error) => {
      assert.ok(error.name === "UserError", error.stack);
      assert.match(error.message, /^Cannot read m\.bin as /);
      assert.match(error.message, message);
      return true;
    });
  });
}

Deno.test("parseTorchFile() refuses or reads damaged files, and fails in no other way", () => {
  const seed = freshSeed(), random = testRandom(seed);
  const whole = (below: number) => Math.floor(random() * below);
  for (let i = 0; i < 3000; i++) {
    const bytes = file.slice(0, i % 2 === 0 ? file.length : whole(file.length));
    for (let n = whole(4); n >= 0; n--) bytes[whole(bytes.length)] = whole(256);
    try {
      for (const { begin, end } of parse(bytes).values()) {
        assert.ok(end <= bytes.length && begin >= 0);
      }
    } catch (error) {
      const { name, message } = error as Error;
      const expected = name === "UserError" &&
        message.startsWith("Cannot read");
      assert.ok(expected, `seed ${seed}, file ${i}: ${(error as Error).stack}`);
    }
  }
});
