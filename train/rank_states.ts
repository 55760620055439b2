import type { Transport } from "../distributed/transport.ts";
import { fromJsonBytes, toJsonBytes } from "../files/json.ts";
import type { Device } from "../kernels/device.ts";
import { download } from "../kernels/tensor.ts";
import type { StepState, TrainStep } from "./step.ts";

/** What a rank has of its own if it trains on its own between exchanges. */
export interface RankState {
  /** State of its step. */
  readonly step: StepState;
  /** State of its optimizer: the arenas of `Optimizer.state` by name. */
  readonly moments: ReadonlyMap<string, Float32Array<ArrayBuffer>>;
}

/** Bytes that are gathered at once, at most: every rank gets them, although only rank 0 keeps them. */
const PIECE_BYTES = 2 ** 26;

/** The states of all ranks, on rank 0, for a checkpoint. All ranks call it; the others get only moments of their own. */
export async function gatherRankStates(
  transport: Transport,
  device: Device,
  trainStep: TrainStep,
): Promise<RankState[]> {
  const { rank } = transport;
  const steps = await transport.gather(toJsonBytes(await trainStep.state()));
  const ranks = steps.map((step) => ({
    step: fromJsonBytes(step) as StepState,
    moments: new Map<string, Float32Array<ArrayBuffer>>(),
  }));
  for (const [key, { flat }] of trainStep.optimizer.state) {
    const [values] = await download(device, flat) as [Float32Array<ArrayBuffer>];
    const own = new Uint8Array(values.buffer);
    ranks[rank]!.moments.set(key, values);
    for (let r = 1; r < ranks.length; r++) {
      const all = new Uint8Array(rank === 0 ? own.length : 0);
      for (let start = 0; start < own.length; start += PIECE_BYTES) {
        const piece = rank === r ? own.slice(start, start + PIECE_BYTES) : new Uint8Array();
        const gathered = await transport.gather(piece);
        if (rank === 0) all.set(gathered[r]!, start);
      }
      if (rank === 0) ranks[r]!.moments.set(key, new Float32Array(all.buffer));
    }
  }
  return ranks;
}
