import type { Device } from "./device.ts";
import {
  bytesPerElement,
  createTensor,
  type DType,
  size,
  type Tensor,
  viewTensor,
} from "./tensor.ts";

/** Named tensors in one buffer, so that one launch can process all of them. */
export interface Arena {
  /** The whole buffer as one flat tensor, padding included; padding stays zero. */
  readonly flat: Tensor;
  /** The tensors by name, in the order of the table. */
  readonly tensors: ReadonlyMap<string, Tensor>;
}

/** Bytes of whose multiples a binding may start on every WebGPU device. */
const ALIGNMENT_BYTES = 256;

/**
 * Allocates one zeroed buffer for a table of names and shapes.
 *
 * The element offset of a tensor does not depend on the element type unless it is i8, so that arenas of one table
 * (parameters, gradients, moments, f16 copies) correspond element by element.
 */
export function createArena(
  device: Device,
  name: string,
  { shapes, dtype }: { shapes: ReadonlyMap<string, readonly number[]>; dtype: DType },
): Arena {
  let length = 0;
  const offsets = new Map<string, number>();
  for (const [key, shape] of shapes) {
    offsets.set(key, length);
    length += paddedSize(shape, dtype);
  }
  const flat = createTensor(device, name, { shape: [length], dtype });
  const tensors = new Map<string, Tensor>();
  for (const [key, shape] of shapes) {
    tensors.set(
      key,
      viewTensor(flat, { name: `${name} ${key}`, offset: offsets.get(key)!, shape }),
    );
  }
  return { flat, tensors };
}

/** Most tensors of one shape that an arena may hold, as its buffer has a limit; 1 if none fits. */
export function mostInBuffer(
  { gpu }: Device,
  { shape, dtype }: { shape: readonly number[]; dtype: DType },
): number {
  const bytes = paddedSize(shape, dtype) * bytesPerElement(dtype);
  return Math.max(1, Math.floor(gpu.limits.maxBufferSize / bytes));
}

/**
 * The tensor of this name.
 *
 * @throws {RangeError} if the arena holds no tensor of this name.
 */
export function tensorNamed(arena: Arena, key: string): Tensor {
  const tensor = arena.tensors.get(key);
  if (!tensor) {
    throw new RangeError(
      `Cannot find "${key}" as it must be in the arena "${arena.flat.name}": ` +
        `current names are ${[...arena.tensors.keys()]}`,
    );
  }
  return tensor;
}

/** The arena from one tensor to another, with the padding of both, as one flat tensor. */
export function arenaRange(
  arena: Arena,
  { first, last }: { first: string; last: string },
): Tensor {
  const offset = elementOffset(arena, first), { shape } = tensorNamed(arena, last);
  const end = elementOffset(arena, last) + paddedSize(shape, arena.flat.dtype);
  return viewTensor(arena.flat, { offset, shape: [end - offset] });
}

/** Elements from the start of a tensor to that of the next one. */
function paddedSize(shape: readonly number[], dtype: DType): number {
  const alignment = ALIGNMENT_BYTES / bytesPerElement(dtype === "i8" ? "i8" : "f16");
  return Math.ceil(size(shape) / alignment) * alignment;
}

/** Index in an arena of the first element of a tensor. */
export function elementOffset(arena: Arena, key: string): number {
  return tensorNamed(arena, key).offsetBytes / bytesPerElement(arena.flat.dtype);
}
