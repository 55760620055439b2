import type { Device } from "../kernels/device.ts";
import { mapForReading, size, type Tensor, tensorBytes } from "../kernels/tensor.ts";
import type { Transport } from "./transport.ts";
import { F16Wire } from "./wire.ts";

/** Milliseconds of sums of tensors, by their parts. */
export interface ExchangeMs {
  /** Until the device had computed the tensors, and they were copied to the host. */
  download: number;
  /** Until they were added up, with the wait for other ranks. */
  sum: number;
  /** Until the sums were queued for the device. */
  upload: number;
}

/** Bytes of a piece, at most: what is in the host's memory at once beside the staging buffers. */
const PIECE_BYTES = 2 ** 26;

/** A part of a tensor, and the buffer through which the host reads it. */
interface Piece {
  readonly tensor: Tensor;
  readonly offsetBytes: number;
  readonly staging: GPUBuffer;
}

/** A tensor that travels between ranks in f16, with error feedback. */
export interface RoundedTensor {
  readonly tensor: Tensor;
  /** f32 [1]: a power of two by which its numbers are larger than usual, equal on all ranks. */
  readonly scale: Tensor;
}

/**
 * Adds up tensors over all ranks, in place, through the host: WebGPU's buffers cannot be shared with MPI. There is one
 * read-back for all tensors, since each waits for the device.
 */
export class TensorSum implements Disposable {
  /** What was rounded away of the tensor that travels in f16 and is not sent yet; undefined without one. */
  readonly residual: Float32Array<ArrayBuffer> | undefined;
  readonly #device: Device;
  readonly #transport: Transport;
  readonly #pieces: readonly Piece[];
  readonly #rounded:
    | { readonly wire: F16Wire; readonly pieces: readonly Piece[]; readonly scale: Piece }
    | undefined;
  #ms: ExchangeMs = { download: 0, sum: 0, upload: 0 };

  /**
   * Allocates the staging buffers, as many bytes as the tensors.
   *
   * @param tensors f32, which all ranks have in the same shapes.
   * @param rounded one more, which travels in f16.
   */
  constructor(
    device: Device,
    transport: Transport,
    tensors: readonly Tensor[],
    rounded?: RoundedTensor,
  ) {
    this.#device = device;
    this.#transport = transport;
    this.#pieces = tensors.flatMap((tensor) => piecesOf(device, tensor));
    if (!rounded) return;
    const { tensor, scale } = rounded, wire = new F16Wire(size(tensor.shape));
    this.residual = wire.residual;
    this.#rounded = {
      wire,
      pieces: piecesOf(device, tensor),
      scale: piecesOf(device, scale)[0]!,
    };
  }

  /**
   * Replaces each tensor by its sum over all ranks.
   *
   * @throws {DeviceError} if the device has failed.
   */
  async run(): Promise<void> {
    const { gpu } = this.#device, transport = this.#transport, ms = this.#ms;
    let since = performance.now();
    const lap = (part: keyof ExchangeMs) => {
      const now = performance.now();
      ms[part] += now - since;
      since = now;
    };
    const upload = ({ tensor, offsetBytes, staging }: Piece, range: ArrayBuffer) => {
      gpu.queue.writeBuffer(tensor.buffer, tensor.offsetBytes + offsetBytes, new Uint8Array(range));
      staging.unmap();
    };
    const encoder = gpu.createCommandEncoder(), all = this.#allPieces();
    for (const { tensor, offsetBytes, staging } of all) {
      const from = tensor.offsetBytes + offsetBytes;
      encoder.copyBufferToBuffer(tensor.buffer, from, staging, 0, staging.size);
    }
    gpu.queue.submit([encoder.finish()]);
    const name = [...new Set(all.map(({ tensor }) => tensor.name))].join();
    await mapForReading(this.#device, all.map(({ staging }) => staging), name);
    // Deno's mapped range is a copy; that of Dawn is the mapping, which no one else reads
    for (const piece of this.#pieces) {
      const range = piece.staging.getMappedRange();
      lap("download");
      await transport.sum(new Float32Array(range));
      lap("sum");
      upload(piece, range);
      lap("upload");
    }
    if (!this.#rounded) return;
    const { wire, pieces, scale } = this.#rounded;
    const ranges = pieces.map(({ staging }) => staging.getMappedRange());
    const [factor] = new Float32Array(scale.staging.getMappedRange());
    scale.staging.unmap();
    lap("download");
    await wire.sum(transport, ranges.map((range) => new Float32Array(range)), factor);
    lap("sum");
    for (const [i, piece] of pieces.entries()) upload(piece, ranges[i]!);
    lap("upload");
  }

  #allPieces(): Piece[] {
    return [
      ...this.#pieces,
      ...this.#rounded ? [...this.#rounded.pieces, this.#rounded.scale] : [],
    ];
  }

  /** What `run()` took since the last call of this. */
  takeMs(): ExchangeMs {
    const ms = this.#ms;
    this.#ms = { download: 0, sum: 0, upload: 0 };
    return ms;
  }

  /** Frees the staging buffers. */
  [Symbol.dispose](): void {
    for (const { staging } of this.#allPieces()) staging.destroy();
  }
}

/** Cuts a tensor, and allocates a staging buffer for each piece. */
function piecesOf(device: Device, tensor: Tensor): Piece[] {
  const bytes = tensorBytes(tensor);
  return Array.from({ length: Math.ceil(bytes / PIECE_BYTES) }, (_, i) => ({
    tensor,
    offsetBytes: i * PIECE_BYTES,
    staging: device.gpu.createBuffer({
      label: `sum of ${tensor.name}`,
      size: Math.min(PIECE_BYTES, bytes - i * PIECE_BYTES),
      usage: 0x01 | 0x08, // MAP_READ | COPY_DST
    }),
  }));
}
