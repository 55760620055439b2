import { type TokenDataset, tokenDataset } from "../../../data/tokens/token_dataset.ts";

/** Documents of the given lengths; tokens count up, so that a token tells its position. */
export function text(...lengths: number[]): TokenDataset {
  const documentStarts = Uint32Array.from(
    lengths,
    (_, i) => lengths.slice(0, i).reduce((a, b) => a + b, 0),
  );
  const tokens = Uint32Array.from(
    { length: lengths.reduce((a, b) => a + b, 0) },
    (_, i) => i + 100,
  );
  return tokenDataset(tokens, documentStarts);
}

/** Three conversations, with an answer or two; tokens count up from 100. */
export const CHATS = tokenDataset(
  Uint32Array.from({ length: 21 }, (_, i) => i + 100),
  [0, 5, 14],
  [2, 4, 7, 8, 11, 13, 17, 20],
);
