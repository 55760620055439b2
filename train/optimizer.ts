import { adamw, adamwCorrections } from "../kernels/adamw/adamw.ts";
import { type Arena, arenaRange, createArena, elementOffset } from "../kernels/arena.ts";
import { muon } from "../kernels/muon/muon.ts";
import type { Program } from "../kernels/program.ts";
import { createTensor, size, type Tensor, upload, viewTensor } from "../kernels/tensor.ts";
import type { Gpt } from "../model/gpt.ts";
import { isAdapter } from "../model/files/lora.ts";
import { blockMatrices, blockOf, type ParameterSpec } from "../model/parameters.ts";

/**
 * Optimizers: a table of the parameters that each updates, of its state per parameter, and of its kernels.
 *
 * @module
 */

/** Settings of the optimizer that are the same for all steps of a training. */
export interface OptimizerOptions {
  /** AdamW's decoupled decay of matrices and embeddings; 0.1 by default. */
  readonly weightDecay: number;
  /** Decay of AdamW's first moment; 0.9 by default. */
  readonly beta1: number;
  /** Decay of AdamW's second moment; 0.98 by default. */
  readonly beta2: number;
  /** Decay of Muon's momentum; 0.95 by default. */
  readonly muonMomentum: number;
  /** Muon's decoupled decay; 0.01 by default. */
  readonly muonWeightDecay: number;
}

/** What an optimizer reads and writes on the device. */
interface OptimizerTensors<State extends string, Constants extends string> {
  /** Of all trained parameters, with the loss scale. */
  readonly gradients: Arena;
  /** u32 [5] of `prepareStep()`. */
  readonly update: Tensor;
  readonly state: Readonly<Record<State, Arena>>;
  readonly constants: Readonly<Record<Constants, Tensor>>;
}

/** An optimizer: a row of the table. */
interface OptimizerKind<State extends string, Constants extends string> {
  /** Whether it updates a trained parameter; AdamW updates the others. */
  updates(parameter: ParameterSpec): boolean;
  /** Names of its state: an arena each, laid out as the parameters that it updates. */
  readonly state: readonly State[];
  /** Tensors that never change, f32 [K,2]. */
  constants(options: OptimizerOptions): Record<Constants, Float32Array>;
  /** Records one step of its parameters, in place, with the f16 copies that matrix products read, if they do. */
  record(
    program: Program,
    model: Gpt,
    parameters: readonly ParameterSpec[],
    tensors: OptimizerTensors<State, Constants>,
    options: OptimizerOptions,
  ): void;
}

/** AdamW: one launch for neighbours in the arenas that all have weight decay or all have none. */
const adamwKind: OptimizerKind<"m" | "v", "corrections"> = {
  updates: () => true,
  state: ["m", "v"], // first and second moments
  constants: ({ beta1, beta2 }) => ({ corrections: adamwCorrections(beta1, beta2) }),
  record(program, model, parameters, { gradients, update, state, constants }, options) {
    for (const span of spansOf(parameters, model)) {
      const part = (arena: Arena) => rangeOf(arena, span), [{ decayed }] = span;
      adamw(program, { gradient: part(gradients), update, ...constants }, {
        parameter: part(model.parameters),
        m: part(state.m),
        v: part(state.v),
        copy: model.copies && decayed ? part(model.copies) : undefined,
      }, { ...options, weightDecay: decayed ? options.weightDecay : 0, epsilon: 1e-8 });
    }
  },
};

/** Muon for the matrices of the blocks; q, k and v, which are columns of one parameter, are separate matrices. */
const muonKind: OptimizerKind<"momentum", never> = {
  updates: ({ name, shape }) =>
    blockOf(name) !== undefined && shape.length === 2 && !isAdapter(name),
  state: ["momentum"],
  constants: () => ({}),
  record(program, model, parameters, { gradients, update, state: { momentum } }, options) {
    const blocks = new Set(parameters.map(({ name }) => blockOf(name))), [first] = blocks;
    const [span] = spansOf(parameters, model); // blocks are neighbours, and laid out alike
    /** The blocks' part of an arena, [L,S]. */
    const part = (arena: Arena) => {
      const flat = rangeOf(arena, span!), shape = [blocks.size, size(flat.shape) / blocks.size];
      return viewTensor(flat, { offset: 0, shape });
    };
    const matrices = blockMatrices(model.config).map(
      ({ parameter, firstColumn, inputs, outputs }) => {
        const name = `h.${first}.${parameter}.weight`;
        const columns = momentum.tensors.get(name)!.shape[1]!;
        return { start: elementOffset(momentum, name) + firstColumn, columns, inputs, outputs };
      },
    );
    muon(
      program,
      { gradient: part(gradients), update },
      {
        parameter: part(model.parameters),
        momentum: part(momentum),
        copy: model.copies && part(model.copies),
      },
      matrices,
      { momentum: options.muonMomentum, weightDecay: options.muonWeightDecay },
    );
  },
};

