import type { Arena } from "../kernels/arena.ts";
import type { Device } from "../kernels/device.ts";
import { attentionBackward, attentionForward } from "../kernels/attention/attention.ts";
import { attentionDecode } from "../kernels/attention/decode.ts";
import { dropoutBackward, dropoutForward } from "../kernels/dropout/dropout.ts";
import { embeddingDecode } from "../kernels/embedding/decode.ts";
import { embeddingBackward, embeddingForward } from "../kernels/embedding/embedding.ts";
import { canNormalize, MOST_BUFFERS, partsOf } from "../kernels/matmul/launches.ts";
import type { BackwardEpilogue, ForwardEpilogue, MatmulOptions } from "../kernels/matmul/matmul.ts";
import { fillNormal } from "../kernels/normal/normal.ts";
import type { Program } from "../kernels/program.ts";
import type { Dropout } from "../kernels/random.ts";
import { type QkNorm, ropeBackward, ropeForward } from "../kernels/rope/rope.ts";
import type { Tensor } from "../kernels/tensor.ts";
import type { Activations } from "./activations.ts";
import { attentionOf, type GptConfig, headsOf, innerWidthOf, withDefaults } from "./config.ts";
import { type Gpt, headName, headOf, masterOf, matrixOf } from "./gpt.ts";
import { headLossBackward } from "./head.ts";
import {
  adaptersBeside,
  biasOf,
  gatedLayersForward,
  linearLayerBackward,
  linearLayerForward,
  type LowOf,
} from "./linear.ts";
import { normBackward, normForward, normParameters } from "./norm.ts";
import { firstTrainedBlock } from "./parameters.ts";

/**
 * The architecture. Training, evaluation and generation record the same `forward()`; `backward()` has its
 * ops in reverse order.
 *
 * @module
 */

/** What a forward pass reads. */
export interface ForwardInputs {
  /** u32 [B·T]: whole sequences; with a cache u32 [slots,N], the tokens of each text. */
  tokens: Tensor;
  /**
   * u32 [B·T]: the position of each token in its document, each of which sees only itself; a sequence is one document by
   * default, and with a cache.
   */
  positions?: Tensor | undefined;
  /** If given, the pass computes the next T tokens of each text; it holds the earlier ones. */
  cache?: KeyValueCache | undefined;
}

/** Keys and values of the tokens computed so far, and where each text continues. */
export interface KeyValueCache {
  /** u32 [B,4]: per row the index of the next token, that of the token at position 0, slot, and end. */
  readonly cursors: Tensor;
  /** Per layer, each [slots,KH,≤maxT,HS] in the type of matrix products. */
  readonly layers: readonly { readonly keys: Tensor; readonly values: Tensor }[];
}

