import assert from "node:assert/strict";
import { cpSync, rmSync } from "node:fs";
import { join } from "node:path";
import { compactTokenizer, gpt2Tokenizer } from "../../data/tokenizer/tokenizer.ts";
import { loadSource } from "../../generate/load.ts";
import {
  fillModel,
  findModel,
  type FindModelOptions,
  hashModel,
  modelPaths,
} from "../../generate/source.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import { toHuggingFaceConfig } from "../../model/files/hugging_face.ts";
import {
  fromFloat32,
  parseSafetensors,
  type SafetensorsEntry,
  serializeSafetensors,
  toFloat32,
} from "../../model/files/safetensors.ts";
import { openTensorFiles } from "../../model/files/tensor_files.ts";
import { initializeParameters, saveParameters } from "../../model/weights.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { HubServer } from "../data/hub/server.ts";
import { device } from "../kernels/harness.ts";
import { fromFileUrl } from "../paths.ts";
import { leftOpen } from "../left_open.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const tokenizer = await compactTokenizer(await gpt2Tokenizer(), []);
const { vocabularySize, endOfText } = tokenizer;
const config: GptConfig = { vocabularySize, contextLength: 9, width: 8, layers: 2, heads: 2 };
const model = createGpt(device, config, { precision: "f32" });
initializeParameters(model, { seed: 1 });
const saved = await saveParameters(model), halves = await saveParameters(model, { dtype: "F16" });

type Files = Record<string, Uint8Array<ArrayBuffer>>;
const json = (value: unknown) => new TextEncoder().encode(JSON.stringify(value));
const tensors = (entries: Iterable<readonly [string, SafetensorsEntry]>) =>
  new Uint8Array(serializeSafetensors(entries).flatMap((chunk) => [...chunk]));

/** The model in two files, with the tokenizer as GPT-2 has it. */
function sharded(): Files {
  const { vocab, merges } = JSON.parse(tokenizer.json).model;
  const names = [...halves.keys()], shards = [names.slice(0, 3), names.slice(3)];
  const shardName = (i: number) => `model-0000${i + 1}-of-00002.safetensors`;
  const map = shards.flatMap((names, i) => names.map((name) => [name, shardName(i)]));
  return {
    ".gitattributes": json(""),
    "README.md": json(""),
    "config.json": json(toHuggingFaceConfig(config, { endOfText })),
    "merges.txt": new TextEncoder().encode(
      ["#version: 0.2", ...merges.map((pair: string | string[]) => [pair].flat().join(" ")), ""]
        .join("\n"),
    ),
    "vocab.json": json(vocab),
    "model.safetensors.index.json": json({ weight_map: Object.fromEntries(map) }),
    ...Object.fromEntries(
      shards.map((names, i) => [shardName(i), tensors(names.map((n) => [n, halves.get(n)!]))]),
    ),
    "onnx/model.onnx": json(""),
  };
}

/** A directory with the model, and what else is asked for. */
function local(more: Files = {}): string {
  const path = Deno.makeTempDirSync({ dir: directory });
  const files: Files = {
    "config.json": json(toHuggingFaceConfig(config, { endOfText })),
    "tokenizer.json": new TextEncoder().encode(tokenizer.json),
    "model.safetensors": tensors(saved),
    ...more,
  };
  for (const [name, bytes] of Object.entries(files)) {
    if (bytes.length > 0) Deno.writeFileSync(join(path, name), bytes);
  }
  return path;
}

const nothing = new Uint8Array(); // in place of a file: none
const whole = local();

