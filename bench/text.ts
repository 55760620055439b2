import { type Batch, Batches } from "../data/tokens/batches.ts";
import { Random } from "../data/random.ts";
import { tokenDataset } from "../data/tokens/token_dataset.ts";

/** Sizes of a batch of invented text. */
export interface SampleShape {
  readonly batchSize: number;
  readonly sequenceLength: number;
  readonly vocabularySize: number;
}

/**
 * Batches of text that has no meaning, but few tokens that are frequent and many that are rare, as
 * language has: a token's probability falls as one over its rank, which matters to the embedding's
 * gradient.
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

/** The first of them. */
export function sampleBatch(shape: SampleShape): Batch {
  return sampleBatches(shape).at(0);
}
