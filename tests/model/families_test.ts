import assert from "node:assert/strict";
import { type Batch, placesInOrder } from "../../data/tokens/batch.ts";
import { IGNORED } from "../../files/ignored.ts";
import { createDecoder } from "../../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { tensorNamed } from "../../kernels/arena.ts";
import type { Device } from "../../kernels/device.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, download, upload } from "../../kernels/tensor.ts";
import { createActivations } from "../../model/activations.ts";
import type { GptConfig } from "../../model/config.ts";
import { forward } from "../../model/forward_backward.ts";
import { createGpt, type Gpt, headOf } from "../../model/gpt.ts";
import { headLogits } from "../../model/head.ts";
import { parseHuggingFaceConfig, toHuggingFaceConfig } from "../../model/files/hugging_face.ts";
import { isAdapter, nameInAdapterFile } from "../../model/files/lora.ts";
import { reorderHeads } from "../../model/files/tensor_names.ts";
import { adaptersOf } from "../../model/parameters.ts";
import type { Precision } from "../../model/precision.ts";
import {
  parseSafetensors,
  type SafetensorsEntry,
  toFloat32,
} from "../../model/files/safetensors.ts";
import {
  loadAdapters,
  loadParameters,
  saveAdapters,
  saveParameters,
  storedEntries,
} from "../../model/weights.ts";
import { createTrainStep, type StepOptions, type TrainStep } from "../../train/step.ts";
import { assertClose, device, REAL_TYPES } from "../kernels/harness.ts";

// results of tests/golden/make_families.py, which computes with PyTorch in f64
const path = new URL("../golden/families.safetensors", import.meta.url);
const { tensors, metadata } = parseSafetensors(await Deno.readFile(path), "families.safetensors");
const configs = JSON.parse(metadata.get("configs")!) as Record<string, Record<string, unknown>>;

// f32: two layers of sums of up to 64 terms; f16: about ten roundings of activations to 11 bits
const TOLERANCE = {
  f32: { logits: 2e-5, gradient: 2e-5 },
  f16: { logits: 2e-2, gradient: 4e-2 },
};

interface Case {
  name: string;
  config: GptConfig;
  /** Tensors of the model's file, and those of its adapters. */
  file: Map<string, SafetensorsEntry>;
  adapters: Map<string, SafetensorsEntry>;
  golden(name: string): Float32Array;
  integers(name: string): Uint32Array;
}

const CASES = Object.entries(configs).map(([name, { lora, ...fields }]): Case => {
  const own = [...tensors].filter(([key]) => key.startsWith(`${name}: file `))
    .map(([key, entry]) => [key.slice(`${name}: file `.length), entry] as const);
  const { r, lora_alpha, target_modules } = Object(lora);
  return {
    name,
    config: {
      ...parseHuggingFaceConfig(JSON.stringify(fields), "config.json"),
      ...(lora ? { lora: { rank: r, alpha: lora_alpha, targets: target_modules } } : {}),
    },
    file: new Map(own.filter(([key]) => !key.includes("lora_"))),
    adapters: new Map(own.filter(([key]) => key.includes("lora_"))),
    golden: (key) => toFloat32(tensors.get(`${name}: ${key}`)!),
    integers: (key) => new Uint32Array(tensors.get(`${name}: ${key}`)!.data.slice().buffer),
  };
});

function load(
  { config, file, adapters }: Case,
  on: Device,
  precision: Precision,
  freeze = "",
): Gpt {
  const gpt = createGpt(on, config, { precision, freeze });
  loadParameters(gpt, file, "golden");
  if (config.lora) loadAdapters(gpt, adapters, "golden adapters");
  return gpt;
}

