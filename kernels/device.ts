import { taskCommand } from "../files/command_line.ts";
import { UserError, type UserErrorOptions } from "../files/user_error.ts";
import { BackgroundCompiler } from "./background_compiler.ts";
import { hasMatrices, MATRIX_FEATURE, MATRIX_SUBGROUP } from "./matrices.ts";
import {
  type GpuChoice,
  type MatrixShape,
  matrixShapesOf,
  type Provider,
  requestAdapter,
} from "./provider.ts";
import { Pipelines } from "./pipelines.ts";
import { testSubgroups } from "./subgroups.ts";

/** A WebGPU device with its capabilities, its compiled shaders and the first error that it reported. */
export interface Device {
  /** The device of WebGPU. */
  readonly gpu: GPUDevice;
  /** The implementation of WebGPU, for messages and reports: what kernels depend on are features. */
  readonly provider: Provider;
  /** The name of the adapter for messages, such as `NVIDIA H200`. */
  readonly name: string;
  /** Whether the adapter computes on the CPU, as Mesa's lavapipe does. */
  readonly isCpu: boolean;
  /**
   * The graphics interface and the vendor, as far as WebGPU reveals them, such as `Vulkan (vendor 4318)`, or `Dawn on
   * Vulkan (vendor nvidia)`.
   */
  readonly backend: string;
  /** Features that were requested and granted: those of `WANTED_FEATURES` that the adapter lists. */
  readonly features: ReadonlySet<string>;
  /**
   * Invocations per subgroup, if the subgroups passed `testSubgroups()` and the adapter lists the feature or computes
   * on the CPU. On other devices it is undefined, and kernels use no subgroups.
   */
  readonly subgroupSize: number | undefined;
  /**
   * Shapes of the f16 matrices that a subgroup multiplies, on tensor cores for example. Empty if there are none, or
   * if subgroups do not have 32 invocations.
   */
  readonly matrixShapes: readonly MatrixShape[];
  /**
   * What compiles shaders in other threads, several at once; Deno's own WebGPU cannot. `idle()` resolves once nothing
   * compiles: a process that ends before may be aborted.
   */
  readonly background:
    | {
      compile(shader: { label: string; code: string }): Promise<GPUComputePipeline>;
      idle(): Promise<void>;
    }
    | undefined;
  /** Most bytes of a buffer in one binding. */
  readonly maxBindingBytes: number;
  /** Compiled shaders, shared by all programs on this device. */
  readonly pipelines: Pipelines;
  /** Names of the fastest kernels on this device by `Tunable.key`, as tune.ts measured them. */
  readonly choices: Map<string, string>;
  /** Is called with each tensor that is created in a buffer of the device; only a `dryDevice()` has it. */
  onTensor?(tensor: { readonly buffer: GPUBuffer }): void;
  /**
   * Throws the first error that the device reported since it was opened, if there is one.
   *
   * WebGPU reports a faulty call, exhausted memory and a lost device outside the call that caused them, and
   * continues with an invalid object. Code that reads results back calls this first. An error of kind `invalid` is
   * thrown once: the device stays usable, and a program whose kernel it refused is refused again when it runs. After
   * any other error a new device is needed, and every call throws the same.
   *
   * @param options.keep whether the next call throws an error of kind `invalid` as well, for those that only look.
   */
  check(options?: { keep?: boolean }): void;
  /** Frees the device and everything on it. */
  destroy(): void;
  /** Calls `destroy()`, at the end of the block in which `using` declares the device. */
  [Symbol.dispose](): void;
}

/** Thrown if there is no usable WebGPU adapter, if the device fails later, or if it refuses a call or a kernel. */
export class DeviceError extends UserError {
  /** Distinguishes this error from others without `instanceof`. */
  override name = "DeviceError";
  /** Whether there is no device, its memory is exhausted, it was lost, or it refused a call or a kernel. */
  readonly kind: "missing" | "memory" | "lost" | "invalid";

  /** Creates the error from its message, one sentence. */
  constructor(sentence: string, kind: DeviceError["kind"], options?: UserErrorOptions) {
    super(sentence, options);
    this.kind = kind;
  }
}

/** A limit that a tensor or launch would exceed. */
export interface Exceeded {
  /** What is limited. */
  readonly limit:
    | "binding"
    | "buffer"
    | "workgroups"
    | "workgroup memory"
    | "loop"
    | "launches"
    | "memory";
  /** The limit, in bytes, workgroups, iterations of a loop, or launches. */
  readonly most: number;
  /** What was asked for, in the same unit. */
  readonly need: number;
}

/**
 * Thrown if a tensor or a launch would exceed a limit of the device. The message addresses authors of
 * kernels. A caller that knows the options of a user reports from `exceeded` which option to lower.
 */
export class LimitError extends UserError {
  /** Distinguishes this error from others without `instanceof`. */
  override name = "LimitError";
  /** The limit and its figures. */
  readonly exceeded: Exceeded;

  /** Creates the error from a message for authors of kernels, and the figures for a message to users. */
  constructor(message: string, exceeded: Exceeded) {
    super(message);
    this.exceeded = exceeded;
  }
}

const doctorHint = () => `See what is missing and how to fix it: ${taskCommand("doctor")}`;

/** Features to request if the adapter lists them. */
const WANTED_FEATURES: readonly string[] = [
  "shader-f16",
  "timestamp-query",
  "subgroups",
  MATRIX_FEATURE,
];

/** Limits to raise from the defaults of WebGPU to those of the adapter. */
const WANTED_LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxStorageBuffersPerShaderStage",
] as const;

