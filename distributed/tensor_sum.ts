import type { Device } from "../kernels/device.ts";
import { mapForReading, type Tensor, tensorBytes } from "../kernels/tensor.ts";
import type { Transport } from "./transport.ts";

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

/**
 * Adds up tensors over all ranks, in place, through the host: WebGPU's buffers cannot be shared with MPI. There is one
 * read-back for all tensors, since each waits for the device.
 */
export class TensorSum implements Disposable {
  readonly #device: Device;
  readonly #transport: Transport;
  readonly #name: string;
  readonly #pieces: readonly Piece[];
  #ms: ExchangeMs = { download: 0, sum: 0, upload: 0 };

  /**
   * Allocates the staging buffers, as many bytes as the tensors.
   *
   * @param tensors f32, which all ranks have in the same shapes.
   */
  constructor(device: Device, transport: Transport, tensors: readonly Tensor[]) {
    this.#device = device;
    this.#transport = transport;
    this.#name = tensors.map(({ name }) => name).join();
    this.#pieces = tensors.flatMap((tensor) => {
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
    });
  }

  /**
   * Replaces each tensor by its sum over all ranks.
   *
   * @throws {DeviceError} if the device has failed.
   */
  async run(): Promise<void> {
    const { gpu } = this.#device, ms = this.#ms;
    let since = performance.now();
    const lap = (part: keyof ExchangeMs) => {
      const now = performance.now();
      ms[part] += now - since;
      since = now;
    };
    const encoder = gpu.createCommandEncoder();
    for (const { tensor, offsetBytes, staging } of this.#pieces) {
      const from = tensor.offsetBytes + offsetBytes;
      encoder.copyBufferToBuffer(tensor.buffer, from, staging, 0, staging.size);
    }
    gpu.queue.submit([encoder.finish()]);
    await mapForReading(this.#device, this.#pieces.map(({ staging }) => staging), this.#name);
    for (const { tensor, offsetBytes, staging } of this.#pieces) {
      // Deno's mapped range is a copy; that of Dawn is the mapping, which no one else reads
      const range = staging.getMappedRange();
      lap("download");
      await this.#transport.sum(new Float32Array(range));
      lap("sum");
      gpu.queue.writeBuffer(tensor.buffer, tensor.offsetBytes + offsetBytes, new Uint8Array(range));
      staging.unmap();
      lap("upload");
    }
  }

  /** What `run()` took since the last call of this. */
  takeMs(): ExchangeMs {
    const ms = this.#ms;
    this.#ms = { download: 0, sum: 0, upload: 0 };
    return ms;
  }

  /** Frees the staging buffers. */
  [Symbol.dispose](): void {
    for (const { staging } of this.#pieces) staging.destroy();
  }
}