async function logitsOf(gpt: Gpt, tokens: Uint32Array, T: number): Promise<Float32Array> {
  const { config, precision, device: on } = gpt, M = tokens.length, V = config.vocabularySize;
  const batch = { batchSize: M / T, sequenceLength: T };
  const activations = createActivations(on, config, { batch, precision, purpose: "evaluation" });
  const input = createTensor(on, "tokens", { shape: [M], dtype: "u32" });
  upload(on, input, tokens);
  const logits = createTensor(on, "logits", { shape: [M, V], dtype: "f32" });
  const program = new Program(on);
  forward(program, gpt, { tokens: input }, activations);
  headLogits(program, { x: activations.at("lnf"), weight: headOf(gpt) }, { logits });
  program.run();
  const [values] = await download(on, logits);
  return values as Float32Array;
}

function batchOf({ integers }: Case): Batch {
  const inputs = integers("tokens") as Uint32Array<ArrayBuffer>;
  const targets = integers("targets") as Uint32Array<ArrayBuffer>;
  return { inputs, targets, order: placesInOrder(inputs), counted: inputs.length };
}

/** A batch of documents in rows; the model reads all tokens of a document but the last. */
function batchIn(T: number, rows: readonly (readonly (readonly number[])[])[]): Batch {
  const padded = (row: readonly number[], fill: (place: number) => number) =>
    Array.from({ length: T }, (_, t) => row[t] ?? fill(t - row.length));
  const inputs = Uint32Array.from(
    rows.flatMap((row) => padded(row.flatMap((document) => document.slice(0, -1)), () => 0)),
  );
  const targets = Uint32Array.from(
    rows.flatMap((row) => padded(row.flatMap((document) => document.slice(1)), () => IGNORED)),
  );
  const positions = Uint32Array.from(
    rows.flatMap((row) =>
      padded(row.flatMap((document) => [...document.keys()].slice(0, -1)), (place) => place)
    ),
  );
  const counted = targets.filter((target) => target !== IGNORED).length;
  return { inputs, targets, counted, order: placesInOrder(inputs), positions };
}

function stepOf(
  gpt: Gpt,
  { batchSize = 2, sequenceLength = 11, gradientAccumulation = 1, documents = "joined" }: Partial<
    Pick<StepOptions, "batchSize" | "sequenceLength" | "gradientAccumulation" | "documents">
  > = {},
) {
  return createTrainStep(gpt, {
    batchSize,
    sequenceLength,
    gradientAccumulation,
    documents,
    dropout: 0,
    labelSmoothing: 0,
    gradientClip: 0,
    weightDecay: 0.1,
    beta1: 0.9,
    beta2: 0.98,
    seed: 0,
  });
}

/** Loss and gradients of a step, relative to the loss scale. */
async function submitted(gpt: Gpt, step: TrainStep, batches: Batch[]) {
  // twice, because the gradients of a step must not depend on those of the previous one
  for (const i of [0, 1]) await step.submit(i, batches, { learningRate: 0 });
  const [report] = await step.reports(1);
  const trained = gpt.table.filter((parameter) => parameter.trained);
  const values = await download(
    gpt.device,
    ...trained.map(({ name }) => tensorNamed(step.gradients, name)),
  );
  const gradients = new Map(
    trained.map(({ name }, i) => [
      name,
      values[i]!.map((v) => v / report!.lossScale) as Float32Array<ArrayBuffer>,
    ]),
  );
  return { loss: report!.loss, gradients };
}

/** Gradients of a step under the names of the files. */
async function gradientsOf(gpt: Gpt, example: Case, count = 1) {
  const step = stepOf(gpt, { gradientAccumulation: count });
  const { loss, gradients: scaled } = await submitted(
    gpt,
    step,
    new Array(count).fill(batchOf(example)),
  );
  step.destroy();
  const trained = gpt.table.filter((parameter) => parameter.trained);
  const stored = storedEntries(gpt.config, trained.filter(({ name }) => !isAdapter(name)), scaled);
  const gradients = new Map(Array.from(stored, ([name, entry]) => [name, toFloat32(entry)]));
  for (const { B, module: { interleavedHeads } } of adaptersOf(gpt.config)) {
    scaled.set(B, reorderHeads(scaled.get(B)!, { interleavedHeads, to: "file" }));
  }
  for (const [name, gradient] of scaled) {
    if (isAdapter(name)) gradients.set(nameInAdapterFile(name, gpt.config), gradient);
  }
  return { loss, gradients };
}

