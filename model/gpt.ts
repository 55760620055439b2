import { type Arena, createArena, tensorNamed } from "../kernels/arena.ts";
import { attentionBackward, attentionForward } from "../kernels/attention/attention.ts";
import type { Device } from "../kernels/device.ts";
import { dropoutBackward, dropoutForward } from "../kernels/dropout/dropout.ts";
import { embeddingBackward, embeddingForward } from "../kernels/embedding/embedding.ts";
import { layernormBackward, layernormForward } from "../kernels/layernorm/layernorm.ts";
import { linearBackward, linearForward } from "../kernels/linear/linear.ts";
import type { Program } from "../kernels/program.ts";
import type { Tensor } from "../kernels/tensor.ts";
import type { Activations, BatchShape } from "./activations.ts";
import { type GptConfig, validateConfig } from "./config.ts";
import { headLossBackward } from "./head.ts";
import { parameterTable } from "./parameters.ts";
import type { Precision } from "./precision.ts";

export type { Activations, BatchShape };

/** A GPT-2 model on a device: dimensions and parameters, nothing of any batch. */
export interface Gpt {
  /** Where it lives. */
  readonly device: Device;
  /** Its dimensions. */
  readonly config: GptConfig;
  /** Element types of its matrix products. */
  readonly precision: Precision;
  /** f32 master parameters by Hugging Face's names. */
  readonly parameters: Arena;
  /** f16 copy of the decayed parameters (matrices, embeddings), kept by AdamW; only in f16. */
  readonly copies?: Arena;
  /** Bytes of parameters and copies on the device. */
  readonly bytes: number;
  /** Frees the parameters. */
  destroy(): void;
}

/**
 * Allocates a model with all parameters zero; `loadParameters()` or `initializeParameters()` fill it.
 *
 * @throws {RangeError} if a dimension is impossible or the parameters leave the device's limits.
 */
export function createGpt(
  device: Device,
  config: GptConfig,
  { precision }: { precision: Precision },
): Gpt {
  validateConfig(config);
  if (precision === "f16" && !device.features.has("shader-f16")) {
    throw new RangeError(
      `Cannot compute in f16 as ${device.name} must have the feature shader-f16: ` +
        `current features are ${[...device.features].join(", ") || "none"}`,
    );
  }
  const table = parameterTable(config);
  const parameters = createArena(device, "parameters", {
    shapes: new Map(table.map(({ name, shape }) => [name, shape])),
    dtype: "f32",
  });
  const decayed = table.filter((p) => p.decayed);
  const copies = precision === "f32" ? undefined : createArena(device, "f16 copies", {
    shapes: new Map(decayed.map(({ name, shape }) => [name, shape])),
    dtype: "f16",
  });
  const buffers = [parameters, copies].flatMap((arena) => arena ? [arena.flat.buffer] : []);
  return {
    device,
    config,
    precision,
    parameters,
    ...(copies ? { copies } : {}),
    bytes: buffers.reduce((sum, { size }) => sum + size, 0),
    destroy() {
      for (const buffer of buffers) buffer.destroy();
    },
  };
}

/** A parameter as matrix products read it: the f16 copy under autocast, else the master. */
export function matrixOf(model: Gpt, name: string): Tensor {
  return tensorNamed(model.copies ?? model.parameters, name);
}

/** A parameter's f32 master. */
export function masterOf(model: Gpt, name: string): Tensor {
  return tensorNamed(model.parameters, name);
}

/** What a forward pass reads. */
export interface ForwardInputs {
  /** u32 [B·T] */
  tokens: Tensor;
  /** u32 [seed, counter] of dropout; not needed when the rate is 0. */
  random?: Tensor;
}

/** Dropout sites, so that no two draw the same random numbers. */
const SITE = {
  embedding: 0,
  attention: (layer: number) => 3 * layer + 1,
  projection: (layer: number) => 3 * layer + 2,
  mlp: (layer: number) => 3 * layer + 3,
};

/**
 * Records the forward pass, from tokens to the output of the last layer-norm, `lnf` [M,C].
 *
 * The head is left to `headLogits()`, `headLossForward()` or `backward()`.
 */
