import assert from "node:assert/strict";
import { UserError } from "../../../files/user_error.ts";
import { Random } from "../../../data/random.ts";
import {
  fromFloat32,
  parseSafetensors,
  serializeSafetensors,
  toFloat32,
} from "../../../model/files/safetensors.ts";
import { freshSeed } from "../../seeds.ts";

/** A file of this header text, or header value, and so many bytes of data. */
function file(header: unknown, dataBytes = 0): Uint8Array<ArrayBuffer> {
  const text = typeof header === "string" ? header : JSON.stringify(header);
  return raw(new TextEncoder().encode(text), dataBytes);
}

function raw(header: Uint8Array, dataBytes = 0, length = BigInt(header.length)) {
  const bytes = new Uint8Array(8 + header.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, length, true);
  bytes.set(header, 8);
  return bytes;
}

const entry = (fields: Record<string, unknown> = {}) => ({
  dtype: "F32",
  shape: [1],
  data_offsets: [0, 4],
  ...fields,
});

/** A header whose one tensor has this text as its shape or offsets. */
const written = (shape: string, offsets = "[0,4]") =>
  `{"x":{"dtype":"F32","shape":${shape},"data_offsets":${offsets}}}`;

const nested = `{"x":${"[".repeat(4)}1${"]".repeat(4)}}`;
const empty = entry({ shape: [0], data_offsets: [2, 2] });
const many = Object.fromEntries(
  Array.from({ length: 100_001 }, (_, i) => [`t${i}`, entry({ shape: [0], data_offsets: [0, 0] })]),
);