/** A hub with a model, an empty cache, and what is said. */
function hubWith(files: Files) {
  const server = new HubServer("tiny/model");
  for (const [name, bytes] of Object.entries(files)) {
    server.publish(name, bytes, { large: name.endsWith(".safetensors") || name.endsWith(".bin") });
  }
  const notices: string[] = [];
  const environment: Record<string, string> = {
    HF_HOME: Deno.makeTempDirSync({ dir: directory }),
    HF_ENDPOINT: server.endpoint,
  };
  const options: FindModelOptions = {
    environment,
    onNotice: (sentence) => notices.push(sentence),
  };
  return {
    server,
    notices,
    environment,
    options,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

async function loaded(spec: string, options: FindModelOptions = {}, dtype: "F16" | "F32" = "F32") {
  const source = await findModel(spec, options);
  using gpt = loadSource(device, source, { precision: "f32" }).gpt;
  return { ...source, parameters: await saveParameters(gpt, { dtype }) };
}

Deno.test({
  name: "findModel() waits for no pipe in the place of a file of a model",
  ignore: Deno.build.os === "windows",
  async fn() {
    const names = [
      ...["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"],
      ...["model.safetensors", "adapter_config.json"],
    ];
    for (const name of names) {
      const path = local();
      rmSync(join(path, name), { force: true });
      assert.ok(new Deno.Command("mkfifo", { args: [join(path, name)] }).outputSync().success);
      await assert.rejects(findModel(path), {
        name: "UserError",
        message: new RegExp(`^Cannot read .*${name} as it must be a file$`),
      });
    }
  },
});

Deno.test("findModel() downloads the files of a model once, all of one commit", async () => {
  await using hub = hubWith(sharded());
  const commit = hub.server.main;
  const found = await loaded("hf:tiny/model", hub.options, "F16");
  assert.equal(found.spec, `hf:tiny/model@${commit}`);
  assert.deepEqual(found.config, config);
  assert.deepEqual(found.parameters, halves);
  assert.equal(found.tokenizer.hash, tokenizer.hash);
  const files = [
    ...new Set(hub.server.log("hub").filter((line) => /^GET .*\/resolve\//.test(line))),
  ];
  assert.ok(files.length === 6 && files.every((line) => line.includes(commit)), files.join("\n"));

  // main moves on, and the hub goes: the commit stays what it was
  hub.server.publish("config.json", json({}));
  hub.environment.HF_HUB_OFFLINE = "1";
  const again = await loaded(found.spec, hub.options, "F16");
  assert.deepEqual(again.parameters, halves);
});

Deno.test("findModel() uses PyTorch's file when there is no other, and GPT-2's tokenizer when there is none", async () => {
  const torchFile = Deno.readFileSync(new URL("../golden/torch_file.bin", import.meta.url));
  await using hub = hubWith({
    "config.json": json(
      toHuggingFaceConfig({ ...config, vocabularySize: 50257 }, { endOfText: 50256 }),
    ),
    "pytorch_model.bin": torchFile,
  });
  const source = await findModel("hf:tiny/model", hub.options);
  assert.equal(source.tokenizer.hash, (await gpt2Tokenizer()).hash);
  const [ignored, taken] = hub.notices.slice(-2);
  assert.match(ignored!, /^ignoring tensors in .* does not have: mask, half, brain/);
  assert.match(taken!, /^using GPT-2's tokenizer, as .* has none$/);
  const gpt = createGpt(device, source.config, { precision: "f32" });
  assert.throws(() => fillModel(gpt, source), { message: /missing names are wpe\.weight, / });
  gpt.destroy();
});

Deno.test("findModel() and fillModel() read a GGUF file of the hub, or of a directory", async () => {
  const gguf = Deno.readFileSync(new URL("../golden/q8_0.gguf", import.meta.url));
  await using hub = hubWith({ "README.md": json(""), "gguf/tiny-q8_0.gguf": gguf });
  const commit = hub.server.main;
  const found = await loaded("hf:tiny/model/gguf/tiny-q8_0.gguf", hub.options);
  assert.equal(found.spec, `hf:tiny/model/gguf/tiny-q8_0.gguf@${commit}`);
  assert.equal(found.config.normEpsilon, 1e-6);
  const th = found.tokenizer.encode("th");
  assert.deepEqual(th, [256]);
  assert.deepEqual([found.tokenizer.endOfText, found.tokenizer.endIds], [257, [257]]);

  const directory = local({
    ...{ "config.json": nothing, "tokenizer.json": nothing, "model.safetensors": nothing },
    "tiny.gguf": gguf,
  });
  const again = await loaded(directory);
  assert.deepEqual(again.parameters, found.parameters);
  assert.equal(hashModel(again), hashModel(found));
  assert.deepEqual(modelPaths(directory), [join(directory, "tiny.gguf")]);
});

Deno.test("findModel() finds adapters, and their base on the hub", async () => {
  await using hub = hubWith(sharded());
  const A = { dtype: "F32", shape: [1, 8], data: new Uint8Array(32) } as const;
  const B = { dtype: "F32", shape: [8, 1], data: new Uint8Array(32) } as const;
  const prefix = "base_model.model.transformer.h";
  const adapter = {
    "config.json": nothing,
    "tokenizer.json": nothing,
    "model.safetensors": nothing,
    "adapter_config.json": json({
      peft_type: "LORA",
      r: 1,
      lora_alpha: 2,
      target_modules: ["attn.c_proj"],
      base_model_name_or_path: "tiny/model",
      revision: hub.server.main,
    }),
    "adapter_model.safetensors": tensors([0, 1].flatMap((i) => [
      [`${prefix}.${i}.attn.c_proj.lora_A.weight`, A],
      [`${prefix}.${i}.attn.c_proj.lora_B.weight`, B],
    ])),
  };
  const found = await loaded(local(adapter), hub.options, "F16");
  assert.deepEqual(found.adapters?.lora, { rank: 1, alpha: 2, targets: ["attn.c_proj"] });
  assert.equal(found.tokenizer.hash, tokenizer.hash);
  assert.deepEqual(found.parameters, halves); // B is zero

  // another name for the model, which PEFT gives no hash
  const config = JSON.parse(new TextDecoder().decode(adapter["adapter_config.json"]));
  config.base_model_name_or_path = join(directory, "gone");
  const moved = local({ ...adapter, "adapter_config.json": json(config) });
  await assert.rejects(loaded(moved), {
    name: "CheckpointError",
    message: `Cannot load the adapters in ${moved} as their base must be found, which is ` +
      `${join(directory, "gone")}: there is no such directory; name it with base`,
  });
  assert.deepEqual((await loaded(moved, { base: local() })).parameters, saved);

  // a model without adapters
  await assert.rejects(loaded(local(), { base: "x" }), {
    name: "UserError",
    message: /with a base as it must hold adapters: current base is x$/,
  });

  // adapters that name themselves
  const file = join(moved, "adapter_config.json");
  Deno.writeTextFileSync(file, JSON.stringify({ ...config, base_model_name_or_path: moved }));
  await assert.rejects(loaded(moved), {
    name: "UserError",
    message: /as the base of its adapters must be a whole model: .* has adapters itself$/,
  });
});

Deno.test("findModel() accepts the directory of a checkpoint only when it is whole", async () => {
  await assert.rejects(findModel(local({ "trainer_state.json": json({}) })), {
    name: "CheckpointError",
    message: /trainer_state\.json/,
  });
});

Deno.test("hashModel() hashes every tensor file, those of adapters included", async () => {
  const whole = await findModel(local()),
    shards = await findModel(local({
      ...sharded(),
      ...{ "model.safetensors": nothing, "README.md": nothing, "onnx/model.onnx": nothing },
    }));
  const lora = { rank: 1, alpha: 1, targets: ["c_attn"] };
  const adapted = {
    ...whole,
    adapters: { lora, base: "x", directory: Deno.makeTempDirSync({ dir: directory }) },
  };
  const adapterFile = join(adapted.adapters.directory, "adapter_model.safetensors");
  Deno.writeFileSync(adapterFile, Uint8Array.of(1, 2, 3));
  const hashes = [hashModel(whole), hashModel(shards), hashModel(adapted)];
  for (const file of [adapterFile, join(shards.directory, "model-00002-of-00002.safetensors")]) {
    const bytes = Deno.readFileSync(file);
    bytes[bytes.length - 1]! ^= 1;
    Deno.writeFileSync(file, bytes);
  }
  hashes.push(hashModel(shards), hashModel(adapted));
  assert.equal(new Set(hashes).size, 5);
  assert.equal(hashModel(whole), hashes[0]);
});

/** Adapters of PEFT beside the model, as a directory; A and B are made of small whole numbers. */
function peft(fields: Record<string, unknown>, ranks: Record<string, number>): string {
  const numbers = (rows: number, columns: number, first: number): SafetensorsEntry =>
    fromFloat32(
      Float32Array.from({ length: rows * columns }, (_, i) => (first + i) % 7 - 3),
      [rows, columns],
      "F32",
    );
  return local({
    "config.json": nothing,
    "tokenizer.json": nothing,
    "model.safetensors": nothing,
    "adapter_config.json": json({
      peft_type: "LORA",
      r: 4,
      lora_alpha: 8,
      target_modules: ["c_attn"],
      base_model_name_or_path: whole,
      ...fields,
    }),
    "adapter_model.safetensors": tensors(
      Object.entries(ranks).flatMap(([layer, rank], i) => [
        [`base_model.model.${layer}.lora_A.weight`, numbers(rank, 8, i)],
        [`base_model.model.${layer}.lora_B.weight`, numbers(24, rank, i + 1)],
      ]),
    ),
  });
}

Deno.test("findModel() scales PEFT's adapters by rank, alpha and their patterns, and chooses layers as PEFT does", async () => {
  const [first, second] = [0, 1].map((i) => `transformer.h.${i}.attn.c_attn`) as [string, string];
  const both = { [first]: 4, [second]: 4 };
  const cases: [fields: object, ranks: Record<string, number>, scales: Record<string, number>][] = [
    [{}, both, { [first]: 8 / 4, [second]: 8 / 4 }],
    [{ use_rslora: true }, both, { [first]: 8 / 2, [second]: 8 / 2 }],
    [{ alpha_pattern: { "h.0.attn.c_attn": 32 } }, both, { [first]: 32 / 4, [second]: 8 / 4 }],
    [
      { rank_pattern: { "h.1.attn.c_attn": 1 }, alpha_pattern: { c_attn: 3 } },
      { ...both, [second]: 1 },
      { [first]: 3 / 4, [second]: 3 / 1 },
    ],
    [{ target_modules: [first] }, { [first]: 4 }, { [first]: 8 / 4 }],
    [{ target_modules: ".*\\.0\\.attn\\.c_attn" }, { [first]: 4 }, { [first]: 8 / 4 }],
    [{ layers_to_transform: [1] }, { [second]: 4 }, { [second]: 8 / 4 }],
    [{ exclude_modules: [first] }, { [second]: 4 }, { [second]: 8 / 4 }],
    [
      { use_rslora: true, rank_pattern: { [second]: 9 } },
      { ...both, [second]: 9 },
      { [first]: 8 / 2, [second]: 8 / 3 },
    ],
  ];
  for (const [fields, ranks, scales] of cases) {
    const directory = peft(fields as Record<string, unknown>, ranks);
    const { parameters } = await loaded(directory);
    const file = parseSafetensors(
      Deno.readFileSync(join(directory, "adapter_model.safetensors")),
      "adapters",
    );
    for (const name of [first, second]) {
      const expected = toFloat32(saved.get(`${name}.weight`)!), rank = ranks[name] ?? 0;
      const [A, B] = rank === 0
        ? [[], []]
        : ["A", "B"].map((part) =>
          toFloat32(file.tensors.get(`base_model.model.${name}.lora_${part}.weight`)!)
        );
      for (let c = 0; c < 8; c++) {
        for (let n = 0; n < 24; n++) {
          let sum = 0;
          for (let k = 0; k < rank; k++) sum += A![k * 8 + c]! * B![n * rank + k]!;
          expected[c * 24 + n]! += Math.fround((scales[name] ?? 0) * sum);
        }
      }
      const merged = toFloat32(parameters.get(`${name}.weight`)!);
      assert.ok(
        merged.every((value, i) => Math.abs(value - expected[i]!) < 1e-5),
        `${JSON.stringify(fields)}: ${name}`,
      );
    }
  }
});

Deno.test("findModel() and fillModel() read adapters from PyTorch's file if there is no other", async () => {
  const path = fromFileUrl(new URL("../golden/adapter_model.bin", import.meta.url));
  const fields = { r: 2, target_modules: ["h.0.attn.c_attn", "h.1.attn.c_attn"] };
  const inTorchFile = peft(fields, {}), inSafetensors = peft(fields, {});
  Deno.removeSync(join(inTorchFile, "adapter_model.safetensors"));
  Deno.copyFileSync(path, join(inTorchFile, "adapter_model.bin"));
  const file = openTensorFiles([path]);
  const entries = Array.from(
    file.tensors,
    ([name, { shape, floats }]) =>
      [name, fromFloat32(floats(0, shape[0]! * shape[1]!), shape, "F32")] as const,
  );
  file.close();
  Deno.writeFileSync(join(inSafetensors, "adapter_model.safetensors"), tensors(entries));
  const { parameters } = await loaded(inTorchFile);
  assert.deepEqual(parameters, (await loaded(inSafetensors)).parameters);
  assert.notDeepEqual(parameters, saved);
  assert.notEqual(
    hashModel(await findModel(inTorchFile)),
    hashModel(await findModel(inSafetensors)),
  );
});

Deno.test("findModel() names the settings of adapters that it does not support", async () => {
  const cases: [fields: Record<string, unknown>, message: RegExp][] = [
    [{ use_dora: true }, /use_dora must be null or false: current value is true$/],
    [{ alpha_pattern: { c_attn: "4" } }, /alpha_pattern must be numbers by regular expressions/],
    [{ target_modules: ["h.7.attn.c_attn\x1b"] }, /targets are h\.7\.attn\.c_attn\\u\{1b\}$/],
    [{ r: "4" }, /r must be a number: current value is "4"$/],
    [{ r: 0 }, /rank must be an integer from 1 to 1024: current value is 0$/],
    [{ rank_pattern: { c_attn: 1.5 } }, /rank must be an integer from 1 to 1024: .* 1\.5$/],
    [{ lora_alpha: null }, /lora_alpha must be a number: current value is null$/],
    [{ peft_type: "IA3\x1b[2J" }, /peft_type must be LORA: current value is "IA3\\u001b\[2J"$/],
  ];
  for (const [fields, message] of cases) {
    await assert.rejects(findModel(peft(fields, {})), { name: "UserError", message });
  }
});

Deno.test("findModel() uses the first positions of a model, and throws when it has fewer", async () => {
  const path = local();
  const { parameters } = await loaded(path, { contextLength: 4 });
  assert.deepEqual(parameters.get("transformer.wpe.weight")!.shape, [4, 8]);
  await assert.rejects(findModel(path, { contextLength: 10 }), {
    name: "UserError",
    message: /a model of 9 positions for contexts of 10 tokens: choose at most 9/,
  });
});

Deno.test("findModel() prefers a whole file to an index, in a directory and on the hub, and says so", async () => {
  const { "model.safetensors.index.json": index } = sharded();
  const notices: string[] = [], onNotice = (sentence: string) => notices.push(sentence);
  const stale = { "model.safetensors.index.json": index! }; // its shards are gone
  const found = await loaded(local(stale), { onNotice });
  assert.deepEqual(found.parameters, saved);
  const notice = "using model.safetensors, which is whole, and not the files that " +
    "model.safetensors.index.json names";
  assert.equal(notices.join(), `${notice}, in ${found.directory}`);
  await using hub = hubWith({ ...sharded(), "model.safetensors": tensors(saved) });
  assert.deepEqual((await loaded("hf:tiny/model", hub.options)).parameters, saved);
  assert.ok(hub.notices.includes(notice), hub.notices.join("\n"));
  assert.ok(!hub.server.log("hub").join().includes("model-00001"));
});

Deno.test("findModel() names files that Git LFS has not fetched", async () => {
  const pointer = new TextEncoder().encode("version https://git-lfs.github.com/spec/v1\noid x\n");
  const older = { "tokenizer.json": nothing, "vocab.json": sharded()["vocab.json"]! };
  const cases: Files[] = [
    ...["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
      .map((name) => ({ [name]: pointer })),
    { ...older, "merges.txt": pointer },
  ];
  for (const files of cases) {
    await assert.rejects(loaded(local(files)), {
      name: "UserError",
      message: /^Cannot read .* as it is a pointer of Git LFS and not the file itself: /,
    });
  }
});

/** The tokens at which texts of a model end, and what is said of them. */
async function ends(files: Files) {
  const notices: string[] = [];
  const { tokenizer } = await findModel(local(files), { onNotice: (said) => notices.push(said) });
  return { endIds: tokenizer.endIds, notices };
}

Deno.test("findModel() reads the tokens that end a text from generation_config.json, then config.json", async () => {
  const configWith = (eos_token_id: unknown) => ({
    "config.json": json({ ...toHuggingFaceConfig(config, { endOfText }), eos_token_id }),
  });
  const generation = (eos_token_id: unknown) => ({
    "generation_config.json": json({ eos_token_id }),
  });
  const cases: [Files, number[]][] = [
    [{}, [endOfText]],
    [generation([endOfText, 5]), [endOfText, 5]],
    [configWith([7, endOfText, 7]), [7, endOfText]],
    [{ ...configWith([7, endOfText]), ...generation([endOfText, 5]) }, [endOfText, 5]],
    [{ ...configWith([7, endOfText]), ...generation(null) }, [7, endOfText]],
    [{ ...configWith(undefined), ...generation([]) }, [endOfText]],
  ];
  for (const [files, expected] of cases) {
    assert.deepEqual(await ends(files), { endIds: expected, notices: [] });
  }
  const others = await ends(generation(5));
  assert.deepEqual(others.endIds, [5, endOfText]);
  assert.match(
    others.notices.join(),
    /^texts end at "<\|endoftext\|>", which ends documents, and at the eos_token_id 5 of .*generation_config\.json$/,
  );
  const beyond = await ends(generation([50256, endOfText, -1]));
  assert.deepEqual(beyond.endIds, [endOfText]);
  assert.match(
    beyond.notices.join(),
    /^ignoring the eos_token_id 50256 of .*: ids of this model are below \d+$/,
  );
  for (const wrong of ["5", 1.5, [[5]], {}, true]) {
    await assert.rejects(ends(generation(wrong)), {
      name: "UserError",
      message:
        /^Cannot load .*generation_config\.json as eos_token_id must be a whole number or a list/,
    });
  }
});

Deno.test("findModel() downloads the files that name added tokens and the end of a text", async () => {
  const added = vocabularySize, wide = { ...config, vocabularySize: added + 1 };
  await using hub = hubWith({
    ...sharded(),
    "config.json": json(toHuggingFaceConfig(wide, { endOfText })),
    "added_tokens.json": json({ "<|im_end|>": added }),
    "special_tokens_map.json": json({ eos_token: { content: "<|im_end|>" } }),
    "generation_config.json": json({ eos_token_id: [added, 3] }),
  });
  const { tokenizer } = await findModel("hf:tiny/model", hub.options);
  assert.equal(tokenizer.endOfTextToken, "<|im_end|>");
  assert.deepEqual(tokenizer.endIds, [added, 3]);
});

const copied = join(directory, "file");
cpSync(join(whole, "config.json"), copied);
const withConfig = (fields: Record<string, unknown>) =>
  local({ "config.json": json({ ...toHuggingFaceConfig(config, { endOfText }), ...fields }) });

const refused: [what: string, spec: string, message: RegExp][] = [
  [
    "a name that is none",
    "gpt3",
    /"gpt3" as it must be a directory, a \.gguf file, hf:OWNER\/NAME, or one of distilgpt2, gpt2, /,
  ],
  ["a file", copied, /must be a directory, .*: it is a file$/],
  [
    "a file of the hub",
    "hf:a/b/model.safetensors",
    /a whole repository or a \.gguf file: leave out \/model\.safetensors$/,
  ],
  ["a directory without a model", directory, /it must hold config\.json: it has /],
  [
    "a directory without parameters",
    local({ "model.safetensors": nothing }),
    /^Cannot read .*model\.safetensors: there is no such file$/,
  ],
  [
    "a model without a tokenizer",
    local({ "tokenizer.json": nothing }),
    /it must have a tokenizer/,
  ],
  [
    "another architecture",
    withConfig({ model_type: "mixtral" }),
    /model_type must be "gpt2" or .* or "toy_transformer": current value is "mixtral"$/,
  ],
  [
    "another activation",
    withConfig({ activation_function: "quick_gelu" }),
    /activation_function must be .*: current value is "quick_gelu"$/,
  ],
  ["a model of other dimensions", withConfig({ n_embd: 16 }), /"wte\.weight" must have shape \[/],
  ["a model with more layers than it has", withConfig({ n_layer: 3 }), /missing names are h\.2\./],
];

for (const [what, spec, message] of refused) {
  Deno.test(`findModel() and fillModel() refuse ${what} in a sentence`, async () => {
    const { left } = await withLiveBuffers(() => assert.rejects(loaded(spec), { message }));
    assert.deepEqual(left, []);
  });
}

const renamed = (rename: (name: string) => string) => ({
  "model.safetensors": tensors(Array.from(saved, ([name, entry]) => [rename(name), entry])),
});

Deno.test("findModel() and fillModel() load tensors whatever prefixes their names have", async () => {
  const renames: ((name: string) => string)[] = [
    (name) => `_orig_mod.${name}`,
    (name) => `module.${name}`,
    (name) => `module._orig_mod.${name.replace("transformer.", "")}`,
    (name) => name.replace("transformer.", ""),
  ];
  for (const rename of renames) {
    assert.deepEqual((await loaded(local(renamed(rename)))).parameters, saved);
  }
});

Deno.test("findModel() names the tensors that the model does not have, a bounded number and escaped", async () => {
  const [, wte] = [...saved].find(([name]) => name.endsWith("wte.weight"))!;
  const more = Array.from({ length: 30 }, (_, i) => [`h.${i + 2}.ln_1.weight`, wte] as const);
  const path = local({
    "model.safetensors": tensors([
      ...saved,
      ["lm_head.weight", wte], // that of the token embedding
      ["\u202ehead.weight", wte],
      ["a".repeat(500), wte],
      ...more,
    ]),
  });
  const notices: string[] = [];
  const { parameters } = await loaded(path, { onNotice: (sentence) => notices.push(sentence) });
  assert.deepEqual(parameters, saved);
  const names = more.slice(0, 18).map(([name]) => name).join(", ");
  assert.deepEqual(notices, [
    `ignoring tensors in ${path} that the model of its configuration does not have: ` +
    `\\u{202e}head.weight, ${"a".repeat(80)}…, ${names} and 12 more`,
  ]);
});

Deno.test("findModel() takes dimensions that config.json leaves out from n_ctx or the tensors", async () => {
  const complete = toHuggingFaceConfig(config, { endOfText });
  const without = (...names: string[]) =>
    local({
      "config.json": json(
        Object.fromEntries(Object.entries(complete).filter(([name]) => !names.includes(name))),
      ),
    });
  for (
    const names of [
      ["n_positions"],
      ["n_positions", "n_ctx"],
      ["n_positions", "n_ctx", "n_embd", "n_layer", "vocab_size"],
    ]
  ) {
    assert.deepEqual((await findModel(without(...names))).config, config);
  }
  await assert.rejects(findModel(without("n_head")), {
    message: /n_head must be a whole number: current value is undefined$/,
  });
});

Deno.test("findModel() takes a whole model beside an index whose shards are gone, and says so", async () => {
  const { "model.safetensors.index.json": index } = sharded();
  const notices: string[] = [];
  const path = local({ "model.safetensors.index.json": index! });
  const { parameters } = await loaded(path, { onNotice: (sentence) => notices.push(sentence) });
  assert.deepEqual(parameters, saved);
  assert.match(notices.join(), /^using model\.safetensors, which is whole, and not the files/);
});

Deno.test("findModel() recognizes what is in place of a file that was not fetched", async () => {
  const encoder = new TextEncoder();
  const pointer = encoder.encode(
    `version https://git-lfs.github.com/spec/v1\noid sha256:${"a".repeat(64)}\nsize 548105171\n`,
  );
  const page = encoder.encode(
    "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n",
  );
  const cases: [name: string, more: Files][] = [
    ["model.safetensors", {}],
    ["pytorch_model.bin", { "model.safetensors": nothing }],
    ["config.json", {}],
    ["tokenizer.json", {}],
  ];
  for (const [name, more] of cases) {
    for (
      const [bytes, words] of [[pointer, "a pointer of Git LFS"], [page, "a web page"]] as const
    ) {
      await assert.rejects(findModel(local({ ...more, [name]: bytes })), {
        name: "UserError",
        message: new RegExp(`^Cannot read .*${name} as it is ${words} and not the file itself: `),
      });
    }
  }
});

Deno.test("findModel() names a path that the system refuses to look up", async () => {
  for (const spec of [join(whole, "config.json", "inside"), "x".repeat(5000)]) {
    await assert.rejects(findModel(spec), {
      name: "UserError",
      message:
        /^Cannot find the model "\S+ as it must be a directory, a \.gguf file, hf:OWNER\/NAME, .*: \S.+$/,
    });
  }
});

Deno.test("modelPaths() names a directory that cannot be read", () => {
  const gone = join(directory, "gone");
  assert.throws(() => modelPaths(gone), {
    name: "UserError",
    message: `Cannot read the directory ${gone}: there is no such file`,
  });
  assert.throws(() => modelPaths(join(whole, "config.json")), {
    name: "UserError",
    message: /^Cannot read the directory \S+config\.json: \S.+$/,
  });
});

Deno.test("findModel() refuses a repository without parameters in a sentence", async () => {
  const { "config.json": config } = sharded();
  await using hub = hubWith({ "config.json": config!, "tf_model.h5": json(1) });
  await assert.rejects(findModel("hf:tiny/model", hub.options), {
    name: "HubError",
    message: /must hold one of .*model\.safetensors, .*pytorch_model\.bin: it has tf_model\.h5$/,
  });
});

Deno.test("findModel() ends when its signal aborts", async () => {
  await using hub = hubWith(sharded());
  const controller = new AbortController();
  hub.server.fault = ({ path }) => {
    if (path.includes("model-00002")) controller.abort(new Error("enough"));
    return undefined;
  };
  await assert.rejects(findModel("hf:tiny/model", { ...hub.options, signal: controller.signal }), {
    message: "enough",
  });
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
