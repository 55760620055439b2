import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { stepCost } from "../../bench/cost.ts";
import { STEP_OPTIONS } from "../../bench/models.ts";
import { createDecoder } from "../../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { type Dispatch, Program } from "../../kernels/program.ts";
import { labelOf } from "../../kernels/shader.ts";
import {
  createTensor,
  download,
  size,
  type Tensor,
  tensorBytes,
  upload,
} from "../../kernels/tensor.ts";
import { createActivations } from "../../model/activations.ts";
import { type GptConfig, headsOf } from "../../model/config.ts";
import { serializeGguf } from "../../model/files/gguf.ts";
import {
  familyOf,
  parseHuggingFaceConfig,
  toCheckpointConfig,
  toHuggingFaceConfig,
} from "../../model/files/hugging_face.ts";
import { llamaCppContext, llamaCppTensors, llamaCppValues } from "../../model/files/llama_cpp.ts";
import { openGguf } from "../../model/files/llama_cpp_reader.ts";
import { forward } from "../../model/forward_backward.ts";
import { createGpt, type Gpt, headOf } from "../../model/gpt.ts";
import { headLogits } from "../../model/head.ts";
import { loadParameters, saveParameters, setElements } from "../../model/weights.ts";
import { createTrainStep } from "../../train/step.ts";
import { assertClose, device, randomValues, testRandom } from "../kernels/harness.ts";

const BASE: GptConfig = { vocabularySize: 64, contextLength: 16, width: 32, layers: 2, heads: 2 };

/**
 * For each field of the configuration a change that makes a different model, together with the fields that
 * it needs. A new field must be listed here, and every path below must then depend on it.
 */
const VARIATIONS: Record<keyof GptConfig, Partial<GptConfig>> = {
  vocabularySize: { vocabularySize: 60 },
  contextLength: { contextLength: 20 },
  width: { width: 40 },
  layers: { layers: 3 },
  heads: { heads: 4 },
  family: { family: "gpt_neo", attentionScale: 1 },
  innerWidth: { innerWidth: 36 },
  activation: { activation: "silu" },
  gatedMlp: { gatedMlp: true, activation: "silu" },
  keyHeads: { keyHeads: 1 },
  headSize: { headSize: 12 },
  norm: { norm: "rmsnorm" },
  normEpsilon: { normEpsilon: 0.01 },
  positions: { positions: "rotary" },
  rotaryBase: { positions: "rotary", rotaryBase: 100 },
  rotaryScaling: { positions: "rotary", rotaryScaling: { type: "linear", factor: 2 } },
  qkNorm: { qkNorm: true },
  qkvBias: { qkvBias: false },
  projectionBias: { projectionBias: false },
  mlpBias: { mlpBias: false, gatedMlp: true }, // without biases, one row's gate and up are one launch
  ownHead: { ownHead: true },
  attentionScale: { attentionScale: 1 },
  attentionScaleByLayer: { attentionScaleByLayer: true },
  attentionWindows: { family: "gpt_neo", attentionScale: 1, attentionWindows: [0, 3] },
  lora: { lora: { rank: 4, alpha: 8, targets: ["c_attn", "c_proj", "c_fc"] } },
};
const CASES = Object.entries(VARIATIONS).map(([field, change]): [string, GptConfig] => [
  field,
  { ...BASE, ...change },
]);

/**
 * The fields by which transformers and llama.cpp have only models of the Llama family, and a change of one that makes a
 * different model.
 */
const LLAMA_VARIATIONS: Partial<Record<keyof GptConfig, Partial<GptConfig>>> = {
  gatedMlp: {}, // what a llama has in any case
  norm: {},
  keyHeads: { keyHeads: 1 },
  headSize: { headSize: 12, heads: 4 },
  rotaryBase: { rotaryBase: 100 },
  rotaryScaling: {
    rotaryScaling: {
      ...{ type: "llama3", factor: 4, lowFrequencyFactor: 1, highFrequencyFactor: 4 },
      originalContextLength: 50,
    },
  },
  qkNorm: { qkNorm: true },
  qkvBias: { qkvBias: true, projectionBias: true },
  projectionBias: { qkvBias: true, projectionBias: true, ownHead: true },
  mlpBias: { mlpBias: true },
};

/** A configuration that differs in a field and that transformers and llama.cpp have, if they have one. */
function storableConfig(field: string, config: GptConfig): GptConfig {
  const change = LLAMA_VARIATIONS[field as keyof GptConfig];
  return change ? { ...BASE, family: "llama", ...change } : config;
}

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5];

