import type { Device } from "../kernels/device.ts";

/** Counter of the bytes of the buffers on a device. */
export interface MemoryMeter {
  /** Most bytes that all buffers had at one time since the count began. */
  readonly peakBytes: number;
  /** Ends the count. */
  stop(): void;
}

/** Counts from now on the bytes of all buffers that are created and destroyed on a device. */
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
