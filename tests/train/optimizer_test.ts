import assert from "node:assert/strict";
import { batchOf } from "../../data/tokens/batch.ts";
import type { Arena } from "../../kernels/arena.ts";
import { muon } from "../../kernels/muon/reference.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, download, size } from "../../kernels/tensor.ts";
import type { GptConfig } from "../../model/config.ts";
import { createGpt, type Gpt } from "../../model/gpt.ts";
import { blockMatrices } from "../../model/parameters.ts";
import { initializeParameters } from "../../model/weights.ts";
import {
  createOptimizer,
  createTrainedArena,
  type Optimizer,
  OPTIMIZERS,
} from "../../train/optimizer.ts";
import { createTrainStep } from "../../train/step.ts";
import { assertClose, device } from "../kernels/harness.ts";

const CONFIG = { vocabularySize: 9, contextLength: 4, width: 8, layers: 1, heads: 1 };
const OPTIONS = {
  weightDecay: 0.5,
  beta1: 0.9,
  beta2: 0.99,
  muonMomentum: 0.9,
  muonWeightDecay: 0.25,
};

Deno.test("createOptimizer() allocates the state that the optimizer's row names, only for trained parameters", () => {
  using gpt = createGpt(device, CONFIG, { precision: "f32", freeze: "embeddings" });
  using optimizer = createOptimizer(gpt, OPTIMIZERS.adamw, OPTIONS);
  const trained = gpt.table.filter((parameter) => parameter.trained);
  assert.ok(trained.length > 0 && trained.length < gpt.table.length);
  assert.deepEqual([...optimizer.state.keys()], ["m", "v"]);
  for (const { tensors } of optimizer.state.values()) {
    assert.deepEqual(
      Array.from(tensors, ([name, { shape }]) => ({ name, shape })),
      trained.map(({ name, shape }) => ({ name, shape })),
    );
  }
});

Deno.test("an optimizer is a row: the parameters that it updates, its state, its constants and its launches", () => {
  using gpt = createGpt(device, CONFIG, { precision: "f32" });
  const recorded: string[] = [];
  using optimizer = createOptimizer(gpt, {
    updates: ({ name }) => name.startsWith("ln_f."),
    state: ["momentum"],
    constants: () => ({ table: Float32Array.of(1, 2, 3, 4) }),
    record(_program, model, parameters, { gradients, update, state, constants }) {
      assert.equal(model, gpt);
      assert.deepEqual(constants.table!.shape, [2, 2]);
      assert.equal(update.name, "update");
      recorded.push(...parameters.map(({ name }) => name));
      assert.deepEqual([...state.momentum!.tensors.keys()], recorded);
      assert.equal(gradients.tensors.size, gpt.table.length);
    },
  }, OPTIONS);
  // AdamW updates the others
  assert.deepEqual([...optimizer.state.keys()], ["momentum", "m", "v"]);
  const others = gpt.table.map(({ name }) => name).filter((name) => !name.startsWith("ln_f."));
  for (const key of ["m", "v"]) {
    assert.deepEqual([...optimizer.state.get(key)!.tensors.keys()], others);
  }
  const gradients = createTrainedArena(gpt, "gradients");
  const update = createTensor(device, "update", { shape: [5], dtype: "u32" });
  using program = new Program(device);
  optimizer.record(program, { gradients, update });
  assert.deepEqual(recorded, ["ln_f.weight", "ln_f.bias"]);
  assert.ok(program.labels.every((label) => label.startsWith("kernels/adamw/")));
});

/** The parts of the parameters that AdamW's launches update, by the names of the parameters in them. */
function adamwGroups(gpt: Gpt, optimizer: Optimizer): { names: string[]; copied: boolean }[] {
  const gradients = createTrainedArena(gpt, "gradients");
  const update = createTensor(device, "update", { shape: [5], dtype: "u32" });
  using program = new Program(device);
  optimizer.record(program, { gradients, update });
  return program.launches.filter(({ label }) => label.startsWith("kernels/adamw/"))
    .map(({ tensors }) => {
      const bound = new Map(tensors.map(({ name, tensor }) => [name, tensor]));
      const namesIn = (role: string, arena: Arena) => {
        const { offsetBytes, dtype, shape } = bound.get(role)!;
        const end = offsetBytes + size(shape) * (dtype === "f16" ? 2 : 4);
        return [...arena.tensors].filter(([, { offsetBytes: at }]) => at >= offsetBytes && at < end)
          .map(([name]) => name);
      };
      const names = namesIn("parameter", gpt.parameters), { state } = optimizer;
      assert.deepEqual(namesIn("gradient", gradients), names);
      for (const key of ["m", "v"]) assert.deepEqual(namesIn(key, state.get(key)!), names);
      const copied = bound.has("copy");
      if (copied) assert.deepEqual(namesIn("copy", gpt.copies!), names);
      return { names, copied };
    });
}

const PRECISION = device.features.has("shader-f16") ? "f16" : "f32";

