import { type Maker, squareProduct } from "./harness.ts";
import { decodeBenches } from "./generate.ts";
import { kernelBenches, muonBench } from "./kernels.ts";
import { benchConfig, STEP_OPTIONS } from "./models.ts";
import { createDecoder } from "../generate/decoder.ts";
import { Slots } from "../generate/slots.ts";
import { attentionWeights } from "../kernels/attention/weights.ts";
import type { Device } from "../kernels/device.ts";
import { dryDevice } from "../kernels/dry_device.ts";
import { type Constants, Program, type Shader } from "../kernels/program.ts";
import { type Pipeline, Pipelines } from "../kernels/pipelines.ts";
import { labelOf, specialize } from "../kernels/shader.ts";
import { createTensor } from "../kernels/tensor.ts";
import { createGpt } from "../model/gpt.ts";
import { createTrainStep } from "../train/step.ts";

/** A shader as training, generation or a benchmark runs it. */
export interface KernelSource {
  /** The op: the folder in kernels/. */
  readonly op: string;
  /** The file that has main(), without `.wgsl`. */
  readonly file: string;
  /** The tuner's name of the variant, or that of the file if there is one variant. */
  readonly variant: string;
  /** Element type of the matrices: f32 if nothing is f16. */
  readonly dtype: "f16" | "f32";
  /** The files and the values of their constants. */
  readonly shader: Shader;
  readonly constants: Constants;
}

/** Machines that differ in what the choice of kernels depends on. */
export const MACHINES = [
  { isCpu: true, subgroupSize: 8, hasF16: true, hasMatrices: false },
  { isCpu: true, subgroupSize: undefined, hasF16: true, hasMatrices: false },
  { isCpu: false, subgroupSize: undefined, hasF16: true, hasMatrices: false },
  { isCpu: false, subgroupSize: undefined, hasF16: false, hasMatrices: false },
  { isCpu: false, subgroupSize: 32, hasF16: true, hasMatrices: true },
] as const;

const MATRIX_SHAPE = { rows: 16, columns: 16, depth: 16, input: "f16", result: "f32" } as const;

/** The pipelines of one device, which are shared by all, since specializing a shader takes the most time. */
class SharedPipelines extends Pipelines {
  /** The pipelines that this device uses, with the shaders of which they are made. */
  readonly used = new Map<Pipeline, Pick<KernelSource, "shader" | "constants">>();
  readonly #shared: Pipelines;

  constructor(shared: Pipelines) {
    super();
    this.#shared = shared;
  }

  override get(shader: Shader, constants: Constants): Pipeline | undefined {
    const pipeline = this.#shared.get(shader, constants);
    if (pipeline) this.used.set(pipeline, { shader, constants });
    return pipeline;
  }

  override add(shader: Shader, constants: Constants, pipeline: Pipeline): void {
    this.#shared.add(shader, constants, pipeline);
    this.used.set(pipeline, { shader, constants });
  }
}

/** A device of such a machine that allocates and compiles nothing, so that it needs no adapter. */
function machine(
  { isCpu, subgroupSize, hasF16, hasMatrices }: typeof MACHINES[number],
  pipelines: SharedPipelines,
): Device {
  const limits: Partial<GPUSupportedLimits> = {
    maxBufferSize: 2 ** 32,
    maxComputeInvocationsPerWorkgroup: 1024,
    maxComputeWorkgroupSizeX: 1024,
    maxComputeWorkgroupStorageSize: 48 * 2 ** 10,
    maxComputeWorkgroupsPerDimension: 65535,
    maxStorageBuffersPerShaderStage: isCpu ? 8 : 16,
    minStorageBufferOffsetAlignment: 256,
  };
  const device: Partial<Device> = {
    gpu: { limits } as GPUDevice,
    isCpu,
    subgroupSize,
    matrixShapes: hasMatrices ? [MATRIX_SHAPE] : [],
    provider: "native",
    background: undefined,
    maxBindingBytes: 2 ** 31 - 4,
    choices: new Map(),
    pipelines,
    name: isCpu ? "a CPU" : "a GPU",
    features: new Set(hasF16 ? ["shader-f16", "timestamp-query"] : ["timestamp-query"]),
  };
  return { ...dryDevice(device as Device), pipelines };
}

/**
 * Every shader that training, generation, inspection and the benchmarks run on some machines, including all variants of
 * the tuner.
 */
