import { device } from "../kernels/harness.ts";

/**
 * Runs an action, and returns the labels of the buffers that it has created and left, beside its result. Also a function
 * of the device that it has replaced, and not put back, is among them.
 */
export async function withLiveBuffers<T>(
  action: () => Promise<T>,
): Promise<{ result: T; left: string[] }> {
  const { gpu } = device, { createBuffer } = gpu, live = new Set<GPUBuffer>();
  const counting = (descriptor: GPUBufferDescriptor) => {
    const buffer = createBuffer.call(gpu, descriptor), { destroy } = buffer;
    live.add(buffer);
    buffer.destroy = () => {
      live.delete(buffer);
      return destroy.call(buffer);
    };
    return buffer;
  };
  gpu.createBuffer = counting;
  try {
    const result = await action();
    const left = [...live].map(({ label }) => label);
    return { result, left: gpu.createBuffer === counting ? left : [...left, "createBuffer()"] };
  } finally {
    gpu.createBuffer = createBuffer;
  }
}