Deno.test("AdamW updates all parameters in two launches, those with weight decay and the others", () => {
  using gpt = createGpt(device, CONFIG, { precision: PRECISION });
  using optimizer = createOptimizer(gpt, OPTIMIZERS.adamw, OPTIONS);
  const namesOf = (decayed: boolean) =>
    gpt.table.filter((parameter) => parameter.decayed === decayed).map(({ name }) => name);
  assert.deepEqual(adamwGroups(gpt, optimizer), [
    { names: namesOf(true), copied: PRECISION === "f16" },
    { names: namesOf(false), copied: false },
  ]);
});

Deno.test("Muon has one tensor of state per matrix of a block, and AdamW updates the rest", () => {
  using gpt = createGpt(device, { ...CONFIG, ownHead: true }, { precision: PRECISION });
  using optimizer = createOptimizer(gpt, OPTIMIZERS.muon, OPTIONS);
  const { state } = optimizer;
  const matrices = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];
  assert.deepEqual(
    [...state.get("momentum")!.tensors.keys()],
    matrices.map((name) => `h.0.${name}.weight`),
  );
  const vectors = gpt.table.filter(({ shape }) => shape.length === 1).map(({ name }) => name);
  const copied = PRECISION === "f16";
  assert.deepEqual(adamwGroups(gpt, optimizer), [
    { names: ["wte.weight", "wpe.weight"], copied },
    { names: ["lm_head.weight"], copied },
    { names: vectors, copied: false },
  ]);
});

for (
  const [what, options] of Object.entries({
    "frozen blocks": { freeze: "0" },
    adapters: { lora: { rank: 2, alpha: 4, targets: ["c_attn"] } },
  })
) {
  Deno.test(`Muon updates nothing of a model with ${what}`, () => {
    const { freeze = "", lora } = { ...{ freeze: "", lora: undefined }, ...options };
    const config = { ...CONFIG, ...(lora ? { lora } : {}) };
    using gpt = createGpt(device, config, { precision: "f32", freeze });
    using optimizer = createOptimizer(gpt, OPTIMIZERS.muon, OPTIONS);
    assert.deepEqual([...optimizer.state.keys()], ["m", "v"]);
  });
}

/** Models of 16 columns, and the first columns of q, k and v. */
const FAMILIES: Record<string, [fields: Partial<GptConfig>, qkv: number[]]> = {
  "GPT-2": [{}, [0, 16, 32]],
  "a llama with grouped heads": [
    { family: "llama", heads: 4, keyHeads: 2, headSize: 8 },
    [0, 32, 48],
  ],
};

for (const [what, [fields, qkv]] of Object.entries(FAMILIES)) {
  Deno.test(`a step with Muon orthogonalises every matrix of the blocks of ${what}, with q, k and v apart`, async () => {
    const config = { ...CONFIG, width: 16, heads: 2, layers: 3, ...fields };
    using gpt = createGpt(device, config, { precision: "f32", freeze: "1" });
    initializeParameters(gpt, { seed: 1 });
    using step = createTrainStep(gpt, {
      ...{ batchSize: 2, sequenceLength: 4, gradientClip: 0, optimizer: "muon" },
      ...{ muonMomentum: 0.9, muonWeightDecay: 0.5 },
    });
    const values = async (arena: Arena) => {
      const flat = await download(device, ...arena.tensors.values());
      return new Map(
        [...arena.tensors.keys()].map((name, i) => [name, Float64Array.from(flat[i]!)]),
      );
    };
    const before = await values(gpt.parameters);
    const batch = batchOf([[1, 2, 3, 4, 5], [8, 7, 6, 5, 4]], { contextLength: 4, padding: 0 });
    await step.submit(0, [batch], { learningRate: 0, muonLearningRate: 0.25 });
    const [after, gradients] = await Promise.all([gpt.parameters, step.gradients].map(values));
    for (const { name, shape, trained } of gpt.table) {
      const isMuons = trained && name.startsWith("h.") && shape.length === 2;
      if (!isMuons) assert.deepEqual(after!.get(name), before.get(name), name);
    }
    const parts = blockMatrices(config).filter(({ parameter }) => parameter === "attn.c_attn");
    assert.deepEqual(parts.map(({ firstColumn }) => firstColumn), qkv);
    for (const layer of [0, 2]) {
      for (const { parameter, firstColumn, inputs, outputs } of blockMatrices(config)) {
        const name = `h.${layer}.${parameter}.weight`;
        const columns = gpt.table.find((spec) => spec.name === name)!.shape[1]!;
        const of = (values: ReadonlyMap<string, Float64Array>) =>
          values.get(name)!.filter((_, i) =>
            i % columns >= firstColumn && i % columns < firstColumn + outputs
          );
        const expected = of(before);
        muon(
          { gradient: of(gradients!), learningRate: 0.25 },
          { parameter: expected, momentum: new Float64Array(inputs * outputs) },
          { rows: inputs, columns: outputs, scale: Math.sqrt(Math.max(1, outputs / inputs)) },
          { momentum: 0.9, weightDecay: 0.5 },
        );
        assertClose(of(after!), expected, 2e-5, `${name} from column ${firstColumn}`);
      }
    }
  });
}
