import type { Arena } from "../kernels/arena.ts";
import { attentionBackward, attentionForward } from "../kernels/attention/attention.ts";
import { attentionDecode } from "../kernels/attention/decode.ts";
import { dropoutBackward, dropoutForward } from "../kernels/dropout/dropout.ts";
import { embeddingDecode } from "../kernels/embedding/decode.ts";
import { embeddingBackward, embeddingForward } from "../kernels/embedding/embedding.ts";
import { layernormBackward, layernormForward } from "../kernels/layernorm/layernorm.ts";
import type { MatmulOptions } from "../kernels/matmul/matmul.ts";
import { fillNormal } from "../kernels/normal/normal.ts";
import type { Program } from "../kernels/program.ts";
import type { Dropout } from "../kernels/random.ts";
import type { Tensor } from "../kernels/tensor.ts";
import type { Activations } from "./activations.ts";
import { attentionOf, innerWidthOf } from "./config.ts";
import { firstTrainedBlock, type Gpt, headName, headOf, masterOf } from "./gpt.ts";
import { headLossBackward } from "./head.ts";
import { linearLayerBackward, linearLayerForward } from "./linear.ts";

/**
 * The architecture. Training, evaluation and generation record the same `forward()`; `backward()` has its
 * ops in reverse order.
 *
 * @module
 */

/** What a forward pass reads. */
export interface ForwardInputs {
  /** u32 [B·T]: whole sequences; with a cache u32 [B,N], the tokens of each text. */
  tokens: Tensor;
  /** If given, the pass computes the next T tokens of each text; it holds the earlier ones. */
  cache?: KeyValueCache;
}

/** Keys and values of the tokens computed so far, and where each text continues. */
export interface KeyValueCache {
  /** u32 [B,2]: per text the index of the next token, and of the token at position 0. */
  readonly cursors: Tensor;
  /** Per layer, each [B,NH,≤maxT,HS] in the type of matrix products. */
  readonly layers: readonly { readonly keys: Tensor; readonly values: Tensor }[];
}

/** A tensor as a matrix product reads it: layer-normalised first if `normalize` is given. */
export interface Operand extends Pick<MatmulOptions, "normalize"> {
  readonly x: Tensor;
}

/** Dropout of the model, without its sites; none by default. */
type DropoutOption = Omit<Dropout, "site"> | undefined;

/** Numbers of the dropout sites; each site draws different random numbers. */
const SITE = {
  embedding: 0,
  attention: (layer: number) => 3 * layer + 1,
  projection: (layer: number) => 3 * layer + 2,
  mlp: (layer: number) => 3 * layer + 3,
};

/** A layer-norm of the network, and the addition to the residual stream before it. */
interface Norm {
  /** Name of its parameters, such as `h.0.ln_1`. */
  readonly name: string;
  readonly weight: Tensor;
  readonly bias: Tensor;
  /** The residual stream that it normalises, after the addition. */
  readonly x: Tensor;
  readonly y: Tensor;
  readonly statistics: Tensor;
  /** Dropout site of the addend; before the first norm nothing is added. */
  readonly site: number;
}

/**
 * All layer-norms in order: the first of block 0, then per block the one after attention and the one after
 * the MLP.
 */
function normsOf(model: Gpt, { at }: Activations): Norm[] {
  const { layers } = model.config;
  const norm = (name: string, x: Tensor, y: [string, number?], site = SITE.embedding): Norm => ({
    name,
    weight: masterOf(model, `${name}.weight`),
    bias: masterOf(model, `${name}.bias`),
    x,
    y: at(...y),
    statistics: at(`${y[0]}.statistics`, y[1]),
    site,
  });
  const norms = [norm("h.0.ln_1", at("x"), ["ln1", 0])];
  for (let i = 0; i < layers; i++) {
    norms.push(norm(`h.${i}.ln_2`, at("middle", i), ["ln2", i], SITE.projection(i)));
    norms.push(
      i + 1 < layers
        ? norm(`h.${i + 1}.ln_1`, at("out", i), ["ln1", i + 1], SITE.mlp(i))
        : norm("ln_f", at("out", i), ["lnf"], SITE.mlp(i)),
    );
  }
  return norms;
}