export function forward(
  program: Program,
  model: Gpt,
  { tokens, random }: ForwardInputs,
  activations: Activations,
  { dropout: rate = 0 }: { dropout?: number } = {},
): void {
  const { at, sequenceLength: T } = activations;
  const { layers, heads } = model.config;
  const noise = random ? { random } : {};
  const wte = masterOf(model, "wte.weight"), wpe = masterOf(model, "wpe.weight");

  let x = at("x"); // [M,C]
  if (rate > 0) {
    embeddingForward(program, { tokens, wte, wpe }, { y: at("embedded") }, { T });
    dropoutForward(program, { x: at("embedded"), random: random! }, { y: x }, {
      rate,
      site: SITE.embedding,
    });
  } else {
    embeddingForward(program, { tokens, wte, wpe }, { y: x }, { T });
  }
  layernormForward(
    program,
    { x, weight: masterOf(model, "h.0.ln_1.weight"), bias: masterOf(model, "h.0.ln_1.bias") },
    { y: at("ln1", 0), statistics: at("ln1.statistics", 0) },
  );

  for (let i = 0; i < layers; i++) {
    const matrix = (name: string) => matrixOf(model, `h.${i}.${name}`);
    const vector = (name: string) => masterOf(model, `h.${i}.${name}`);

    // attention(ln1), added to x
    linearForward(
      program,
      { x: at("ln1", i), weight: matrix("attn.c_attn.weight"), bias: vector("attn.c_attn.bias") },
      { y: at("qkv", i) },
    );
    attentionForward(
      program,
      { qkv: at("qkv", i), ...noise },
      { y: at("attention", i), logSumExp: at("attention.logSumExp", i) },
      { T, heads, rate, site: SITE.attention(i) },
    );
    linearForward(
      program,
      {
        x: at("attention", i),
        weight: matrix("attn.c_proj.weight"),
        bias: vector("attn.c_proj.bias"),
      },
      { y: at("projected") },
    );
    layernormForward(
      program,
      { x, z: at("projected"), ...noise, weight: vector("ln_2.weight"), bias: vector("ln_2.bias") },
      { sum: at("middle", i), y: at("ln2", i), statistics: at("ln2.statistics", i) },
      { rate, site: SITE.projection(i) },
    );
    x = at("middle", i);

    // mlp(ln2), added to x
    linearForward(
      program,
      { x: at("ln2", i), weight: matrix("mlp.c_fc.weight"), bias: vector("mlp.c_fc.bias") },
      { y: at("hidden", i), activated: at("gelu", i) },
    );
    linearForward(
      program,
      { x: at("gelu", i), weight: matrix("mlp.c_proj.weight"), bias: vector("mlp.c_proj.bias") },
      { y: at("projected") },
    );
    const next = layernormAfter(model, activations, i);
    layernormForward(
      program,
      { x, z: at("projected"), ...noise, weight: next.weight, bias: next.bias },
      { sum: at("out", i), y: next.y, statistics: next.statistics },
      { rate, site: SITE.mlp(i) },
    );
    x = at("out", i);
  }
}

/** The layer-norm that reads what layer i gives out: that of the next layer's attention, or the last. */
function layernormAfter(model: Gpt, { at }: Activations, i: number) {
  const last = i === model.config.layers - 1;
  const name = last ? "ln_f" : `h.${i + 1}.ln_1`;
  const activation = (key: string) => last ? at(`lnf${key}`) : at(`ln1${key}`, i + 1);
  return {
    name,
    weight: masterOf(model, `${name}.weight`),
    bias: masterOf(model, `${name}.bias`),
    y: activation(""),
    statistics: activation(".statistics"),
  };
}

/** What a backward pass reads beside the activations of its forward pass. */
export interface BackwardInputs extends ForwardInputs {
  /** Next tokens, u32 [B·T]; 0xffffffff is ignored. */
  targets: Tensor;
  /** u32 [B·T]: positions sorted by token, see `embeddingBackward()`. */
  order: Tensor;
  /** f32 [learning rate, 1 / number of targets, 0, 0] */
  stepInputs: Tensor;
  /** f32 [1] */
  lossScale: Tensor;
}

/**
 * Records the loss and the backward pass: the list of `forward()` read from the bottom up.
 *
 * The gradient of every parameter is set, or with `accumulate` added to; gradients carry the loss
 * scale. The losses of all positions are in the activation `losses`.
 */
