import { printable } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { type Family, type GptConfig, headsOf, type LoraConfig, withDefaults } from "./config.ts";

/** One parameter of the model: a row of the table that `parameterTable()` returns. */
export interface ParameterSpec {
  /**
   * Hugging Face's GPT-2 name without the prefix `transformer.`, for every family; GPT-2 has no `mlp.c_gate`,
   * `attn.q_norm` and `attn.k_norm`.
   */
  readonly name: string;
  /** Dimensions; linear weights are [inputs, outputs], as in Hugging Face's Conv1D. */
  readonly shape: readonly number[];
  /** Distribution of the initial values, normal or uniform; the mean if the deviation is 0. */
  readonly initial: {
    readonly mean: number;
    readonly deviation: number;
    readonly uniform?: boolean;
  };
  /** Number of the random stream of its initial values; each parameter has a different one. */
  readonly stream: number;
  /** Whether AdamW's weight decay applies: matrices and embeddings, not biases and norms. */
  readonly decayed: boolean;
  /** Whether it has a gradient, state of the optimizer and updates; otherwise it keeps its loaded values. */
  readonly trained: boolean;
}

/**
 * Standard deviation of GPT-2's initial weights (Radford et al. 2019, openai/gpt-2), which are 768 wide.
 * Narrower models start with larger weights, so that the outputs of a matrix are as large as in GPT-2: with
 * 0.02 at width 64 all attention scores begin near zero, and heads that copy earlier tokens form late or
 * never.
 */
function initialDeviation(width: number): number {
  return 0.02 * Math.sqrt(768 / width);
}

/**
 * All parameters of a model in groups, so that each is contiguous in an arena: trained before frozen
 * parameters, and in both decayed before other parameters.
 *
 * Projections onto the residual stream start smaller by 1/√(2 · layers), so that its variance does not grow
 * with depth (Radford et al. 2019, section 2.3). Adapters start as in PEFT: A uniform in ±1 / √inputs, B
 * zero, so that they add nothing at first.
 *
 * @param freeze parts that are not trained, in the syntax of `parseFreeze()`; if there are adapters, only
 * these are trained.
 * @throws {UserError} if the model has no such part, or no layer that the adapters name.
 */