/** The device and, if it is a CPU adapter, a second one that runs the kernels for GPUs. */
const DEVICES: readonly (readonly [how: string, Device])[] = [
  ["", device],
  ...(device.isCpu
    ? [[
      " with a GPU's kernels",
      { ...device, isCpu: false, subgroupSize: undefined, choices: new Map() },
    ]] as const
    : []),
];

for (const example of CASES) {
  const runs = (REAL_TYPES as Precision[]).flatMap((precision) =>
    DEVICES.map(([how, on]) => ({ precision, how, on }))
  );
  for (const { precision, how, on } of runs) {
    Deno.test(`a model "${example.name}" computes PyTorch's logits and gradients in ${precision}${how}`, async () => {
      const { logits, gradient } = TOLERANCE[precision];
      const gpt = load(example, on, precision);
      const T = example.integers("tokens").length / 2;
      const found = await logitsOf(gpt, example.integers("tokens"), T);
      assertClose(found, example.golden("logits"), logits, "logits");
      const { loss, gradients } = await gradientsOf(gpt, example);
      assertClose([loss], example.golden("loss"), logits, "loss");
      const expected = [...tensors.keys()].filter((n) =>
        n.startsWith(`${example.name}: gradient `)
      );
      assert.equal(gradients.size, expected.length);
      for (const [name, values] of gradients) {
        const wanted = example.golden(`gradient ${name}`);
        const largest = wanted.reduce((most, v) => Math.max(most, Math.abs(v)), 1e-6);
        const relative = (list: Float32Array) => list.map((v) => v / largest);
        assertClose(relative(values), relative(wanted), gradient, `gradient of ${name}`);
      }
      gpt.destroy();
    });
  }

  Deno.test(`a model "${example.name}" accumulates the gradients of micro-batches`, async () => {
    const gpt = load(example, device, "f32");
    const { gradients: once } = await gradientsOf(gpt, example);
    const { gradients: twice } = await gradientsOf(gpt, example, 2); // the same batch twice, whose mean is that of one
    for (const [name, values] of once) assertClose(twice.get(name)!, values, 1e-6, name);
    gpt.destroy();
  });

  Deno.test(`a model "${example.name}" computes documents apart in one row as each of them alone`, async () => {
    const T = 11, lengths = [[1, 6, 4], [11], [8, 2]]; // of documents; the last row is padded
    const tokens = example.integers("tokens");
    const rows = lengths.map((row, b) =>
      row.map((length, d) =>
        Array.from({ length: length + 1 }, (_, t) => tokens[b + d + 3 * t % 13]!)
      )
    );
    const { positions: _, ...alone } = batchIn(T, rows.flat().map((document) => [document]));
    const gpt = load(example, device, "f32");
    using aloneStep = stepOf(gpt, { batchSize: rows.flat().length });
    using apartStep = stepOf(gpt, {
      ...{ batchSize: 1, gradientAccumulation: rows.length, documents: "apart" },
    });
    const expected = await submitted(gpt, aloneStep, [alone]);
    const found = await submitted(gpt, apartStep, rows.map((row) => batchIn(T, [row])));
    assertClose([found.loss], [expected.loss], 1e-6, "loss");
    for (const [name, values] of expected.gradients) {
      assertClose(found.gradients.get(name)!, values, 1e-5, `gradient of ${name}`);
    }
    gpt.destroy();
  });

  Deno.test(`a model "${example.name}" generates PyTorch's tokens at temperature 0`, async () => {
    const expected = example.integers("greedy"), given = 2;
    const gpt = load(example, device, "f32");
    const decoder = createDecoder(gpt, {
      prompts: [[...expected.subarray(0, given)]],
      seeds: [0],
      maxNewTokens: expected.length - given,
      sampler: { ...DEFAULT_SAMPLER, temperature: 0 },
    });
    assert.deepEqual(await decoder.next(expected.length - given), [expected.subarray(given)]);
    decoder.destroy();
    gpt.destroy();
  });

  Deno.test(`a model "${example.name}" is saved as it was loaded, with adapters merged or separate`, async () => {
    const gpt = load(example, device, "f32");
    const saved = await saveParameters(gpt);
    assert.deepEqual([...saved.keys()].sort(), [...example.file.keys()].sort());
    const json = JSON.stringify(toHuggingFaceConfig(gpt.config, { endOfText: 0 }));
    const { lora, ...config } = gpt.config;
    assert.deepEqual(parseHuggingFaceConfig(json, "config.json"), config);
    if (!lora) {
      assert.deepEqual(saved, new Map([...saved.keys()].map((n) => [n, example.file.get(n)])));
    } else {
      assert.deepEqual(await saveAdapters(gpt), example.adapters);
      const merged = createGpt(device, config, { precision: "f32" });
      loadParameters(merged, saved, "merged");
      const logits = await logitsOf(merged, example.integers("tokens"), 11);
      assertClose(logits, example.golden("logits"), TOLERANCE.f32.logits, "logits");
      merged.destroy();
    }
    gpt.destroy();
  });
}

