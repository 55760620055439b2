import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { Random } from "../../../data/random.ts";
import { type GgufTensor, type GgufValue, serializeGguf } from "../../../model/files/gguf.ts";
import { toQ8 } from "../../../model/files/q8_0.ts";
import { fromFloat32 } from "../../../model/files/safetensors.ts";
import { freshSeed } from "../../seeds.ts";
import { readGguf } from "./gguf.ts";

Deno.test("serializeGguf() writes every value and tensor so that a reader finds it", () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 20; round++) {
    const values = new Map<string, GgufValue>([
      ["general.architecture", ["string", "gpt2"]],
      ["a.count", ["uint32", random.below(2 ** 32)]],
      ["a.float", ["float32", Math.fround(random.below(1000) / 7)]],
      ["a.yes", ["bool", true]],
      ["a.no", ["bool", false]],
      ["a.texts", ["string", Array.from({ length: random.below(9000) }, (_, i) => `Ġ日${i}`)]],
      ["a.kinds", ["int32", [1, -1, 2 ** 31 - 1, -(2 ** 31), random.below(9)]]],
      ["a.none", ["string", []]],
      ["a.scores", ["float32", [0, -0.5, -1e9, 1.25]]],
    ]);
    const tensors = new Map<string, GgufTensor>();
    for (let i = 0, count = random.below(8); i < count; i++) {
      const shape = Array.from({ length: 1 + random.below(3) }, () => 1 + random.below(7));
      const size = shape.reduce((product, dim) => product * dim, 1);
      const floats = Float32Array.from({ length: size }, () => random.below(1000) / 8);
      tensors.set(`t.${i}`, fromFloat32(floats, shape, i % 2 ? "F16" : "F32"));
    }
    const rows = 1 + random.below(3),
      blocks = new Float32Array(rows * 64).map(() => random.uniform());
    tensors.set("quantized", { dtype: "Q8_0", shape: [rows, 64], data: toQ8(blocks) });
    const file = readGguf(Buffer.concat(serializeGguf(values, tensors)));
    assert.equal(file.version, 3);
    assert.deepEqual([...file.values.keys()], [...values.keys()]);
    for (const [name, [type, value]] of values) {
      const expected = { type: type + (Array.isArray(value) ? "[]" : ""), value };
      assert.deepEqual(file.values.get(name), expected, `seed ${seed}`);
    }
    assert.deepEqual([...file.tensors.keys()], [...tensors.keys()]);
    for (const [name, { dtype, shape, data }] of tensors) {
      const read = file.tensors.get(name)!;
      assert.deepEqual(read.dims, shape.toReversed());
      assert.equal(read.type, { F32: 0, F16: 1, Q8_0: 8 }[dtype]);
      assert.deepEqual(new Uint8Array(read.data), data);
    }
  }
});

Deno.test("serializeGguf() throws on what no reader would take", () => {
  const entry = fromFloat32(Float32Array.of(1, 2), [2], "F32");
  const write = (...tensors: [string, GgufTensor][]) => serializeGguf(new Map(), tensors);
  assert.throws(() => write(["a", entry], ["a", entry]), {
    message: 'Cannot write GGUF as names must be unique: current name is "a"',
  });
  assert.throws(() => write(["a", { ...entry, shape: [3] }]), {
    message: 'Cannot write tensor "a" as F32 [3] must have 12 bytes: current size is 8',
  });
  assert.throws(() => write(["a", { ...entry, dtype: "Q8_0", shape: [1, 48] }]), {
    message:
      'Cannot write tensor "a" as Q8_0 as its rows must be a multiple of 32 long: current length is 48',
  });
});