export function parameterTable(config: GptConfig, freeze = ""): ParameterSpec[] {
  const complete = withDefaults(config);
  const { vocabularySize: V, contextLength: maxT, width: C, layers, lora } = complete;
  const { qkvBias, projectionBias, mlpBias, headSize: HS } = complete;
  const deviation = initialDeviation(C);
  type Row = Pick<ParameterSpec, "name" | "shape" | "initial" | "decayed">;
  const normal: Row["initial"] = { mean: 0, deviation };
  const residual = { mean: 0, deviation: deviation / Math.sqrt(2 * layers) };

  const matrix = (name: string, shape: readonly number[], initial = normal): Row => (
    { name, shape, initial, decayed: true }
  );
  const vector = (name: string, length: number, mean = 0): Row => (
    { name, shape: [length], initial: { mean, deviation: 0 }, decayed: false }
  );
  const norm = (name: string): Row[] => [
    vector(`${name}.weight`, C, 1),
    ...(complete.norm === "layernorm" ? [vector(`${name}.bias`, C)] : []),
  ];
  const shapes = linearShapes(config);
  const linear = (name: string, block: string, hasBias: boolean, initial = normal): Row[] => {
    const shape = shapes.get(name);
    return shape === undefined ? [] : [
      matrix(`${block}.${name}.weight`, shape, initial),
      ...(hasBias ? [vector(`${block}.${name}.bias`, shape[1])] : []),
    ];
  };

  const rows = [matrix("wte.weight", [V, C])];
  if (complete.positions === "learned") rows.push(matrix("wpe.weight", [maxT, C]));
  for (let i = 0; i < layers; i++) {
    const block = `h.${i}`;
    rows.push(
      ...norm(`${block}.ln_1`),
      ...linear("attn.c_attn", block, qkvBias),
      ...(complete.qkNorm
        ? ["q", "k"].map((part) => vector(`${block}.attn.${part}_norm.weight`, HS, 1))
        : []),
      ...linear("attn.c_proj", block, projectionBias, residual),
      ...norm(`${block}.ln_2`),
      ...linear("mlp.c_gate", block, mlpBias),
      ...linear("mlp.c_fc", block, mlpBias),
      ...linear("mlp.c_proj", block, mlpBias, residual),
    );
  }
  rows.push(...norm("ln_f"));
  if (complete.ownHead) rows.push(matrix("lm_head.weight", [V, C]));

  const adapters = adaptersOf(config).flatMap(({ module, A, B }) => [
    matrix(A, [lora!.rank, module.inputs], {
      mean: 0,
      deviation: 1 / Math.sqrt(3 * module.inputs),
      uniform: true,
    }),
    matrix(B, [module.outputs, lora!.rank], { mean: 0, deviation: 0 }),
  ]);
  const isFrozen = parseFreeze(freeze, config);
  const decayedFirst = [...rows.filter((p) => p.decayed), ...rows.filter((p) => !p.decayed)];
  const table = [
    ...decayedFirst.map((row) => ({ ...row, trained: !lora && !isFrozen(row.name) })),
    ...adapters.map((row) => ({ ...row, trained: true })),
  ].map((row, stream) => ({ ...row, stream }));
  return [...table.filter((p) => p.trained), ...table.filter((p) => !p.trained && p.decayed)]
    .concat(table.filter((p) => !p.trained && !p.decayed));
}

/** The number of the block to which a parameter belongs; undefined if it belongs to none. */
export function blockOf(name: string): number | undefined {
  const [, block] = /^h\.(\d+)\./.exec(name) ?? [];
  return block === undefined ? undefined : Number(block);
}

/**
 * The first block with a trained parameter, at which the backward pass ends: 0 if the embeddings are
 * trained, the number of blocks if neither they nor any block is.
 */
export function firstTrainedBlock(
  { config, table }: { config: GptConfig; table: readonly ParameterSpec[] },
): number {
  let first = config.layers;
  for (const { name, trained } of table) {
    if (!trained) continue;
    const block = blockOf(name);
    if (block !== undefined) first = Math.min(first, block);
    else if (name.startsWith("wte.")) first = 0;
  }
  return first;
}

/**
 * Shapes of the linear layers of a block, [inputs, outputs], by the names of their parameters. The columns of
 * `attn.c_attn` are those of all query heads, then of the key heads, then of the heads of values.
 */
export function linearShapes(config: GptConfig): Map<string, readonly [number, number]> {
  const { width: C, innerWidth: F, heads: NH, keyHeads: KH, headSize: HS, gatedMlp } = withDefaults(
    config,
  );
  return new Map<string, readonly [number, number]>([
    ["attn.c_attn", [C, (NH + 2 * KH) * HS]],
    ["attn.c_proj", [NH * HS, C]],
    ...(gatedMlp ? [["mlp.c_gate", [C, F]] as const] : []),
    ["mlp.c_fc", [C, F]],
    ["mlp.c_proj", [F, C]],
  ]);
}

/**
 * A linear layer of Hugging Face's model. There GPT-Neo and Llama have separate layers for queries, keys and values,
 * which are columns of one matrix in the other families and in this model.
 */
export interface LinearModule {
  /** Its name within a block. */
  readonly name: string;
  /** Name within a block of the parameter that holds its weights, without `.weight`. */
  readonly parameter: string;
  /** Its first column in that parameter. */
  readonly firstColumn: number;
  readonly inputs: number;
  readonly outputs: number;
  /**
   * Number of heads, if its outputs in files are q, k and v of the first head, then those of the next; in the parameter,
   * and in adapters here, all q precede all k, and these all v.
   */
  readonly interleavedHeads?: number;
}