/**
 * Records the forward pass, from tokens to the last layer-norm, and returns what the head reads, [M,C].
 *
 * `headLogits()`, `headLossForward()` or `backward()` record the head; without a cache it reads the
 * activation `lnf`. With a cache, the keys and values of the tokens are stored in it.
 */
export function forward(
  program: Program,
  model: Gpt,
  { tokens, cache }: ForwardInputs,
  activations: Activations,
  { dropout }: { dropout?: DropoutOption } = {},
): Operand {
  const { at, batchSize: B, sequenceLength: T } = activations;
  const { config } = model, { layers, heads, layerNormEpsilon: epsilon } = config;
  const wte = masterOf(model, "wte.weight"), wpe = masterOf(model, "wpe.weight");
  const norms = normsOf(model, activations);
  // For one row a launch costs a GPU more than a layer-norm. So the products normalise the row that they
  // read, which needs vectors of four, and add to the stream themselves.
  const fused = cache !== undefined && B * T === 1 && !program.device.isCpu &&
    innerWidthOf(config) % 4 === 0;

  const linear = (
    name: string,
    { x, ...options }: Operand & Pick<MatmulOptions, "accumulate">,
    y: Tensor,
    activated?: Tensor,
  ) =>
    linearLayerForward(program, model, name, { x }, {
      y,
      activated,
      low: ({ module, layer }) => at(`${module.name} low`, layer),
    }, options);
  let x = at("x"); // [M,C], the residual stream
  /** Adds a linear layer of `from` to the stream, and returns what the next linear layer reads. */
  const addAndNormalize = (name: string, from: Tensor, norm: Norm): Operand => {
    const { weight, bias, x: sum, y, statistics, site } = norm;
    if (fused) {
      linear(name, { x: from, accumulate: true }, x);
      return { x, normalize: { weight, bias, epsilon } };
    }
    const z = at("projected");
    linear(name, { x: from }, z);
    layernormForward(
      program,
      { x, z, weight, bias },
      { sum, y, statistics },
      { epsilon, dropout: dropout && { ...dropout, site } },
    );
    x = sum;
    return { x: y };
  };

  if (cache) {
    embeddingDecode(program, { tokens, cursors: cache.cursors, wte, wpe }, { y: x });
  } else if (dropout) {
    const site = SITE.embedding;
    embeddingForward(program, { tokens, wte, wpe }, { y: at("embedded") }, { T });
    dropoutForward(program, { x: at("embedded") }, { y: x }, { ...dropout, site });
  } else {
    embeddingForward(program, { tokens, wte, wpe }, { y: x }, { T });
  }
  const { weight, bias, y, statistics } = norms[0]!;
  if (!fused) layernormForward(program, { x, weight, bias }, { y, statistics }, { epsilon });
  let ln: Operand = fused ? { x, normalize: { weight, bias, epsilon } } : { x: y };

  for (let i = 0; i < layers; i++) {
    // x += attention(ln)
    const qkv = at("qkv", i), y = at("attention", i), scores = attentionOf(config, i);
    linear(`h.${i}.attn.c_attn`, ln, qkv);
    if (cache) {
      const { cursors, layers } = cache;
      attentionDecode(program, { qkv, cursors }, { ...layers[i]!, y }, scores);
    } else {
      attentionForward(
        program,
        { qkv },
        { y, logSumExp: at("attention.logSumExp", i) },
        { T, heads, dropout: dropout && { ...dropout, site: SITE.attention(i) }, ...scores },
      );
    }
    ln = addAndNormalize(`h.${i}.attn.c_proj`, y, norms[2 * i + 1]!);

    // x += mlp(ln)
    linear(`h.${i}.mlp.c_fc`, ln, at("hidden", i), at("activated", i));
    ln = addAndNormalize(`h.${i}.mlp.c_proj`, at("activated", i), norms[2 * i + 2]!);
  }
  return ln;
}

/** What a backward pass reads in addition to the activations of its forward pass. */
export interface BackwardInputs extends Omit<ForwardInputs, "cache"> {
  /** Next tokens, u32 [B·T]; 0xffffffff is ignored. */
  targets: Tensor;
  /** u32 [B·T]: positions sorted by token, for `embeddingBackward()`. */
  order: Tensor;
  /** f32 [learning rate, 1 / number of targets, 0, 0] */
  stepInputs: Tensor;
  /** f32 [1] */
  lossScale: Tensor;
}