/** Name of an optimizer. */
export type OptimizerName = "adamw" | "muon";

/** A row of the table, whatever its state and its constants. */
type AnyKind = OptimizerKind<string, string>;

/** The optimizers by name. */
export const OPTIMIZERS: Readonly<Record<OptimizerName, AnyKind>> = {
  adamw: adamwKind,
  muon: muonKind,
};

/**
 * The optimizers of a training and the trained parameters that each updates: those of `kind`, then AdamW if any are
 * left.
 *
 * @param kind a row of `OPTIMIZERS`.
 */
export function distribute(
  kind: AnyKind,
  table: readonly ParameterSpec[],
): { kind: AnyKind; parameters: ParameterSpec[] }[] {
  const trained = table.filter((parameter) => parameter.trained);
  const own = trained.filter((p) => kind.updates(p)),
    others = trained.filter((p) => !kind.updates(p));
  return [{ kind, parameters: own }, { kind: adamwKind, parameters: others }]
    .filter(({ parameters }) => parameters.length > 0);
}

/** The state of an optimizer on the device, and the launches that update the parameters. */
export interface Optimizer extends Disposable {
  /** Its arenas by name, each laid out as the parameters that it concerns: what a checkpoint holds of it. */
  readonly state: ReadonlyMap<string, Arena>;
  /** All its tensors: the state, and constants. */
  readonly tensors: readonly Tensor[];
  /** Bytes of these. */
  readonly bytes: number;
  /** Records one step of all trained parameters. */
  record(program: Program, tensors: { gradients: Arena; update: Tensor }): void;
}

/** The trained parameters of a model in the layout of their gradients. */
export function createTrainedArena(model: Gpt, name: string): Arena {
  return arenaOf(model, name, model.table.filter(({ trained }) => trained));
}

function arenaOf(model: Gpt, name: string, parameters: readonly ParameterSpec[]): Arena {
  const shapes = new Map(parameters.map(({ name, shape }) => [name, shape]));
  return createArena(model.device, name, { shapes, dtype: "f32" });
}

/**
 * Allocates the state of an optimizer, zero at first.
 *
 * @param kind a row of `OPTIMIZERS`.
 */
export function createOptimizer(
  model: Gpt,
  kind: AnyKind,
  options: OptimizerOptions,
): Optimizer {
  const { device } = model;
  const parts = distribute(kind, model.table).map(({ kind, parameters }) => {
    const state = kind.state.map((key) => [key, arenaOf(model, key, parameters)] as const);
    const constants = Object.entries(kind.constants(options)).map(([key, values]) => {
      const tensor = createTensor(device, key, { shape: [values.length / 2, 2], dtype: "f32" });
      upload(device, tensor, values);
      return [key, tensor] as const;
    });
    return { kind, parameters, state, constants };
  });
  const state = new Map(parts.flatMap(({ state }) => state));
  const tensors = [
    ...state.values().map(({ flat }) => flat),
    ...parts.flatMap(({ constants }) => constants.map(([, tensor]) => tensor)),
  ];
  return {
    state,
    tensors,
    bytes: tensors.reduce((sum, { buffer }) => sum + buffer.size, 0),
    record(program, common) {
      for (const { kind, parameters, state, constants } of parts) {
        kind.record(program, model, parameters, {
          ...common,
          state: Object.fromEntries(state),
          constants: Object.fromEntries(constants),
        }, options);
      }
    },
    [Symbol.dispose]() {
      for (const { buffer } of tensors) buffer.destroy();
    },
  };
}

/** The trained parameters, in spans. */
export function trainedSpans(model: Gpt): ParameterSpan[] {
  return spansOf(model.table.filter(({ trained }) => trained), model);
}

/** Parameters that are neighbours in every arena, of which all have weight decay, or none has. */
export type ParameterSpan = readonly [ParameterSpec, ...ParameterSpec[]];

/** Cuts a list of parameters into spans of neighbours of which all have weight decay, or none has. */
function spansOf(
  parameters: readonly ParameterSpec[],
  { table }: Pick<Gpt, "table">,
): ParameterSpan[] {
  const spans: [ParameterSpec, ...ParameterSpec[]][] = [];
  for (const parameter of parameters) {
    const span = spans.at(-1), last = span?.at(-1);
    const areNeighbours = last && table.indexOf(parameter) === table.indexOf(last) + 1;
    if (areNeighbours && last.decayed === parameter.decayed) span!.push(parameter);
    else spans.push([parameter]);
  }
  return spans;
}

/** The part of an arena that holds a span of parameters. */
export function rangeOf(arena: Arena, span: ParameterSpan): Tensor {
  return arenaRange(arena, { first: span[0].name, last: span.at(-1)!.name });
}
