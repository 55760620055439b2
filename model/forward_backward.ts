import type { Arena } from "../kernels/arena.ts";
import { attentionBackward, attentionForward } from "../kernels/attention/attention.ts";
import { attentionDecode } from "../kernels/attention/decode.ts";
import { dropoutBackward, dropoutForward } from "../kernels/dropout/dropout.ts";
import { embeddingDecode } from "../kernels/embedding/decode.ts";
import { embeddingBackward, embeddingForward } from "../kernels/embedding/embedding.ts";
import type { BackwardEpilogue, ForwardEpilogue } from "../kernels/matmul/matmul.ts";
import { fillNormal } from "../kernels/normal/normal.ts";
import type { Program } from "../kernels/program.ts";
import type { Dropout } from "../kernels/random.ts";
import { type QkNorm, ropeBackward, ropeForward } from "../kernels/rope/rope.ts";
import type { Tensor } from "../kernels/tensor.ts";
import type { Activations } from "./activations.ts";
import { attentionOf, type GptConfig, withDefaults } from "./config.ts";
import { type Gpt, headName, headOf, masterOf } from "./gpt.ts";
import { headLossBackward } from "./head.ts";
import { gatedLayersForward, linearLayerBackward, linearLayerForward, lowIn } from "./linear.ts";
import { normBackward } from "./norm.ts";
import { firstTrainedBlock } from "./parameters.ts";
import { type Norm, type Operand, ResidualStream } from "./residual_stream.ts";

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

/** The norms of a model. Each of these functions takes the number of a block. */
interface Norms {
  /** Before the block's attention; after the last block `ln_f`. */
  ln1(block: number): Norm;
  /** Before the block's MLP. */
  ln2(block: number): Norm;
}

function normsOf({ layers }: GptConfig, { at }: Activations, dropout: DropoutOption): Norms {
  const norm = (name: string, activation: string, layer?: number) => ({
    name,
    y: at(activation, layer),
    statistics: at(`${activation}.statistics`, layer),
  });
  return {
    ln1: (i) => ({
      ...(i < layers ? norm(`h.${i}.ln_1`, "ln1", i) : norm("ln_f", "lnf")),
      x: i === 0 ? at("x") : at("out", i - 1),
      dropout: i === 0 ? undefined : dropoutAt(SITE.mlp(i - 1), dropout),
    }),
    ln2: (i) => ({
      ...norm(`h.${i}.ln_2`, "ln2", i),
      x: at("middle", i),
      dropout: dropoutAt(SITE.projection(i), dropout),
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
  let ln = parts.normalize(normsOf(config, activations, dropout).ln1(0));
  for (let i = 0; i < config.layers; i++) {
    ln = parts.attention(i, ln);
    ln = parts.mlp(i, ln);
  }
  return ln;
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
  const { at, sequenceLength: T, purpose } = activations, { config, rotation } = model;
  const { heads, keyHeads, activation, gatedMlp } = withDefaults(config);
  const norms = normsOf(config, activations, dropout), low = lowIn(activations);
  const stream = new ResidualStream(program, model, activations, {
    hasCache: cache !== undefined,
    kernelRows,
  });
  const linear = (name: string, { x, ...how }: Operand, y: Tensor, epilogue?: ForwardEpilogue) =>
    linearLayerForward(program, model, name, { x }, { y, low }, { ...how, epilogue });

  /** What the MLP computes of ln between its matrices. */
  const inner = (i: number, ln: Operand) => {
    const hidden = at("hidden", i), activated = at("activated", i);
    if (gatedMlp) {
      const { x, ...how } = ln, outputs = { gate: at("gate", i), up: hidden, activated, low };
      gatedLayersForward(program, model, i, { x }, outputs, { activation, ...how });
    } else {
      linear(`h.${i}.mlp.c_fc`, ln, hidden, { kind: "forward", activation, activated });
    }
  };
  return {
    normalize: (norm: Norm) => stream.normalize(norm),
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
      const projection = `h.${i}.attn.c_proj`, ln2 = norms.ln2(i);
      if (!cache) {
        attentionForward(
          program,
          { qkv, positions },
          { y, logSumExp: at("attention.logSumExp", i) },
          { T, heads, keyHeads, dropout: dropoutAt(SITE.attention(i), dropout), ...scores },
        );
        return stream.add(projection, y, ln2);
      }
      const { cursors } = cache, { keys, values } = cache.layers[i]!;
      const inputs = { qkv, cursors, ...(rotatesInDecode ? { rotation, norm } : {}) };
      const fused = stream.projectionInAttention(projection);
      if (fused) {
        const { projection, sums: projected } = fused;
        attentionDecode(
          program,
          { ...inputs, projection },
          { keys, values, projected },
          { ...scores, kernelRows },
        );
        return stream.normalize(ln2, projected);
      }
      attentionDecode(program, inputs, { keys, values, y }, { ...scores, kernelRows });
      return stream.add(projection, y, ln2);
    },
    /** stream += mlp(ln); returns its norm. */
    mlp(i: number, ln: Operand): Operand {
      inner(i, ln);
      return stream.add(`h.${i}.mlp.c_proj`, at("activated", i), norms.ln1(i + 1));
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
  const norms = normsOf(config, activations, dropout), first = firstTrainedBlock(model);

  const linear = (
    name: string,
    inputs: { x: Tensor; dy: Tensor },
    dx: Tensor,
    options: { epilogue?: BackwardEpilogue; accumulateDx?: boolean; dbias?: boolean } = {},
  ) =>
    linearLayerBackward(
      program,
      model,
      name,
      { ...inputs, low: lowIn(activations) },
      { dx, dlow: () => at("dlow") },
      { gradients, accumulate, ...options },
    );
  const dx = at("dx"); // [M,C], gradient of the residual stream
  /**
   * Adds the gradient of a norm's input, computed from `dln`, to dx, and sets dz to that of the output of `layer`, the
   * linear layer before the norm. The norm sums the rows of dz, too, which is the gradient of the layer's bias.
   */
  const normalizeBackward = (
    { name, x, statistics, dropout }: Norm,
    before?: { layer: string; dz: Tensor },
  ) =>
    normBackward(program, model, name, { x, statistics, dy: at("dln") }, {
      dx,
      dz: before?.dz,
      dzBias: before && gradient(`${before.layer}.bias`),
    }, {
      gradients,
      accumulate,
      accumulateDx: name !== "ln_f",
      dropout,
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
    const down = `h.${i}.mlp.c_proj`;
    normalizeBackward(norms.ln1(i + 1), { layer: down, dz });
    if (gatedMlp) {
      const gate = at("gate", i), dgate = at("dgate");
      linear(down, { x: activated, dy: dz }, dhidden, {
        dbias: false,
        epilogue: { kind: "gatedBackward", activation, gate, up: hidden, dgate },
      });
      linear(`h.${i}.mlp.c_fc`, { x, dy: dhidden }, at("dln"));
      linear(`h.${i}.mlp.c_gate`, { x, dy: dgate }, at("dln"), { accumulateDx: true });
    } else {
      linear(down, { x: activated, dy: dz }, dhidden, {
        dbias: false,
        epilogue: { kind: "backward", activation, hidden },
      });
      linear(`h.${i}.mlp.c_fc`, { x, dy: dhidden }, at("dln"));
    }

    // stream += attention(ln)
    const qkv = at("qkv", i), y = at("attention", i);
    const projection = `h.${i}.attn.c_proj`;
    normalizeBackward(norms.ln2(i), { layer: projection, dz });
    linear(projection, { x: y, dy: dz }, at("dattention"), { dbias: false });
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
