import type { Arena } from "../kernels/arena.ts";
import { attentionBackward, attentionForward } from "../kernels/attention/attention.ts";
import { dropoutBackward, dropoutForward } from "../kernels/dropout/dropout.ts";
import { embeddingBackward, embeddingForward } from "../kernels/embedding/embedding.ts";
import { layernormBackward, layernormForward } from "../kernels/layernorm/layernorm.ts";
import { fillNormal } from "../kernels/normal/normal.ts";
import type { Program } from "../kernels/program.ts";
import type { Tensor } from "../kernels/tensor.ts";
import type { Activations, BatchShape } from "./activations.ts";
import { attentionOf } from "./config.ts";
import { headLossBackward } from "./head.ts";
import { linearLayerBackward, linearLayerForward } from "./linear.ts";
import {
  createGpt,
  firstTrainedBlock,
  type Gpt,
  headName,
  headOf,
  masterOf,
  matrixOf,
} from "./model.ts";

export { type Activations, type BatchShape, createGpt, type Gpt, headOf, masterOf, matrixOf };

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
    const vector = (name: string) => masterOf(model, `h.${i}.${name}`);
    const linear = (name: string, x: Tensor, y: Tensor, activated?: Tensor) =>
      linearLayerForward(program, model, `h.${i}.${name}`, { x }, {
        y,
        ...(activated ? { activated } : {}),
        low: ({ module }) => at(`${module.name} low`, i),
      });

    // attention(ln1), added to x
    linear("attn.c_attn", at("ln1", i), at("qkv", i));
    attentionForward(
      program,
      { qkv: at("qkv", i), ...noise },
      { y: at("attention", i), logSumExp: at("attention.logSumExp", i) },
      { T, heads, rate, site: SITE.attention(i), ...attentionOf(model.config, i) },
    );
    linear("attn.c_proj", at("attention", i), at("projected"));
    layernormForward(
      program,
      { x, z: at("projected"), ...noise, weight: vector("ln_2.weight"), bias: vector("ln_2.bias") },
      { sum: at("middle", i), y: at("ln2", i), statistics: at("ln2.statistics", i) },
      { rate, site: SITE.projection(i) },
    );
    x = at("middle", i);

    // mlp(ln2), added to x
    linear("mlp.c_fc", at("ln2", i), at("hidden", i), at("gelu", i));
    linear("mlp.c_proj", at("gelu", i), at("projected"));
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
 * Records the loss and the backward pass: the list of `forward()` read from the bottom up, as far down as
 * there is something to train.
 *
 * The gradient of every trained parameter is set, or with `accumulate` added to; gradients carry the loss
 * scale. The losses of all positions are in the activation `losses`.
 *
 * @param gradients holds those of the trained parameters.
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
  const gradient = (name: string) => gradients.tensors.get(name); // none of what is frozen
  const first = firstTrainedBlock(model);
  const dx = at("dx");

  headLossBackward(
    program,
    { x: at("lnf"), weight: headOf(model), targets, stepInputs, lossScale },
    {
      logits: at("logits"),
      losses: at("losses"),
      dx: at("dln"),
      dweight: gradient(headName(model)),
    },
    { labelSmoothing, accumulate },
  );

  for (let i = layers - 1; i >= first; i--) {
    const vector = (name: string) => masterOf(model, `h.${i}.${name}`);
    const linear = (
      name: string,
      inputs: { x: Tensor; dy: Tensor; hidden?: Tensor },
      dx: Tensor | undefined,
    ) =>
      linearLayerBackward(
        program,
        model,
        `h.${i}.${name}`,
        { ...inputs, low: ({ module }) => at(`${module.name} low`, i) },
        { dx, dlow: () => at("dlow") },
        { gradients, accumulate },
      );

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
    linear(
      "mlp.c_proj",
      { x: at("gelu", i), dy: at("dprojected"), hidden: at("hidden", i) },
      at("dhidden"),
    );
    linear("mlp.c_fc", { x: at("ln2", i), dy: at("dhidden") }, at("dln"));

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
      {
        dx,
        dz: at("dprojected"),
        dweight: gradient(`h.${i}.ln_2.weight`),
        dbias: gradient(`h.${i}.ln_2.bias`),
      },
      { rate, site: SITE.projection(i), accumulate, accumulateDx: true },
    );
    linear("attn.c_proj", { x: at("attention", i), dy: at("dprojected") }, at("dattention"));
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
      { T, heads, rate, site: SITE.attention(i), ...attentionOf(model.config, i) },
    );
    linear("attn.c_attn", { x: at("ln1", i), dy: at("dqkv") }, at("dln"));
  }

  const lowest = first > 0
    ? { ...layernormAfter(model, activations, first - 1), x: at("out", first - 1) }
    : {
      name: "h.0.ln_1",
      x: at("x"),
      weight: masterOf(model, "h.0.ln_1.weight"),
      statistics: at("ln1.statistics", 0),
    };
  layernormBackward(
    program,
    { ...lowest, dy: at("dln") },
    {
      dx,
      dweight: gradient(`${lowest.name}.weight`),
      dbias: gradient(`${lowest.name}.bias`),
    },
    { accumulate, accumulateDx: first < layers },
  );
  const dwte = gradient("wte.weight"), dwpe = gradient("wpe.weight");
  if (!dwte || !dwpe) return;
  let dembedded = dx;
  if (rate > 0) {
    dembedded = at("dembedded");
    dropoutBackward(program, { dy: dx, random: random! }, { dx: dembedded }, {
      rate,
      site: SITE.embedding,
    });
  }
  // what is added to must be there: the head's part, or nothing
  if (model.config.ownHead && !accumulate) {
    fillNormal(program, { y: dwte }, { mean: 0, deviation: 0, seed: 0, stream: 0 });
  }
  embeddingBackward(program, { tokens, order, dy: dembedded }, { dwte, dwpe }, { T, accumulate });
}
