/** Sizes of an embedding: sequences of T tokens, C features. */
export interface EmbeddingShape {
  /** Tokens of a sequence. */
  T: number;
  /** Features of a token. */
  C: number;
}

/**
 * y[m] = wte[tokens[m]] + wpe[positions[m]], or without wpe wte[tokens[m]].
 *
 * tokens: [M]; positions: [M], m % T by default; wte: [V,C]; wpe: [maxT,C]; y: [M,C]
 */
export function embeddingForward(
  { tokens, positions, wte, wpe }: {
    tokens: Uint32Array;
    positions?: ArrayLike<number> | undefined;
    wte: Float32Array;
    wpe?: Float32Array | undefined;
  },
  { T, C }: EmbeddingShape,
): { y: Float32Array } {
  const y = new Float32Array(tokens.length * C);
  tokens.forEach((token, m) => {
    for (let c = 0; c < C; c++) {
      y[m * C + c] = wte[token * C + c]! + (wpe?.[(positions?.[m] ?? m % T) * C + c] ?? 0);
    }
  });
  return { y };
}

/** Adds the gradient of `embeddingForward()` to dwte: [V,C] and dwpe: [maxT,C].  dy: [M,C] */
export function embeddingBackward(
  { tokens, positions, dy }: {
    tokens: Uint32Array;
    positions?: ArrayLike<number> | undefined;
    dy: Float32Array;
  },
  { dwte, dwpe }: { dwte: Float32Array; dwpe?: Float32Array | undefined },
  { T, C }: EmbeddingShape,
): void {
  tokens.forEach((token, m) => {
    for (let c = 0; c < C; c++) {
      dwte[token * C + c]! += dy[m * C + c]!;
      if (dwpe) dwpe[(positions?.[m] ?? m % T) * C + c]! += dy[m * C + c]!;
    }
  });
}
