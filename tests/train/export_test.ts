import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { parseTokenizer, type Tokenizer } from "../../data/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../data/tokenizer/train.ts";
import { loadModel } from "../../generate/load.ts";
import { findModel } from "../../generate/source.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import { parseSafetensors, toFloat32 } from "../../model/files/safetensors.ts";
import { initializeParameters, saveParameters, setElements } from "../../model/weights.ts";
import { exportModel } from "../../train/export.ts";
import { CONFIG, randomModel } from "../generate/models.ts";
import { device } from "../kernels/harness.ts";
import { readGguf } from "../model/files/gguf.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const gpt = randomModel(device, "f32");
const tokenizer = await trainTokenizer(["the cat sat on the mat"], { vocabularySize: 257 });
const place = (name: string) => join(directory, name);
const read = (path: string) => readGguf(Deno.readFileSync(path));

Deno.test("exportModel() writes a GGUF file that says what the model is", async () => {
  const out = place("model.gguf");
  await exportModel({ gpt, tokenizer }, { to: "gguf", out });
  const { values } = read(out);
  const { tokens, merges } = (() => {
    const { vocab, merges } = JSON.parse(tokenizer.json).model;
    return { tokens: Object.keys(vocab).sort((a, b) => vocab[a] - vocab[b]), merges };
  })();
  assert.deepEqual(Object.fromEntries(Array.from(values, ([name, { value }]) => [name, value])), {
    "general.architecture": "gpt2",
    "general.file_type": 0,
    "gpt2.context_length": 38,
    "gpt2.embedding_length": 24,
    "gpt2.feed_forward_length": 96,
    "gpt2.block_count": 2,
    "gpt2.attention.head_count": 2,
    "gpt2.attention.layer_norm_epsilon": Math.fround(1e-5),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.token_type": [...new Array(256).fill(1), 3],
    "tokenizer.ggml.merges": merges,
    "tokenizer.ggml.bos_token_id": 256,
    "tokenizer.ggml.eos_token_id": 256,
    "tokenizer.ggml.add_bos_token": false,
  });
});

Deno.test("exportModel() writes a GGUF file that findModel() opens as the same model", async () => {
  const parameters = await saveParameters(gpt);
  for (const dtype of ["f32", "f16"] as const) {
    const out = place(`again-${dtype}.gguf`);
    await exportModel({ gpt, tokenizer }, { to: "gguf", out, dtype });
    const notices: string[] = [];
    const source = await findModel(out, { onNotice: (sentence) => notices.push(sentence) });
    assert.deepEqual([source.spec, source.config, notices], [out, CONFIG, []]);
    const loaded = await loadModel(device, { model: out, precision: "f32" });
    assert.equal(loaded.tokenizer.hash, tokenizer.hash);
    assert.deepEqual(loaded.tokenizer.endIds, [256]);
    for (const [name, entry] of await saveParameters(loaded.gpt)) {
      const expected = toFloat32(parameters.get(name)!);
      const isHalf = dtype === "f16" && entry.shape.length === 2 && !name.endsWith("wpe.weight");
      const rounded = isHalf ? Float32Array.from(new Float16Array(expected)) : expected;
      assert.deepEqual(toFloat32(entry), rounded, name);
    }
    loaded.gpt.destroy();
  }
});