/** Each rule with a file that breaks it and alone it, and what the refusal says. */
const REFUSED: [rule: string, bytes: Uint8Array<ArrayBuffer>, message: RegExp][] = [
  ["a file under 8 bytes", new Uint8Array(7), /at least 8 bytes: current size is 7/],
  ["a header of length 0", raw(new Uint8Array(0)), /header must have 1 to .*: current length is 0/],
  ["a header over 100 MB", raw(new Uint8Array(8), 0, 100_000_001n), /current length is 100000001/],
  ["a header past the end", raw(new Uint8Array(8), 0, 9n), /1 to 8 bytes: current length is 9/],
  [
    "a header length beyond 2^63",
    raw(new Uint8Array(8), 0, 2n ** 64n - 1n),
    /current length is 18446/,
  ],
  ["a header that is not UTF-8", raw(Uint8Array.of(0x7b, 0xff, 0x7d)), /must be UTF-8/],
  ["a byte order mark", file("\ufeff{}"), /must begin with \{/],
  ["a first byte other than {", file(" {}"), /must begin with \{: it begins with " "/],
  ["a list as the header", file("[]"), /must begin with \{/],
  ["invalid JSON", file('{"x":}'), /must be valid JSON/],
  ["a trailing comma", file("{},"), /nothing but spaces/],
  ["a trailing comma inside", file('{"__metadata__":{"a":"b",}}'), /must be valid JSON/],
  ["a tab after the object", file("{}\t"), /nothing but spaces/],
  ["a NUL after the object", file("{}\0"), /nothing but spaces/],
  ["a cut-off object", file('{"x"'), /must be valid JSON/],
  ["a duplicate key", file('{"__metadata__":{},"__metadata__":{}}'), /"__metadata__" twice/],
  ["a duplicate key once unescaped", file('{"__metadata__":{"a":"","\\u0061":""}}'), /"a" twice/],
  [
    "half of a surrogate pair in a name",
    file('{"a\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
    /no halves of surrogate pairs: current text is "a\\ud800"$/,
  ],
  [
    "half of a surrogate pair in the metadata",
    file('{"__metadata__":{"a":"\\udc00b"}}'),
    /no halves of surrogate pairs: current text is "\\udc00b"$/,
  ],
  ["nesting over 4", file(nested), /at most 4 deep/],
  ["an entry that is no object", file({ x: 1 }), /"x" must be an object/],
  [
    "a missing field",
    file({ x: { dtype: "F32", shape: [1] } }, 4),
    /current fields are dtype,shape/,
  ],
  [
    "an extra field",
    file({ x: entry({ more: 1 }) }, 4),
    /current fields are data_offsets,dtype,more/,
  ],
  [
    "a mistyped field",
    file({ x: entry({ shape: "1" }) }, 4),
    /a list as shape: current value is "1"/,
  ],
  [
    "an unknown dtype",
    file({ x: entry({ dtype: "F31" }) }, 4),
    /known dtype: current value is "F31"/,
  ],
  ["a dtype of Object.prototype", file({ x: entry({ dtype: "toString" }) }, 4), /known dtype/],
  ["the dimension 2.0", file(written("[2.0]", "[0,8]"), 8), /plain non-negative integers in shape/],
  ["the dimension 4e0", file(written("[4e0]", "[0,16]"), 16), /current value is 4e0/],
  ["the dimension -0", file(written("[-0]", "[0,0]")), /current value is -0/],
  ["the dimension 02", file(written("[02]", "[0,8]"), 8), /must be valid JSON/],
  ['the dimension "2"', file(written('["2"]', "[0,8]"), 8), /current value is "2"/],
  ["the dimension true", file(written("[true]"), 4), /current value is true/],
  ["a dimension over 2^53", file(written("[9007199254740993]"), 4), /plain non-negative/],
  [
    "a rank over 64",
    file({ x: entry({ shape: new Array(65).fill(1) }) }, 4),
    /no list over 64 long, which is the highest rank/,
  ],
  [
    "a product that overflows",
    file(written("[4294967296,4294967296]"), 4),
    /not be larger than any/,
  ],
  [
    "a product that overflows beside 0",
    file(written("[0,4294967296,4294967296]", "[0,0]")),
    /larger/,
  ],
  ["one offset", file({ x: entry({ data_offsets: [4] }) }, 4), /two data_offsets: it has 1/],
  ["three offsets", file({ x: entry({ data_offsets: [0, 4, 4] }) }, 4), /it has 3/],
  ["reversed offsets", file({ x: entry({ data_offsets: [4, 0] }) }, 4), /offsets are 4 to 0/],
  ["data not starting at 0", file({ x: entry({ data_offsets: [4, 8] }) }, 8), /begins at 4/],
  [
    "a hole",
    file({ x: entry(), y: entry({ data_offsets: [8, 12] }) }, 12),
    /"y" begins at 8, the one before ends at 4/,
  ],
  ["an overlap", file({ x: entry(), y: entry() }, 4), /begins at 0, the one before ends at 4/],
  ["an end past the file", file({ x: entry() }, 3), /within the 3 bytes of data/],
  ["bytes left over", file({ x: entry() }, 5), /1 bytes are left over/],
  ["a size unlike shape and dtype", file({ x: entry({ shape: [2] }) }, 4), /must have 8 bytes/],
  ["over 100,000 tensors", file(many), /at most 100000 tensors/],
  [
    "over 100,000 tensors beside metadata",
    file({ __metadata__: {}, ...many }),
    /at most 100000 tensors/,
  ],
  ["an empty name", file({ "": entry() }, 4), /name must have 1 to 1024 bytes/],
  ["a name over 1,024 bytes", file({ ["é".repeat(513)]: entry() }, 4), /1 to 1024 bytes/],
  ["a control character in a name", file({ "a\u0007": entry() }, 4), /no control characters/],
  [
    "an empty tensor inside another",
    file({ x: entry(), y: empty }, 4),
    /"y" begins at 2, the one before ends at 4/,
  ],
  ["an unknown escape", file('{"\\x":1}'), /must be valid JSON/],
  ["a raw control character", file('{"a\n":1}'), /must be valid JSON/],
  ["a string without an end", file('{"a\\'), /must be valid JSON/],
  ["metadata that is no object", file('{"__metadata__":"x"}'), /__metadata__ must be an object/],
  [
    "metadata that is no string",
    file('{"__metadata__":{"a":1}}'),
    /must hold strings: "a" is none/,
  ],
];

for (const [rule, bytes, message] of REFUSED) {
  Deno.test(`parseSafetensors() refuses ${rule}`, () => {
    assert.throws(() => parseSafetensors(bytes, "model.safetensors"), (error: Error) => {
      assert.ok(error instanceof UserError, `${error}`);
      assert.match(error.message, /^Cannot read model\.safetensors as .*[^.]$/s);
      assert.match(error.message, message);
      return true;
    });
  });
}

Deno.test("parseSafetensors() takes 100,000 tensors, metadata and a rank of 64", () => {
  const most = Object.fromEntries(Object.entries(many).slice(0, -2));
  const header = { ...most, __metadata__: {}, x: entry({ shape: new Array(64).fill(1) }) };
  const { tensors } = parseSafetensors(file(header, 4), "x");
  assert.equal(tensors.size, 100_000);
  assert.equal(tensors.get("x")!.shape.length, 64);
});

Deno.test("parseSafetensors() takes tensors in another order than their data", () => {
  const header = {
    last: entry({ data_offsets: [4, 8] }),
    first: entry(),
    empty: entry({ shape: [0, 3], data_offsets: [4, 4] }),
  };
  const bytes = file(header, 8);
  new DataView(bytes.buffer).setFloat32(bytes.length - 4, 2.5, true);
  const { tensors } = parseSafetensors(bytes, "x");
  assert.deepEqual([...toFloat32(tensors.get("last")!)], [2.5]);
  assert.deepEqual([...toFloat32(tensors.get("first")!)], [0]);
  assert.deepEqual([...toFloat32(tensors.get("empty")!)], []);
});

Deno.test("parseSafetensors() takes every JSON escape in a name", () => {
  const header =
    '{"\\u00e9\\ud83d\\ude00\\/\\\\\\"" :{"shape":[],"data_offsets":[0,1],"dtype":"U8"}}  ';
  const { tensors } = parseSafetensors(file(header, 1), "x");
  assert.deepEqual([...tensors.keys()], ['\u00e9\u{1f600}/\\"']);
});

Deno.test("parseSafetensors() takes a text of megabytes", () => {
  const text = "x".repeat(20_000_000);
  const { metadata } = parseSafetensors(file(`{"__metadata__":{"a":"${text}"}}`), "x");
  assert.equal(metadata.get("a")!.length, text.length);
});

Deno.test("parseSafetensors() does not repeat megabytes of a file in its message", () => {
  const bytes = file(written(`[${"9".repeat(1_000_000)}]`), 4);
  assert.throws(() => parseSafetensors(bytes, "x"), (error: Error) => error.message.length < 400);
});

Deno.test("parseSafetensors() refuses or reads a damaged file, and fails in no other way", () => {
  const seed = freshSeed();
  const random = new Random(seed);
  const good = file({ x: entry(), y: entry({ data_offsets: [4, 8] }) }, 8);
  for (let round = 0; round < 2000; round++) {
    const bytes = good.slice(0, random.below(4) ? good.length : random.below(good.length));
    if (bytes.length > 0) bytes[random.below(bytes.length)]! ^= 1 << random.below(8);
    try {
      parseSafetensors(bytes, "x");
    } catch (error) {
      const refused = error instanceof UserError;
      assert.ok(refused && /^Cannot read x as /.test(error.message), `seed ${seed}: ${error}`);
    }
  }
});

Deno.test("parseSafetensors() gives back what serializeSafetensors() wrote", () => {
  const values = Float32Array.of(1.5, -2, 3.25, 0, 1e-3, 7);
  const chunks = serializeSafetensors([
    ["a", fromFloat32(values, [2, 3], "F32")],
    ["__proto__", fromFloat32(values, [6], "F16")],
    ["empty", fromFloat32(new Float32Array(0), [0, 4], "F32")],
    ["scalar", fromFloat32(Float32Array.of(9), [], "F32")],
  ], { format: "pt" });
  const bytes = new Uint8Array(chunks.flatMap((chunk) => [...chunk]));
  const { tensors, metadata } = parseSafetensors(bytes, "x");
  assert.deepEqual([...tensors.keys()], ["a", "__proto__", "empty", "scalar"]);
  assert.deepEqual(tensors.get("a")!.shape, [2, 3]);
  assert.deepEqual([...toFloat32(tensors.get("a")!)], [...values]);
  assert.deepEqual([...toFloat32(tensors.get("__proto__")!)], [...new Float16Array(values)]);
  assert.deepEqual([...toFloat32(tensors.get("scalar")!)], [9]);
  assert.deepEqual([...metadata], [["format", "pt"]]);
  assert.equal(new DataView(bytes.buffer).getUint32(0, true) % 8, 0);
});

Deno.test("serializeSafetensors() keeps the order of names that look like numbers", () => {
  const one = fromFloat32(Float32Array.of(1), [1], "F32");
  const chunks = serializeSafetensors([["b", one], ["1", one], ["0", one]]);
  const bytes = new Uint8Array(chunks.flatMap((chunk) => [...chunk]));
  assert.deepEqual([...parseSafetensors(bytes, "x").tensors.keys()], ["b", "1", "0"]);
});

Deno.test("serializeSafetensors() refuses what parseSafetensors() would not read back", () => {
  const one = fromFloat32(Float32Array.of(1), [1], "F32");
  const cases: [name: string, entries: [string, typeof one][], message: RegExp][] = [
    ["a name twice", [["a", one], ["a", one]], /names must be unique: current name is "a"$/],
    ["the metadata's name", [["__metadata__", one]], /current name is "__metadata__"$/],
    ["an empty name", [["", one]], /name must have 1 to 1024 bytes: current name is ""$/],
    ["a long name", [["é".repeat(600), one]], /must have 1 to 1024 bytes: .{30,230}$/],
    ["a control character", [["a\x1b", one]], /no control characters: current name is "a\\u001b"$/],
    ["a lone surrogate", [["a\ud800", one]], /be Unicode, .*: current name is "a\\ud800"$/],
    ["a size", [["a", { ...one, shape: [2] }]], /F32 \[2\] must have 8 bytes: current size is 4$/],
  ];
  for (const [name, entries, message] of cases) {
    assert.throws(() => serializeSafetensors(entries), { name: "RangeError", message }, name);
  }
  assert.throws(() => serializeSafetensors([["a", one]], { a: "\udfff" }), {
    name: "RangeError",
    message: /metadata must be Unicode: current text is "\\udfff"$/,
  });
});

Deno.test("parseSafetensors() reads tensors that start at odd bytes", () => {
  const bytes = file({
    flag: entry({ dtype: "U8", shape: [1], data_offsets: [0, 1] }),
    x: entry({ data_offsets: [1, 5] }),
  }, 5);
  new DataView(bytes.buffer).setFloat32(bytes.length - 4, 2.5, true);
  assert.deepEqual([...toFloat32(parseSafetensors(bytes, "x").tensors.get("x")!)], [2.5]);
});

Deno.test("toFloat32() widens BF16 and F64 and refuses integers", () => {
  const data = (bytes: ArrayBuffer) => new Uint8Array(bytes);
  const bf16 = Uint16Array.of(0x3f80, 0xc000, 0x7f80).buffer;
  assert.deepEqual([...toFloat32({ dtype: "BF16", shape: [3], data: data(bf16) })], [
    1,
    -2,
    Infinity,
  ]);
  const f64 = Float64Array.of(0.5).buffer;
  assert.deepEqual([...toFloat32({ dtype: "F64", shape: [1], data: data(f64) })], [0.5]);
  assert.throws(() => toFloat32({ dtype: "I32", shape: [1], data: data(f64) }), {
    name: "UserError",
    message: "Cannot read a tensor as floats as its dtype must be a float: it is I32",
  });
});
