import { printable } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { type GptConfig, innerWidthOf, type LoraConfig } from "./config.ts";

/** One parameter of the model: a row of the table that `parameterTable()` returns. */
export interface ParameterSpec {
  /** Hugging Face's GPT-2 name, without the prefix `transformer.`. */
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
  /** Whether AdamW's weight decay applies: matrices and embeddings, not biases and layer-norms. */
  readonly decayed: boolean;
  /** Whether it has a gradient, moments and updates; otherwise it keeps its loaded values. */
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
  const { vocabularySize: V, contextLength: maxT, width: C, layers, ownHead, lora } = config;
  const F = innerWidthOf(config), isGpt2 = config.family !== "gpt_neo";
  const deviation = initialDeviation(C);
  const normal = { mean: 0, deviation };
  const residual = { mean: 0, deviation: deviation / Math.sqrt(2 * layers) };

  type Row = Pick<ParameterSpec, "name" | "shape" | "initial" | "decayed">;
  const matrix = (name: string, shape: number[], initial: Row["initial"] = normal): Row => (
    { name, shape, initial, decayed: true }
  );
  const vector = (name: string, length: number, mean = 0): Row => (
    { name, shape: [length], initial: { mean, deviation: 0 }, decayed: false }
  );

  const rows = [matrix("wte.weight", [V, C]), matrix("wpe.weight", [maxT, C])];
  for (let i = 0; i < layers; i++) {
    rows.push(
      vector(`h.${i}.ln_1.weight`, C, 1),
      vector(`h.${i}.ln_1.bias`, C),
      matrix(`h.${i}.attn.c_attn.weight`, [C, 3 * C]),
      ...(isGpt2 ? [vector(`h.${i}.attn.c_attn.bias`, 3 * C)] : []),
      matrix(`h.${i}.attn.c_proj.weight`, [C, C], residual),
      vector(`h.${i}.attn.c_proj.bias`, C),
      vector(`h.${i}.ln_2.weight`, C, 1),
      vector(`h.${i}.ln_2.bias`, C),
      matrix(`h.${i}.mlp.c_fc.weight`, [C, F]),
      vector(`h.${i}.mlp.c_fc.bias`, F),
      matrix(`h.${i}.mlp.c_proj.weight`, [F, C], residual),
      vector(`h.${i}.mlp.c_proj.bias`, C),
    );
  }
  rows.push(vector("ln_f.weight", C, 1), vector("ln_f.bias", C));
  if (ownHead) rows.push(matrix("lm_head.weight", [V, C]));

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

/**
 * The first block with a trained parameter, at which the backward pass ends: 0 if the embeddings are
 * trained, the number of blocks if neither they nor any block is.
 */
export function firstTrainedBlock(
  { config, table }: { config: GptConfig; table: readonly ParameterSpec[] },
): number {
  let first = config.layers;
  for (const { name, trained } of table) {
    const [, block] = /^h\.(\d+)\./.exec(name) ?? [];
    if (!trained) continue;
    if (block !== undefined) first = Math.min(first, Number(block));
    else if (name.startsWith("wpe.")) first = 0;
  }
  return first;
}

/**
 * A linear layer of Hugging Face's model. Its GPT-Neo has separate layers for queries, keys and values,
 * which are columns of one matrix in GPT-2 and in this model.
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
}

/** The linear layers of a block. */
export function linearModules(config: GptConfig): LinearModule[] {
  const { width: C } = config, F = innerWidthOf(config);
  const module = (
    name: string,
    [inputs, outputs]: [number, number],
    parameter = name,
    firstColumn = 0,
  ): LinearModule => ({ name, parameter, firstColumn, inputs, outputs });
  return [
    ...(config.family === "gpt_neo"
      ? [
        ...["q", "k", "v"].map((part, i) =>
          module(`attn.attention.${part}_proj`, [C, C], "attn.c_attn", i * C)
        ),
        module("attn.attention.out_proj", [C, C], "attn.c_proj"),
      ]
      : [module("attn.c_attn", [C, 3 * C]), module("attn.c_proj", [C, C])]),
    module("mlp.c_fc", [C, F]),
    module("mlp.c_proj", [F, C]),
  ];
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
 * blocks by number, the last layer-norm, and `head` if the head has a separate matrix.
 *
 * @returns a function that says whether the parameter of a name is frozen.
 * @throws {UserError} if the model has no such part.
 */
export function parseFreeze(
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
  let count = 0;
  for (const { shape } of parameterTable(config)) count += shape.reduce((a, b) => a * b, 1);
  return count;
}
