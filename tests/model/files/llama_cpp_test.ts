import assert from "node:assert/strict";
import { activationForward } from "../../../kernels/matmul/reference.ts";
import { type GptConfig, innerWidthOf } from "../../../model/config.ts";
import { createGpt } from "../../../model/gpt.ts";
import { parseHuggingFaceConfig } from "../../../model/files/hugging_face.ts";
import { llamaCppContext, llamaCppTensors } from "../../../model/files/llama_cpp.ts";
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
 * GPT-2 as llama.cpp computes it, naively: every matrix is [outputs,inputs], scores are multiplied by
 * 1 / √HS, everyone sees all that came before.
 */
function logitsOf(
  model: ReadonlyMap<string, SafetensorsEntry>,
  tokens: readonly number[],
  { width: C, heads, layers, normEpsilon = 1e-5, activation = "gelu_new" }: GptConfig,
): number[][] {
  const floats = new Map(Array.from(model, ([name, entry]) => [name, toFloat32(entry)]));
  const get = (name: string) => floats.get(name) ?? assert.fail(`${name} is missing`);
  const linear = (x: number[], name: string) => {
    const weight = get(`${name}.weight`), bias = floats.get(`${name}.bias`);
    return Array.from({ length: weight.length / x.length }, (_, n) => {
      let sum = bias?.[n] ?? 0;
      x.forEach((value, c) => sum += value * weight[n * x.length + c]!);
      return sum;
    });
  };
  const norm = (x: number[], name: string) => {
    const weight = get(`${name}.weight`), bias = get(`${name}.bias`);
    const mean = x.reduce((sum, v) => sum + v, 0) / C;
    const variance = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / C;
    return x.map((v, c) => (v - mean) / Math.sqrt(variance + normEpsilon) * weight[c]! + bias[c]!);
  };
  // llama.cpp has gelu_new alone; with others its tensors still mean the same
  const activate = (x: number[]) => [
    ...activationForward({ x: Float32Array.from(x) }, activation).y,
  ];
  const add = (x: number[], y: number[]) => x.map((value, i) => value + y[i]!);

  const embedding = get("token_embd.weight"), position = get("position_embd.weight");
  let x = tokens.map((id, t) =>
    Array.from({ length: C }, (_, c) => embedding[id * C + c]! + position[t * C + c]!)
  );
  const HS = C / heads;
  for (let i = 0; i < layers; i++) {
    const qkv = x.map((row) => linear(norm(row, `blk.${i}.attn_norm`), `blk.${i}.attn_qkv`));
    const attended = x.map((_, t) => {
      const y: number[] = [];
      for (let h = 0; h < heads; h++) {
        const part = (row: number, which: number) =>
          qkv[row]!.slice(which * C + h * HS, which * C + (h + 1) * HS);
        const scores = Array.from({ length: t + 1 }, (_, s) => {
          const key = part(s, 1);
          return part(t, 0).reduce((sum, q, c) => sum + q * key[c]!, 0) / Math.sqrt(HS);
        });
        const most = Math.max(...scores), weights = scores.map((score) => Math.exp(score - most));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        for (let c = 0; c < HS; c++) {
          y.push(weights.reduce((sum, weight, s) => sum + weight / total * part(s, 2)[c]!, 0));
        }
      }
      return y;
    });
    x = x.map((row, t) => add(row, linear(attended[t]!, `blk.${i}.attn_output`)));
    x = x.map((row) => {
      const inner = linear(norm(row, `blk.${i}.ffn_norm`), `blk.${i}.ffn_up`);
      return add(row, linear(activate(inner), `blk.${i}.ffn_down`));
    });
  }
  const head = floats.has("output.weight") ? "output" : "token_embd";
  return x.map((row) => linear(norm(row, "output_norm"), head));
}

for (const [name, { lora, ...fields }] of Object.entries(configs)) {
  Deno.test(`llamaCppTensors() of ${name} give PyTorch's logits where GPT-2 is computed`, async () => {
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
    assert.deepEqual(model.get("position_embd.weight")!.shape, [
      llamaCppContext(config),
      config.width,
    ]);
    assert.deepEqual(model.get("blk.0.ffn_up.weight")!.shape, [
      innerWidthOf(config),
      config.width,
    ]);
    for (let b = 0; b < B; b++) {
      const logits = logitsOf(model, [...ids.subarray(b * T, b * T + seen)], config);
      const expected = golden.subarray(b * T * V, (b * T + seen) * V);
      assertClose(Float32Array.from(logits.flat()), expected, TOLERANCE, `${name}, text ${b}`);
    }
    gpt.destroy();
  });
}
