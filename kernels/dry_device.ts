import type { Device } from "./device.ts";
import { Pipelines } from "./pipelines.ts";
import type { Tensor } from "./tensor.ts";

/** A device that allocates nothing: see `dryDevice()`. */
export interface DryDevice extends Device {
  /** Bytes of all buffers that were created and not destroyed. */
  readonly bytes: number;
  /** The tensors in these buffers, each whole, in the order of their creation; uniforms are none. */
  readonly tensors: Iterable<Tensor>;
  onTensor(tensor: Tensor): void;
}

/** What takes the place of all objects that a device makes but buffers. */
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

/** Pipelines of dry devices by those of the device: a search for what fits records the same work many times. */
const pipelinesOf = new WeakMap<Device["pipelines"], Device["pipelines"]>();

/**
 * A device with the limits and kernels of another that allocates, compiles and runs nothing. Recording work on
 * it makes the same checks as on the real device, but takes only milliseconds: it finds out whether the work
 * would exceed a limit, and how many bytes it needs. Nothing can be read back.
 */
export function dryDevice(device: Device): DryDevice {
  let bytes = 0;
  const tensors = new Map<GPUBuffer, Tensor>();
  let pipelines = pipelinesOf.get(device.pipelines);
  if (!pipelines) pipelinesOf.set(device.pipelines, pipelines = new Pipelines());
  const gpu = {
    limits: device.gpu.limits,
    queue: object,
    createBuffer({ label = "", size }: GPUBufferDescriptor) {
      bytes += size;
      let live = true;
      const buffer = {
        label,
        size,
        destroy() {
          if (live) bytes -= size;
          live = false;
          tensors.delete(buffer as GPUBuffer);
        },
      };
      return buffer;
    },
    createShaderModule: () => object,
    createComputePipeline: () => object,
    createBindGroup: () => object,
    createQuerySet: () => object,
    createCommandEncoder: () => object,
  };
  return {
    ...device,
    gpu: gpu as unknown as GPUDevice,
    background: undefined,
    pipelines,
    get bytes() {
      return bytes;
    },
    get tensors() {
      return tensors.values();
    },
    onTensor(tensor) {
      tensors.set(tensor.buffer, tensor);
    },
    check() {},
    destroy() {},
    [Symbol.dispose]() {},
  };
}
