/**
 * How repetitive a text is, by its tokens.
 *
 * @module
 */

/** How repetitive a text is. */
export interface Repetition {
  /** Distinct-1: different tokens per token; 1 if no token occurs twice. */
  readonly distinct1: number;
  /** Distinct-2: different pairs of neighbours per pair. */
  readonly distinct2: number;
  /** Distinct-3: different sequences of three tokens per such sequence. */
  readonly distinct3: number;
  /** Distinct-4: different sequences of four tokens per such sequence. */
  readonly distinct4: number;
  /** Tokens of the longest span that occurs twice; both may overlap. */
  readonly longestRepeat: number;
  /** Share of tokens in loops. */
  readonly loopShare: number;
}

/** Times that the unit of a loop stands in a row, and tokens of a loop, at least: `ha ha ha` is none. */
const LEAST_TIMES = 3, LEAST_TOKENS = 8;

/**
 * Measures the repetition in a text.
 *
 * Distinct-n is the number of different n-grams divided by the number of n-grams (Li et al. 2016,
 * https://arxiv.org/abs/1510.03055, section 5.2); it falls with the length, so only texts of equal length compare. A
 * loop is a span of at least 8 tokens in which a unit of any length stands at least three times in a row, the last
 * time perhaps in part. In terms of combinatorics it is a run with an exponent of at least 3 (Kolpakov and Kucherov
 * 1999, https://doi.org/10.1109/SFFCS.1999.814634).
 *
 * The time grows with the square of the length.
 *
 * @param ids tokens, or anything else that is compared by `===`.
 *
 * @example Measure how repetitive words are
 * ```ts
 * import { repetitionOf } from "../mod.ts";
 *
 * console.log(repetitionOf("time time time time time time time time".split(" ")).loopShare); // 1
 * ```
 */
export function repetitionOf(ids: ArrayLike<unknown>): Repetition {
  const numbers = numbered(ids);
  return {
    distinct1: distinct(numbers, 1),
    distinct2: distinct(numbers, 2),
    distinct3: distinct(numbers, 3),
    distinct4: distinct(numbers, 4),
    longestRepeat: longestRepeat(numbers),
    loopShare: loopShareOf(numbers),
  };
}

/**
 * The mean of the repetition of several texts, each measured alone.
 *
 * @throws {RangeError} if there is no text.
 */
export function meanRepetition(texts: readonly ArrayLike<unknown>[]): Repetition {
  if (texts.length === 0) {
    throw new RangeError(
      "Cannot average the repetition of texts as there must be one: there is none",
    );
  }
  const all = texts.map(repetitionOf);
  const mean = (name: keyof Repetition) =>
    all.reduce((sum, repetition) => sum + repetition[name], 0) / all.length;
  return {
    distinct1: mean("distinct1"),
    distinct2: mean("distinct2"),
    distinct3: mean("distinct3"),
    distinct4: mean("distinct4"),
    longestRepeat: mean("longestRepeat"),
    loopShare: mean("loopShare"),
  };
}

/** Equal elements get equal numbers. */
function numbered(ids: ArrayLike<unknown>): Uint32Array {
  const numbers = new Map<unknown, number>();
  return Uint32Array.from(ids, (id) => {
    if (!numbers.has(id)) numbers.set(id, numbers.size);
    return numbers.get(id)!;
  });
}

/** Different n-grams per n-gram; 1 if there is none. */
function distinct(ids: Uint32Array, n: number): number {
  const count = ids.length - n + 1;
  if (count < 1) return 1;
  const grams = new Set<string>();
  for (let i = 0; i < count; i++) grams.add(ids.subarray(i, i + n).join());
  return grams.size / count;
}

/** Length of the longest span that occurs at two places. */
function longestRepeat(ids: Uint32Array): number {
  let longest = 0;
  for (let distance = 1; distance + longest < ids.length; distance++) {
    for (const { from, to } of repeats(ids, distance)) longest = Math.max(longest, to - from);
  }
  return longest;
}

/**
 * Share of elements in loops.
 *
 * @param longestUnit elements of a unit at most.
 */
export function loopShareOf(ids: ArrayLike<unknown>, longestUnit = Infinity): number {
  if (ids.length === 0) return 0;
  const isInLoop = new Uint8Array(ids.length), numbers = numbered(ids);
  const longest = Math.min(longestUnit, Math.floor(ids.length / LEAST_TIMES));
  for (let period = 1; period <= longest; period++) {
    for (const { from, to } of repeats(numbers, period)) {
      const start = from - period; // the unit stands there for the first time
      if (to - start >= Math.max(LEAST_TOKENS, LEAST_TIMES * period)) isInLoop.fill(1, start, to);
    }
  }
  return isInLoop.reduce((sum, is) => sum + is, 0) / ids.length;
}

/** The longest spans whose elements all equal those at a distance before them. */
function* repeats(ids: Uint32Array, distance: number): Generator<{ from: number; to: number }> {
  let from = distance;
  for (let i = distance; i <= ids.length; i++) {
    if (i < ids.length && ids[i] === ids[i - distance]) continue;
    if (i > from) yield { from, to: i };
    from = i + 1;
  }
}
