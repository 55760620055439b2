/** Sizes of an embedding: sequences of T tokens, C features. */
export interface EmbeddingShape {
  /** Tokens of a sequence. */
  T: number;
  /** Features of a token. */
  C: number;
}

/** y[m] = wte[tokens[m]] + wpe[m % T], or without wpe wte[tokens[m]].  tokens: [M]; wte: [V,C]; wpe: [maxT,C]; y: [M,C] */
export function embeddingForward(
  { tokens, wte, wpe }: {
    tokens: Uint32Array;
    wte: Float32Array;
    wpe?: Float32Array | undefined;
  },
  { T, C }: EmbeddingShape,
): { y: Float32Array } {
  const y = new Float32Array(tokens.length * C);
  tokens.forEach((token, m) => {
    for (let c = 0; c < C; c++) {
      y[m * C + c] = wte[token * C + c]! + (wpe?.[m % T * C + c] ?? 0);
    }
  });
  return { y };
}

/** Adds the gradient of `embeddingForward()` to dwte: [V,C] and dwpe: [maxT,C].  dy: [M,C] */
export function embeddingBackward(
  { tokens, dy }: { tokens: Uint32Array; dy: Float32Array },
  { dwte, dwpe }: { dwte: Float32Array; dwpe?: Float32Array | undefined },
  { T, C }: EmbeddingShape,
): void {
  tokens.forEach((token, m) => {
    for (let c = 0; c < C; c++) {
      dwte[token * C + c]! += dy[m * C + c]!;
      if (dwpe) dwpe[m % T * C + c]! += dy[m * C + c]!;
    }
  });
}
