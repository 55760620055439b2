/**
 * Numbers of bytes and seconds in the units that people read.
 *
 * @module
 */

const UNITS = ["bytes", "kB", "MB", "GB", "TB", "PB"];

/** A number of bytes in a unit that fits it: 2.20 GB. */
export function byteCount(bytes: number, digits = 3): string {
  let value = bytes, unit = 0;
  // the rounded number decides: 999.9 MB are 1.00 GB to three digits
  while (Number(value.toPrecision(digits)) >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  if (unit === 0) return `${Math.ceil(value)} ${UNITS[unit]}`;
  const shown = Number(value.toPrecision(digits));
  const decimals = Math.max(0, digits - Math.floor(Math.log10(shown)) - 1);
  return `${value.toFixed(decimals)} ${UNITS[unit]}`;
}

/** Two numbers of bytes in units, with enough digits to tell them apart. */
export function byteCounts(a: number, b: number): [string, string] {
  for (let digits = 3;; digits++) {
    const counts: [string, string] = [byteCount(a, digits), byteCount(b, digits)];
    if (counts[0] !== counts[1] || a === b || digits === 15) return counts;
  }
}

/** A number of seconds as people read it: 9.2s, 4m05s, 2h30m. */
export function duration(seconds: number): string {
  if (seconds < 59.95) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)}m${String(whole % 60).padStart(2, "0")}s`;
  return `${Math.floor(whole / 3600)}h${String(Math.floor(whole / 60) % 60).padStart(2, "0")}m`;
}

/** A number of seconds; in milliseconds if it is less than one. */
export function shortDuration(seconds: number): string {
  return seconds < 1 ? `${Number((1000 * seconds).toPrecision(3))} ms` : duration(seconds);
}

/** A number to a few digits; whole numbers up to a million entirely. */
export function inFewDigits(value: number, digits = 2): string {
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return `${value}`;
  const rounded = Number(value.toPrecision(digits)), size = Math.abs(rounded);
  return size >= 1e-3 && size < 1e6 ? `${rounded}` : value.toExponential(1);
}

/** A count as people read it: 171 k, 1.12 M. */
export function inShort(count: number): string {
  const rounded = Number(count.toPrecision(3)); // 999,900 is 1 M
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]] as const) {
    if (rounded >= size) return `${rounded / size} ${unit}`;
  }
  return `${count}`;
}
