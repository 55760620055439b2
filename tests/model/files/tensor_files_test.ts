import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { readText } from "../../../files/json.ts";
import { parseAdapterConfig } from "../../../model/files/lora.ts";
import {
  fromFloat32,
  type SafetensorsEntry,
  serializeSafetensors,
} from "../../../model/files/safetensors.ts";
import {
  hashFiles,
  openModelTensors,
  openTensorFiles,
  readerOf,
  shardNames,
} from "../../../model/files/tensor_files.ts";
import { leftOpen } from "../../left_open.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const f32 = (values: number[]) => fromFloat32(Float32Array.from(values), [values.length], "F32");
const bf16: SafetensorsEntry = {
  dtype: "BF16",
  shape: [3],
  data: new Uint8Array(Uint16Array.of(0x3f80, 0xc000, 0x3e80).buffer),
};

function write(name: string, tensors: Record<string, SafetensorsEntry>): string {
  const path = join(directory, name);
  const chunks = serializeSafetensors(Object.entries(tensors));
  Deno.writeFileSync(path, new Uint8Array(chunks.flatMap((chunk) => [...chunk])));
  return path;
}

Deno.test("openTensorFiles() reads parts of tensors of any float type", () => {
  const values = [1, 2, 3, 4, 5];
  const path = write("types.safetensors", {
    odd: { dtype: "U8", shape: [1], data: Uint8Array.of(7) }, // what follows starts at an odd byte
    f32: f32(values),
    f16: fromFloat32(Float32Array.from(values), [5], "F16"),
    bf16,
  });
  const { tensors, close } = openTensorFiles([path]);
  const part = (
    name: string,
    first: number,
    count: number,
  ) => [...tensors.get(name)!.floats(first, count)];
  assert.deepEqual(part("f32", 1, 3), [2, 3, 4]);
  assert.deepEqual(part("f16", 4, 1), [5]);
  assert.deepEqual(part("bf16", 0, 3), [1, -2, 0.25]);
  assert.deepEqual([...readerOf(bf16).floats(1, 2)], [-2, 0.25]);
  assert.throws(() => part("odd", 0, 1), {
    name: "UserError",
    message: /must be a float: it is U8/,
  });
  close();
  assert.throws(() => part("f32", 0, 1), Error);
});

Deno.test("openTensorFiles() refuses a tensor that is in two files, and names a file that is missing", () => {
  const [a, b] = ["a.safetensors", "b.safetensors"].map((name) => write(name, { x: f32([1]) }));
  assert.throws(() => openTensorFiles([a!, b!]), {
    message: /"x" must be in one file: it is in two/,
  });
  assert.throws(() => openTensorFiles([join(directory, "none")]), {
    message: /^Cannot read .*none: there is no such file$/,
  });
});

Deno.test("files are refused that are directories or have no end", () => {
  assert.throws(() => openTensorFiles([directory]), {
    message: `Cannot read ${directory} as it must be a file`,
  });
  for (const path of [directory, ...(Deno.build.os === "windows" ? [] : ["/dev/zero"])]) {
    assert.throws(() => readText(path), { message: `Cannot read ${path} as it must be a file` });
  }
});

Deno.test("openModelTensors() finds the files of an index, and what they lack", () => {
  write("model-00001-of-00002.safetensors", { x: f32([1]) });
  write("model-00002-of-00002.safetensors", { y: f32([2, 3]) });
  const map: Record<string, string> = {
    x: "model-00001-of-00002.safetensors",
    y: "model-00002-of-00002.safetensors",
  };
  const index = join(directory, "model.safetensors.index.json");
  Deno.writeTextFileSync(index, JSON.stringify({ metadata: {}, weight_map: map }));
  const files = openModelTensors(directory);
  assert.deepEqual([...files.tensors.keys()], ["x", "y"]);
  assert.deepEqual([...files.tensors.get("y")!.floats(0, 2)], [2, 3]);
  files.close();
  Deno.writeTextFileSync(index, JSON.stringify({ weight_map: { ...map, z: map.y } }));
  assert.throws(() => openModelTensors(directory), { message: /current missing ones are z$/ });
  // a head that is the token embedding's, and constants, need not be there
  const more = { ...map, "lm_head.weight": map.x, "transformer.h.0.attn.bias": map.y };
  Deno.writeTextFileSync(index, JSON.stringify({ weight_map: more }));
  const again = openModelTensors(directory);
  assert.deepEqual([...again.tensors.keys()], ["x", "y"]);
  again.close();
  Deno.writeTextFileSync(index, JSON.stringify({ weight_map: { x: "gone.safetensors" } }));
  assert.throws(() => openModelTensors(directory), {
    message: /index\.json as the files that it names must be beside it: there is no gone\./,
  });
});

