/** A program that tests start with mpirun: it trains, and each rank prints which events it saw, and the losses. */
import { placementOf } from "../../distributed/open_mpi.ts";
import type { TrainOptions } from "../../train/options.ts";
import { train } from "../../train/train.ts";

/** What a rank prints. */
export interface Trained {
  readonly rank: number;
  /** Kinds of the events. */
  readonly events: readonly string[];
  readonly losses: readonly number[];
  /** Losses of the evaluations. */
  readonly evaluated: readonly number[];
}

const { otherTextsOf, ...options } = JSON.parse(Deno.args[0]!) as Partial<TrainOptions> & {
  /** The rank that gets other texts than the rest. */
  otherTextsOf?: number;
};
const { rank } = placementOf()!;
const texts = Array.from({ length: 60 }, (_, i) => `${i} and ${i + 1} are ${2 * i + 1}.`);
if (rank === otherTextsOf) texts[7] = "Something else.";
const events: string[] = [], losses: number[] = [], evaluated: number[] = [];
const small = {
  preset: "nano",
  layers: 1,
  width: 16,
  heads: 2,
  batchSize: 2,
  contextLength: 16,
} as const;
const quiet = { sampleEvery: 0, evalEvery: 2, evalTokens: 200, saveEvery: 0, workers: 1 } as const;
for await (const event of train({ texts, ...small, ...quiet, ...options })) {
  events.push(event.kind);
  if (event.kind === "step") losses.push(event.loss);
  if (event.kind === "evaluation") evaluated.push(event.loss);
}
Deno.stdout.writeSync(
  new TextEncoder().encode(`${JSON.stringify({ rank, events, losses, evaluated })}\n`),
);
