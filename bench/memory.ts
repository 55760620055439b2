import type { Device } from "../kernels/device.ts";

/** Bytes of the buffers on a device. */
export interface MemoryMeter {
  /** Most bytes that buffers had at one time since the meter began. */
  readonly peakBytes: number;
  /** Ends the count. */
  stop(): void;
}

/** Counts the bytes of all buffers that are made and freed on a device from now on. */
export function meterMemory({ gpu }: Device): MemoryMeter {
  const createBuffer = gpu.createBuffer;
  let bytes = 0, peakBytes = 0;
  gpu.createBuffer = (descriptor) => {
    const buffer = createBuffer.call(gpu, descriptor);
    const destroy = buffer.destroy;
    bytes += buffer.size;
    peakBytes = Math.max(peakBytes, bytes);
    let live = true;
    buffer.destroy = () => {
      if (live) bytes -= buffer.size;
      live = false;
      return destroy.call(buffer);
    };
    return buffer;
  };
  return {
    get peakBytes() {
      return peakBytes;
    },
    stop() {
      gpu.createBuffer = createBuffer;
    },
  };
}