Deno.test("openModelTensors() prefers a whole file to an index of shards, and safetensors to PyTorch's", () => {
  const other = Deno.makeTempDirSync({ dir: directory });
  const torch = Deno.readFileSync(new URL("../../golden/torch_file.bin", import.meta.url));
  const names = () => {
    const { tensors, close } = openModelTensors(other);
    close();
    return [...tensors.keys()];
  };
  const index = (name: string) =>
    Deno.writeTextFileSync(join(other, `${name}.index.json`), '{"weight_map":{"z":"gone.bin"}}');
  Deno.writeFileSync(join(other, "pytorch_model.bin"), torch);
  index("pytorch_model.bin");
  assert.ok(names().includes("wte.weight"));
  Deno.copyFileSync(write("whole.safetensors", { x: f32([1]) }), join(other, "model.safetensors"));
  index("model.safetensors");
  assert.deepEqual(names(), ["x"]);
});

Deno.test("openTensorFiles() says what stands in place of a file that was not fetched", () => {
  const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 548105171\n";
  for (const name of ["model.safetensors", "pytorch_model.bin"]) {
    const path = join(Deno.makeTempDirSync({ dir: directory }), name);
    for (
      const [text, message] of [
        [
          pointer,
          "it is a pointer of Git LFS and not the file itself: fetch the file with git lfs pull",
        ],
        [
          "\n<!DOCTYPE html><p>",
          "it is a web page and not the file itself: download the file again",
        ],
        ["<html lang=en>", "it is a web page and not the file itself: download the file again"],
      ]
    ) {
      Deno.writeTextFileSync(path, text!);
      assert.throws(() => openTensorFiles([path]), {
        name: "UserError",
        message: `Cannot read ${path} as ${message}`,
      });
    }
  }
});

Deno.test("shardNames() refuses names that are paths, and what is no index", () => {
  const index = (weight_map: unknown) => JSON.stringify({ weight_map });
  assert.deepEqual(shardNames(index({ a: "m.safetensors", b: "m.safetensors" }), "i"), [
    "m.safetensors",
  ]);
  for (const map of [{ a: "../m.safetensors" }, { a: "/m.safetensors" }, { a: 1 }, {}, null, "x"]) {
    assert.throws(() => shardNames(index(map), "i"), {
      name: "UserError",
      message: /^Cannot read i as its weight_map must name files of tensors beside it/,
    });
  }
  assert.throws(() => shardNames("{", "i"), { name: "UserError" });
});

Deno.test("hashFiles() hashes files one after the other", () => {
  const paths = ["one", "two"].map((name) => join(directory, name));
  paths.forEach((path, i) => Deno.writeTextFileSync(path, "text".repeat(i + 1)));
  const expected = createHash("sha256").update("texttexttext").digest("hex");
  assert.equal(hashFiles(paths), expected);
});

Deno.test("parseAdapterConfig() names a stand-in, and escapes and cuts values of the file", () => {
  const read = (text: string) => () => parseAdapterConfig(text, "adapter_config.json");
  assert.throws(read("version https://git-lfs.github.com/spec/v1\n"), {
    name: "UserError",
    message: /^Cannot read adapter_config\.json as it is a pointer of Git LFS/,
  });
  assert.throws(read("[]"), { name: "UserError", message: /must be a JSON object$/ });
  assert.throws(read(JSON.stringify({ peft_type: "\x9b2J" + "x".repeat(1e6) })), ({ message }) => {
    assert.match(message, /current value is "\\u\{9b\}2Jx+…"$/);
    assert.ok(message.length < 500);
    return true;
  });
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
