import { Random } from "../data/random.ts";
import type { Batch } from "../data/tokens/batch.ts";
import { Batches } from "../data/tokens/batches.ts";
import { tokenDataset } from "../data/tokens/token_dataset.ts";

/** Sizes of a batch of random text. */
export interface SampleShape {
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly vocabularySize: number;
}

/**
 * Batches of random tokens whose probability falls as one over their rank, as in natural language. The
 * frequency of tokens matters to the gradient of the embedding.
 */
export function sampleBatches(
  { batchSize, sequenceLength, vocabularySize }: SampleShape,
): Batches {
  const random = new Random(2);
  const length = Math.max(2 * batchSize * sequenceLength, 2 ** 16) + 1;
  const tokens = Uint32Array.from(
    { length },
    () => Math.floor(Math.exp(random.uniform() * Math.log(vocabularySize))) - 1,
  );
  return new Batches(tokenDataset(tokens), {
    batchSize,
    contextLength: sequenceLength,
    sequence: "packed",
    seed: 3,
    padding: 0,
  });
}

/** The first batch of `sampleBatches()`. */
export function sampleBatch(shape: SampleShape): Batch {
  return sampleBatches(shape).at(0);
}
