import assert from "node:assert/strict";
import { activationForward } from "../../../kernels/matmul/reference.ts";
import type { ActivationFunction } from "../../../kernels/activation.ts";
import { type GptConfig, innerWidthOf, withDefaults } from "../../../model/config.ts";
import { createGpt } from "../../../model/gpt.ts";
import type { GgufTensor } from "../../../model/files/gguf.ts";
import { parseHuggingFaceConfig } from "../../../model/files/hugging_face.ts";
import {
  llamaCppContext,
  llamaCppTensors,
  llamaCppValues,
} from "../../../model/files/llama_cpp.ts";
import {
  parseSafetensors,
  type SafetensorsEntry,
  toFloat32,
} from "../../../model/files/safetensors.ts";
import { loadAdapters, loadParameters } from "../../../model/weights.ts";
import { assertClose, device } from "../../kernels/harness.ts";

// what tests/golden/make_families.py computed with PyTorch, in f64
const path = new URL("../../golden/families.safetensors", import.meta.url);
const { tensors, metadata } = parseSafetensors(await Deno.readFile(path), "families.safetensors");
const configs = JSON.parse(metadata.get("configs")!) as Record<string, Record<string, unknown>>;

/** Sums of f32 of up to 64 terms against f64, the weights rounded once more where queries are scaled. */
const TOLERANCE = 2e-5;

/**
 * A model as llama.cpp computes it from the tensors and values of a file, naively: every matrix is [outputs,inputs],
 * scores are multiplied by 1 / √HS, everyone sees all that came before.
 */
function logitsOf(
  model: ReadonlyMap<string, GgufTensor>,
  values: ReadonlyMap<string, unknown>,
  tokens: readonly number[],
  activation: ActivationFunction,
): number[][] {
  const floats = new Map(
    Array.from(model, ([name, entry]) => [name, toFloat32(entry as SafetensorsEntry)]),
  );
  const get = (name: string) => floats.get(name) ?? assert.fail(`${name} is missing`);
  const value = (name: string) =>
    (values.get(`${values.get("general.architecture")}.${name}`) ?? assert.fail(name)) as number;
  const linear = (x: number[], name: string) => {
    const weight = get(`${name}.weight`), bias = floats.get(`${name}.bias`);
    return Array.from({ length: weight.length / x.length }, (_, n) => {
      let sum = bias?.[n] ?? 0;
      x.forEach((value, c) => sum += value * weight[n * x.length + c]!);
      return sum;
    });
  };
  const architecture = values.get("general.architecture");
  const isGpt2 = architecture === "gpt2" || architecture === "gptneox";
  const epsilon = value(`attention.layer_norm_${isGpt2 ? "" : "rms_"}epsilon`);
  const norm = (x: number[], name: string) => {
    const weight = get(`${name}.weight`), bias = isGpt2 ? get(`${name}.bias`) : undefined;
    const mean = isGpt2 ? x.reduce((sum, v) => sum + v, 0) / x.length : 0;
    const variance = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length;
    return x.map((v, c) =>
      (v - mean) / Math.sqrt(variance + epsilon) * weight[c]! + (bias?.[c] ?? 0)
    );
  };
  // llama.cpp has one activation function per architecture; with others its tensors still mean the same
  const activate = (x: number[]) => [
    ...activationForward({ x: Float32Array.from(x) }, activation).y,
  ];
  const add = (x: number[], y: number[]) => x.map((value, i) => value + y[i]!);

  const C = value("embedding_length"), NH = value("attention.head_count");
  const KH = isGpt2 ? NH : value("attention.head_count_kv");
  const HS = isGpt2 ? C / NH : value("attention.key_length");
  /** Rotates a head: neighbouring components of a llama, halves of others; a gpt2 has learned positions. */
  const rotate = (x: number[], t: number) => {
    const factors = floats.get("rope_freqs.weight"), y = x.slice();
    for (let i = 0; i < HS / 2; i++) {
      const angle = t * value("rope.freq_base") ** (-2 * i / HS) / (factors?.[i] ?? 1);
      const [a, b] = architecture === "llama" ? [2 * i, 2 * i + 1] : [i, i + HS / 2];
      y[a] = x[a]! * Math.cos(angle) - x[b]! * Math.sin(angle);
      y[b] = x[b]! * Math.cos(angle) + x[a]! * Math.sin(angle);
    }
    return y;
  };
  const heads = (x: number[], count: number, from = 0) =>
    Array.from({ length: count }, (_, h) => x.slice(from + h * HS, from + (h + 1) * HS));
  const attended = (rows: number[][], block: string): number[][] => {
    const qkv = rows.map((row, t) => {
      const normed = norm(row, `${block}.attn_norm`);
      if (isGpt2) {
        const all = linear(normed, `${block}.attn_qkv`);
        const isRotated = architecture === "gptneox";
        return [0, 1, 2].map((part) =>
          heads(all, NH, part * C).map((head) => isRotated && part < 2 ? rotate(head, t) : head)
        );
      }
      return ["q", "k", "v"].map((part) => {
        const own = heads(linear(normed, `${block}.attn_${part}`), part === "q" ? NH : KH);
        const isNormed = architecture === "qwen3" && part !== "v";
        return own.map((head) => isNormed ? norm(head, `${block}.attn_${part}_norm`) : head)
          .map((head) => part === "v" ? head : rotate(head, t));
      });
    });
    return rows.map((_, t) =>
      qkv[t]![0]!.flatMap((q, h) => {
        const of = (s: number, part: number) => qkv[s]![part]![Math.floor(h / (NH / KH))]!;
        const scores = Array.from(
          { length: t + 1 },
          (_, s) => q.reduce((sum, v, c) => sum + v * of(s, 1)[c]!, 0) / Math.sqrt(HS),
        );
        const most = Math.max(...scores), weights = scores.map((score) => Math.exp(score - most));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        return Array.from(
          { length: HS },
          (_, c) => weights.reduce((sum, weight, s) => sum + weight / total * of(s, 2)[c]!, 0),
        );
      })
    );
  };

  const embedding = get("token_embd.weight"), position = floats.get("position_embd.weight");
  let x = tokens.map((id, t) =>
    Array.from({ length: C }, (_, c) => embedding[id * C + c]! + (position?.[t * C + c] ?? 0))
  );
  for (let i = 0; i < value("block_count"); i++) {
    const block = `blk.${i}`, y = attended(x, block);
    x = x.map((row, t) => add(row, linear(y[t]!, `${block}.attn_output`)));
    x = x.map((row) => {
      const normed = norm(row, `${block}.ffn_norm`), up = linear(normed, `${block}.ffn_up`);
      const inner = isGpt2
        ? activate(up)
        : activate(linear(normed, `${block}.ffn_gate`)).map((gate, c) => gate * up[c]!);
      return add(row, linear(inner, `${block}.ffn_down`));
    });
  }
  const hasHead = floats.has("output.weight") || architecture === "gptneox";
  const head = hasHead ? "output" : "token_embd";
  return x.map((row) => linear(norm(row, "output_norm"), head));
}