/** Names of the linear layers within a block, by the names of their parameters; several have the columns of one. */
const MODULES: Readonly<Record<Family, Readonly<Record<string, readonly string[]>>>> = {
  gpt2: {},
  gpt_neo: {
    "attn.c_attn": ["q_proj", "k_proj", "v_proj"].map((name) => `attn.attention.${name}`),
    "attn.c_proj": ["attn.attention.out_proj"],
  },
  gpt_neox: {
    "attn.c_attn": ["attention.query_key_value"],
    "attn.c_proj": ["attention.dense"],
    "mlp.c_fc": ["mlp.dense_h_to_4h"],
    "mlp.c_proj": ["mlp.dense_4h_to_h"],
  },
  llama: {
    "attn.c_attn": ["q_proj", "k_proj", "v_proj"].map((name) => `self_attn.${name}`),
    "attn.c_proj": ["self_attn.o_proj"],
    "mlp.c_gate": ["mlp.gate_proj"],
    "mlp.c_fc": ["mlp.up_proj"],
    "mlp.c_proj": ["mlp.down_proj"],
  },
};

/** The columns of q, of k and of v in `attn.c_attn`, and in the activation that it computes. */
function qkvColumns(
  config: GptConfig,
): Readonly<Record<"q" | "k" | "v", { readonly first: number; readonly count: number }>> {
  const { heads: NH, keyHeads: KH, headSize: HS } = headsOf(config);
  return {
    q: { first: 0, count: NH * HS },
    k: { first: NH * HS, count: KH * HS },
    v: { first: (NH + KH) * HS, count: KH * HS },
  };
}

/** The linear layers of a block. */
export function linearModules(config: GptConfig): LinearModule[] {
  const { family = "gpt2" } = config, parts = Object.values(qkvColumns(config));
  const { heads, keyHeads } = headsOf(config);
  // heads of queries that share keys and values have no place among them
  const isInterleaved = family === "gpt_neox" && keyHeads === heads;
  return Array.from(linearShapes(config), ([parameter, [inputs, outputs]]): LinearModule[] => {
    const names = MODULES[family][parameter] ?? [parameter];
    const columns = names.length === 1 ? [{ first: 0, count: outputs }] : parts;
    return names.map((name, i) => {
      const { first: firstColumn, count } = columns[i]!;
      return {
        name,
        parameter,
        firstColumn,
        inputs,
        outputs: count,
        ...(isInterleaved && parameter === "attn.c_attn" ? { interleavedHeads: heads } : {}),
      };
    });
  }).flat();
}

/** The matrices of a block: its linear layers with q, k and v apart, whatever the family. */
export function blockMatrices(config: GptConfig): LinearModule[] {
  return linearModules({ ...withDefaults(config), family: "llama" });
}

/** An adapter: the linear layer that it adapts, and the names of its parameters. */
export interface Adapter {
  readonly module: LinearModule;
  /** Number of its block. */
  readonly layer: number;
  /** Name of A, [r,inputs]. */
  readonly A: string;
  /** Name of B, [outputs,r]. */
  readonly B: string;
}

/** One adapter for every linear layer of a model, block by block. */
export function allAdapters(config: GptConfig): Adapter[] {
  const modules = linearModules(config);
  return Array.from({ length: config.layers }, (_, layer) =>
    modules.map((module) => {
      const name = `h.${layer}.${module.name}`;
      return { module, layer, A: `${name}.lora_A.weight`, B: `${name}.lora_B.weight` };
    })).flat();
}

/**
 * Checks rank and alpha of adapters.
 *
 * @throws {UserError} if rank or alpha is out of range.
 */
