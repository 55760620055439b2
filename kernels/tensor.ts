import { type Device, DeviceError, LimitError } from "./device.ts";

/** Element type of a tensor on the device. */
export type DType = "f32" | "f16" | "u32" | "i8";

/** A typed view of `size(shape)` elements of a GPU buffer, starting at `offsetBytes`. */
export interface Tensor {
  /** Name of the tensor, which labels its buffer and appears in messages. */
  readonly name: string;
  /** Dimensions, slowest first; the layout is row-major without gaps. */
  readonly shape: readonly number[];
  /** Element type. */
  readonly dtype: DType;
  /** The buffer that holds the elements. */
  readonly buffer: GPUBuffer;
  /** Byte offset of the first element in `buffer`. */
  readonly offsetBytes: number;
}

/** Elements of a tensor on the host: floats for `f32`, `f16` and `i8`, integers for `u32`. */
export type HostArray = Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/** Product of all dimensions. */
export function size(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

/** Size of one element in bytes. */
export function bytesPerElement(dtype: DType): number {
  return dtype === "i8" ? 1 : dtype === "f16" ? 2 : 4;
}

/** Bytes that a tensor occupies on the device, a multiple of four as storage bindings require. */
export function tensorBytes({ shape, dtype }: Pick<Tensor, "shape" | "dtype">): number {
  return Math.ceil(size(shape) * bytesPerElement(dtype) / 4) * 4;
}

/** Smallest integer not below a / b. */
export function ceilDiv(a: number, b: number): number {
  return Math.ceil(a / b);
}

const STORAGE_USAGE = 0x80 | 0x04 | 0x08; // STORAGE | COPY_SRC | COPY_DST

/**
 * Allocates a zeroed tensor in a new buffer.
 *
 * @throws {RangeError} if a dimension is not a positive integer; {LimitError} if the tensor exceeds the
 * device's limit of a buffer.
 */
export function createTensor(
  device: Device,
  name: string,
  { shape, dtype }: { shape: readonly number[]; dtype: DType },
): Tensor {
  if (shape.some((dim) => !Number.isInteger(dim) || dim < 1)) {
    throw new RangeError(
      `Cannot create tensor "${name}" as all dimensions must be positive integers: ` +
        `current shape is [${shape}]`,
    );
  }
  const bytes = tensorBytes({ shape, dtype }), most = device.gpu.limits.maxBufferSize;
  if (bytes > most) {
    throw new LimitError(
      `Cannot create tensor "${name}" as ${device.name} holds at most ${most} bytes in a buffer: ` +
        `current size is ${bytes} bytes`,
      { limit: "buffer", most, need: bytes },
    );
  }
  const buffer = device.gpu.createBuffer({ label: name, size: bytes, usage: STORAGE_USAGE });
  const tensor = { name, shape, dtype, buffer, offsetBytes: 0 };
  device.onTensor?.(tensor);
  return tensor;
}

/**
 * A view of a part of a tensor, which starts at element `offset` and has another shape.
 *
 * @throws {RangeError} if the view does not lie inside the tensor.
 */
export function viewTensor(
  tensor: Tensor,
  { name = tensor.name, offset, shape }: {
    name?: string;
    offset: number;
    shape: readonly number[];
  },
): Tensor {
  if (offset < 0 || offset + size(shape) > size(tensor.shape)) {
    throw new RangeError(
      `Cannot view "${tensor.name}" as the view must lie inside [${tensor.shape}]: ` +
        `current view is [${shape}] at element ${offset}`,
    );
  }
  return {
    name,
    shape,
    dtype: tensor.dtype,
    buffer: tensor.buffer,
    offsetBytes: tensor.offsetBytes + offset * bytesPerElement(tensor.dtype),
  };
}

/**
 * Writes all elements of a tensor from the host; floats are rounded to nearest even for `f16`.
 *
 * @throws {RangeError} if `data` has another number of elements than the tensor.
 */
export function upload(device: Device, tensor: Tensor, data: ArrayLike<number>): void {
  const length = size(tensor.shape);
  if (data.length !== length) {
    throw new RangeError(
      `Cannot upload to tensor "${tensor.name}" as the data must have ${length} elements: ` +
        `current number is ${data.length}`,
    );
  }
  const isAsStored = tensor.dtype === "f32" && data instanceof Float32Array ||
    tensor.dtype === "u32" && data instanceof Uint32Array;
  if (isAsStored) { // a copy of gigabytes takes as long as sending them
    const { buffer, byteOffset, byteLength } = data as HostArray;
    const bytes = new Uint8Array(buffer, byteOffset, byteLength);
    device.gpu.queue.writeBuffer(tensor.buffer, tensor.offsetBytes, bytes);
    return;
  }
  const padded = tensorBytes(tensor) / bytesPerElement(tensor.dtype);
  const elements = tensor.dtype === "u32"
    ? new Uint32Array(padded)
    : tensor.dtype === "f32"
    ? new Float32Array(padded)
    : tensor.dtype === "f16"
    ? new Float16Array(padded)
    : new Int8Array(padded);
  elements.set(data);
  device.gpu.queue.writeBuffer(
    tensor.buffer,
    tensor.offsetBytes,
    new Uint8Array(elements.buffer as ArrayBuffer),
  );
}

/**
 * Reads tensors back to the host in one round trip; `f16` and `i8` are widened to `f32`.
 *
 * The call waits until the device is idle: do not call it in a loop over steps or tokens.
 *
 * @returns one array per tensor, in order.
 * @throws {DeviceError} if the device has failed, is lost, or has refused a launch since the last call.
 *
 * @example Write a tensor and read it back
 * ```ts
 * import { openDevice } from "../mod.ts";
 * import { createTensor, download, upload } from "./tensor.ts";
 *
 * const device = await openDevice();
 * const x = createTensor(device, "x", { shape: [2, 2], dtype: "f32" });
 * upload(device, x, [1, 2, 3, 4]);
 * const [values] = await download(device, x);
 * console.log(values); // Float32Array [1, 2, 3, 4]
 * ```
 */
export async function download(
  device: Device,
  ...tensors: readonly Tensor[]
): Promise<HostArray[]> {
  const bytes = tensors.map(tensorBytes);
  const staging = device.gpu.createBuffer({
    label: `read back ${tensors.map((t) => t.name)}`,
    size: bytes.reduce((sum, n) => sum + n, 0),
    usage: 0x01 | 0x08, // MAP_READ | COPY_DST
  });
  const encoder = device.gpu.createCommandEncoder();
  let offset = 0;
  tensors.forEach((t, i) => {
    encoder.copyBufferToBuffer(t.buffer, t.offsetBytes, staging, offset, bytes[i]!);
    offset += bytes[i]!;
  });
  device.gpu.queue.submit([encoder.finish()]);
  await mapForReading(device, [staging], `${tensors.map((t) => t.name)}`);
  const mapped = staging.getMappedRange();
  let start = 0;
  const arrays = tensors.map((t, i) => {
    const slice = mapped.slice(start, start + bytes[i]!);
    start += bytes[i]!;
    const length = size(t.shape);
    if (t.dtype === "u32") return new Uint32Array(slice, 0, length);
    if (t.dtype === "f32") return new Float32Array(slice, 0, length);
    if (t.dtype === "i8") return new Float32Array(new Int8Array(slice, 0, length));
    return new Float32Array(new Float16Array(slice, 0, length));
  });
  staging.destroy();
  return arrays;
}

/**
 * Maps buffers for reading in one round trip; waits until the device is idle.
 *
 * @param name of what they hold, for messages.
 * @throws {DeviceError} as `download()`.
 */
export async function mapForReading(
  device: Device,
  buffers: readonly GPUBuffer[],
  name: string,
): Promise<void> {
  try {
    await Promise.all(buffers.map((buffer) => buffer.mapAsync(0x01))); // READ
  } catch (cause) {
    await new Promise((resolve) => setTimeout(resolve)); // an event reports a lost device
    device.check(); // throws the cause if the device reported it
    throw new DeviceError(`Cannot read back ${name}: ${(cause as Error).message}`, "lost");
  }
  device.check();
}

/** A single tensor by its role in an op. */
export type Named = Readonly<Record<string, Tensor>>;

/** Throws a RangeError unless the tensor has exactly this shape. */
export function assertShape(action: string, named: Named, shape: readonly number[]): void {
  const [[role, tensor]] = Object.entries(named) as [[string, Tensor]];
  if (tensor.shape.length !== shape.length || tensor.shape.some((dim, i) => dim !== shape[i])) {
    throw new RangeError(
      `Cannot run ${action} as ${role} must have shape [${shape}]: ` +
        `current shape of "${tensor.name}" is [${tensor.shape}]`,
    );
  }
}

/** Throws a TypeError if some of these tensors are given and others are not. */
export function assertTogether(
  action: string,
  tensors: Readonly<Record<string, Tensor | undefined>>,
): void {
  const names = Object.keys(tensors), given = names.filter((name) => tensors[name]);
  if (given.length === 0 || given.length === names.length) return;
  throw new TypeError(
    `Cannot run ${action} as ${names.join(" and ")} must be given together: ` +
      `current is ${given.join(" and ")} alone`,
  );
}

/** Throws a RangeError unless the rows of the tensor are whole vectors of four elements. */
export function assertVectors(action: string, named: Named): void {
  const [[role, { name, shape }]] = Object.entries(named) as [[string, Tensor]];
  if (shape.at(-1)! % 4 === 0) return;
  throw new RangeError(
    `Cannot run ${action} as rows of ${role} must have a multiple of four elements: ` +
      `current shape of "${name}" is [${shape}]`,
  );
}

/** Throws a TypeError unless the tensor has one of these element types. */
export function assertDType(action: string, named: Named, ...allowed: readonly DType[]): void {
  const [[role, tensor]] = Object.entries(named) as [[string, Tensor]];
  if (!allowed.includes(tensor.dtype)) {
    throw new TypeError(
      `Cannot run ${action} as ${role} must be ${allowed.join(" or ")}: ` +
        `current type of "${tensor.name}" is ${tensor.dtype}`,
    );
  }
}