/** A tensor as a product reads it: normalised first if `normalize` is given, with the kernel for `kernelRows` rows. */
export interface Operand extends Pick<MatmulOptions, "normalize" | "kernelRows"> {
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

/** Dropout at one of these sites; undefined without dropout. */
function dropoutAt(site: number, dropout: DropoutOption): Dropout | undefined {
  return dropout && { ...dropout, site };
}

/** A norm of the network. It normalises the residual stream after an addition to it. */
interface Norm {
  /** Name of its parameters, such as `h.0.ln_1`. */
  readonly name: string;
  /** The residual stream after the addition. */
  readonly x: Tensor;
  readonly y: Tensor;
  readonly statistics: Tensor;
  /** Dropout site of the addend; nothing is added before the first norm. */
  readonly site: number;
}

/** The norms of a model. Each of these functions takes the number of a block. */
interface Norms {
  /** Before the block's attention; after the last block `ln_f`. */
  ln1(block: number): Norm;
  /** Before the block's MLP. */
  ln2(block: number): Norm;
}

function normsOf({ layers }: GptConfig, { at }: Activations): Norms {
  const norm = (name: string, activation: string, layer?: number) => ({
    name,
    y: at(activation, layer),
    statistics: at(`${activation}.statistics`, layer),
  });
  return {
    ln1: (i) => ({
      ...(i < layers ? norm(`h.${i}.ln_1`, "ln1", i) : norm("ln_f", "lnf")),
      x: i === 0 ? at("x") : at("out", i - 1),
      site: i === 0 ? SITE.embedding : SITE.mlp(i - 1),
    }),
    ln2: (i) => ({
      ...norm(`h.${i}.ln_2`, "ln2", i),
      x: at("middle", i),
      site: SITE.projection(i),
    }),
  };
}

/**
 * Records the forward pass, from tokens to the last norm, and returns what the head reads, [M,C].
 *
 * `headLogits()`, `headLossForward()` or `backward()` record the head; without a cache it reads the
 * activation `lnf`. With a cache, the keys and values of the tokens are stored in it.
 */
export function forward(
  program: Program,
  model: Gpt,
  { tokens, positions, cache }: ForwardInputs,
  activations: Activations,
  { dropout, kernelRows }: {
    dropout?: DropoutOption;
    /** Rows for which kernels are chosen in a pass with a cache, so that a text's bits do not depend on the others. */
    kernelRows?: number | undefined;
  } = {},
): Operand {
  const { at, sequenceLength: T } = activations, { config } = model;
  const { values, scales } = model.quantized?.get("wte.weight") ?? {};
  const wte = values ?? masterOf(model, "wte.weight");
  const wpe = model.parameters.tensors.get("wpe.weight"); // only with learned positions
  const parts = forwardParts(program, model, activations, {
    positions,
    cache,
    dropout,
    kernelRows,
  });
  const stream = at("x"); // [M,C], the residual stream
  if (cache) {
    const inputs = { tokens, cursors: cache.cursors, wte, scales, wpe };
    embeddingDecode(program, inputs, { y: stream });
  } else {
    const embedded = dropout ? at("embedded") : stream;
    embeddingForward(program, { tokens, positions, wte, scales, wpe }, { y: embedded }, { T });
    const drop = dropoutAt(SITE.embedding, dropout);
    if (drop) dropoutForward(program, { x: embedded }, { y: stream }, drop);
  }
  let ln = parts.normalize(normsOf(config, activations).ln1(0));
  for (let i = 0; i < config.layers; i++) {
    ln = parts.attention(i, ln);
    ln = parts.mlp(i, ln);
  }
  return ln;
}

/** Rows of a pass whose launches are fused, at most, and at most if `kernelRows` is given. */
const MOST_ROWS = 4, MOST_FUSED_ROWS = 8;

/**
 * Parts of a sum over K, at most, if a pass may have many rows: the next launch reads the parts of all its rows in every
 * workgroup. A guess, as it was not measured.
 */
const MOST_PARTS_OF_MANY = 2;

/** Elements of the partial sums of a projection after attention, at most: the next launch reads them in every workgroup. */
const MOST_PROJECTED = 16_384;

/**
 * Whether a pass over a cache has few launches. For few rows a launch costs a GPU more than a norm: the products
 * normalise the rows that they read, attention computes the product after it, and sums over K are stored in parts,
 * which the next norm adds to the stream.
 */
function isFused(device: Device, { config }: Gpt, rows: number): boolean {
  return rows <= MOST_FUSED_ROWS && !device.isCpu &&
    canNormalize(device, config.width) && innerWidthOf(config) % 4 === 0 &&
    device.gpu.limits.maxStorageBuffersPerShaderStage >= MOST_BUFFERS;
}

/**
 * The parts of the forward pass of a block, each of which takes the number of the block. `forward()` records all of
 * them, and `backward()` once more those whose results were not kept.
 */
function forwardParts(
  program: Program,
  model: Gpt,
  activations: Activations,
  { positions, cache, dropout, kernelRows }: Omit<ForwardInputs, "tokens"> & {
    dropout: DropoutOption;
    kernelRows?: number | undefined;
  },
) {
  const { at, batchSize: B, sequenceLength: T, purpose } = activations;
  const { config, rotation } = model;
  const { heads, keyHeads, activation, gatedMlp } = withDefaults(config);
  const norms = normsOf(config, activations);
  const fused = cache !== undefined && (kernelRows !== undefined || B * T <= MOST_ROWS) &&
    isFused(program.device, model, kernelRows ?? B * T);

  const low: LowOf = ({ module, layer }) => at(`${module.name} low`, layer);
  const linear = (
    name: string,
    { x, ...options }: Operand & Pick<MatmulOptions, "parts">,
    y: Tensor,
    epilogue?: ForwardEpilogue,
  ) => linearLayerForward(program, model, name, { x }, { y, low }, { ...options, epilogue });
  // slot 0 is that of products, which may need it before these sums are read
  const partialSums = (count: number) => program.scratch([count, B * T, config.width], { slot: 1 });
  let stream = at("x"); // [M,C], the residual stream
  /**
   * Normalises the stream, to which z is added if it is given, fused its partial sums; returns what the next linear
   * layer reads.
   */
  const normalize = (norm: Norm, z?: Tensor): Operand => {
    const { name, y, statistics, site } = norm;
    const x = z ? stream : norm.x; // without z the stream begins there
    if (fused) {
      stream = norm.x;
      return {
        x,
        kernelRows,
        normalize: { ...normParameters(model, name), addends: z, total: z && norm.x },
      };
    }
    normForward(program, model, name, { x, z }, { sum: z && norm.x, y, statistics }, {
      dropout: dropoutAt(site, dropout),
    });
    stream = norm.x;
    return { x: y, kernelRows };
  };
  /** Adds a linear layer of x to the stream, and normalises the sum. */
  const addAndNormalize = (name: string, x: Tensor, norm: Norm): Operand => {
    const most = kernelRows === undefined ? undefined : MOST_PARTS_OF_MANY;
    const parts = fused ? partsOf({ K: x.shape[1]!, N: config.width, most }) : undefined;
    const z = parts === undefined ? at("projected") : partialSums(parts);
    linear(name, { x, parts, kernelRows }, z);
    return normalize(norm, z);
  };

  /** What the MLP computes of ln between its matrices. */
  const inner = (i: number, ln: Operand) => {
    const hidden = at("hidden", i), activated = at("activated", i);
    if (gatedMlp) {
      const outputs = { gate: at("gate", i), up: hidden, activated, low };
      gatedLayersForward(program, model, i, ln, outputs, {
        activation,
        kernelRows,
        normalize: ln.normalize,
      });
    } else {
      linear(`h.${i}.mlp.c_fc`, ln, hidden, { kind: "forward", activation, activated });
    }
  };
  return {
    normalize,
    inner,
    /** stream += attention(ln); returns its norm. */
    attention(i: number, ln: Operand): Operand {
      const qkv = at("qkv", i), y = at("attention", i), scores = attentionOf(config, i);
      linear(`h.${i}.attn.c_attn`, ln, qkv);
      const norm = qkNormOf(model, i), rotatesInDecode = cache !== undefined && T === 1;
      if (rotation && !rotatesInDecode) {
        const qk = norm && purpose === "training" ? at("qk", i) : undefined;
        const inputs = { rotation, positions, cursors: cache?.cursors, norm };
        ropeForward(program, inputs, { qkv, qk }, { T, heads, keyHeads });
      }
      const projection = `h.${i}.attn.c_proj`;
      if (cache) {
        const inputs = {
          qkv,
          cursors: cache.cursors,
          ...rotatesInDecode ? { rotation, norm } : {},
        };
        const { keys, values } = cache.layers[i]!;
        const isProjected = fused && kernelRows === undefined &&
          heads * config.width <= MOST_PROJECTED &&
          adaptersBeside(model, projection).length === 0 &&
          (!model.quantized || headsOf(config).headSize % 8 === 0);
        if (isProjected) {
          const name = `${projection}.weight`, int8 = model.quantized?.get(name);
          const weight = int8?.values ?? matrixOf(model, name), scales = int8?.scales;
          const bias = biasOf(model, projection), projected = partialSums(heads);
          attentionDecode(
            program,
            { ...inputs, projection: { weight, scales, bias } },
            { keys, values, projected },
            scores,
          );
          return normalize(norms.ln2(i), projected);
        }
        attentionDecode(program, inputs, { keys, values, y }, scores);
      } else {
        attentionForward(
          program,
          { qkv, positions },
          { y, logSumExp: at("attention.logSumExp", i) },
          { T, heads, keyHeads, dropout: dropoutAt(SITE.attention(i), dropout), ...scores },
        );
      }
      return addAndNormalize(projection, y, norms.ln2(i));
    },
    /** stream += mlp(ln); returns its norm. */
    mlp(i: number, ln: Operand): Operand {
      inner(i, ln);
      return addAndNormalize(`h.${i}.mlp.c_proj`, at("activated", i), norms.ln1(i + 1));
    },
  };
}

/** The norm of the heads of q and k in a layer, if the model has one. */
function qkNormOf(model: Gpt, layer: number): QkNorm | undefined {
  const { qkNorm, normEpsilon: epsilon } = withDefaults(model.config);
  if (!qkNorm) return undefined;
  const [qWeight, kWeight] = ["q", "k"].map((part) =>
    masterOf(model, `h.${layer}.attn.${part}_norm.weight`)
  );
  return { qWeight: qWeight!, kWeight: kWeight!, epsilon };
}

/** What a backward pass reads in addition to the activations of its forward pass. */
export interface BackwardInputs extends Omit<ForwardInputs, "cache"> {
  /** Next tokens, u32 [B·T]; 0xffffffff is ignored. */
  targets: Tensor;
  /** u32 [B·T]: places in `tokens` sorted by token, for `embeddingBackward()`. */
  order: Tensor;
  /** u32 [B·T]: places sorted by position; needed with `positions` if the model learns an embedding of positions. */
  positionOrder?: Tensor | undefined;
  /** f32 [3] of `prepareStep()`, of which this pass reads the second: 1 / number of targets. */
  stepInputs: Tensor;
  /** f32 [1]: the loss scale. */
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
  { tokens, positions, targets, order, positionOrder, stepInputs, lossScale }: BackwardInputs,
  activations: Activations,
  gradients: Arena,
  { dropout, labelSmoothing = 0, accumulate = false }: {
    dropout?: DropoutOption;
    labelSmoothing?: number;
    accumulate?: boolean;
  } = {},
): void {
  const { at, sequenceLength: T } = activations;
  const { config, rotation } = model, { layers } = config;
  const { heads, keyHeads, activation, gatedMlp } = withDefaults(config);
  const gradient = (name: string) => gradients.tensors.get(name); // undefined if it is frozen
  const norms = normsOf(config, activations), first = firstTrainedBlock(model);

  const linear = (
    name: string,
    inputs: { x: Tensor; dy: Tensor },
    dx: Tensor,
    options: { epilogue?: BackwardEpilogue; accumulateDx?: boolean } = {},
  ) =>
    linearLayerBackward(
      program,
      model,
      name,
      { ...inputs, low: ({ module, layer }) => at(`${module.name} low`, layer) },
      { dx, dlow: () => at("dlow") },
      { gradients, accumulate, ...options },
    );
  const dx = at("dx"); // [M,C], gradient of the residual stream
  /**
   * Adds the gradient of a norm's input, computed from `dln`, to dx, and sets dz to that of the addend
   * before the norm.
   */
  const normalizeBackward = ({ name, x, statistics, site }: Norm, dz?: Tensor) =>
    normBackward(program, model, name, { x, statistics, dy: at("dln") }, { dx, dz }, {
      gradients,
      accumulate,
      accumulateDx: name !== "ln_f",
      dropout: dropoutAt(site, dropout),
    });

  const parts = forwardParts(program, model, activations, { positions, dropout });
  /** Computes again what the activations have not kept of the forward pass of a block. */
  const recompute = (i: number) => {
    if (activations.recompute === "none") return;
    const ln = activations.recompute === "block"
      ? parts.attention(i, parts.normalize(norms.ln1(i)))
      : parts.normalize(norms.ln2(i));
    parts.inner(i, ln);
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
    if (i < layers - 1) recompute(i); // what the last block has computed is still there

    // stream += mlp(ln)
    const x = at("ln2", i), hidden = at("hidden", i), activated = at("activated", i);
    const dhidden = at("dhidden"), dz = at("dprojected");
    normalizeBackward(norms.ln1(i + 1), dz);
    if (gatedMlp) {
      const gate = at("gate", i), dgate = at("dgate");
      linear(`h.${i}.mlp.c_proj`, { x: activated, dy: dz }, dhidden, {
        epilogue: { kind: "gatedBackward", activation, gate, up: hidden, dgate },
      });
      linear(`h.${i}.mlp.c_fc`, { x, dy: dhidden }, at("dln"));
      linear(`h.${i}.mlp.c_gate`, { x, dy: dgate }, at("dln"), { accumulateDx: true });
    } else {
      linear(`h.${i}.mlp.c_proj`, { x: activated, dy: dz }, dhidden, {
        epilogue: { kind: "backward", activation, hidden },
      });
      linear(`h.${i}.mlp.c_fc`, { x, dy: dhidden }, at("dln"));
    }

    // stream += attention(ln)
    const qkv = at("qkv", i), y = at("attention", i);
    normalizeBackward(norms.ln2(i), dz);
    linear(`h.${i}.attn.c_proj`, { x: y, dy: dz }, at("dattention"));
    const dqkv = at("dqkv"), scores = attentionOf(config, i);
    attentionBackward(
      program,
      { qkv, positions, y, dy: at("dattention"), logSumExp: at("attention.logSumExp", i) },
      { dqkv, delta: at("attention.delta") },
      { T, heads, keyHeads, dropout: dropoutAt(SITE.attention(i), dropout), ...scores },
    );
    if (rotation) {
      const norm = qkNormOf(model, i), qk = norm && at("qk", i);
      const dqWeight = gradient(`h.${i}.attn.q_norm.weight`);
      const dkWeight = gradient(`h.${i}.attn.k_norm.weight`);
      const inputs = { rotation, positions, norm, qk };
      ropeBackward(program, inputs, { dqkv, dqWeight, dkWeight }, {
        T,
        heads,
        keyHeads,
        accumulate,
      });
    }
    linear(`h.${i}.attn.c_attn`, { x: at("ln1", i), dy: dqkv }, at("dln"));
  }
  normalizeBackward(norms.ln1(first));

  const dwte = gradient("wte.weight"), dwpe = gradient("wpe.weight");
  if (!dwte) return;
  const dembedded = dropout ? at("dembedded") : dx;
  const drop = dropoutAt(SITE.embedding, dropout);
  if (drop) dropoutBackward(program, { dy: dx }, { dx: dembedded }, drop);
  const zero = (y: Tensor) =>
    fillNormal(program, { y }, { mean: 0, deviation: 0, seed: 0, stream: 0 });
  // embeddingBackward() adds to dwte: it holds the head's gradient if they share the matrix, else zeros
  if (config.ownHead && !accumulate) zero(dwte);
  const dy = dembedded, sums = positions ? { dwte } : { dwte, dwpe };
  embeddingBackward(program, { tokens, order, dy }, sums, { T, accumulate });
  if (!positions || !dwpe) return;
  if (!accumulate) zero(dwpe);
  const byPosition = { tokens: positions, order: positionOrder!, dy };
  embeddingBackward(program, byPosition, { dwte: dwpe }, { T });
}