/**
 * Opens the most powerful adapter of WebGPU, with all features and limits that the kernels can use.
 *
 * @param options.gpu the provider of WebGPU; by default `native`, that of the runtime.
 * @returns the device, which the caller destroys.
 * @throws {DeviceError} if there is no WebGPU or no adapter; {TypeError} if there is no such provider; {UserError} if Dawn
 * cannot be loaded; {Deno.errors.NotCapable} if the permission to load it is missing.
 */
export async function openDevice({ gpu = "native" }: { gpu?: GpuChoice } = {}): Promise<Device> {
  const { provider, adapter } = await requestAdapter(gpu);
  if (adapter === undefined) {
    throw new DeviceError(
      "Cannot open a device as this runtime has no WebGPU (navigator.gpu)",
      "missing",
      { hint: doctorHint() },
    );
  }
  if (adapter === null) {
    throw new DeviceError(
      provider === "dawn"
        ? "Cannot open a device as Dawn found no adapter: a graphics driver is missing or too old"
        : "Cannot open a device as WebGPU found no adapter: a graphics driver is missing",
      "missing",
      { hint: doctorHint() },
    );
  }
  const name = nameOf(adapter, provider);
  const isCpu = adapter.info.isFallbackAdapter ||
    /llvmpipe|lavapipe|swiftshader|warp|basic render/i.test(name);
  const listed = new Set<string>(adapter.features);
  const features = new Set(WANTED_FEATURES.filter((name) => listed.has(name)));
  const requiredLimits: Record<string, number> = {};
  for (const name of WANTED_LIMITS) requiredLimits[name] = adapter.limits[name];
  const requestDevice = (adapter: GPUAdapter, ...more: string[]) =>
    adapter.requestDevice({
      requiredFeatures: [...features, ...more] as GPUFeatureName[],
      requiredLimits,
    });
  // Deno 2.9.6 does not list the feature but grants it. On an NVIDIA GPU small layer-norms were a third faster
  // with subgroups, but a process with several devices crashed.
  const withUnlisted = isCpu && !features.has("subgroups")
    ? await requestDevice(adapter, "subgroups").catch(() => undefined)
    : undefined;
  const device = withUnlisted ?? await requestDevice(adapter);
  const subgroupSize = withUnlisted || features.has("subgroups")
    ? await testSubgroups(device, features)
    : undefined;
  const matrixShapes = features.has(MATRIX_FEATURE) && subgroupSize === MATRIX_SUBGROUP
    ? matrixShapesOf(adapter)
    : [];
  if (gpu === "auto" && provider === "dawn" && !hasMatrices({ matrixShapes })) {
    device.destroy();
    return await openDevice();
  }

  let failure: DeviceError | undefined;
  let destroyed = false;
  device.addEventListener("uncapturederror", (event) => {
    event.preventDefault(); // check() reports it; by default the runtime prints it too
    const { error } = event as GPUUncapturedErrorEvent;
    const message = error.message.replaceAll(/\n +at .*/g, "").trim(); // lines of Dawn's sources
    failure ??= error.constructor.name === "GPUOutOfMemoryError"
      ? new DeviceError(`${name} ran out of memory: ${message}`, "memory")
      : new DeviceError(`${name} reported an error: ${message}`, "invalid");
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
    provider,
    name,
    isCpu,
    backend: describeBackend(adapter, provider),
    features,
    subgroupSize,
    matrixShapes,
    // on SwiftShader compiling 27 shaders took 83 s of CPU time in the background, and 56 s without
    background: provider === "dawn" && !isCpu
      ? new BackgroundCompiler(device, async () => {
        const { adapter } = await requestAdapter(provider);
        const helper = await requestDevice(adapter!);
        helper.addEventListener("uncapturederror", (event) => event.preventDefault());
        return helper;
      })
      : undefined,
    maxBindingBytes: device.limits.maxStorageBufferBindingSize,
    pipelines: new Pipelines(),
    choices: new Map(),
    check({ keep = false } = {}) {
      if (!failure) return;
      const error = failure;
      if (error.kind === "invalid" && !keep) failure = undefined;
      throw error;
    },
    destroy,
    [Symbol.dispose]: destroy,
  };
}

/** The name of an adapter. Dawn has the name in `device`, and the driver in `description`. */
function nameOf({ info }: GPUAdapter, provider: Provider): string {
  const { description, vendor, device } = info;
  const name = provider === "dawn"
    ? device.replaceAll("-", " ").trim()
    : description || `${vendor} ${device}`.trim();
  return name || "the WebGPU device";
}

/**
 * The graphics interface and the vendor of an adapter, and Dawn if it is the provider. On Linux without a Vulkan driver
 * Deno uses OpenGL and does not report it. Such an adapter is recognised because it lacks f16 and its subgroup size is
 * not known (4 to 128, Deno 2.9.6, measured November 2026).
 */
export function describeBackend(adapter: GPUAdapter, provider: Provider): string {
  const { vendor, subgroupMinSize, subgroupMaxSize } = adapter.info;
  const by = vendor ? ` (vendor ${vendor})` : "", { os } = Deno.build;
  if (provider === "dawn") {
    const api = os === "darwin" ? "Metal" : os === "windows" ? "Direct3D 12" : "Vulkan";
    return `Dawn on ${api}${by}`;
  }
  if (os === "darwin") return `Metal${by}`;
  if (os === "windows") return `Direct3D 12 or Vulkan${by}`;
  const isOpenGl = !adapter.features.has("shader-f16") && subgroupMinSize === 4 &&
    subgroupMaxSize === 128;
  return (isOpenGl ? "OpenGL, without Vulkan" : "Vulkan") + by;
}
