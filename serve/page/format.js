// @ts-check

/**
 * Numbers as people read them.
 *
 * @module
 */

/** Stands for what is not known. */
export const UNKNOWN = "—";

/**
 * A figure with at most six significant digits.
 *
 * @param {number | null | undefined} value
 * @returns {string}
 */
export function figure(value) {
  if (value === null || value === undefined) return UNKNOWN;
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2).replace("e+", "e");
  return `${Number(value.toPrecision(size >= 1 ? 5 : 4))}`;
}

/**
 * A count in short: 171 k, 1.12 M.
 *
 * @param {number | null | undefined} count
 * @returns {string}
 */
export function inShort(count) {
  if (count === null || count === undefined) return UNKNOWN;
  for (
    const [unit, size] of /** @type {const} */ ([["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]])
  ) {
    if (Math.abs(count) >= size) return `${Number((count / size).toPrecision(3))} ${unit}`;
  }
  return `${Number(count.toPrecision(3))}`;
}

/**
 * @param {number | null | undefined} bytes
 * @returns {string}
 */
export function byteCount(bytes) {
  if (bytes === null || bytes === undefined) return UNKNOWN;
  for (const [unit, size] of /** @type {const} */ ([["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])) {
    if (bytes >= size) return `${Number((bytes / size).toPrecision(3))} ${unit}`;
  }
  return `${bytes} bytes`;
}

/**
 * Seconds as people read them: 9.2 s, 4 min 5 s, 2 h 30 min.
 *
 * @param {number | null | undefined} seconds
 * @returns {string}
 */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 59.95) return `${Number(seconds.toFixed(1))} s`;
  const whole = Math.round(seconds), hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
}

/**
 * A time in the zone of the reader: 2026-11-29 09:58.
 *
 * @param {string | null} time in ISO 8601
 * @returns {string}
 */
export function when(time) {
  const date = new Date(time ?? NaN);
  // Sweden writes dates as ISO 8601 does
  return Number.isNaN(date.getTime()) ? UNKNOWN : date.toLocaleString("sv-SE").slice(0, 16);
}

/**
 * A foreign text in which characters that cannot be seen, or that change the order of others, are numbers.
 *
 * @param {string} text
 * @returns {string}
 */
export function visible(text) {
  return text.replace(
    /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu,
    (character) => `\\u{${character.codePointAt(0)?.toString(16)}}`,
  );
}
