import type { Device } from "./device.ts";
import { bytesPerElement, size, type Tensor, viewTensor } from "./tensor.ts";

/** Consecutive rows of a tensor that fit into one binding. */
export interface RowSlice {
  /** First row of the slice in the whole tensor. */
  readonly first: number;
  /** Number of rows. */
  readonly rows: number;
  /** View of the rows, [rows, …]. */
  readonly part: Tensor;
}

/** Slices start at multiples of so many rows, so that they are aligned to 256 bytes. */
const ALIGNED_ROWS = 128;

/**
 * Cuts a tensor along its first dimension into slices that each fit into one binding; a tensor that
 * fits is one slice. GPT-2's embedding (154 MB in f32) needs two where a binding shows 128 MiB.
 */
export function rowSlices(device: Device, tensor: Tensor): RowSlice[] {
  const [length, ...rest] = tensor.shape as [number, ...number[]];
  const rowBytes = size(rest) * bytesPerElement(tensor.dtype);
  const fitting = Math.floor(device.maxBindingBytes / rowBytes);
  const step = length <= fitting ? length : Math.floor(fitting / ALIGNED_ROWS) * ALIGNED_ROWS;
  if (step < 1) {
    throw new RangeError(
      `Cannot slice "${tensor.name}" as ${device.name} binds at most ${device.maxBindingBytes} ` +
        `bytes: current rows have ${rowBytes} bytes each`,
    );
  }
  const slices: RowSlice[] = [];
  for (let first = 0; first < length; first += step) {
    slices.push(rowSlice(tensor, { first, rows: Math.min(step, length - first) }));
  }
  return slices;
}

/** A view of some rows of a tensor. */
export function rowSlice(
  tensor: Tensor,
  { first, rows }: { first: number; rows: number },
): RowSlice {
  const rest = tensor.shape.slice(1);
  const part = viewTensor(tensor, { offset: first * size(rest), shape: [rows, ...rest] });
  return { first, rows, part };
}
