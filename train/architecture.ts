import { type GptConfig, withoutDefaults } from "../model/config.ts";
import type { OptionName, ResolvedOptions, TrainOptions } from "./options.ts";

/**
 * The architectures of new models: the options that make them up, and the configuration that follows.
 *
 * @module
 */

/** The options that are parts of an architecture. */
type Part = "norm" | "positions" | "mlp" | "biases" | "qkNorm" | "zeroInit";

/** The values of these options. */
export type Architecture = { readonly [Name in Part]: NonNullable<TrainOptions[Name]> };

/** Names of architectures. */
type ArchitectureName = NonNullable<TrainOptions["arch"]>;

/**
 * Architectures by name. `neox` is GPT-2's with the rotary positions of GPT-NeoX (Black et al. 2022,
 * https://arxiv.org/abs/2204.06745), which rotate all components of a head here. `llama` is that of Llama 2 (Touvron et al.
 * 2023, https://arxiv.org/abs/2307.09288), except that its head shares the token embedding. `modern` has what
 * https://github.com/karpathy/nanochat and https://github.com/KellerJordan/modded-nanogpt found to train faster.
 */
export const ARCHITECTURES: Readonly<Record<ArchitectureName, Architecture>> = {
  gpt2: {
    norm: "layernorm",
    positions: "learned",
    mlp: "gelu",
    biases: "on",
    qkNorm: "off",
    zeroInit: "off",
  },
  neox: {
    norm: "layernorm",
    positions: "rotary",
    mlp: "gelu",
    biases: "on",
    qkNorm: "off",
    zeroInit: "off",
  },
  llama: {
    norm: "rmsnorm",
    positions: "rotary",
    mlp: "swiglu",
    biases: "off",
    qkNorm: "off",
    zeroInit: "off",
  },
  modern: {
    norm: "rmsnorm",
    positions: "rotary",
    mlp: "relu2",
    biases: "off",
    qkNorm: "on",
    zeroInit: "on",
  },
};

/**
 * The architecture of a new model for which none is given: the one that learned best at small sizes, see
 * docs/recipes.md.
 */
export const DEFAULT_ARCHITECTURE: Architecture & { readonly arch: ArchitectureName } = {
  arch: "neox",
  ...ARCHITECTURES.neox,
};

/** The architecture of models whose checkpoints name none, as those of earlier versions. */
export const EARLIER_ARCHITECTURE: typeof DEFAULT_ARCHITECTURE = {
  arch: "gpt2",
  ...ARCHITECTURES.gpt2,
};

/** Kinds of an MLP, as fields of the configuration. */
const MLPS = {
  gelu: { activation: "gelu_new", gatedMlp: false },
  swiglu: { activation: "silu", gatedMlp: true },
  relu2: { activation: "relu2", gatedMlp: false },
} as const;

/**
 * The default of `arch`, and of an option that is part of an architecture, for `--help`:
 * `gpt2, neox: layernorm; llama, modern: rmsnorm`; undefined for all other options.
 */
export function defaultByArchitecture(name: OptionName): string | undefined {
  if (name === "arch") return DEFAULT_ARCHITECTURE.arch;
  if (!Object.hasOwn(ARCHITECTURES.gpt2, name)) return undefined;
  const byWord = Map.groupBy(Object.entries(ARCHITECTURES), ([, parts]) => parts[name as Part]);
  const named = (list: [name: string, parts: Architecture][]) => list.map(([name]) => name);
  return Array.from(byWord, ([word, list]) => `${named(list).join(", ")}: ${word}`).join("; ");
}

/** The parts that options name, the others by `arch`, and if that is not given either, by default. */
export function partsOf<Known extends { readonly [Name in Part]?: TrainOptions[Name] }>(
  options: Partial<TrainOptions>,
  defaults: Known,
): Pick<Known, Part> {
  const parts = options.arch === undefined ? defaults : ARCHITECTURES[options.arch];
  const chosen = (Object.keys(ARCHITECTURES.gpt2) as Part[])
    .map((part) => [part, options[part] ?? parts[part]] as const)
    .filter(([, word]) => word !== undefined);
  return Object.fromEntries(chosen) as Pick<Known, Part>;
}

/** What determines the configuration of a new model. */
export type ModelOptions =
  & Pick<ResolvedOptions, "contextLength" | "layers" | "width" | "heads" | "kvHeads" | "headSize">
  & Pick<ResolvedOptions, "hidden">
  & Partial<Pick<ResolvedOptions, keyof Architecture | "windows" | "rotaryBase">>
  & { readonly vocabularySize: number };

/** The configuration of a model with random parameters. */
export function newModel(
  { layers, width, heads, kvHeads, headSize, hidden, contextLength, vocabularySize, ...options }:
    ModelOptions,
): GptConfig {
  const { windows, rotaryBase } = options;
  const { norm, positions, mlp, biases, qkNorm } = partsOf(options, DEFAULT_ARCHITECTURE);
  const hasBiases = biases === "on";
  return withoutDefaults({
    layers,
    width,
    heads,
    keyHeads: kvHeads,
    headSize,
    innerWidth: hidden,
    contextLength,
    vocabularySize,
    // the family whose names and defaults fit best
    family: positions === "learned" ? "gpt2" : norm === "rmsnorm" ? "llama" : "gpt_neox",
    norm,
    positions,
    ...MLPS[mlp],
    qkvBias: hasBiases,
    projectionBias: hasBiases,
    mlpBias: hasBiases,
    qkNorm: qkNorm === "on",
    ...(rotaryBase === undefined ? {} : { rotaryBase }),
    ...(windows === undefined ? {} : { attentionWindows: windowsOf(windows, layers) }),
  });
}

/** Whether the MLP of an architecture is gated. */
export function isGated({ mlp = "gelu" }: Partial<Pick<TrainOptions, "mlp">>): boolean {
  return MLPS[mlp].gatedMlp;
}

/** The window of each layer: those of a list such as `0,256`, over and over. */
function windowsOf(windows: string, layers: number): number[] {
  const list = windows.split(",").map(Number);
  return Array.from({ length: layers }, (_, layer) => list[layer % list.length]!);
}
