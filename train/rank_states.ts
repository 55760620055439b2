import type { Transport } from "../distributed/transport.ts";
import { fromJsonBytes, toJsonBytes } from "../files/json.ts";
import { download } from "../kernels/tensor.ts";
import type { RankTraining } from "./rank_training.ts";
import type { StepState } from "./step_state.ts";

/** What differs between ranks. */
export interface RankState {
  /** State of its step. */
  readonly step: StepState;
  /** Arrays in the layout of arenas: the state of the optimizer by the names of `Optimizer.state`, and `RESIDUAL`. */
  readonly arrays: ReadonlyMap<string, Float32Array<ArrayBuffer>>;
}

/** The name of what a rank has rounded away of what it sends, in the layout of the gradients. */
export const RESIDUAL = "residual";

/** What a rank has rounded away and not sent yet; undefined unless `wire` is f16. */
export function residualOf(
  { trainStep, outer }: RankTraining,
): Float32Array<ArrayBuffer> | undefined {
  return outer ? outer.residual : trainStep.residual;
}

/** Whether the states of ranks differ, so that a checkpoint needs all of them: optimizers, or residuals. */
export function haveOwnStates(training: RankTraining): boolean {
  return training.outer !== undefined || residualOf(training) !== undefined;
}

/** Bytes that are gathered at once, at most: every rank gets them, although only rank 0 keeps them. */
const PIECE_BYTES = 2 ** 26;

/**
 * The states of all ranks, on rank 0, for a checkpoint. All ranks call it if `haveOwnStates()`; the others get only arrays
 * of their own. Where all ranks have the same array, that of rank 0 is the only one.
 */
export async function gatherRankStates(
  transport: Transport,
  training: RankTraining,
): Promise<RankState[]> {
  const { rank } = transport, { gpt: { device }, trainStep, outer } = training;
  const steps = await transport.gather(toJsonBytes(await trainStep.state()));
  const ranks = steps.map((step) => ({
    step: fromJsonBytes(step) as StepState,
    arrays: new Map<string, Float32Array<ArrayBuffer>>(),
  }));
  const add = async (name: string, own: Float32Array<ArrayBuffer>) => {
    ranks[rank]!.arrays.set(name, own);
    const bytes = new Uint8Array(own.buffer, own.byteOffset, own.byteLength);
    for (let r = 1; r < ranks.length; r++) {
      const all = new Uint8Array(rank === 0 ? bytes.length : 0);
      for (let start = 0; start < bytes.length; start += PIECE_BYTES) {
        const piece = rank === r ? bytes.slice(start, start + PIECE_BYTES) : new Uint8Array();
        const gathered = await transport.gather(piece);
        if (rank === 0) all.set(gathered[r]!, start);
      }
      if (rank === 0) ranks[r]!.arrays.set(name, new Float32Array(all.buffer));
    }
  };
  for (const [key, { flat }] of trainStep.optimizer.state) {
    if (rank > 0 && !outer) break; // the moments of all ranks are those of rank 0
    const [values] = await download(device, flat) as [Float32Array<ArrayBuffer>];
    if (outer) await add(key, values);
    else ranks[0]!.arrays.set(key, values);
  }
  const residual = residualOf(training);
  if (residual) await add(RESIDUAL, residual);
  return ranks;
}
