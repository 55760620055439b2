import assert from "node:assert/strict";
import { Random } from "../data/random.ts";
import { gpt2Tokenizer, type Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { createDecoder, type Decoder } from "../generate/decoder.ts";
import { generateBatch } from "../generate/generate.ts";
import { DEFAULT_SAMPLER } from "../generate/request.ts";
import { attentionDecode } from "../kernels/attention/decode.ts";
import type { Device } from "../kernels/device.ts";
import { matmul } from "../kernels/matmul/matmul.ts";
import { sample, samplerSettings, SETTINGS_LENGTH } from "../kernels/sample/sample.ts";
import { clockOf, median, timePasses } from "../kernels/timing.ts";
import { createTensor, size, upload } from "../kernels/tensor.ts";
import { logitsColumns } from "../model/activations.ts";
import type { GptConfig } from "../model/config.ts";
import { createGpt, type Gpt, type Quantization, type QuantizedMatrix } from "../model/gpt.ts";
import type { Precision } from "../model/precision.ts";
import { initializeParameters } from "../model/weights.ts";
import {
  bytesOf,
  fillWithCopies,
  type KernelBench,
  type Maker,
  matrixTypes,
  type Result,
} from "./harness.ts";
import { meterMemory } from "./memory.ts";
import { benchConfig, type BenchModel } from "./models.ts";
import { profile, type ProfileRow } from "./train_step.ts";

/** A generation to time. */
export interface GenerateBench {
  /** Such as `mini`. */
  readonly model: string;
  readonly config: GptConfig;
  readonly streams: number;
  /** New tokens per stream; no stream ends early. */
  readonly tokens: number;
  readonly precision: Precision;
  /** Type of the matrices, if it is not that of the precision. */
  readonly quantize?: Quantization;
}

/** The name of a generation's result: `generate f16 mini 64 streams x 256 V 50257`. */
export function generateName(
  { model, config, streams, tokens, precision, quantize }: GenerateBench,
): string {
  const texts = `${streams} stream${streams > 1 ? "s" : ""} x ${tokens}`;
  return `generate ${quantize ?? precision} ${model} ${texts} V ${config.vocabularySize}`;
}

/** The generations of a report, of one text and of many; on a GPU with the context of PyTorch's baseline. */
export function generateBenches(device: Device, precision: Precision): GenerateBench[] {
  const generation = (
    model: BenchModel,
    streams: number,
    how: Pick<GenerateBench, "quantize"> = {},
  ): GenerateBench => {
    const config = benchConfig(model), others = { model, streams, precision, ...how };
    if (device.isCpu) return { ...others, config, tokens: 64 };
    return { ...others, config: { ...config, contextLength: 512 }, tokens: 256 };
  };
  const int8 = { quantize: "int8" } as const;
  return device.isCpu ? [generation("nano", 1), generation("nano", 8)] : [
    generation("mini", 1),
    generation("mini", 64),
    generation("smollm2-135m", 1),
    generation("gpt2", 1),
    generation("gpt2", 64),
    generation("gpt2", 1, int8),
    generation("gpt2-xl", 1, int8), // its parameters in f32 do not fit in a buffer of 4 GiB
  ];
}

/** Fewest generations that are timed; the median of all is reported. */
const LEAST_SAMPLES = 5;

/** Samples of the pass that draws one token, and its repeats per sample. */
const PASSES = 5, REPEATS = 6;

/** A model with random weights and GPT-2's tokenizer, whose texts never end. */
async function createModel(device: Device, { config, precision, quantize }: GenerateBench) {
  const gpt = createGpt(device, config, { precision, quantize });
  const parameters = gpt.table.filter(({ name }) => !gpt.quantized?.has(name));
  initializeParameters(gpt, { seed: 4, parameters });
  for (const matrix of gpt.quantized?.values() ?? []) fillWithNoise(device, matrix);
  const { vocabularySize } = config;
  const tokenizer: Tokenizer = {
    ...await gpt2Tokenizer(),
    vocabularySize,
    endOfText: -1,
    encode: () => PROMPT,
  };
  return { gpt, tokenizer };
}

/** Fills a matrix with random values. */
function fillWithNoise(device: Device, { values, scales }: QuantizedMatrix): void {
  const random = new Random(4), length = 2 ** 20;
  const block = createTensor(device, "noise", { shape: [length], dtype: "i8" });
  upload(device, block, Int8Array.from({ length }, () => random.below(255) - 127));
  upload(device, scales, new Float32Array(size(scales.shape)).fill(3e-4)); // weights of up to 0.04
  fillWithCopies(device, values, block);
  block.buffer.destroy();
}

/** The tokens of every prompt. */
const PROMPT = [0];

/** A decoder that has drawn half of the benchmark's tokens, so that the device is warm. */
async function halfWay(gpt: Gpt, { streams, tokens }: GenerateBench): Promise<Decoder> {
  const decoder = createDecoder(gpt, {
    prompts: new Array(streams).fill(PROMPT),
    seeds: [...new Array(streams).keys()],
    maxNewTokens: tokens,
    sampler: DEFAULT_SAMPLER,
  });
  await decoder.next(Math.floor(tokens / 2));
  return decoder;
}

/**
 * Times generation by the wall clock, from a prompt of one token to the end of the last text, as a user's
 * program sees it, and on the device, as the time of one token of all streams half way through times the
 * number of tokens.
 *
 * @param options.wallMs least wall-clock time of all samples together, 2000 by default: a machine that is shared with
 * others may encode launches at half of its speed for some tenths of a second.
 */
export async function measureGenerate(
  device: Device,
  bench: GenerateBench,
  { wallMs = 2000 }: { wallMs?: number } = {},
): Promise<Result> {
  const { streams, tokens } = bench;
  const memory = meterMemory(device);
  const model = await createModel(device, bench);
  try {
    const generateOnce = async () => {
      const start = performance.now();
      let drawn = 0;
      const options = {
        requests: Array.from({ length: streams }, (_, seed) => ({ prompt: "one", seed })),
        maxNewTokens: tokens,
      };
      for await (const { result } of generateBatch(model, options)) drawn += result?.tokens ?? 0;
      assert.equal(drawn, streams * tokens);
      return performance.now() - start;
    };
    await generateOnce(); // compiles
    const samples: number[] = [];
    for (let sum = 0; samples.length < LEAST_SAMPLES || sum < wallMs; sum += samples.at(-1)!) {
      samples.push(await generateOnce());
    }
    const ms = median(samples);
    const peakBytes = memory.peakBytes;

    const decoder = await halfWay(model.gpt, bench);
    const run = { program: decoder.pass, repeats: REPEATS };
    const passes = await timePasses(device, [run], { rounds: PASSES });
    const gpuMs = tokens * median(passes.map(([ms]) => ms! / REPEATS));
    decoder.destroy();
    return {
      name: generateName(bench),
      ms,
      rangeMs: [Math.min(...samples), Math.max(...samples)],
      ...(clockOf(device) === "timestamps" ? { gpuMs, idleShare: 1 - gpuMs / ms } : {}),
      tokensPerSecond: streams * tokens / ms * 1e3,
      launches: run.program.length, // for one token of all streams
      peakBytes,
    };
  } finally {
    memory.stop();
    model.gpt.destroy();
  }
}

/** The time of each kernel that draws one token of all streams, half way through the texts. */
export async function profileGenerate(device: Device, bench: GenerateBench): Promise<ProfileRow[]> {
  const { gpt } = await createModel(device, bench);
  const decoder = await halfWay(gpt, bench);
  try {
    return await profile(decoder.pass, { warmUpMs: 0 });
  } finally {
    decoder.destroy();
    gpt.destroy();
  }
}

/**
 * Benchmarks of the kernels that only generation uses, at sizes of `mini`. They are bound by memory. The
 * smallest do not fill a GPU, and take about as long as a launch.
 */
export function decodeBenches(device: Device): KernelBench[] {
  const dtype = matrixTypes(device)[0]!;
  const gpu = !device.isCpu;
  const C = gpu ? 256 : 64, V = gpu ? 50257 : 1048, HS = 32, NH = C / HS, T = gpu ? 512 : 64;
  const KH = gpu ? NH / 4 : 1;
  const B = gpu ? 64 : 8, N = 1024;
  const columns = logitsColumns({ vocabularySize: V });
  const products = ([[C, 3 * C, false], [4 * C, C, false], [C, V, true]] as const).map(
    ([K, N, transposeB]): KernelBench => ({
      name: `one row ${transposeB ? "NT" : "NN"} ${dtype} [1,${K}]x[${K},${N}]`,
      work: { bytes: bytesOf(K * N, dtype) },
      record(program, make) {
        const a = make.noise([1, K], dtype);
        const b = make.noise(transposeB ? [N, K] : [K, N], dtype);
        matmul(program, { a, b }, { y: make.zeros([1, N], "f32") }, { transposeB });
      },
    }),
  );
  const K = gpu ? 4096 : 256, wideN = 4 * K;
  const wide = ([dtype, "i8"] as const).map((type): KernelBench => ({
    // int8 and f16 of one layout
    name: `one row NT ${type} [1,${K}]x[${K},${wideN}]`,
    work: { bytes: bytesOf(K * wideN, type) },
    record(program, make) {
      const a = make.noise([1, K], dtype), b = make.noise([wideN, K], type);
      const scales = type === "i8" ? make.noise([wideN], "f32") : undefined;
      matmul(program, { a, b }, { y: make.zeros([1, wideN], "f32") }, { transposeB: true, scales });
    },
  }));
  const cursors = (make: Maker) =>
    make.of([B, 4], "u32", Array.from({ length: B }, (_, b) => [T - 1, 0, b, N]).flat());
  const F = 3 * C;
  return [
    ...products,
    ...wide,
    {
      name: `one row, gate and up ${dtype} [1,${C}]x[${C},2·${F}]`,
      // both matrices are read
      work: { bytes: bytesOf(2 * C * F, dtype) },
      record(program, make) {
        const [b, gateWeight] = [make.noise([C, F], dtype), make.noise([C, F], dtype)];
        matmul(program, { a: make.noise([1, C], dtype), b }, { y: make.zeros([1, F], dtype) }, {
          normalize: { weight: make.noise([C], "f32") },
          epilogue: {
            kind: "pairedForward",
            activation: "silu",
            gateWeight,
            activated: make.zeros([1, F], dtype),
          },
        });
      },
    },
    {
      name: `attention decode ${dtype} [${B},${NH},${T},${HS}]`,
      work: { bytes: bytesOf(2 * B * T * C, dtype) },
      record(program, make) {
        const cache = () => make.noise([B, NH, T, HS], dtype);
        const inputs = { qkv: make.noise([B, 3 * C], dtype), cursors: cursors(make) };
        const outputs = { keys: cache(), values: cache(), y: make.zeros([B, C], dtype) };
        attentionDecode(program, inputs, outputs);
      },
    },
    {
      // keys and values count once, but the workgroups of all heads of q read them
      name: `attention decode with norm and rope ${dtype} [${B},${KH},${T},${HS}] NH ${NH}`,
      work: { bytes: bytesOf(2 * B * KH * T * HS, dtype) },
      record(program, make) {
        const weight = () => make.noise([HS], "f32");
        const cache = () => make.noise([B, KH, T, HS], dtype);
        attentionDecode(program, {
          qkv: make.noise([B, (NH + 2 * KH) * HS], dtype),
          cursors: cursors(make),
          rotation: make.noise([T, HS / 2, 2], "f32"),
          norm: { qWeight: weight(), kWeight: weight(), epsilon: 1e-6 },
        }, { keys: cache(), values: cache(), y: make.zeros([B, C], dtype) });
      },
    },
    {
      name: `sample top-p f32 [${B},${V}]`,
      work: { bytes: bytesOf(B * V, "f32") },
      record(program, make) {
        const settings = [...samplerSettings({ sampler: DEFAULT_SAMPLER, seed: 0, firstDrawn: 0 })];
        const inputs = {
          logits: make.noise([B, columns], "f32"),
          settings: make.of([B, SETTINGS_LENGTH], "u32", new Array(B).fill(settings).flat()),
        };
        const outputs = { tokens: make.zeros([B, N], "u32"), cursors: cursors(make) };
        sample(program, inputs, outputs, { vocabularySize: V, penalties: false });
      },
    },
  ];
}
