import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { Random } from "../../../data/random.ts";
import { type GgufValue, serializeGguf } from "../../../model/files/gguf.ts";
import { parseGgufHeader } from "../../../model/files/gguf_reader.ts";
import { ggufIn, openGguf } from "../../../model/files/llama_cpp_reader.ts";
import { frequenciesOf, type RotaryScaling } from "../../../kernels/rope/rotation.ts";
import { fromFloat32 } from "../../../model/files/safetensors.ts";
import { placedReader } from "../../../model/files/tensor_files.ts";
import { fromFileUrl } from "../../paths.ts";
import { freshSeed } from "../../seeds.ts";
import { leftOpen } from "../../left_open.ts";

// what tests/golden/make_gguf.py wrote and read with llama.cpp's own package
const GOLDEN = fromFileUrl(new URL("../../golden/q8_0.gguf", import.meta.url));
const golden = Deno.readFileSync(GOLDEN);
const expected = JSON.parse(Deno.readTextFileSync(GOLDEN.replace(/gguf$/, "json"))) as Record<
  string,
  { shape: number[]; sum: number; values: number[] }
>;

const readOf = (bytes: Uint8Array<ArrayBuffer>) => (start: number, end: number) =>
  bytes.subarray(start, end);
const parse = (bytes: Uint8Array<ArrayBuffer>) =>
  parseGgufHeader(readOf(bytes), bytes.length, "m.gguf");

Deno.test("parseGgufHeader() finds the tensors that llama.cpp's package wrote, in f32, f16 and Q8_0", () => {
  const { tensors } = parse(golden);
  assert.deepEqual([...tensors.keys()].sort(), Object.keys(expected).sort());
  const types = new Set([...tensors.values()].map(({ dtype }) => dtype));
  assert.deepEqual([...types].sort(), ["F16", "F32", "Q8_0"]);
  for (const [name, { shape, sum, values }] of Object.entries(expected)) {
    const reader = placedReader(tensors.get(name)!, readOf(golden));
    assert.deepEqual(reader.shape, shape, name);
    const count = shape.reduce((product, dim) => product * dim, 1);
    const floats = reader.floats(0, count);
    assert.ok(Math.abs(floats.reduce((total, v) => total + v, 0) - sum) < 1e-3, name);
    const stride = Math.max(1, Math.floor(count / 16));
    assert.deepEqual(values.map((_, i) => floats[i * stride]), values, name);
    // parts that begin and end inside a block
    for (const [first, length] of [[0, 1], [5, 40], [31, 2], [count - 7, 7]] as const) {
      if (first < 0 || first + length > count) continue;
      assert.deepEqual(reader.floats(first, length), floats.slice(first, first + length), name);
    }
  }
});

Deno.test("openGguf() gives a model Hugging Face's names, shapes and dimensions", () => {
  const { config, values, tensors, paths, close } = openGguf(GOLDEN);
  assert.deepEqual(config, {
    ...{ vocabularySize: 258, contextLength: 8, width: 32, layers: 1, heads: 2 },
    normEpsilon: 1e-6, // and not the f32 next to it
  });
  assert.equal(values.get("general.name"), "tiny");
  assert.deepEqual(paths, [GOLDEN]);
  const { shape, floats } = tensors.get("transformer.h.0.mlp.c_fc.weight")!;
  assert.deepEqual(shape, [32, 128]);
  const raw = placedReader(parse(golden).tensors.get("blk.0.ffn_up.weight")!, readOf(golden));
  assert.equal(floats(0, 32 * 128)[3 * 128 + 5], raw.floats(5 * 32 + 3, 1)[0]);
  assert.deepEqual(floats(130, 7), floats(0, 32 * 128).subarray(130, 137));
  close();
});

Deno.test("parseGgufHeader() reads what serializeGguf() writes", () => {
  const values = new Map<string, GgufValue>([
    ["a.count", ["uint32", 2 ** 32 - 1]],
    ["a.float", ["float32", 0.5]],
    ["a.yes", ["bool", true]],
    ["a.texts", ["string", ["", "Ġ日", "x".repeat(3_000_000)]]], // longer than what is read at a time
    ["a.kinds", ["int32", [1, -1, 2 ** 31 - 1, -(2 ** 31)]]],
    ["a.none", ["string", []]],
  ]);
  const entry = fromFloat32(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3], "F16");
  const bytes = new Uint8Array(Buffer.concat(serializeGguf(values, [["t", entry], ["u", entry]])));
  const read = parse(bytes);
  assert.deepEqual(
    read.values,
    new Map([...values].map(([name, [, value]]) => [name, value])) as typeof read.values,
  );
  assert.deepEqual([...read.tensors.keys()], ["t", "u"]);
  const { dtype, shape, begin, end } = read.tensors.get("u")!;
  assert.deepEqual([dtype, shape, bytes.slice(begin, end)], ["F16", [2, 3], entry.data]);
});