export function validateLora({ rank, alpha }: Pick<LoraConfig, "rank" | "alpha">): void {
  if (!Number.isInteger(rank) || rank < 1 || rank > 1024) {
    throw new UserError(
      `Cannot build adapters as their rank must be an integer from 1 to 1024: ` +
        `current value is ${printable(String(rank))}`,
    );
  }
  if (!(alpha > 0 && Number.isFinite(alpha))) {
    throw new UserError(
      `Cannot build adapters as alpha must be a number above 0: ` +
        `current value is ${printable(String(alpha))}`,
    );
  }
}

/**
 * The adapters of a model, block by block.
 *
 * @throws {UserError} if rank or alpha is out of range, or if a target is no linear layer.
 */
export function adaptersOf(config: GptConfig): Adapter[] {
  const { lora } = config;
  if (!lora) return [];
  validateLora(lora);
  const { targets } = lora;
  const isMeant = ({ name }: LinearModule, target: string) => `.${name}`.endsWith(`.${target}`);
  const all = allAdapters(config);
  checkTargets(config, targets, (target) => all.some(({ module }) => isMeant(module, target)));
  return all.filter(({ module }) => targets.some((target) => isMeant(module, target)));
}

/**
 * Checks that there are targets, and that each names a linear layer.
 *
 * @throws {UserError} with the targets that name none.
 */
export function checkTargets(
  config: GptConfig,
  targets: readonly string[],
  isTarget: (target: string) => boolean,
): void {
  const unknown = targets.filter((target) => !isTarget(target));
  if (unknown.length === 0 && targets.length > 0) return;
  throw new UserError(
    `Cannot build adapters as their targets must be linear layers of the model, which are ` +
      `${linearModules(config).map(({ name }) => name).join(", ")}: current targets are ` +
      (printable(unknown.join(", ")) || "none"),
  );
}

/** Name of the weight to whose product an adapter adds. */
export function weightBeside({ layer, module }: Adapter): string {
  return `h.${layer}.${module.parameter}.weight`;
}

/**
 * Parses a list of parts to freeze, such as `embeddings,0-3,final-norm`: token and position embedding,
 * blocks by number, the last norm, and `head` if the head has a separate matrix.
 *
 * @returns a function that says whether the parameter of a name is frozen.
 * @throws {UserError} if the model has no such part.
 */
function parseFreeze(
  freeze: string,
  { layers, ownHead }: Pick<GptConfig, "layers" | "ownHead">,
): (name: string) => boolean {
  const beginnings: string[] = [];
  for (const part of freeze === "" ? [] : freeze.split(",")) {
    const [, first, last = first] = /^(\d+)(?:-(\d+))?$/.exec(part) ?? [];
    if (part === "embeddings") beginnings.push("wte.", "wpe.");
    else if (part === "final-norm") beginnings.push("ln_f.");
    else if (part === "head" && ownHead) beginnings.push("lm_head.");
    else if (first !== undefined && Number(first) <= Number(last) && Number(last) < layers) {
      for (let i = Number(first); i <= Number(last); i++) beginnings.push(`h.${i}.`);
    } else {
      throw new UserError(
        `Cannot freeze ${JSON.stringify(part)} as --freeze must name embeddings, final-norm, ` +
          (ownHead ? "head, " : "") + `or blocks, 0-${layers - 1} or some of them: ` +
          `current value is ${JSON.stringify(freeze)}` +
          (part === "head" ? "; the head of this model is the token embedding" : ""),
      );
    }
  }
  return (name) => beginnings.some((beginning) => name.startsWith(beginning));
}

/** Number of elements of all parameters of a model. */
export function countParameters(config: GptConfig): number {
  return elementsOf(parameterTable(config));
}

/** Number of elements of the parameters of a model's blocks: without embeddings, last norm and head. */
export function countBlockParameters(config: GptConfig): number {
  return elementsOf(parameterTable(config).filter(({ name }) => name.startsWith("h.")));
}

function elementsOf(table: readonly ParameterSpec[]): number {
  return table.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
}
