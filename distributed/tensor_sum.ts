import { setImmediate } from "node:timers";
import type { Device } from "../kernels/device.ts";
import { mapForReading, size, type Tensor, tensorBytes } from "../kernels/tensor.ts";
import { SUM_FLOATS, type Transport } from "./transport.ts";
import { F16Wire } from "./wire.ts";

/** Milliseconds of sums of tensors, by their parts. */
export interface ExchangeMs {
  /** Until the device had computed the tensors. */
  wait: number;
  /** For copying them to the host. */
  download: number;
  /** For waiting until they were added up, while nothing was copied. */
  sum: number;
  /** For queueing the sums for the device. */
  upload: number;
}

/** Bytes of a piece, which the transport adds up at once. */
const PIECE_BYTES = 4 * SUM_FLOATS;

/** Pieces in the host's memory: one is copied to it and one from it while the transport adds up the others. */
const PIECES = 4;

/**
 * Bytes that are copied without a break, 0.3 to 0.6 ms: the calls of the transport continue in the breaks, on other
 * threads, and each takes about as long.
 */
const COPY_BYTES = 2 ** 20;

/** A tensor, and the buffer through which the host reads it. */
interface Staged {
  readonly tensor: Tensor;
  readonly staging: GPUBuffer;
}

/** What `TensorSum` needs of a tensor that travels in f16. */
interface Rounded {
  readonly wire: F16Wire;
  readonly numbers: Staged;
  readonly scale: Staged | undefined;
}

/** A tensor that travels between ranks in f16, with error feedback. */
export interface RoundedTensor {
  readonly tensor: Tensor;
  /** f32 [1]: a power of two by which its numbers are larger than usual, equal on all ranks; 1 if not given. */
  readonly scale?: Tensor;
}

/**
 * Adds up tensors over all ranks, in place, through the host: WebGPU's buffers cannot be shared with MPI. There is one
 * read-back for all tensors, since each waits for the device. While the transport adds up some pieces, others are copied.
 */