/** A GGUF file of whatever is given, in its notation. */
function file(...parts: (number | bigint | string | Uint8Array)[]): Uint8Array<ArrayBuffer> {
  const bytes = parts.flatMap((part) => {
    if (typeof part === "number") return [...new Uint8Array(Uint32Array.of(part).buffer)];
    if (typeof part === "bigint") return [...new Uint8Array(BigUint64Array.of(part).buffer)];
    if (typeof part !== "string") return [...part];
    const text = new TextEncoder().encode(part);
    return [...new Uint8Array(BigUint64Array.of(BigInt(text.length)).buffer), ...text];
  });
  return Uint8Array.from(bytes);
}

const MAGIC = new TextEncoder().encode("GGUF");
const tensor = (name: string, dims: bigint[], type: number, offset: bigint) =>
  [name, dims.length, ...dims, type, offset] as const;

for (
  const [what, bytes, message] of [
    ["nothing", file(), "it must begin with GGUF: current size is 0"],
    ["another format", file(1, 2, 3), "it must begin with GGUF: current size is 12"],
    [
      "a pointer of Git LFS",
      new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\n"),
      "it is a pointer of Git LFS and not the file itself: fetch the file with git lfs pull",
    ],
    ["version 1", file(MAGIC, 1, 0, 0), "its version must be 2 or 3: current version is 1"],
    [
      "a file of a big-endian machine",
      file(MAGIC, 0x03000000, 0n, 0n),
      "its numbers must be little-endian",
    ],
    ["a file cut off", file(MAGIC, 3, 0n), "the file is cut off in its header: current size is 16"],
    [
      "a number of tensors",
      file(MAGIC, 3, 2n ** 40n, 0n),
      "it must have at most 100000 tensors: current number is 1099511627776",
    ],
    [
      "a text that is longer than the file",
      file(MAGIC, 3, 0n, 1n, 2n ** 63n),
      "the file is cut off in its header: current size is 32",
    ],
    [
      "a list that is longer than the file",
      file(MAGIC, 3, 0n, 1n, "a", 9, 4, 2n ** 50n),
      "the file is cut off in its header: a has 1125899906842624 elements",
    ],
    [
      "lists of lists",
      file(MAGIC, 3, 0n, 1n, "a", 9, 9, 1n),
      "a must not hold lists of lists",
    ],
    [
      "an unknown type",
      file(MAGIC, 3, 0n, 1n, "a\x1b", 99),
      "a\\u{1b} must have a type below 13: current type is 99",
    ],
    [
      "a value twice",
      file(MAGIC, 3, 0n, 2n, "a", 4, 1, "a", 4, 2),
      'it must have one value "a": it has two',
    ],
    [
      "bytes that are not UTF-8",
      file(MAGIC, 3, 0n, 1n, 1n, Uint8Array.of(0xff), 4, 1),
      "its texts must be UTF-8: one before byte 33 is none",
    ],
    [
      "an empty name",
      file(MAGIC, 3, 0n, 1n, ""),
      "names must have 1 to 65535 characters: current number is 0",
    ],
    [
      "an alignment",
      file(MAGIC, 3, 0n, 1n, "general.alignment", 4, 0),
      "general.alignment must be an integer from 1 to 1048576: current value is 0",
    ],
    [
      "a quantized type",
      file(MAGIC, 3, 1n, 0n, ...tensor("t", [256n], 12, 0n)),
      "tensors must be F32, F16, Q8_0, BF16: current type of t is Q4_K",
    ],
    [
      "five dimensions",
      file(MAGIC, 3, 1n, 0n, ...tensor("t", [1n, 1n, 1n, 1n, 1n], 0, 0n)),
      "t must have 1 to 4 dimensions: current number is 5",
    ],
    [
      "rows of half a block",
      file(MAGIC, 3, 1n, 0n, ...tensor("t", [48n, 2n], 8, 0n)),
      "rows of t must be multiples of 32 in Q8_0: current shape is [2,48]",
    ],
    [
      "a tensor of no elements",
      file(MAGIC, 3, 1n, 0n, ...tensor("t", [0n, 2n ** 40n], 0, 0n)),
      "t must have elements, and fewer than any file: current shape is [1099511627776,0]",
    ],
    [
      "a tensor that is larger than the file",
      file(MAGIC, 3, 1n, 0n, ...tensor("t", [9n], 0, 0n)),
      "the file is cut off: t ends at byte 100, current size is 57",
    ],
    [
      "a tensor at no multiple",
      file(MAGIC, 3, 1n, 0n, ...tensor("t", [1n], 0, 4n), new Uint8Array(99)),
      "t must begin at a multiple of 32 behind the tensor before it: current offset is 4",
    ],
    [
      "tensors that overlap",
      file(
        MAGIC,
        3,
        2n,
        0n,
        ...tensor("t", [9n], 0, 0n),
        ...tensor("u", [1n], 0, 32n),
        new Uint8Array(99),
      ),
      "u must begin at a multiple of 32 behind the tensor before it: current offset is 32",
    ],
    [
      "a tensor twice",
      file(
        MAGIC,
        3,
        2n,
        0n,
        ...tensor("t", [1n], 0, 0n),
        ...tensor("t", [1n], 0, 32n),
        new Uint8Array(99),
      ),
      "it must have one tensor t: it has two",
    ],
  ] as const
) {
  Deno.test(`parseGgufHeader() refuses ${what} in a sentence`, () => {
    assert.throws(() => parse(bytes), {
      name: "UserError",
      message: `Cannot read m.gguf as ${message}`,
    });
  });
}

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** The factors of Llama 3.1's rotary positions for heads of eight components; wavelengths of 2048 to 8192 are between. */
const FACTORS = (() => {
  const kept = (8192 / (2 * Math.PI * 5e5 ** 0.5) - 1) / 3;
  return [1, 1, 1 / ((1 - kept) / 8 + kept), 8];
})();