Deno.test("exportModel() writes every tensor, matrices as [outputs,inputs] and vectors in f32", async () => {
  const parameters = await saveParameters(gpt);
  for (const dtype of ["f32", "f16"] as const) {
    const out = place(`tensors-${dtype}.gguf`);
    await exportModel({ gpt, tokenizer }, { to: "gguf", out, dtype });
    const { tensors } = read(out);
    assert.equal(tensors.size, parameters.size);
    const compare = (name: string, hfName: string, turned: boolean) => {
      const { dims, type, data } = tensors.get(name)!;
      const { shape } = parameters.get(`transformer.${hfName}`)!;
      const expected = toFloat32(parameters.get(`transformer.${hfName}`)!);
      assert.deepEqual(dims, turned ? shape : shape.toReversed(), name);
      const half = dtype === "f16" && shape.length === 2 && name !== "position_embd.weight";
      assert.equal(type, half ? 1 : 0, name);
      const bytes = new Uint8Array(data).buffer;
      const stored = half ? new Float16Array(bytes) : new Float32Array(bytes);
      const rounded = half ? new Float16Array(expected) : expected;
      const [rows, columns = 1] = shape as [number, number?];
      for (let r = 0; r < rows; r++) {
        for (let c = 0; c < columns; c++) {
          const at = turned ? c * rows + r : r * columns + c;
          assert.equal(stored[at], rounded[r * columns + c], `${name} [${r},${c}]`);
        }
      }
    };
    compare("token_embd.weight", "wte.weight", false);
    compare("position_embd.weight", "wpe.weight", false);
    compare("output_norm.weight", "ln_f.weight", false);
    compare("output_norm.bias", "ln_f.bias", false);
    for (const i of [0, 1]) {
      for (const kind of ["weight", "bias"]) {
        const turned = kind === "weight";
        compare(`blk.${i}.attn_norm.${kind}`, `h.${i}.ln_1.${kind}`, false);
        compare(`blk.${i}.ffn_norm.${kind}`, `h.${i}.ln_2.${kind}`, false);
        compare(`blk.${i}.attn_qkv.${kind}`, `h.${i}.attn.c_attn.${kind}`, turned);
        compare(`blk.${i}.attn_output.${kind}`, `h.${i}.attn.c_proj.${kind}`, turned);
        compare(`blk.${i}.ffn_up.${kind}`, `h.${i}.mlp.c_fc.${kind}`, turned);
        compare(`blk.${i}.ffn_down.${kind}`, `h.${i}.mlp.c_proj.${kind}`, turned);
      }
    }
  }
});