for (const example of CASES.filter(({ name }) => tensors.has(`${name}: step losses`))) {
  Deno.test(`ten training steps of a model "${example.name}" reproduce PyTorch's AdamW`, async () => {
    using gpt = load(example, device, "f32");
    const step = stepOf(gpt);
    for (let i = 0; i < 10; i++) await step.submit(i, [batchOf(example)], { learningRate: 1e-2 });
    const losses = (await step.reports(10)).map(({ loss }) => loss);
    assertClose(losses, example.golden("step losses"), 1e-4, "losses");
    step.destroy();
  });
}

for (const precision of REAL_TYPES as Precision[]) {
  for (const name of ["own head", "neo", "llama"]) {
    Deno.test(`backward() of a model "${name}" with frozen parts computes the gradients of the other parts in ${precision}`, async () => {
      const example = CASES.find((example) => example.name === name)!;
      const whole = await gradientsOf(load(example, device, precision), example);
      const isOf = (part: string) => {
        const named: Record<string, RegExp> = {
          embeddings: /\.(w[tp]e|embed_tokens)\./,
          "final-norm": /\.ln_f\.|^model\.norm\./,
          head: /^lm_head\./,
        };
        const pattern = named[part] ?? new RegExp(`\\.(h|layers)\\.${part}\\.`);
        return (parameter: string) => pattern.test(parameter);
      };
      const own = example.config.ownHead
        ? ["head", "embeddings,head,0-1", "final-norm,head,1"]
        : [];
      let fewest = Infinity;
      for (
        const freeze of [
          "embeddings",
          "1",
          "embeddings,0",
          "embeddings,0-1",
          "0,final-norm",
          ...own,
        ]
      ) {
        const gpt = load(example, device, precision, freeze);
        const { loss, gradients } = await gradientsOf(gpt, example);
        assert.equal(loss, whole.loss);
        const parts = freeze.replace("0-1", "0,1").split(",").map(isOf);
        const left = [...whole.gradients].filter(([key]) => !parts.some((part) => part(key)));
        assert.ok(left.length > 0 && left.length < whole.gradients.size);
        assert.deepEqual(new Map([...gradients].sort()), new Map(left.sort()), freeze);
        const step = stepOf(gpt);
        const { length } = step.program;
        step.destroy();
        gpt.destroy();
        // the layers before the first trained part have no backward pass
        if (freeze.startsWith("embeddings")) {
          assert.ok(length < fewest, `${freeze}: ${length} launches`);
        }
        if (freeze.startsWith("embeddings")) fewest = length;
      }
    });
  }
}
