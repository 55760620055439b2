/** How frequencies of rotary positions are reduced for contexts longer than those of the training. */
export type RotaryScaling =
  /** All frequencies are divided by `factor` (Chen et al. 2023, https://arxiv.org/abs/2306.15595). */
  | { readonly type: "linear"; readonly factor: number }
  /**
   * Llama 3.1: wavelengths above originalContextLength / lowFrequencyFactor are multiplied by `factor`, those below
   * originalContextLength / highFrequencyFactor stay, and those between are interpolated (Grattafiori et al. 2024,
   * https://arxiv.org/abs/2407.21783).
   */
  | {
    readonly type: "llama3";
    readonly factor: number;
    readonly lowFrequencyFactor: number;
    readonly highFrequencyFactor: number;
    readonly originalContextLength: number;
  };

/** What determines the angles of rotary positions. */
export interface RotationOptions {
  /** Positions in the table. */
  contextLength: number;
  /** HS: components of a head, an even number. */
  headSize: number;
  /** The wavelengths of the pairs of components are 2π to nearly 2π · base. */
  base: number;
  /** None by default. */
  scaling?: RotaryScaling | undefined;
}

/**
 * Cosine and sine by which `ropeForward()` rotates pair i of the components of a head at position t (Su et al. 2021,
 * https://arxiv.org/abs/2104.09864): those of the angle t · base^(−2i / HS). Frequencies and angles are rounded to
 * f32 as in transformers, since a rounded angle of a late position differs by much; the cosine and the sine of the
 * rounded angle are computed in f64.
 *
 * @returns [contextLength,HS/2,2].
 */
export function rotationTable(
  { contextLength, headSize, base, scaling }: RotationOptions,
): Float32Array<ArrayBuffer> {
  const frequencies = frequenciesOf({ headSize, base, scaling }), pairs = frequencies.length;
  const table = new Float32Array(contextLength * pairs * 2);
  for (let t = 0; t < contextLength; t++) {
    for (const [i, frequency] of frequencies.entries()) {
      const angle = Math.fround(t * frequency), at = 2 * (t * pairs + i);
      table[at] = Math.cos(angle);
      table[at + 1] = Math.sin(angle);
    }
  }
  return table;
}

/** The angle per position of each pair of components, f32 [HS/2]. */
export function frequenciesOf(
  { headSize, base, scaling }: Omit<RotationOptions, "contextLength">,
): Float32Array<ArrayBuffer> {
  const { fround } = Math;
  const frequencies = Float32Array.from(
    { length: headSize / 2 },
    (_, i) => 1 / fround(base ** fround(2 * i / headSize)),
  );
  if (!scaling) return frequencies;
  const { type, factor } = scaling;
  if (type === "linear") return frequencies.map((frequency) => frequency / factor);
  const { lowFrequencyFactor: low, highFrequencyFactor: high, originalContextLength } = scaling;
  return frequencies.map((frequency) => {
    // PyTorch multiplies a number by the reciprocal of a tensor, twice here
    const wavelength = fround(fround(1 / frequency) * fround(2 * Math.PI));
    const turns = fround(fround(1 / wavelength) * originalContextLength);
    const kept = fround(fround(Math.min(high, Math.max(low, turns)) - low) / (high - low));
    return fround(fround(fround(1 - kept) * frequency) / factor) + fround(kept * frequency);
  });
}