export function kernelSources(
  machines: readonly typeof MACHINES[number][] = MACHINES,
): KernelSource[] {
  const sources = new Map<Pipeline, KernelSource>(), shared = new Pipelines();
  const collect = ({ used }: SharedPipelines, variant?: string) => {
    for (const [pipeline, { shader, constants }] of used) {
      const [, op, file] = /(\w+)\/(\w+)\.wgsl$/.exec(labelOf(shader))!;
      const isF16 = () =>
        "kernels/packed_f16.wgsl" in shader || // which needs no `enable f16;`
        /^enable f16;/.test(specialize(shader, constants)); // which takes more time than the rest
      const dtype = sources.get(pipeline)?.dtype ?? (isF16() ? "f16" : "f32");
      sources.set(pipeline, {
        op: op!,
        file: file!,
        variant: variant ?? file!,
        dtype,
        shader,
        constants,
      });
    }
  };
  for (const kind of machines) {
    for (const work of workOn(machine(kind, new SharedPipelines(shared)))) {
      const pipelines = new SharedPipelines(shared);
      const programs = work(machine(kind, pipelines));
      collect(pipelines);
      for (const { variants, record } of programs.flatMap((p) => [...p.tunables.values()])) {
        for (const variant of variants) {
          const own = new SharedPipelines(shared);
          record(new Program(machine(kind, own)), variant);
          collect(own, variant);
        }
      }
    }
  }
  return [...sources.values()].toSorted((a, b) => {
    const [x, y] = [a, b].map(({ op, variant, dtype }) => `${op} ${variant} ${dtype}`);
    return x! < y! ? -1 : 1;
  });
}

/** Functions that record all ops: benchmarks, training steps, generation and inspection. */
function workOn(device: Device): ((device: Device) => Program[])[] {
  const side = device.isCpu ? 64 : 4096;
  const benches = [
    ...kernelBenches(device),
    ...decodeBenches(device),
    squareProduct({ side: side + 1, layout: "NN", dtype: "f32" }),
    muonBench({ layers: 1, C: 5 }, { copy: device.features.has("shader-f16") }),
  ];
  const ofBench = benches.map(({ record }) => (device: Device) => {
    const program = new Program(device);
    record(program, makerOn(device));
    return [program];
  });
  const quantize = "int8" as const;
  const precisions = device.features.has("shader-f16") ? ["f16", "f32"] as const : ["f32"] as const;
  const ofInspection = precisions.map((dtype) => (device: Device) => {
    const program = new Program(device), make = makerOn(device), [T, NH, HS] = [8, 2, 32];
    attentionWeights(
      program,
      {
        qkv: make.noise([T, 3 * NH * HS], dtype),
        logSumExp: make.noise([1, NH, T], "f32"),
      },
      { p: make.zeros([1, NH, T, T], "f32") },
      { T, heads: NH },
    );
    return [program];
  });
  const ofModels = precisions.map((precision) => (device: Device) => {
    const model = createGpt(device, benchConfig("nano"), { precision });
    const rotary = createGpt(
      device,
      { ...benchConfig("nano"), family: "llama", qkNorm: true },
      { precision },
    );
    const steps = ([[model, "joined"], [model, "apart"], [rotary, "apart"]] as const).map((
      [gpt, documents],
    ) =>
      createTrainStep(gpt, {
        ...STEP_OPTIONS,
        batchSize: 2,
        sequenceLength: 64,
        gradientAccumulation: 2,
        documents,
        dropout: 0.1,
        labelSmoothing: 0.1,
      })
    );
    for (const repetitionPenalty of [1, 1.1]) {
      createDecoder(model, {
        prompts: [[1, 2, 3]],
        seeds: [1],
        maxNewTokens: 9,
        sampler: {
          temperature: 0.8,
          topK: 5,
          topP: 0.9,
          minP: 0.1,
          repetitionPenalty,
          presencePenalty: 0,
          frequencyPenalty: 0,
          repetitionWindow: 0,
        },
      });
    }
    // a server's texts: from one row to as many as have the launches of a batch
    for (const gpt of [model, rotary, createGpt(device, model.config, { precision, quantize })]) {
      new Slots(gpt, {
        slots: 64,
        maxTokens: 64,
        drawRows: [1, 8, 64],
        prefillRows: [1],
        readsPrompts: true,
        batchInvariant: true,
        penalties: true,
        logprobs: true,
      });
    }
    return steps.map(({ program }) => program);
  });
  return [...ofBench, ...ofModels, ...ofInspection];
}

/** Tensors for a benchmark on a device that allocates nothing. */
function makerOn(device: Device): Maker {
  const make: Maker["zeros"] = (shape, dtype) => createTensor(device, "tensor", { shape, dtype });
  return { noise: make, zeros: make, of: make };
}
