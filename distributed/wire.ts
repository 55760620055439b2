import { piecesOf, sliceOf, type Transport } from "./transport.ts";

/** The types in which gradients may travel between ranks. */
export type WireType = "f32" | "f16";

/** All types. */
export const WIRE_TYPES = ["f32", "f16"] as const satisfies readonly WireType[];

/** The greatest power of two up to which sums are scaled; f16 ends at 65504. */
const LARGEST = 2 ** 15;

/** Numbers that are exchanged at once, while the next ones are rounded, and their part of the residual. */
interface Piece {
  readonly values: Float32Array<ArrayBuffer>;
  readonly rest: Float32Array<ArrayBuffer>;
}

/**
 * Sums over ranks that travel in f16, half the bytes of f32. Whatever rounding takes away is added to the next sum (error
 * feedback, Karimireddy et al. 2019, https://arxiv.org/abs/1901.09847): the totals of many sums are those of f32, and
 * small numbers arrive late instead of never.
 *
 * Two roundings occur. Each rank rounds its numbers and sends slice r to rank r, which adds the slices of all ranks in f32,
 * rounds the sum and sends it to all.
 */
export class F16Wire {
  /** What was rounded away and is not sent yet, in units of the numbers divided by their scale. */
  readonly residual: Float32Array<ArrayBuffer>;

  /** @param length of the arrays. */
  constructor(length: number) {
    this.residual = new Float32Array(length);
  }

  /**
   * Adds up an array over all ranks, in place. All ranks get the same bits, in the order of ranks as in `Transport.sum()`. If
   * a number of any rank is not finite, all become NaN, and nothing is sent or taken from the residual.
   *
   * @param scale a power of two by which the numbers are larger than usual, such as a loss scale; equal on all ranks.
   */
  async sum(
    transport: Transport,
    values: Float32Array<ArrayBuffer>,
    scale = 1,
  ): Promise<void> {
    const { size } = transport, residual = this.residual;
    const largest = largestOf(values, residual, scale);
    const gathered = await transport.gather(new Uint8Array(Float64Array.of(largest).buffer));
    const total = gathered.reduce((sum, { buffer }) => sum + new Float64Array(buffer)[0]!, 0);
    if (!Number.isFinite(total)) {
      values.fill(NaN);
      return;
    }
    if (total === 0) return; // all numbers are zero
    // no sum of any ranks is above the sum of their largest numbers
    const up = 2 ** Math.floor(Math.log2(LARGEST / total)), down = 1 / up;

    const rests = piecesOf(residual);
    const pieces = piecesOf(values).map((values, p): Piece => ({ values, rest: rests[p]! }));
    /** Rounds the numbers of a rank, and keeps the errors. @returns a slice for each rank. */
    const round = ({ values, rest }: Piece) => {
      const rounded = roundWithRest(values, rest, { scale, up });
      return Array.from(
        { length: size },
        (_, r) => bytesOf(rounded.subarray(...sliceOf(r, { size, length: rounded.length }))),
      );
    };
    let parts = round(pieces[0]!);
    for (const [p, { values, rest }] of pieces.entries()) {
      const receiving = transport.alltoall(parts);
      const next = pieces[p + 1];
      if (next) parts = round(next);
      const received = (await receiving).map(({ buffer }) => new Float16Array(buffer));
      const [start, end] = sliceOf(transport.rank, { size, length: values.length });
      const exact = new Float32Array(end - start);
      for (const other of received) add(other, exact);
      const sum = new Float16Array(exact);
      keepError(exact, sum, rest.subarray(start, end), down / scale);
      let place = 0;
      for (const { buffer } of await transport.gather(bytesOf(sum))) {
        const slice = new Float16Array(buffer);
        multiply(slice, down, values.subarray(place, place += slice.length));
      }
    }
  }
}

// Loops over all numbers are separate functions: V8 compiles these well, and hardly the loops of a function that awaits.

/** The largest magnitude of numbers with what is left of them; NaN if one is. */
function largestOf(values: Float32Array, rest: Float32Array, scale: number): number {
  let largest = 0;
  for (let i = 0; i < values.length; i++) {
    largest = Math.max(largest, Math.abs(values[i]! + scale * rest[i]!));
  }
  return largest;
}

/** Rounds numbers with what is left of them, `up` times as large, and keeps the errors. */
function roundWithRest(
  values: Float32Array,
  rest: Float32Array,
  { scale, up }: { scale: number; up: number },
): Float16Array<ArrayBuffer> {
  const rounded = new Float16Array(values.length), down = 1 / up;
  for (let i = 0; i < values.length; i++) {
    const value = values[i]! + scale * rest[i]!;
    rounded[i] = up * value;
    rest[i] = (value - down * rounded[i]!) / scale;
  }
  return rounded;
}

/** sum += addend. */
function add(addend: Float16Array, sum: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i]! += addend[i]!;
}

/** Adds to the rest what rounding took away. */
function keepError(exact: Float32Array, rounded: Float16Array, rest: Float32Array, factor: number) {
  for (let i = 0; i < rest.length; i++) {
    rest[i] = rest[i]! + factor * (exact[i]! - rounded[i]!);
  }
}

/** y = factor · x. */
function multiply(x: Float16Array, factor: number, y: Float32Array): void {
  for (let i = 0; i < x.length; i++) y[i] = factor * x[i]!;
}

/** A copy of the bytes of numbers. */
function bytesOf(numbers: Float16Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  return new Uint8Array(
    numbers.buffer.slice(numbers.byteOffset, numbers.byteOffset + numbers.byteLength),
  );
}
