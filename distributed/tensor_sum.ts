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
 * Bytes that are copied without a break, 0.1 to 0.3 ms: the calls of the transport continue in the breaks, on other
 * threads, and each takes about as long.
 */
const COPY_BYTES = 2 ** 20;

/** A tensor, and the buffer through which the host reads it. */
interface Staged {
  readonly tensor: Tensor;
  readonly staging: GPUBuffer;
}

/** A part of a tensor on the host, while it is added up. */
interface Piece extends Staged {
  /** Where it begins in the tensor, in bytes. */
  readonly start: number;
  readonly values: Float32Array<ArrayBuffer>;
  readonly sum: Promise<void>;
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
 * Adds up tensors over all ranks, in place, through the host: WebGPU's buffers cannot be shared with MPI. While the
 * transport adds up some pieces, others are copied. Tensors may come in groups that are read back one after the other, as
 * soon as each has its values; where a read-back waits for the whole device, one group is faster.
 */
export class TensorSum implements Disposable {
  /** What was rounded away of the tensor that travels in f16 and is not sent yet; undefined without one. */
  readonly residual: Float32Array<ArrayBuffer> | undefined;
  readonly #device: Device;
  readonly #transport: Transport;
  readonly #groups: readonly (readonly Staged[])[];
  readonly #rounded: Rounded | undefined;
  /** Memory of the pieces. */
  readonly #memory: readonly Float32Array<ArrayBuffer>[];
  /** The groups of this sum that are read back, each of which resolves when the host can read it. */
  #reading: Promise<void>[] = [];
  #ms: ExchangeMs = { wait: 0, download: 0, sum: 0, upload: 0 };

  /**
   * Allocates the staging buffers, as many bytes as the tensors.
   *
   * @param groups of f32 tensors, which all ranks have in the same shapes.
   * @param rounded one more, which travels in f16 and belongs to the last group.
   */
  constructor(
    device: Device,
    transport: Transport,
    groups: readonly (readonly Tensor[])[],
    rounded?: RoundedTensor,
  ) {
    this.#device = device;
    this.#transport = transport;
    this.#groups = groups.map((tensors) => tensors.map((tensor) => stage(device, tensor)));
    const bytes = this.#groups.flat().map(({ staging }) => staging.size);
    this.#memory = Array.from(
      { length: PIECES },
      () => new Float32Array(Math.min(PIECE_BYTES, Math.max(0, ...bytes)) / 4),
    );
    if (!rounded) return;
    const { tensor, scale } = rounded, wire = new F16Wire(size(tensor.shape));
    this.residual = wire.residual;
    this.#rounded = { wire, numbers: stage(device, tensor), scale: scale && stage(device, scale) };
  }

  /** Begins to read back the next group, whose values come from what was submitted so far. */
  read(): void {
    const { gpu } = this.#device, group = this.#reading.length;
    const encoder = gpu.createCommandEncoder(), all = [...this.#groups[group]!];
    if (group === this.#groups.length - 1) all.push(...this.#roundedStaged());
    for (const { tensor, staging } of all) {
      encoder.copyBufferToBuffer(tensor.buffer, tensor.offsetBytes, staging, 0, staging.size);
    }
    gpu.queue.submit([encoder.finish()]);
    const name = all.map(({ tensor }) => tensor.name).join();
    const mapped = mapForReading(this.#device, all.map(({ staging }) => staging), name);
    mapped.catch(() => {}); // another one may throw before it
    this.#reading.push(mapped);
  }

  /**
   * Reads the groups that are left, and replaces each tensor by its sum over all ranks.
   *
   * @throws {DeviceError} if the device has failed.
   */
  async run(): Promise<void> {
    const pieces: Piece[] = []; // that are added up
    let count = 0;
    while (this.#reading.length < this.#groups.length) this.read();
    for (const [i, group] of this.#groups.entries()) {
      if (group.some(({ staging }) => staging.mapState !== "mapped")) {
        while (pieces.length > 0) await this.#finish(pieces.shift()!);
      }
      const since = performance.now();
      await this.#reading[i];
      this.#ms.wait += performance.now() - since;
      for (const staged of group) {
        for (let start = 0; start < staged.staging.size; start += PIECE_BYTES) {
          if (pieces.length === PIECES - 1) await this.#finish(pieces.shift()!);
          pieces.push(await this.#begin(staged, start, this.#memory[count++ % PIECES]!));
        }
      }
    }
    for (const piece of pieces) await this.#finish(piece);
    if (this.#rounded) await this.#sumRounded(this.#rounded);
    for (const { staging } of this.#all()) staging.unmap();
    this.#reading = [];
  }

  /** Copies a piece of a mapped tensor, and lets the transport add it up. */
  async #begin(
    { tensor, staging }: Staged,
    start: number,
    memory: Float32Array<ArrayBuffer>,
  ): Promise<Piece> {
    const values = memory.subarray(0, (staging.size - start) / 4);
    for (const [from, stretch] of stretchesOf(values)) {
      await this.#timed("download", () => this.#copy(staging, start + from, stretch));
    }
    const sum = this.#transport.sum(values);
    sum.catch(() => {}); // another one may throw before it
    return { tensor, staging, start, values, sum };
  }

  /** Waits for the sum of a piece, and queues it for the device. */
  async #finish({ tensor, start, values, sum }: Piece): Promise<void> {
    const { queue } = this.#device.gpu, since = performance.now();
    await sum;
    this.#ms.sum += performance.now() - since;
    for (const [from, stretch] of stretchesOf(values)) {
      await this.#timed("upload", () => {
        queue.writeBuffer(tensor.buffer, tensor.offsetBytes + start + from, stretch);
      });
    }
    queue.submit([]); // what was written needs its memory no longer, which serves for the next pieces
  }

  /** Copies a stretch of a mapped buffer. */
  #copy(staging: GPUBuffer, from: number, stretch: Float32Array): void {
    const range = staging.getMappedRange(from, stretch.byteLength);
    stretch.set(new Float32Array(range));
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

  #roundedStaged(): Staged[] {
    const { numbers, scale } = this.#rounded ?? {};
    return [numbers, scale].filter((staged) => staged !== undefined);
  }

  #all(): Staged[] {
    return [...this.#groups.flat(), ...this.#roundedStaged()];
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

/** The stretches of a piece that are copied without a break, and where they begin in it, in bytes. */
function* stretchesOf(
  values: Float32Array<ArrayBuffer>,
): Generator<[from: number, stretch: Float32Array<ArrayBuffer>]> {
  for (let from = 0; from < values.byteLength; from += COPY_BYTES) {
    yield [from, values.subarray(from / 4, (from + COPY_BYTES) / 4)];
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