/** A model whose parameters are random, the same for the same name and shape. */
function modelOf(config: GptConfig): Gpt {
  const gpt = createGpt(device, config, { precision: "f32" });
  for (const { name, shape } of gpt.table) {
    const random = testRandom([...name].reduce((hash, c) => (31 * hash + c.charCodeAt(0)) | 0, 7));
    setElements(gpt, name, 0, randomValues(random, size(shape), { scale: 0.4 }));
  }
  return gpt;
}

/** Logits after a text, by the forward pass of training. */
async function logitsOf(gpt: Gpt, text: readonly number[] = TEXT): Promise<Float32Array> {
  const { config, precision } = gpt, M = text.length, V = config.vocabularySize;
  const batch = { batchSize: 1, sequenceLength: M };
  using activations = createActivations(device, config, {
    ...{ batch, precision, purpose: "training" },
  });
  const tokens = createTensor(device, "tokens", { shape: [M], dtype: "u32" });
  const logits = createTensor(device, "logits", { shape: [M, V], dtype: "f32" });
  upload(device, tokens, text);
  using program = new Program(device);
  forward(program, gpt, { tokens }, activations);
  headLogits(program, { x: activations.at("lnf"), weight: headOf(gpt) }, { logits });
  program.run();
  const [values] = await download(device, logits);
  return (values as Float32Array).slice((M - 1) * V);
}

// logits of order ten, whose sums have another order, as in the decoder's tests
const TOLERANCE = 2e-5;

const base = modelOf(BASE);
const baseLogits = await logitsOf(base);

for (const [field, config] of CASES) {
  Deno.test(`forward() depends on ${field}, and createDecoder() computes what forward() does`, async () => {
    using gpt = modelOf(config);
    const logits = await logitsOf(gpt);
    // a longer context adds positions, which a short text does not read
    const shapesOf = ({ table }: Gpt) => table.map(({ shape }) => shape);
    assert.notDeepEqual([logits, shapesOf(gpt)], [baseLogits, shapesOf(base)]);
    for (const isCpu of [true, false]) {
      const on = { ...device, isCpu, subgroupSize: undefined, choices: new Map() };
      for (const prompts of [[TEXT], [TEXT, [7, 7]]]) {
        using decoder = createDecoder({ ...gpt, device: on }, {
          prompts,
          seeds: prompts.map(() => 0),
          maxNewTokens: 1,
          sampler: DEFAULT_SAMPLER,
        });
        await decoder.next(1);
        const [drawnFrom] = await download(device, decoder.logits);
        const found = (drawnFrom as Float32Array).subarray(0, config.vocabularySize);
        assertClose(found, logits, TOLERANCE, `logits with ${prompts.length} prompts`);
      }
    }
  });

  Deno.test(`stepCost() depends on ${field} as a recorded step does`, () => {
    // sizes for which the tensors that stepCost() leaves out are comparatively small
    const wide = { ...config, width: 64, contextLength: 4 * config.contextLength };
    const recorded = recordedCost(wide), counted = stepCost(benchOf(wide));
    const [flops, bytes] = [counted.flops / recorded.flops, counted.bytes / recorded.bytes];
    assert.ok(Math.abs(flops - 1) < 1e-9, `operations: ${flops}`);
    assert.ok(Math.abs(bytes - 1) < 0.2, `bytes: ${bytes}`);
  });

  const storable = storableConfig(field, config);

  Deno.test(`the files of a checkpoint, and those for Hugging Face, express ${field}`, async () => {
    for (
      const [write, described] of [[toCheckpointConfig, config], [
        toHuggingFaceConfig,
        storable,
      ]] as const
    ) {
      using gpt = modelOf(described);
      const fields = write(described, { endOfText: 0 });
      const read = parseHuggingFaceConfig(JSON.stringify(fields), "config.json");
      using loaded = createGpt(device, read, { precision: "f32" });
      loadParameters(loaded, await saveParameters(gpt, { family: familyOf(fields) }), "saved");
      assertClose(await logitsOf(loaded), await logitsOf(gpt), TOLERANCE, "logits");
    }
  });

  Deno.test(`files for llama.cpp express ${field}`, async () => {
    const config = storable;
    using gpt = modelOf(config);
    const written = async ({ config }: Gpt) => {
      const values = new Map(llamaCppValues(config, "F32"));
      return serializeGguf(values, await llamaCppTensors(gpt, "F32"));
    };
    if (config.activation !== undefined) {
      await assert.rejects(written(gpt), {
        message: /gpt2 must have activation gelu_new: .* silu$/,
      });
      return;
    }
    const path = join(directory, `${field}.gguf`);
    Deno.writeFileSync(path, new Uint8Array(Buffer.concat(await written(gpt))));
    const { config: found, tensors, close } = openGguf(path);
    using read = createGpt(device, found, { precision: "f32" });
    loadParameters(read, tensors, path);
    close();
    // all layers of a model for llama.cpp see all, so that a context is as long as the shortest window
    const text = TEXT.slice(0, llamaCppContext(config));
    const logits = await logitsOf(gpt, text);
    assertClose(await logitsOf(read, text), logits, TOLERANCE, "logits");
  });
}