export function backward(
  program: Program,
  model: Gpt,
  { tokens, targets, order, stepInputs, lossScale, random }: BackwardInputs,
  activations: Activations,
  gradients: Arena,
  { dropout: rate = 0, labelSmoothing = 0, accumulate = false }: {
    dropout?: number;
    labelSmoothing?: number;
    accumulate?: boolean;
  } = {},
): void {
  const { at, sequenceLength: T } = activations;
  const { layers, heads } = model.config;
  const noise = random ? { random } : {};
  const gradient = (name: string) => tensorNamed(gradients, name);
  const dx = at("dx");

  headLossBackward(
    program,
    { x: at("lnf"), wte: matrixOf(model, "wte.weight"), targets, stepInputs, lossScale },
    {
      logits: at("logits"),
      losses: at("losses"),
      dx: at("dln"),
      dwte: gradient("wte.weight"),
    },
    { labelSmoothing, accumulate },
  );

  for (let i = layers - 1; i >= 0; i--) {
    const matrix = (name: string) => matrixOf(model, `h.${i}.${name}`);
    const vector = (name: string) => masterOf(model, `h.${i}.${name}`);
    const dweight = (name: string) => gradient(`h.${i}.${name}.weight`);
    const dbias = (name: string) => gradient(`h.${i}.${name}.bias`);

    // mlp(ln2), added to x
    const next = layernormAfter(model, activations, i);
    layernormBackward(
      program,
      { ...next, x: at("out", i), dy: at("dln"), ...noise },
      {
        dx,
        dz: at("dprojected"),
        dweight: gradient(`${next.name}.weight`),
        dbias: gradient(`${next.name}.bias`),
      },
      { rate, site: SITE.mlp(i), accumulate, accumulateDx: i < layers - 1 },
    );
    linearBackward(
      program,
      {
        x: at("gelu", i),
        weight: matrix("mlp.c_proj.weight"),
        dy: at("dprojected"),
        hidden: at("hidden", i),
      },
      { dx: at("dhidden"), dweight: dweight("mlp.c_proj"), dbias: dbias("mlp.c_proj") },
      { accumulate },
    );
    linearBackward(
      program,
      { x: at("ln2", i), weight: matrix("mlp.c_fc.weight"), dy: at("dhidden") },
      { dx: at("dln"), dweight: dweight("mlp.c_fc"), dbias: dbias("mlp.c_fc") },
      { accumulate },
    );

    // attention(ln1), added to x
    layernormBackward(
      program,
      {
        x: at("middle", i),
        weight: vector("ln_2.weight"),
        statistics: at("ln2.statistics", i),
        dy: at("dln"),
        ...noise,
      },
      { dx, dz: at("dprojected"), dweight: dweight("ln_2"), dbias: dbias("ln_2") },
      { rate, site: SITE.projection(i), accumulate, accumulateDx: true },
    );
    linearBackward(
      program,
      { x: at("attention", i), weight: matrix("attn.c_proj.weight"), dy: at("dprojected") },
      { dx: at("dattention"), dweight: dweight("attn.c_proj"), dbias: dbias("attn.c_proj") },
      { accumulate },
    );
    attentionBackward(
      program,
      {
        qkv: at("qkv", i),
        y: at("attention", i),
        dy: at("dattention"),
        logSumExp: at("attention.logSumExp", i),
        ...noise,
      },
      { dqkv: at("dqkv"), delta: at("attention.delta") },
      { T, heads, rate, site: SITE.attention(i) },
    );
    linearBackward(
      program,
      { x: at("ln1", i), weight: matrix("attn.c_attn.weight"), dy: at("dqkv") },
      { dx: at("dln"), dweight: dweight("attn.c_attn"), dbias: dbias("attn.c_attn") },
      { accumulate },
    );
  }

  layernormBackward(
    program,
    {
      x: at("x"),
      weight: masterOf(model, "h.0.ln_1.weight"),
      statistics: at("ln1.statistics", 0),
      dy: at("dln"),
    },
    { dx, dweight: gradient("h.0.ln_1.weight"), dbias: gradient("h.0.ln_1.bias") },
    { accumulate, accumulateDx: true },
  );
  let dembedded = dx;
  if (rate > 0) {
    dembedded = at("dembedded");
    dropoutBackward(program, { dy: dx, random: random! }, { dx: dembedded }, {
      rate,
      site: SITE.embedding,
    });
  }
  embeddingBackward(
    program,
    { tokens, order, dy: dembedded },
    { dwte: gradient("wte.weight"), dwpe: gradient("wpe.weight") },
    { T, accumulate },
  );
}
