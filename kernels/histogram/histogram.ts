import shader from "./histogram.wgsl" with { type: "text" };
import { dims } from "../dims.ts";
import { type Program, splitWorkgroups } from "../program.ts";
import { bytesPerElement, ceilDiv, type Tensor, viewTensor } from "../tensor.ts";

/** How many numbers of a tensor have which sign and size. */
export interface Histogram {
  /** All numbers. */
  readonly count: number;
  /** Those that are 0 or −0. */
  readonly zeros: number;
  /** Those that are NaN or infinite. */
  readonly notFinite: number;
  /** The least finite number; null if there is none. */
  readonly min: number | null;
  /** The greatest finite number; null if there is none. */
  readonly max: number | null;
  /** By exponent e, from −149 to 127: how many numbers are in [2ᵉ, 2ᵉ⁺¹). Empty buckets are absent. */
  readonly positive: Readonly<Record<number, number>>;
  /** The same of the magnitudes of negative numbers. */
  readonly negative: Readonly<Record<number, number>>;
}

const WORKGROUP_SIZE = 256;

/** Numbers per workgroup. Adding its buckets to `counts` costs as much as about ten numbers per invocation. */
const BLOCK = 64 * WORKGROUP_SIZE;

/** Number of powers of two of positive f32, and the exponent of the least one. */
const EXPONENTS = 277, LEAST_EXPONENT = -149;

/** Elements of the tensor `counts` of `histogram()`. */
export const HISTOGRAM_LENGTH: number = 2 * EXPONENTS + 4;

/**
 * Counts the numbers of x by sign and power of two.
 *
 * x: f32 or f16 [N], N < 2³²; counts: u32 [HISTOGRAM_LENGTH], accumulated, so it must be zero at first. `histogramOf()`
 * reads the counts.
 *
 * @throws {RangeError | TypeError} if a tensor has another shape or element type.
 */
export function histogram(
  program: Program,
  { x }: { x: Tensor },
  { counts }: { counts: Tensor },
): void {
  const { N } = dims("histogram", {
    x: [x, "N", "f32|f16"],
    counts: [counts, `${HISTOGRAM_LENGTH}`, "u32"],
  });
  const { maxBindingBytes } = program.device;
  const most = Math.floor(maxBindingBytes / bytesPerElement(x.dtype) / BLOCK) * BLOCK;
  for (let offset = 0; offset < N; offset += most) {
    const length = Math.min(most, N - offset);
    program.dispatch({
      shader: { "kernels/histogram/histogram.wgsl": shader },
      constants: { HALVES: x.dtype === "f16", WORKGROUP_SIZE, EXPONENTS },
      tensors: { x: viewTensor(x, { offset, shape: [length] }), counts },
      uniforms: { N: length, block: BLOCK },
      workgroups: splitWorkgroups(ceilDiv(length, BLOCK)),
      iterations: BLOCK / WORKGROUP_SIZE + ceilDiv(HISTOGRAM_LENGTH, WORKGROUP_SIZE),
      workgroupBytes: 16 * ceilDiv(HISTOGRAM_LENGTH, 4),
    });
  }
}

/** The histogram whose `counts` were read back. */
export function histogramOf(counts: ArrayLike<number>): Histogram {
  const [zeros, notFinite, greatest, least] = Array.from(
    { length: 4 },
    (_, i) => counts[2 * EXPONENTS + i]!,
  );
  const bucketsFrom = (first: number) => {
    const buckets: Record<number, number> = {};
    for (let i = 0; i < EXPONENTS; i++) {
      if (counts[first + i]! > 0) buckets[LEAST_EXPONENT + i] = counts[first + i]!;
    }
    return buckets;
  };
  const positive = bucketsFrom(0), negative = bucketsFrom(EXPONENTS);
  const counted = [...Object.values(positive), ...Object.values(negative)];
  return {
    count: counted.reduce((sum, count) => sum + count, zeros! + notFinite!),
    zeros: zeros!,
    notFinite: notFinite!,
    min: least === 0 ? null : numberOf(~least! >>> 0),
    max: greatest === 0 ? null : numberOf(greatest!),
    positive,
    negative,
  };
}

/** The number of a key, see `keyOf()` in the shader. */
function numberOf(key: number): number {
  const bits = key >= 2 ** 31 ? key - 2 ** 31 : ~key;
  return new Float32Array(Uint32Array.of(bits).buffer)[0]!;
}
