/** A program that tests start with mpirun: it trains a small model, and prints what it saw as one line of JSON. */
import { placementOf } from "../../distributed/placement.ts";
import type { Transport } from "../../distributed/transport.ts";
import type { Device } from "../../kernels/device.ts";
import type { TrainOptions } from "../../train/options.ts";
import { train, type TrainEvent } from "../../train/train.ts";

/** Documents of a small training. */
export const TEXTS = Array.from({ length: 60 }, (_, i) => `${i} and ${i + 1} are ${2 * i + 1}.`);

/** Options of a small training. */
export const SMALL = {
  texts: TEXTS,
  ...{ layers: 1, width: 16, heads: 2, batchSize: 2, contextLength: 16 },
  ...{ sampleEvery: 0, evalEvery: 2, evalTokens: 200, saveEvery: 0, workers: 1 },
  ...{ optimizer: "adamw", precision: "f32" } as const,
};

/** The events of a small training, of which there are some on rank 0 only. */
export async function trainSmall(
  options: Partial<TrainOptions> & { device?: Device; transport?: Transport; texts?: string[] },
): Promise<TrainEvent[]> {
  const events: TrainEvent[] = [];
  for await (const event of train({ ...SMALL, ...options })) events.push(event);
  return events;
}

/** Losses of the steps and of the evaluations. */
export function lossesOf(events: readonly TrainEvent[]): number[] {
  return events.flatMap((event) =>
    event.kind === "step" || event.kind === "evaluation" ? [event.loss] : []
  );
}

if (import.meta.main) {
  const events = await trainSmall(JSON.parse(Deno.args[0]!));
  const printed = { rank: placementOf()!.rank, events: events.length, losses: lossesOf(events) };
  Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(printed)}\n`));
}
