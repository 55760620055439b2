import type { Pipeline } from "./shader.ts";
import { UserError, type UserErrorOptions } from "../files/user_error.ts";
import { testSubgroups } from "./subgroups.ts";

/** A WebGPU device, what it can do, and the first thing that went wrong on it. */
export interface Device {
  /** The WebGPU device itself. */
  readonly gpu: GPUDevice;
  /** The adapter's name for people, such as `NVIDIA H200`. */
  readonly name: string;
  /** True for a software adapter that computes on the CPU, such as Mesa's lavapipe. */
  readonly isCpu: boolean;
  /** The adapter's driver, as far as WebGPU says: vendor and, on Linux, Vulkan or OpenGL. */
  readonly backend: string;
  /** Features that were granted, `shader-f16` among them where the adapter has it. */
  readonly features: ReadonlySet<string>;
  /**
   * Invocations in a subgroup, on CPU adapters whose subgroups passed a test. Undefined elsewhere: there
   * kernels use no subgroups.
   */
  readonly subgroupSize: number | undefined;
  /** Most bytes of a buffer that one binding exposes to a shader. */
  readonly maxBindingBytes: number;
  /** Compiled pipelines by constants and shader text, shared by all programs on this device. */
  readonly pipelines: Map<string, Pipeline>;
  /** Kernels that were found to be the fastest here, by `Tunable.key`: see tune.ts. */
  readonly choices: Map<string, string>;
  /**
   * Throws the first error that the device reported since it was opened.
   *
   * WebGPU reports a faulty call, exhausted memory and a lost device outside the call that caused
   * them and continues with an invalid object; code that reads results back asks here first.
   */
  check(): void;
  /** Frees the device and everything on it. */
  destroy(): void;
  /** The same, at the end of the block in which `using` declares the device. */
  [Symbol.dispose](): void;
}

/** Thrown when there is no usable WebGPU adapter, or when the device fails while it works. */
export class DeviceError extends UserError {
  /** Distinguishes this error from others without `instanceof`. */
  override name = "DeviceError";
  /** What happened to the device: there is none, its memory is exhausted, or it was lost. */
  readonly kind: "missing" | "memory" | "lost";

  /** An error with its sentence. */
  constructor(sentence: string, kind: DeviceError["kind"], options?: UserErrorOptions) {
    super(sentence, options);
    this.kind = kind;
  }
}

/** A limit that was exceeded: in bytes, workgroups, iterations of a loop, or launches. */
export interface Exceeded {
  readonly limit:
    | "binding"
    | "buffer"
    | "workgroups"
    | "workgroup memory"
    | "loop"
    | "launches"
    | "memory";
  readonly most: number;
  readonly need: number;
}

/**
 * Thrown if a tensor or a launch would exceed a limit of the device. The message is for authors of kernels;
 * callers that know a user's options say which one to lower instead.
 */
export class LimitError extends UserError {
  /** Distinguishes this error from others without `instanceof`. */
  override name = "LimitError";
  /** Which limit, and by how much. */
  readonly exceeded: Exceeded;

  /** An error with a message for programmers, and the figures for a message to users. */
  constructor(message: string, exceeded: Exceeded) {
    super(message);
    this.exceeded = exceeded;
  }
}

const DOCTOR = "See what is missing and how to fix it: deno task doctor";

/** Features to request if the adapter has them. */
const WANTED_FEATURES: GPUFeatureName[] = ["shader-f16", "timestamp-query"];

/** Limits to raise from WebGPU's defaults to whatever the adapter has. */
const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
] as const;

/**
 * Opens the most capable WebGPU device with all features and limits that the kernels can use.
 *
 * @param options `gpu` is the WebGPU provider; without it the runtime's own, `navigator.gpu`.
 * @returns the device; call `destroy()` on it when done.
 * @throws {DeviceError} if there is no WebGPU or no adapter.
 */
export async function openDevice({ gpu = navigator.gpu }: { gpu?: GPU } = {}): Promise<Device> {
  if (!gpu) {
    throw new DeviceError(
      "Cannot open a device as this runtime has no WebGPU (navigator.gpu)",
      "missing",
      { hint: DOCTOR },
    );
  }
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) {
    throw new DeviceError(
      "Cannot open a device as WebGPU found no adapter: a graphics driver is missing",
      "missing",
      { hint: DOCTOR },
    );
  }
  const { description, vendor, device: model, isFallbackAdapter } = adapter.info;
  const name = description || `${vendor} ${model}`.trim() || "the WebGPU device";
  const isCpu = isFallbackAdapter || /llvmpipe|lavapipe|swiftshader|warp|basic render/i.test(name);
  const features = WANTED_FEATURES.filter((name) => adapter.features.has(name));
  const requiredLimits: Record<string, number> = {};
  for (const name of WANTED_LIMITS) requiredLimits[name] = adapter.limits[name];
  const request = (requiredFeatures: GPUFeatureName[]) =>
    adapter.requestDevice({ requiredFeatures, requiredLimits });
  // Deno lists no subgroups but grants them (2.9.6); where it does not, it says so here. On an NVIDIA GPU
  // small layer-norms were a third faster with them, but a process that had several devices crashed.
  const withSubgroups = isCpu
    ? await request([...features, "subgroups" as GPUFeatureName]).catch(() => undefined)
    : undefined;
  const device = withSubgroups ?? await request(features);
  const subgroupSize = withSubgroups && await testSubgroups(withSubgroups);

  let failure: Error | undefined;
  let destroyed = false;
  device.addEventListener("uncapturederror", (event) => {
    event.preventDefault(); // reported by check(); without this the runtime also prints it
    const { error } = event as GPUUncapturedErrorEvent;
    const message = error.message.trim();
    failure ??= error.constructor.name === "GPUOutOfMemoryError"
      ? new DeviceError(`${name} ran out of memory: ${message}`, "memory")
      : new Error(`${name} reported an error: ${message}`); // a kernel or a call of ours is wrong
  });
  device.lost.then((info) => {
    if (!destroyed) {
      const message = `${name} was lost (${info.reason}): ${info.message.trim()}`;
      failure ??= new DeviceError(message, "lost");
    }
  });

  const destroy = () => {
    destroyed = true;
    device.destroy();
  };
  return {
    gpu: device,
    name,
    isCpu,
    backend: describeBackend(adapter),
    features: new Set<string>(features),
    subgroupSize,
    maxBindingBytes: device.limits.maxStorageBufferBindingSize,
    pipelines: new Map(),
    choices: new Map(),
    check() {
      if (failure) throw failure;
    },
    destroy,
    [Symbol.dispose]: destroy,
  };
}

/**
 * Names the graphics interface behind an adapter. Without a Vulkan driver Deno takes OpenGL on Linux
 * and says nothing; it shows in that the adapter lacks f16 and that its subgroups have no known size
 * (4 to 128, Deno 2.9.6, measured November 2026).
 */
function describeBackend(adapter: GPUAdapter): string {
  const { vendor, subgroupMinSize, subgroupMaxSize } = adapter.info;
  const by = vendor ? ` (vendor ${vendor})` : "";
  if (Deno.build.os === "darwin") return `Metal${by}`;
  if (Deno.build.os === "windows") return `Direct3D 12 or Vulkan${by}`;
  const isOpenGl = !adapter.features.has("shader-f16") && subgroupMinSize === 4 &&
    subgroupMaxSize === 128;
  return (isOpenGl ? "OpenGL, without Vulkan" : "Vulkan") + by;
}
