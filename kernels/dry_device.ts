import type { Device } from "./device.ts";

/** A device that allocates nothing: see `dryDevice()`. */
export interface DryDevice extends Device {
  /** Bytes of the buffers that would exist now. */
  readonly bytes: number;
}

/**
 * A device with the limits and kernels of another that allocates and compiles nothing. Work that is recorded
 * on it passes the same checks as on the device itself: within milliseconds they say whether it exceeds a
 * limit, and how many bytes it takes.
 *
 * Nothing can be read back from it.
 */
export function dryDevice(device: Device): DryDevice {
  let bytes = 0;
  const object = {
    getBindGroupLayout: () => object,
    beginComputePass: () => object,
    setPipeline() {},
    setBindGroup() {},
    dispatchWorkgroups() {},
    end() {},
    finish: () => object,
    submit() {},
    writeBuffer() {},
  };
  const gpu = {
    limits: device.gpu.limits,
    queue: object,
    createBuffer({ label = "", size }: GPUBufferDescriptor) {
      bytes += size;
      let live = true;
      return {
        label,
        size,
        destroy() {
          if (live) bytes -= size;
          live = false;
        },
      };
    },
    createShaderModule: () => object,
    createComputePipeline: () => object,
    createBindGroup: () => object,
    createCommandEncoder: () => object,
  };
  return {
    ...device,
    gpu: gpu as unknown as GPUDevice,
    pipelines: new Map(),
    get bytes() {
      return bytes;
    },
    check() {},
    destroy() {},
    [Symbol.dispose]() {},
  };
}
