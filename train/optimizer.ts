import { adamw, adamwCorrections } from "../kernels/adamw/adamw.ts";
import { type Arena, arenaRange, createArena } from "../kernels/arena.ts";
import type { Program } from "../kernels/program.ts";
import { createTensor, type Tensor, upload, viewTensor } from "../kernels/tensor.ts";
import type { Gpt } from "../model/gpt.ts";
import type { ParameterSpec } from "../model/parameters.ts";

/**
 * Optimizers: a table of their state per parameter, and of the kernels that update parameters.
 *
 * @module
 */

/** Settings of the optimizer that are the same for all steps of a training. */
export interface OptimizerOptions {
  /** Decoupled decay of matrices and embeddings; 0.1 by default. */
  readonly weightDecay: number;
  /** Decay of the first moment; 0.9 by default. */
  readonly beta1: number;
  /** Decay of the second moment; 0.98 by default. */
  readonly beta2: number;
}

/** An optimizer: a row of the table. */
interface OptimizerKind<State extends string, Constants extends string> {
  /** Its state per trained parameter: an arena each, laid out as the parameters. */
  readonly state: readonly State[];
  /** Tensors that never change, f32 [K,2]. */
  constants(options: OptimizerOptions): Record<Constants, Float32Array>;
  /**
   * Records one step of a group of parameters, in place. All but `update` and the constants are [N].
   *
   * @param inputs.update u32 [4] of `prepareStep()`.
   * @param outputs.copy the f16 copy that matrix products read, if they do.
   */
  record(
    program: Program,
    inputs: { gradient: Tensor; update: Tensor } & Record<Constants, Tensor>,
    outputs: { parameter: Tensor; copy: Tensor | undefined } & Record<State, Tensor>,
    options: OptimizerOptions,
  ): void;
}

const adamwKind: OptimizerKind<"m" | "v", "corrections"> = {
  state: ["m", "v"], // first and second moments
  constants: ({ beta1, beta2 }) => ({ corrections: adamwCorrections(beta1, beta2) }),
  record(program, inputs, outputs, options) {
    adamw(program, inputs, outputs, { ...options, epsilon: 1e-8 });
  },
};

/** The optimizers by name. */
export const OPTIMIZERS = { adamw: adamwKind } as const;

/** The optimizer of a training; no option chooses another yet. */
export const DEFAULT_OPTIMIZER = OPTIMIZERS.adamw;

/** The state of an optimizer on the device, and the launches that update the parameters. */
export interface Optimizer extends Disposable {
  /** Its arenas by name, laid out as the trained parameters: what a checkpoint holds of it. */
  readonly state: ReadonlyMap<string, Arena>;
  /** All its tensors: the state, and constants. */
  readonly tensors: readonly Tensor[];
  /** Bytes of these. */
  readonly bytes: number;
  /** Records one step of all trained parameters: those with weight decay, then those without. */
  record(program: Program, tensors: { gradients: Arena; update: Tensor }): void;
}

/** The trained parameters of a model in the layout of their gradients and of the optimizer's state. */
export function createTrainedArena(model: Gpt, name: string): Arena {
  const shapes = new Map(trainedOf(model).map(({ name, shape }) => [name, shape]));
  return createArena(model.device, name, { shapes, dtype: "f32" });
}

/**
 * Allocates the state of an optimizer, zero at first.
 *
 * @param kind a row of `OPTIMIZERS`.
 */
export function createOptimizer<State extends string, Constants extends string>(
  model: Gpt,
  kind: OptimizerKind<State, Constants>,
  options: OptimizerOptions,
): Optimizer {
  const { device } = model;
  const arenas = fromKeys(kind.state, (key) => createTrainedArena(model, key));
  const values = kind.constants(options);
  const constants = fromKeys(Object.keys(values) as Constants[], (key) => {
    const shape = [values[key].length / 2, 2];
    const tensor = createTensor(device, key, { shape, dtype: "f32" });
    upload(device, tensor, values[key]);
    return tensor;
  });
  const state = new Map<string, Arena>(Object.entries(arenas));
  const tensors = [...state.values().map(({ flat }) => flat), ...Object.values<Tensor>(constants)];
  return {
    state,
    tensors,
    bytes: tensors.reduce((sum, { buffer }) => sum + buffer.size, 0),
    record(program, { gradients, update }) {
      for (const decayed of [true, false]) {
        const gradient = groupOf(model, gradients, decayed);
        if (!gradient) continue;
        // a group has the same place in all arenas
        const { offsetBytes, shape } = gradient, offset = offsetBytes / 4;
        const part = ({ flat }: Arena) => viewTensor(flat, { offset, shape });
        kind.record(program, { ...constants, gradient, update }, {
          ...fromKeys(kind.state, (key) => part(arenas[key])),
          parameter: part(model.parameters),
          copy: model.copies && decayed ? part(model.copies) : undefined,
        }, { ...options, weightDecay: decayed ? options.weightDecay : 0 });
      }
    },
    [Symbol.dispose]() {
      for (const { buffer } of tensors) buffer.destroy();
    },
  };
}

/** An object with a value for each key. */
function fromKeys<K extends string, V>(keys: readonly K[], valueOf: (key: K) => V): Record<K, V> {
  return Object.fromEntries(keys.map((key) => [key, valueOf(key)])) as Record<K, V>;
}

function trainedOf({ table }: Pick<Gpt, "table">): ParameterSpec[] {
  return table.filter(({ trained }) => trained);
}

/** The part of an arena of the trained parameters that holds those with weight decay, or those without. */
function groupOf(model: Gpt, arena: Arena, decayed: boolean): Tensor | undefined {
  const firstOf = (decayed: boolean) => trainedOf(model).find((p) => p.decayed === decayed)?.name;
  const from = firstOf(decayed), to = decayed ? firstOf(false) : undefined; // the decayed come first
  if (from === undefined) return undefined;
  return arenaRange(arena, to === undefined ? { from } : { from, to });
}
