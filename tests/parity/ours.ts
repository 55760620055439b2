import { join } from "node:path";
import { createDecoder } from "../../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { loadModel } from "../../generate/load.ts";
import { logitLensOf } from "../../inspect/predictions.ts";
import { openDevice } from "../../kernels/device.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, download, upload } from "../../kernels/tensor.ts";
import { createActivations } from "../../model/activations.ts";
import type { GptConfig } from "../../model/config.ts";
import { forward } from "../../model/forward_backward.ts";
import { createGpt, type Gpt, headOf } from "../../model/gpt.ts";
import { headLogits } from "../../model/head.ts";
import { familyOf, toHuggingFaceConfig } from "../../model/files/hugging_face.ts";
import { serializeSafetensors } from "../../model/files/safetensors.ts";
import { initializeParameters, saveParameters } from "../../model/weights.ts";
import { type ExportDType, exportModel } from "../../train/export.ts";
import { train } from "../../train/train.ts";

/**
 * The part of parity.py that is ours: does the jobs of a JSON file one after the other, in f32, and prints a
 * JSON line for each.
 */
type Job =
  /** Logits of some texts of equal length, into a file of f32 [B·T,V], and a text continued greedily. */
  | {
    do: "run";
    model: string;
    tokens: number[][];
    logits: string;
    prompt: number[];
    count: number;
  }
  /** The loss of each next token after 0, 1, … blocks: those of the logit lens, [L+1][T−1]. */
  | { do: "lens"; model: string; tokens: number[] }
  /** Loads a model and saves it elsewhere. */
  | { do: "save"; model: string; out: string; dtype: "F32" | "F16" }
  /** Loads a model and writes it for llama.cpp. */
  | { do: "gguf"; model: string; out: string; dtype: ExportDType }
  /** Saves a model with initial values. */
  | { do: "create"; config: GptConfig; out: string; seed: number }
  /** Trains adapters beside a model, or parts of it, for some steps. */
  | { do: "train"; options: Parameters<typeof train>[0] };

const device = await openDevice();

async function logitsOf(gpt: Gpt, texts: number[][]): Promise<Float32Array> {
  const { config, precision } = gpt, tokens = Uint32Array.from(texts.flat());
  const batch = { batchSize: texts.length, sequenceLength: texts[0]!.length };
  const activations = createActivations(device, config, {
    batch,
    precision,
    purpose: "evaluation",
  });
  const input = createTensor(device, "tokens", { shape: [tokens.length], dtype: "u32" });
  const logits = createTensor(device, "logits", {
    shape: [tokens.length, config.vocabularySize],
    dtype: "f32",
  });
  upload(device, input, tokens);
  const program = new Program(device);
  forward(program, gpt, { tokens: input }, activations);
  headLogits(program, { x: activations.at("lnf"), weight: headOf(gpt) }, { logits });
  program.run();
  const [values] = await download(device, logits);
  return values as Float32Array;
}

async function greedy(gpt: Gpt, prompt: number[], count: number): Promise<number[]> {
  const decoder = createDecoder(gpt, {
    prompts: [prompt],
    seeds: [0],
    maxNewTokens: count,
    sampler: { ...DEFAULT_SAMPLER, temperature: 0 },
  });
  const [tokens] = await decoder.next(count);
  decoder.destroy();
  return [...prompt, ...tokens!];
}

async function save(gpt: Gpt, out: string, dtype: "F32" | "F16" = "F32"): Promise<void> {
  await Deno.mkdir(out, { recursive: true });
  const config = toHuggingFaceConfig(gpt.config, { endOfText: 0 });
  await Deno.writeTextFile(join(out, "config.json"), JSON.stringify(config));
  const tensors = await saveParameters(gpt, { dtype, family: familyOf(config) });
  const chunks = serializeSafetensors(tensors, { format: "pt" });
  await Deno.writeFile(join(out, "model.safetensors"), ReadableStream.from(chunks));
}

async function perform(job: Job): Promise<unknown> {
  switch (job.do) {
    case "run": {
      const { gpt } = await loadModel(device, { model: job.model, precision: "f32" });
      const values = await logitsOf(gpt, job.tokens);
      await Deno.writeFile(job.logits, new Uint8Array(values.buffer as ArrayBuffer));
      return { greedy: await greedy(gpt, job.prompt, job.count) };
    }
    case "lens": {
      const model = await loadModel(device, { model: job.model, precision: "f32" });
      const { layers } = await logitLensOf(model, job.tokens, { top: 1 });
      return {
        losses: layers.map((predictions) => predictions.flatMap(({ next }) => next?.loss ?? [])),
      };
    }
    case "save": {
      const { gpt } = await loadModel(device, { model: job.model, precision: "f32" });
      return await save(gpt, job.out, job.dtype);
    }
    case "gguf": {
      const model = await loadModel(device, { model: job.model, precision: "f32" });
      const { out, dtype } = job;
      return await exportModel(model, { to: "gguf", out, dtype, onNotice: console.error });
    }
    case "create": {
      const gpt = createGpt(device, job.config, { precision: "f32" });
      initializeParameters(gpt, { seed: job.seed });
      return await save(gpt, job.out);
    }
    case "train": {
      let path = "";
      for await (const event of train({ ...job.options, device, precision: "f32" })) {
        if (event.kind === "end") path = event.path;
      }
      return { path };
    }
  }
}

console.error(`ours: ${device.name}`);
for (const job of JSON.parse(await Deno.readTextFile(Deno.args[0]!)) as Job[]) {
  console.log(JSON.stringify(await perform(job) ?? {}));
}
device.destroy();