Deno.test("exportModel() writes a directory that Hugging Face transformers and this project open", async () => {
  const parameters = await saveParameters(gpt);
  for (const dtype of ["f32", "f16"] as const) {
    const out = place(`hf-${dtype}`);
    await exportModel({ gpt, tokenizer }, { to: "hf", out, dtype });
    assert.deepEqual(readdirSync(out).sort(), [
      "config.json",
      "generation_config.json",
      "model.safetensors",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
    const loaded = await loadModel(device, { model: out, precision: "f32" });
    assert.deepEqual(loaded.gpt.config, CONFIG);
    assert.equal(loaded.tokenizer.hash, tokenizer.hash);
    assert.deepEqual(JSON.parse(Deno.readTextFileSync(join(out, "config.json"))), {
      activation_function: "gelu_new",
      architectures: ["GPT2LMHeadModel"],
      attn_pdrop: 0,
      bos_token_id: 256,
      embd_pdrop: 0,
      eos_token_id: 256,
      initializer_range: 0.02,
      layer_norm_epsilon: 1e-5,
      model_type: "gpt2",
      n_ctx: 38,
      n_embd: 24,
      n_head: 2,
      n_inner: null,
      n_layer: 2,
      n_positions: 38,
      resid_pdrop: 0,
      scale_attn_weights: true,
      tie_word_embeddings: true,
      use_cache: true,
      vocab_size: 257,
      ...(dtype === "f16" ? { torch_dtype: "float16" } : {}),
    });
    const file = join(out, "model.safetensors");
    const { tensors } = parseSafetensors(Deno.readFileSync(file), file);
    for (const [name, entry] of await saveParameters(loaded.gpt)) {
      const expected = toFloat32(parameters.get(name)!);
      assert.equal(tensors.get(name)!.dtype, dtype.toUpperCase());
      const rounded = dtype === "f32" ? expected : Float32Array.from(new Float16Array(expected));
      assert.deepEqual(toFloat32(entry), rounded, name);
    }
    loaded.gpt.destroy();
  }
});

Deno.test("exportModel() writes the kind of each token, and fills ids that have no token", async () => {
  const file = JSON.parse(tokenizer.json);
  file.added_tokens.push(
    { id: 258, content: "<pad>", special: true, normalized: false },
    { id: 259, content: "  ", special: false, normalized: false },
    { id: 0, content: "!", special: true, normalized: false }, // as padding: it is text as well
    { id: 999, content: "[PAD]", special: true, normalized: false }, // for which there is no row
  );
  const wide = createGpt(device, { ...CONFIG, vocabularySize: 262 }, { precision: "f32" });
  initializeParameters(wide, { seed: 1 });
  const other = await parseTokenizer(JSON.stringify(file), "t.json", { vocabularySize: 262 });
  const out = place("kinds.gguf");
  await exportModel({ gpt: wide, tokenizer: other }, { to: "gguf", out });
  const { values } = read(out);
  const value = (name: string) => values.get(`tokenizer.ggml.${name}`)!.value as unknown[];
  assert.deepEqual(value("token_type").slice(255), [1, 3, 5, 3, 4, 5, 5]);
  assert.deepEqual([value("tokens")[0], value("token_type")[0]], ["!", 1]);
  assert.deepEqual(value("tokens").slice(256), [
    "<|endoftext|>",
    "[UNUSED257]",
    "<pad>",
    "  ",
    "[UNUSED260]",
    "[UNUSED261]",
  ]);
  wide.destroy();
});

Deno.test("exportModel() keeps all tokens at which texts end", async () => {
  const ends = (...endIds: number[]) => ({ gpt, tokenizer: { ...tokenizer, endIds } });
  const out = place("ends");
  await exportModel(ends(5, 256, 7), { to: "hf", out });
  for (const name of ["config.json", "generation_config.json"]) {
    const { eos_token_id } = JSON.parse(Deno.readTextFileSync(join(out, name)));
    assert.deepEqual(eos_token_id, [5, 256, 7], name);
  }
  const { tokenizer: again } = await findModel(out);
  assert.deepEqual(again.endIds, [5, 256, 7]);
  const notices: string[] = [], file = place("ends.gguf");
  const onNotice = (sentence: string) => notices.push(sentence);
  await exportModel(ends(5, 256, 7, 8, 9), { to: "gguf", out: file, onNotice });
  const { values } = read(file);
  const ids = ["eos", "eot", "eom"].map((n) => values.get(`tokenizer.ggml.${n}_token_id`)!.value);
  assert.deepEqual(ids, [256, 5, 7]);
  assert.match(notices.join(), /^texts of the exported model do not end at the tokens 8, 9: /);
});

Deno.test("exportModel() to GGUF cuts the context of a GPT-Neo to what all its layers see", async () => {
  const config: GptConfig = {
    ...CONFIG,
    family: "gpt_neo",
    attentionScale: 1,
    attentionWindows: [0, 16],
  };
  const neo = createGpt(device, config, { precision: "f32" });
  initializeParameters(neo, { seed: 1 });
  const notices: string[] = [], out = place("neo.gguf");
  const onNotice = (sentence: string) => notices.push(sentence);
  await exportModel({ gpt: neo, tokenizer }, { to: "gguf", out, onNotice });
  assert.match(notices.join(), /^the exported model has a context of 16 tokens instead of 38: /);
  const { values, tensors } = read(out);
  assert.equal(values.get("gpt2.context_length")!.value, 16);
  assert.deepEqual(tensors.get("position_embd.weight")!.dims, [24, 16]);
  assert.ok(tensors.get("blk.1.attn_qkv.bias")!.data.every((byte) => byte === 0));
  neo.destroy();
});

/** Models of the Llama family, with random values. */
const LLAMAS: Record<string, GptConfig> = {
  llama: {
    ...{
      ...CONFIG,
      width: 32,
      heads: 4,
      keyHeads: 2,
      headSize: 16,
      family: "llama",
      ownHead: true,
    },
    ...{ rotaryBase: 500, qkvBias: true, projectionBias: true, normEpsilon: 1e-6 },
    rotaryScaling: {
      ...{ type: "llama3", factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4 },
      originalContextLength: 100,
    },
  },
  "llama with longer positions": {
    ...{ ...CONFIG, width: 32, heads: 2, family: "llama", mlpBias: true },
    rotaryScaling: { type: "linear", factor: 2.5 },
  },
  qwen3: { ...CONFIG, width: 32, heads: 2, keyHeads: 1, family: "llama", qkNorm: true },
};

for (const [name, config] of Object.entries(LLAMAS)) {
  Deno.test(`exportModel() of a ${name} writes files that findModel() opens as the same model`, async () => {
    const model = createGpt(device, config, { precision: "f32" });
    initializeParameters(model, { seed: 3 });
    const chatTemplate = "{{ messages }}\r\n é";
    const parameters = await saveParameters(model), kept = { ...tokenizer, chatTemplate };
    for (const [to, dtype] of [["hf", "f16"], ["gguf", "f32"], ["gguf", "q8_0"]] as const) {
      const out = place(`${name}-${dtype}${to === "hf" ? "" : ".gguf"}`), notices: string[] = [];
      const onNotice = (sentence: string) => notices.push(sentence);
      await exportModel({ gpt: model, tokenizer: kept }, { to, dtype, out, onNotice });
      const loaded = await loadModel(device, { model: out, precision: "f32" });
      assert.deepEqual([loaded.gpt.config, notices], [config, []]);
      assert.equal(loaded.tokenizer.hash, tokenizer.hash);
      assert.equal(loaded.tokenizer.chatTemplate, chatTemplate);
      const again = await saveParameters(loaded.gpt);
      assert.deepEqual([...again.keys()], [...parameters.keys()]);
      for (const [name, entry] of again) {
        const before = toFloat32(parameters.get(name)!), after = toFloat32(entry);
        const isMatrix = entry.shape.length === 2;
        if (dtype === "f32" || (dtype === "q8_0" && !isMatrix)) {
          assert.deepEqual(after, before, name);
        } else if (dtype === "f16") {
          assert.deepEqual(after, Float32Array.from(new Float16Array(before)), name);
        } else {
          const largest = before.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
          const differ = before.filter((value, i) => Math.abs(after[i]! - value) > largest / 200);
          assert.equal(differ.length, 0, name);
        }
      }
      loaded.gpt.destroy();
    }
    model.destroy();
  });
}

Deno.test("exportModel() in q8_0 keeps in f16 what is no whole number of blocks, and says so", async () => {
  const out = place("odd.gguf"), notices: string[] = []; // rows of 24 and of 96 elements
  const onNotice = (sentence: string) => notices.push(sentence);
  await exportModel({ gpt, tokenizer }, { to: "gguf", dtype: "q8_0", out, onNotice });
  const { tensors, values } = read(out);
  const types = Object.fromEntries(Array.from(tensors, ([name, { type }]) => [name, type]));
  assert.deepEqual(
    ["blk.0.ffn_down.weight", "blk.0.ffn_up.weight", "token_embd.weight", "position_embd.weight"]
      .map((name) => types[name]),
    [8, 1, 1, 0],
  );
  assert.equal(values.get("general.file_type")!.value, 7);
  assert.match(notices.join(), /^7 matrices of the exported model are f16: /);
  const loaded = await loadModel(device, { model: out, precision: "f32" });
  assert.deepEqual(loaded.gpt.config, CONFIG);
  loaded.gpt.destroy();
});

Deno.test("exportModel() refuses a model that the other program does not compute, by the field", async () => {
  const cases: [change: Partial<GptConfig>, hf: string | undefined, gguf: string | undefined][] = [
    [
      { positions: "rotary", qkNorm: true },
      "unlike the nearest, gpt_neox, its qkNorm is",
      "gptneox must have qkNorm false",
    ],
    [
      { family: "llama", gatedMlp: false },
      "unlike the nearest, llama, its",
      "llama must have gatedMlp true",
    ],
    [{ family: "llama", activation: "relu2" }, undefined, "llama must have activation silu"],
    [{ activation: "gelu" }, undefined, "gpt2 must have activation gelu_new"],
    [{ keyHeads: 1 }, "unlike the nearest, gpt2, its", "gpt2 must have keyHeads 2"],
    [{ headSize: 8 }, "unlike the nearest, gpt2, its", "gpt2 must have headSize 12"],
    [{ qkNorm: true }, "unlike the nearest, gpt2, its", "gpt2 must have qkNorm false"],
    [
      { family: "llama", qkNorm: true, mlpBias: true },
      "unlike the nearest, llama, its",
      "qwen3 must have mlpBias false",
    ],
    [
      { family: "gpt_neox", rotaryScaling: LLAMAS.llama!.rotaryScaling! },
      undefined,
      "gptneox must have rotaryScaling none or linear: current value is llama3",
    ],
    [
      { ...LLAMAS.qwen3!, rotaryScaling: LLAMAS.llama!.rotaryScaling! },
      undefined,
      "qwen3 must have rotaryScaling none or linear: current value is llama3",
    ],
  ];
  for (const [change, hf, gguf] of cases) {
    const other = createGpt(device, { ...CONFIG, ...change }, { precision: "f32" });
    for (const [to, message] of [["hf", hf], ["gguf", gguf]] as const) {
      if (message === undefined) continue;
      await assert.rejects(exportModel({ gpt: other, tokenizer }, { to, out: place("none") }), {
        name: "UserError",
        message: RegExp(
          to === "hf"
            ? `^Cannot write config.json as a class of transformers must compute the model: ${message}`
            : `^Cannot write a model for llama.cpp as its ${message}`,
        ),
      });
    }
    other.destroy();
  }
  await assert.rejects(
    exportModel({ gpt, tokenizer }, { to: "hf", dtype: "q8_0", out: place("none") }),
    {
      name: "UserError",
      message:
        "Cannot export a model to Hugging Face transformers as dtype must be f32 or f16: current value is q8_0",
    },
  );
});

Deno.test("exportModel() throws one sentence when it cannot write a model, and leaves no file", async () => {
  const out = place("there");
  Deno.mkdirSync(out);
  for (const to of ["hf", "gguf"] as const) {
    await assert.rejects(exportModel({ gpt, tokenizer }, { to, out }), {
      name: "CheckpointError",
      message: `Cannot write ${out} as it exists: choose another out`,
    });
  }
  const llama = JSON.parse(tokenizer.json);
  llama.pre_tokenizer = { type: "Metaspace" };
  const others: Tokenizer = await parseTokenizer(JSON.stringify(llama));
  await assert.rejects(
    exportModel({ gpt, tokenizer: others }, { to: "gguf", out: place("no.gguf") }),
    {
      name: "UserError",
      message: "Cannot export the tokenizer to GGUF as it must be SentencePiece's BPE with byte " +
        "fallback, or a byte-level BPE with the words of gpt-2, llama-bpe, qwen2, smollm: " +
        'current pre-tokenizer is "Metaspace", model BPE',
    },
  );
  const huge = randomModel(device, "f32");
  setElements(huge, "h.1.mlp.c_fc.weight", 5, Float32Array.of(70000));
  for (
    const [to, name] of [["hf", "transformer.h.1.mlp.c_fc"], ["gguf", "blk.1.ffn_up"]] as const
  ) {
    await assert.rejects(
      exportModel({ gpt: huge, tokenizer }, { to, out: place("huge"), dtype: "f16" }),
      {
        name: "UserError",
        message: `Cannot write "${name}.weight" as f16 as its values must be within ±65504: ` +
          "one would become Infinity; choose f32",
      },
    );
  }
  await exportModel({ gpt: huge, tokenizer }, { to: "hf", out: place("huge") });
  huge.destroy();
  assert.ok(!readdirSync(directory).some((name) => name.startsWith(".tmp") || name === "no.gguf"));
});