export class TensorSum implements Disposable {
  /** What was rounded away of the tensor that travels in f16 and is not sent yet; undefined without one. */
  readonly residual: Float32Array<ArrayBuffer> | undefined;
  readonly #device: Device;
  readonly #transport: Transport;
  readonly #exact: readonly Staged[];
  readonly #rounded: Rounded | undefined;
  #ms: ExchangeMs = { wait: 0, download: 0, sum: 0, upload: 0 };

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
    this.#exact = tensors.map((tensor) => stage(device, tensor));
    if (!rounded) return;
    const { tensor, scale } = rounded, wire = new F16Wire(size(tensor.shape));
    this.residual = wire.residual;
    this.#rounded = { wire, numbers: stage(device, tensor), scale: scale && stage(device, scale) };
  }

  /**
   * Replaces each tensor by its sum over all ranks.
   *
   * @throws {DeviceError} if the device has failed.
   */
  async run(): Promise<void> {
    const { gpu } = this.#device, all = this.#all();
    const since = performance.now(), encoder = gpu.createCommandEncoder();
    for (const { tensor, staging } of all) {
      encoder.copyBufferToBuffer(tensor.buffer, tensor.offsetBytes, staging, 0, staging.size);
    }
    gpu.queue.submit([encoder.finish()]);
    const name = all.map(({ tensor }) => tensor.name).join();
    await mapForReading(this.#device, all.map(({ staging }) => staging), name);
    this.#ms.wait += performance.now() - since;
    for (const staged of this.#exact) await this.#sum(staged);
    if (this.#rounded) await this.#sumRounded(this.#rounded);
    for (const { staging } of all) staging.unmap();
  }

  /** Adds up a tensor that is mapped. */
  async #sum({ tensor, staging }: Staged): Promise<void> {
    const { queue } = this.#device.gpu, bytes = staging.size;
    const pieces = Array.from(
      { length: Math.min(PIECES, Math.ceil(bytes / PIECE_BYTES)) },
      () => new Float32Array(Math.min(bytes, PIECE_BYTES) / 4),
    );
    /** A piece, and the places of its parts that are copied without a break. */
    const partsOf = (start: number) => {
      const end = Math.min(start + PIECE_BYTES, bytes);
      const values = pieces[start / PIECE_BYTES % pieces.length]!.subarray(0, (end - start) / 4);
      const parts = [];
      for (let from = start; from < end; from += COPY_BYTES) {
        const place = (from - start) / 4;
        parts.push({ from, part: values.subarray(place, place + COPY_BYTES / 4) });
      }
      return { values, parts };
    };
    const sums: Promise<void>[] = [];
    for (let start = 0; start < bytes + (pieces.length - 1) * PIECE_BYTES; start += PIECE_BYTES) {
      if (start < bytes) {
        const { values, parts } = partsOf(start);
        for (const { from, part } of parts) {
          await this.#timed("download", () => this.#read(staging, from, part));
        }
        const sum = this.#transport.sum(values);
        sum.catch(() => {}); // another one may throw before it
        sums.push(sum);
      }
      const done = start - (pieces.length - 1) * PIECE_BYTES;
      if (done < 0) continue;
      const since = performance.now();
      await sums.shift();
      this.#ms.sum += performance.now() - since;
      for (const { from, part } of partsOf(done).parts) {
        await this.#timed("upload", () => {
          queue.writeBuffer(tensor.buffer, tensor.offsetBytes + from, part);
        });
      }
      queue.submit([]); // the memory of what was written is used again for the next pieces
    }
  }

  /** Copies a part of a mapped buffer. */
  #read(staging: GPUBuffer, from: number, part: Float32Array): void {
    const range = staging.getMappedRange(from, part.byteLength);
    part.set(new Float32Array(range));
    // that of Deno is a copy, in memory that is used again at once instead of after a collection
    if (this.#device.provider === "native") range.transfer(0);
  }

  /** Adds up a tensor that is mapped and travels in f16. */
  async #sumRounded(
    { wire, numbers: { tensor, staging }, scale }: Rounded,
  ): Promise<void> {
    const { queue } = this.#device.gpu, { length } = wire.residual;
    let values = new Float32Array(), factor = 1;
    await this.#timed("download", () => {
      values = new Float32Array(staging.getMappedRange(), 0, length);
      if (scale) factor = new Float32Array(scale.staging.getMappedRange())[0]!;
    });
    const since = performance.now();
    await wire.sum(this.#transport, values, factor);
    this.#ms.sum += performance.now() - since;
    await this.#timed("upload", () => {
      queue.writeBuffer(tensor.buffer, tensor.offsetBytes, values);
    });
  }

  /** Copies something, and lets the event loop turn once. */
  async #timed(part: "download" | "upload", copy: () => void): Promise<void> {
    const since = performance.now();
    copy();
    this.#ms[part] += performance.now() - since;
    await new Promise((resolve) => setImmediate(resolve));
  }

  #all(): Staged[] {
    const { numbers, scale } = this.#rounded ?? {};
    return [...this.#exact, numbers, scale].filter((staged) => staged !== undefined);
  }

  /** What `run()` took since the last call of this. */
  takeMs(): ExchangeMs {
    const ms = this.#ms;
    this.#ms = { wait: 0, download: 0, sum: 0, upload: 0 };
    return ms;
  }

  /** Frees the staging buffers. */
  [Symbol.dispose](): void {
    for (const { staging } of this.#all()) staging.destroy();
  }
}

/** Allocates a buffer for reading a tensor. */
function stage(device: Device, tensor: Tensor): Staged {
  const staging = device.gpu.createBuffer({
    label: `sum of ${tensor.name}`,
    size: tensorBytes(tensor),
    usage: 0x01 | 0x08, // MAP_READ | COPY_DST
  });
  return { tensor, staging };
}
