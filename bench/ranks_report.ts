import type { WireType } from "../distributed/wire.ts";
import type { Device } from "../kernels/device.ts";
import type { Result } from "./harness.ts";
import type { BenchModel } from "./models.ts";

/** Results of several ranks on one host, as `bench:ranks --json` writes them. */
export interface RanksReport {
  readonly command: string;
  readonly date: string;
  readonly deno: string;
  readonly device: Pick<Device, "provider" | "name" | "backend" | "isCpu">;
  readonly ranks: number;
  /** Which rank computes on which device. */
  readonly placement: string;
  readonly results: readonly RanksResult[];
}

/** A result of several ranks, or of one beside them. `parts` are those of `ExchangeMs`. */
export interface RanksResult extends Result {
  /** Ranks that took part. */
  readonly ranks: number;
  /** Of an exchange: the floats of each rank. */
  readonly floats?: number;
  /** Of a training step: the model. */
  readonly model?: BenchModel;
  /** Of a training step: rows and tokens of a micro-batch, such as `8x1024`. */
  readonly batch?: string;
  /** Of a training step: micro-batches of each rank. */
  readonly accumulation?: number;
  /** Of a training step: in which gradients travel, if that is not f32. */
  readonly wire?: WireType | undefined;
  /** Of a training step by DiLoCo: the time includes the share of an exchange every `SYNC_EVERY` steps. */
  readonly isDiloco?: true;
  /** Of such a step: without that share. */
  readonly innerMs?: number;
}

/** Training steps between two exchanges of weights by DiLoCo. */
export const SYNC_EVERY = 50;

/** Name of the sum of next to nothing. */
export const TINY_SUM = "sum of 2 floats";

/** Name of an exchange of gradients. */
export function exchangeName(floats: number): string {
  return `exchange of ${(floats / 1e6).toFixed(1)} M floats`;
}

/** Name of an exchange of weights by DiLoCo. */
export function outerStepName(model: BenchModel): string {
  return `outer step ${model}`;
}