for (const [name, { lora, ...fields }] of Object.entries(configs)) {
  Deno.test(`llamaCppTensors() of ${name} give PyTorch's logits as llama.cpp computes them`, async () => {
    const config: GptConfig = parseHuggingFaceConfig(JSON.stringify(fields), "config.json");
    const { r: rank, lora_alpha: alpha, target_modules: targets } = Object(lora);
    const gpt = createGpt(device, lora ? { ...config, lora: { rank, alpha, targets } } : config, {
      precision: "f32",
    });
    const file = [...tensors].filter(([key]) => key.startsWith(`${name}: file `))
      .map(([key, entry]) => [key.slice(`${name}: file `.length), entry] as const);
    loadParameters(gpt, new Map(file.filter(([key]) => !key.includes("lora_"))), "golden");
    const adapters = new Map(file.filter(([key]) => key.includes("lora_")));
    if (lora) loadAdapters(gpt, adapters, "golden adapters");

    const model = await llamaCppTensors(gpt, "F32");
    const golden = toFloat32(tensors.get(`${name}: logits`)!);
    const ids = new Uint32Array(tensors.get(`${name}: tokens`)!.data.slice().buffer);
    const { vocabularySize: V } = config, B = 2, T = ids.length / B;
    const seen = Math.min(T, llamaCppContext(config));
    assert.ok(seen >= 3, `only ${seen} positions can be compared`);
    assert.deepEqual(
      model.get("position_embd.weight")?.shape,
      withDefaults(config).positions === "rotary"
        ? undefined
        : [llamaCppContext(config), config.width],
    );
    assert.deepEqual(model.get("blk.0.ffn_up.weight")!.shape, [
      innerWidthOf(config),
      config.width,
    ]);
    const { activation } = withDefaults(config);
    const computed: GptConfig = {
      ...config,
      activation: config.family === "llama" ? "silu" : "gelu_new",
    };
    const values = new Map(
      llamaCppValues(computed, "F32").map(([key, [, value]]) => [key, value as unknown]),
    );
    for (let b = 0; b < B; b++) {
      const logits = logitsOf(model, values, [...ids.subarray(b * T, b * T + seen)], activation);
      const expected = golden.subarray(b * T * V, (b * T + seen) * V);
      assertClose(Float32Array.from(logits.flat()), expected, TOLERANCE, `${name}, text ${b}`);
    }
    gpt.destroy();
  });
}