/** A GGUF file of a Llama, without most of its tensors, with other values. */
function llamaFile(
  more: Record<string, GgufValue> = {},
  factors: readonly number[] = FACTORS,
): Uint8Array<ArrayBuffer> {
  const values: Record<string, GgufValue> = {
    "general.architecture": ["string", "llama"],
    "llama.context_length": ["uint32", 16],
    "llama.embedding_length": ["uint32", 32],
    "llama.block_count": ["uint32", 2],
    "llama.feed_forward_length": ["uint32", 40],
    "llama.attention.head_count": ["uint32", 4],
    "llama.attention.head_count_kv": ["uint32", 2],
    "llama.attention.layer_norm_rms_epsilon": ["float32", 1e-6],
    "llama.rope.freq_base": ["float32", 5e5],
    ...more,
  };
  const given = Object.entries(values).filter(([, [, value]]) => value !== "");
  const row = (length: number) => fromFloat32(new Float32Array(2 * length), [2, length], "F32");
  return new Uint8Array(Buffer.concat(serializeGguf(new Map(given), [
    ["token_embd.weight", row(32)],
    ["blk.0.attn_q.weight", row(32)],
    ["rope_freqs.weight", fromFloat32(Float32Array.from(factors), [factors.length], "F32")],
  ])));
}

Deno.test("openGguf() reads the fields of a Llama, and Llama 3's rotary positions from their factors", () => {
  const path = join(directory, "llama.gguf");
  const open = (bytes: Uint8Array) => {
    Deno.writeFileSync(path, bytes);
    const { config, close } = openGguf(path);
    close();
    return config;
  };
  const config = {
    ...{ vocabularySize: 2, contextLength: 16, width: 32, layers: 2, heads: 4, keyHeads: 2 },
    ...{ family: "llama", innerWidth: 40, normEpsilon: 1e-6, rotaryBase: 5e5 },
  };
  const scaling = {
    ...{ type: "llama3", factor: 8, lowFrequencyFactor: 1 },
  };
  assert.deepEqual(open(llamaFile()), {
    ...config,
    rotaryScaling: { ...scaling, highFrequencyFactor: 4, originalContextLength: 8192 },
  });
  // of any other length and range, if two factors are between the ends
  for (const [length, high] of [[64, 40], [5000, 100], [300, 9]] as const) {
    const wanted = { ...scaling, highFrequencyFactor: high, originalContextLength: length };
    const options = { headSize: 64, base: 1e4 };
    const scaled = frequenciesOf({ ...options, scaling: wanted as RotaryScaling });
    const factors = [...frequenciesOf(options)].map((frequency, i) => frequency / scaled[i]!);
    const found = open(llamaFile({
      "llama.rope.freq_base": ["float32", 1e4],
      "llama.attention.key_length": ["uint32", 64],
    }, factors));
    assert.deepEqual(found.rotaryScaling, wanted);
  }
});

