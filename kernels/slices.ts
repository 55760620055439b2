import { type Device, LimitError } from "./device.ts";
import { bytesPerElement, size, type Tensor, viewTensor } from "./tensor.ts";

/** Consecutive rows of a tensor that fit in one binding. */
export interface RowSlice {
  /** Index in the whole tensor of the first row. */
  readonly first: number;
  /** Number of rows. */
  readonly rows: number;
  /** View of the rows, [rows, …]. */
  readonly view: Tensor;
}

/**
 * Rows of whose multiples a slice may start: the fewest that are aligned to 256 bytes in f16, and therefore in
 * f32. So a table and its f16 copy are cut at the same rows.
 */
function alignedRows(rowLength: number, multipleOf: number): number {
  let rows = multipleOf;
  while (rows * rowLength * 2 % 256 !== 0) rows *= 2;
  return rows;
}

/**
 * Cuts a tensor along its first dimension into slices, each of which fits in one binding. The embedding of
 * GPT-2 (154 MB in f32) needs two slices if a binding holds at most 128 MiB.
 *
 * @param options.maxRows most rows per slice, for kernels that loop over them; no limit by default.
 * @param options.multipleOf rows of whose multiples each slice starts; 1 by default.
 * @throws {LimitError} if the fewest rows of a slice do not fit in one binding.
 */
export function rowSlices(
  device: Device,
  tensor: Tensor,
  { maxRows = Infinity, multipleOf = 1 }: { maxRows?: number; multipleOf?: number } = {},
): RowSlice[] {
  const [length, ...rest] = tensor.shape as [number, ...number[]];
  const rowBytes = size(rest) * bytesPerElement(tensor.dtype);
  const fitting = Math.min(maxRows, Math.floor(device.maxBindingBytes / rowBytes));
  const aligned = alignedRows(size(rest), multipleOf);
  const step = length <= fitting ? length : Math.floor(fitting / aligned) * aligned;
  if (step < 1) {
    throw new LimitError(
      `Cannot slice "${tensor.name}" as ${device.name} binds at most ${device.maxBindingBytes} ` +
        `bytes: current size is ${rowBytes} bytes per row`,
      { limit: "binding", most: device.maxBindingBytes, need: aligned * rowBytes },
    );
  }
  const slices: RowSlice[] = [];
  for (let first = 0; first < length; first += step) {
    slices.push(rowSlice(tensor, { first, rows: Math.min(step, length - first) }));
  }
  return slices;
}

/** The slice of a tensor with these rows. */
export function rowSlice(
  tensor: Tensor,
  { first, rows }: { first: number; rows: number },
): RowSlice {
  const rest = tensor.shape.slice(1);
  const view = viewTensor(tensor, { offset: first * size(rest), shape: [rows, ...rest] });
  return { first, rows, view };
}

/** Elements per row when flat tensors are cut. */
const FLAT_ROW = 64;

/** A part of flat tensors that fits in one binding. */
export interface FlatSlice {
  /** The part of one of the tensors. */
  readonly sliceOf: (tensor: Tensor) => Tensor;
  /** Its elements, in vectors of four. */
  readonly N4: number;
}

/**
 * Cuts flat tensors into parts, each of which fits in one binding.
 *
 * @param tensor the first of them, [N] in f32; the others have as many elements, in f32 or f16.
 * @param options.action what is done with them, for messages.
 * @param options.input the name of the first one there.
 * @throws {RangeError} if N is no multiple of 64.
 */
export function flatSlices(
  device: Device,
  tensor: Tensor,
  { action, input }: { action: string; input: string },
): FlatSlice[] {
  const [N] = tensor.shape as [number];
  if (N % FLAT_ROW !== 0) {
    throw new RangeError(
      `Cannot run ${action} as ${input} must have a multiple of ${FLAT_ROW} elements: ` +
        `current number of "${tensor.name}" is ${N}`,
    );
  }
  const table = viewTensor(tensor, { offset: 0, shape: [N / FLAT_ROW, FLAT_ROW] });
  return rowSlices(device, table).map(({ first, rows }) => ({
    sliceOf: (other) => viewTensor(other, { offset: first * FLAT_ROW, shape: [rows * FLAT_ROW] }),
    N4: rows * FLAT_ROW / 4,
  }));
}
