import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { loadModel } from "../../generate/load.ts";
import { parseHuggingFaceConfig } from "../../model/files/hugging_face.ts";
import { parseSafetensors } from "../../model/files/safetensors.ts";
import type { TrainOptions } from "../../train/options.ts";
import { train, type TrainEvent } from "../../train/train.ts";
import { device } from "../kernels/harness.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const text = join(directory, "stories.txt");
const stories = Array.from({ length: 40 }, (_, i) => `Story ${i} is about ${i * i} and so on.`);
Deno.writeTextFileSync(text, stories.join("\n<|endoftext|>\n"));

const OPTIONS: Partial<TrainOptions> = {
  ...{ data: [text], preset: "nano", width: 16, contextLength: 12, batchSize: 2, tune: "off" },
  ...{ precision: device.features.has("shader-f16") ? "f16" : "f32", dropout: 0.1 },
  ...{ gradientAccumulation: 2, steps: 6, saveEvery: 3, sampleEvery: 0, sequence: "padded" },
};
const { preset: _p, width: _w, ...TUNING } = OPTIONS;

async function run(out: string, options: Partial<TrainOptions>): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of train({ ...options, device, out: join(directory, out) })) {
    events.push(event);
  }
  return events;
}

const checkpoint = (out: string, step = "000006") => join(directory, out, "checkpoints", step);
const read = (out: string, name: string) => readFileSync(join(checkpoint(out), name));

/** Trains for 6 steps at once and in two halves, and asserts that this makes no difference. */
async function assertResumes(out: string, options: Partial<TrainOptions>, ...names: string[]) {
  await run(out, options);
  const halves = `${out} in halves`;
  for await (
    const { kind, ...event } of train({ ...options, device, out: join(directory, halves) })
  ) {
    if (kind === "step" && "step" in event && event.step === 5) break; // killed: 3 is the last checkpoint
  }
  await run(halves, options);
  for (const name of names) {
    const [whole, resumed] = [out, halves].map((out) =>
      createHash("sha256").update(read(out, name)).digest("hex")
    );
    assert.equal(resumed, whole, name);
  }
}

const LLAMA = { arch: "llama", kvHeads: 1, headSize: 12, windows: "0,5" } as const;
const MODERN = { arch: "modern", optimizer: "muon", biases: "on" } as const;

Deno.test("train() of a Llama resumes to the bit, and so do its adapters and its parts", async () => {
  const options = { ...OPTIONS, ...LLAMA };
  await assertResumes("llama", options, "model.safetensors", "optimizer.safetensors");
  const config = parseHuggingFaceConfig(`${read("llama", "config.json")}`, "config.json");
  const { vocabularySize: _, ...others } = config;
  assert.deepEqual(others, {
    ...{ family: "llama", layers: 2, width: 16, heads: 2, keyHeads: 1, headSize: 12 },
    ...{ contextLength: 12, attentionWindows: [0, 5] },
  });
  const { gpt } = await loadModel(device, { run: join(directory, "llama") });
  assert.deepEqual(gpt.config, config);

  const initFrom = checkpoint("llama");
  const lora = { ...TUNING, initFrom, loraRank: 2, loraTargets: "q_proj,v_proj,down_proj" };
  await assertResumes("lora", lora, "adapter_model.safetensors", "optimizer.safetensors");
  const { tensors } = parseSafetensors(read("lora", "adapter_model.safetensors"), "adapters");
  const shapeOf = (name: string) =>
    tensors.get(`base_model.model.model.layers.1.${name}.weight`)!.shape;
  assert.deepEqual(shapeOf("self_attn.v_proj.lora_B"), [12, 2]);
  assert.deepEqual(shapeOf("mlp.down_proj.lora_A"), [2, 64]);

  const frozen = { ...TUNING, initFrom, freeze: "embeddings,0,final-norm" };
  await assertResumes("frozen", frozen, "model.safetensors", "optimizer.safetensors");
  const [before, after] = ["llama", "frozen"].map((out) =>
    parseSafetensors(read(out, "model.safetensors"), out).tensors
  );
  for (const [name, { data }] of after!) {
    const isTrained = name.startsWith("model.layers.1.");
    assert.notEqual(`${data}` === `${before!.get(name)!.data}`, isTrained, name);
  }
});

Deno.test("train() of a GPT-NeoX writes what transformers opens, and adapters of its q, k and v resume to the bit", async () => {
  await run("neox", { ...OPTIONS, arch: "neox", steps: 2 });
  const initFrom = checkpoint("neox", "000002");
  const { model_type, use_parallel_residual } = JSON.parse(
    `${readFileSync(join(initFrom, "config.json"))}`,
  );
  assert.deepEqual([model_type, use_parallel_residual], ["gpt_neox", false]);
  const lora = { ...TUNING, initFrom, loraRank: 2 };
  await assertResumes("neox lora", lora, "adapter_model.safetensors", "optimizer.safetensors");
  const { tensors } = parseSafetensors(read("neox lora", "adapter_model.safetensors"), "adapters");
  const block = "base_model.model.gpt_neox.layers.0.attention.query_key_value";
  assert.deepEqual(tensors.get(`${block}.lora_B.weight`)!.shape, [48, 2]);
});

Deno.test("train() with parts of several architectures and Muon resumes to the bit, and keeps them", async () => {
  const options = { ...OPTIONS, ...MODERN };
  await assertResumes("modern", options, "model.safetensors", "optimizer.safetensors");
  const { gpt: { config } } = await loadModel(device, { run: join(directory, "modern") });
  const { qkNorm, activation, gatedMlp, mlpBias, norm } = config;
  assert.deepEqual({ qkNorm, activation, gatedMlp, mlpBias, norm }, {
    ...{ qkNorm: true, activation: "relu2", gatedMlp: false, mlpBias: true, norm: undefined },
  });
  await run("modern", { ...options, steps: 7 }); // the same command
  await assert.rejects(() => run("modern", { mlp: "swiglu" }), {
    message: /as mlp must stay relu2: current value is swiglu$/,
  });
  await assert.rejects(
    () => run("tuned", { ...TUNING, ...LLAMA, initFrom: checkpoint("modern") }),
    {
      message: /as arch must be given without initFrom, whose model has its own architecture: /,
    },
  );
});

Deno.test("train() with zeroInit begins with another loss, and learns", async () => {
  const lossesWith = async (zeroInit: "on" | "off") => {
    const events = await run(`zero ${zeroInit}`, {
      ...OPTIONS,
      ...MODERN,
      zeroInit,
      dropout: 0,
      steps: 30,
    });
    return events.flatMap((event) => event.kind === "step" ? [event.loss] : []);
  };
  const [zero, random] = [await lossesWith("on"), await lossesWith("off")];
  assert.notEqual(zero[0], random[0]);
  assert.ok(zero.at(-1)! < zero[0]! - 0.5, `${zero}`);
});