for (
  const [what, bytes, message] of [
    [
      "another architecture",
      llamaFile({ "general.architecture": ["string", "mamba"] }),
      'general.architecture must be gpt2, gptneox, llama, qwen3: current value is "mamba"',
    ],
    [
      "experts",
      llamaFile({ "llama.expert_count": ["uint32", 8] }),
      "llama.expert_count must be 0: current value is 8",
    ],
    [
      "a number of heads for each layer",
      llamaFile({ "llama.attention.head_count": ["int32", [4, 4]] }),
      "llama.attention.head_count must be a whole number: current value is [4,4]",
    ],
    [
      "key heads that do not divide the heads",
      llamaFile({ "llama.attention.head_count_kv": ["uint32", 3] }),
      "keyHeads must divide heads, 4: current value is 3",
    ],
    [
      "values of another size",
      llamaFile({ "llama.attention.value_length": ["uint32", 16] }),
      "llama.attention.value_length must be that of keys, 8: current value is 16",
    ],
    [
      "components that are not rotated",
      llamaFile({ "llama.rope.dimension_count": ["uint32", 4] }),
      "llama.rope.dimension_count must be the size of heads, 8: current value is 4",
    ],
    [
      "parallel branches",
      llamaFile({ "llama.use_parallel_residual": ["bool", true] }),
      "llama.use_parallel_residual must be false: current value is true",
    ],
    [
      "another scaling",
      llamaFile({ "llama.rope.scaling.type": ["string", "yarn"] }),
      'llama.rope.scaling.type must be none or linear: current value is "yarn"',
    ],
    [
      "a base that is a text",
      llamaFile({ "llama.rope.freq_base": ["string", "1e4\x1b"] }),
      'llama.rope.freq_base must be a number: current value is "1e4\\u001b"',
    ],
    [
      "billions of layers",
      llamaFile({ "llama.block_count": ["uint32", 2 ** 32 - 1] }),
      "llama.block_count must be from 1 to 512: current value is 4294967295",
    ],
    [
      "an absent value",
      llamaFile({ "llama.feed_forward_length": ["string", ""] }),
      "llama.feed_forward_length must be a whole number: current value is undefined",
    ],
    [
      "factors of another number",
      llamaFile({}, [1, 8]),
      "rope_freqs.weight must have a factor for each of 4 pairs: current value is [2]",
    ],
    [
      "factors of another kind",
      llamaFile({}, [1, 8, 8, NaN]),
      "rope_freqs.weight must hold the factors of Llama 3's rotary positions: " +
      "current value is [1,8,8,null]",
    ],
  ] as const
) {
  Deno.test(`openGguf() refuses ${what} in a sentence`, () => {
    const path = join(directory, "refused.gguf");
    Deno.writeFileSync(path, bytes);
    assert.throws(() => openGguf(path), {
      name: "UserError",
      message: `Cannot load ${path} as ${message}`,
    });
  });
}

Deno.test("openGguf() reads a damaged file or refuses it in a sentence, and fails in no other way", () => {
  const seed = freshSeed(), random = new Random(seed);
  const path = join(directory, "damaged.gguf");
  // the header: numbers, names, types, and few of the tokens
  const places = [
    ...Array(700).keys(),
    ...Array.from({ length: 800 }, (_, i) => golden.length - 27_000 + i),
  ];
  const llama = llamaFile();
  for (let round = 0; round < 400; round++) {
    const whole = round % 2 ? llama : golden;
    const bytes = whole.slice(0, round % 10 === 0 ? random.below(whole.length) : whole.length);
    for (let i = random.below(3); i >= 0; i--) {
      const at = whole === llama
        ? random.below(whole.length)
        : places[random.below(places.length)]!;
      if (at < bytes.length) bytes[at] = random.below(256);
    }
    Deno.writeFileSync(path, bytes);
    try {
      const { tensors, close } = openGguf(path);
      for (const { shape, floats } of tensors.values()) floats(0, Math.min(1, ...shape));
      close();
    } catch (error) {
      const { name, message, stack } = error as Error;
      assert.equal(name, "UserError", `seed ${seed}, round ${round}: ${stack}`);
      assert.match(message, /^Cannot (read|load) .*damaged\.gguf as /);
      assert.ok(message.length < 700 && !message.includes("\x1b"), message);
    }
  }
});

Deno.test("ggufIn() finds a file by its name, or the only one of a directory", () => {
  const folder = Deno.makeTempDirSync({ dir: directory }), one = join(folder, "one.GGUF");
  assert.equal(ggufIn(folder), undefined);
  Deno.writeTextFileSync(one, "");
  assert.equal(ggufIn(folder), one);
  assert.equal(ggufIn(one), one);
  assert.equal(ggufIn(join(folder, "none.gguf")), undefined);
  Deno.writeTextFileSync(join(folder, "config.json"), "{}");
  assert.equal(ggufIn(folder), undefined);
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