Deno.test("the files of a checkpoint express a gpt_neox whose heads share keys, which transformers does not compute", async () => {
  const config: GptConfig = { ...BASE, heads: 4, family: "gpt_neox", keyHeads: 2 };
  using gpt = modelOf(config);
  const fields = toCheckpointConfig(config, { endOfText: 0 });
  assert.deepEqual([fields.model_type, familyOf(fields)], ["toy_transformer", "gpt_neox"]);
  using loaded = createGpt(device, parseHuggingFaceConfig(JSON.stringify(fields), "config.json"), {
    precision: "f32",
  });
  loadParameters(loaded, await saveParameters(gpt), "saved");
  assert.deepEqual(await logitsOf(loaded), await logitsOf(gpt));
});

for (const qkNorm of [false, true]) {
  Deno.test(`files for llama.cpp express the scale of attention in queries${qkNorm ? " with norms" : ""}`, async () => {
    const config: GptConfig = {
      ...{ ...BASE, family: "llama", keyHeads: 1, headSize: 8, qkNorm },
      ...{ attentionScale: 0.8, attentionScaleByLayer: true, qkvBias: true },
    };
    using gpt = modelOf(config);
    const path = join(directory, `scale-${qkNorm}.gguf`);
    const values = new Map(llamaCppValues(config, "F32"));
    const chunks = serializeGguf(values, await llamaCppTensors(gpt, "F32"));
    Deno.writeFileSync(path, new Uint8Array(Buffer.concat(chunks)));
    const { config: found, tensors, close } = openGguf(path);
    assert.equal(found.attentionScale, undefined);
    using read = createGpt(device, found, { precision: "f32" });
    loadParameters(read, tensors, path);
    close();
    assertClose(await logitsOf(read), await logitsOf(gpt), TOLERANCE, "logits");
  });
}

Deno.test("toHuggingFaceConfig() throws on a model that config.json cannot express", () => {
  const refused: [Partial<GptConfig>, RegExp][] = [
    [{ attentionWindows: [0, 3] }, /unlike the nearest, gpt2, its attentionWindows is \[0,3\]$/],
    [{ attentionScale: 0.5 }, /its attentionScale is 0\.5$/],
    [{ family: "gpt_neo" }, /unlike the nearest, gpt_neo, its attentionScale is 0\.25$/],
    [{ notYetKnown: true } as Partial<GptConfig>, /its notYetKnown is true$/],
  ];
  for (const [change, message] of refused) {
    const write = () => toHuggingFaceConfig({ ...BASE, ...change }, { endOfText: 0 });
    assert.throws(write, { name: "UserError", message });
  }
});

function benchOf(config: GptConfig) {
  return { config, batchSize: 4, sequenceLength: config.contextLength, precision: "f32" as const };
}

/** Operations of the products and bytes of the tensors of a recorded step, each tensor once per launch. */
function recordedCost(config: GptConfig): { flops: number; bytes: number } {
  const { batchSize: B, sequenceLength: T } = benchOf(config), { layers } = config;
  const { heads: NH, headSize: HS } = headsOf(config);
  using gpt = createGpt({ ...device, isCpu: true }, config, { precision: "f32" });
  const { dispatch } = Program.prototype;
  // attention is counted by pairs of query and key; a window longer than T has no more pairs
  const windows = config.attentionWindows ?? new Array<number>(layers).fill(0);
  const pairs = windows.map((window) => {
    const most = window === 0 ? T : Math.min(window, T);
    return most * T - most ** 2 / 2;
  });
  let bytes = 0, flops = pairs.reduce((sum, count) => sum + 14 * B * NH * HS * count, 0);
  Program.prototype.dispatch = function (launch: Dispatch) {
    dispatch.call(this, launch);
    if (this.device !== gpt.device) return; // a step is also recorded without a device, for its scratch tensors
    const bound = new Set(
      Object.values(launch.tensors).filter((t): t is Tensor => t !== undefined),
    );
    for (const tensor of bound) bytes += tensorBytes(tensor);
    const label = labelOf(launch.shader);
    if (label.includes("adamw")) bytes += 3 * tensorBytes(launch.tensors.gradient!);
    const { M, N, K } = launch.uniforms ?? {};
    if (label.includes("matmul")) flops += 2 * Number(M) * Number(N) * Number(K);
  };
  try {
    createTrainStep(gpt, { ...STEP_OPTIONS, batchSize: B, sequenceLength: T }).destroy();
  } finally {
    Program.prototype.dispatch = dispatch;
  }
  return { flops, bytes };
}