/**
 * Records the loss and the backward pass: the ops of `forward()` in reverse order, down to the first block
 * with a trained parameter.
 *
 * The gradient of every trained parameter is set, or with `accumulate` added to; gradients carry the loss
 * scale. The losses of all positions are in the activation `losses`.
 *
 * @param gradients those of the trained parameters.
 */
export function backward(
  program: Program,
  model: Gpt,
  { tokens, targets, order, stepInputs, lossScale }: BackwardInputs,
  activations: Activations,
  gradients: Arena,
  { dropout, labelSmoothing = 0, accumulate = false }: {
    dropout?: DropoutOption;
    labelSmoothing?: number;
    accumulate?: boolean;
  } = {},
): void {
  const { at, sequenceLength: T } = activations;
  const { config } = model, { layers, heads } = config;
  const gradient = (name: string) => gradients.tensors.get(name); // undefined if it is frozen
  const norms = normsOf(model, activations), first = firstTrainedBlock(model);

  const linear = (
    name: string,
    inputs: { x: Tensor; dy: Tensor; hidden?: Tensor },
    dx: Tensor,
  ) =>
    linearLayerBackward(
      program,
      model,
      name,
      { ...inputs, low: ({ module, layer }) => at(`${module.name} low`, layer) },
      { dx, dlow: () => at("dlow") },
      { gradients, accumulate },
    );
  const dx = at("dx"); // [M,C], gradient of the residual stream
  /**
   * Adds the gradient of a norm's input, computed from `dln`, to dx, and sets dz to that of the addend
   * before the norm.
   */
  const normBackward = (place: number, dz?: Tensor) => {
    const { name, x, weight, statistics, site } = norms[place]!;
    layernormBackward(
      program,
      { x, weight, statistics, dy: at("dln") },
      {
        dx,
        ...(dz ? { dz } : {}),
        dweight: gradient(`${name}.weight`),
        dbias: gradient(`${name}.bias`),
      },
      {
        dropout: dropout && { ...dropout, site },
        accumulate,
        accumulateDx: place < norms.length - 1,
      },
    );
  };

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
    // x += mlp(ln)
    const hidden = at("hidden", i), dz = at("dprojected");
    normBackward(2 * i + 2, dz);
    linear(`h.${i}.mlp.c_proj`, { x: at("activated", i), dy: dz, hidden }, at("dhidden"));
    linear(`h.${i}.mlp.c_fc`, { x: at("ln2", i), dy: at("dhidden") }, at("dln"));

    // x += attention(ln)
    const qkv = at("qkv", i), y = at("attention", i);
    normBackward(2 * i + 1, dz);
    linear(`h.${i}.attn.c_proj`, { x: y, dy: dz }, at("dattention"));
    attentionBackward(
      program,
      { qkv, y, dy: at("dattention"), logSumExp: at("attention.logSumExp", i) },
      { dqkv: at("dqkv"), delta: at("attention.delta") },
      {
        ...{ T, heads, dropout: dropout && { ...dropout, site: SITE.attention(i) } },
        ...attentionOf(config, i),
      },
    );
    linear(`h.${i}.attn.c_attn`, { x: at("ln1", i), dy: at("dqkv") }, at("dln"));
  }
  normBackward(2 * first);

  const dwte = gradient("wte.weight"), dwpe = gradient("wpe.weight");
  if (!dwte || !dwpe) return;
  let dembedded = dx;
  if (dropout) {
    const site = SITE.embedding;
    dembedded = at("dembedded");
    dropoutBackward(program, { dy: dx }, { dx: dembedded }, { ...dropout, site });
  }
  // embeddingBackward() adds to dwte: it holds the head's gradient if they share the matrix, else zeros
  if (config.ownHead && !accumulate) {
    fillNormal(program, { y: dwte }, { mean: 0, deviation: 0, seed: 0, stream: 0 });
  }
  embeddingBackward(program, { tokens, order, dy: dembedded }, { dwte, dwpe }, { T, accumulate });
}
