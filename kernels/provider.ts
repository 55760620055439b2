import { isDawnInstalled, load } from "../files/packages.ts";
import { quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";

/**
 * The implementations of WebGPU: that of the runtime, and Dawn, that of Chrome, as a native add-on from the npm package
 * `webgpu`. Both have the same API. Dawn offers more features, such as subgroup matrices (tensor cores).
 *
 * @module
 */

/** An implementation of WebGPU: Deno's own, or Dawn. */
export type Provider = "native" | "dawn";

/** What a user may choose: a provider, or `auto`, Dawn if it is installed and has the matrices that kernels use. */
export type GpuChoice = Provider | "auto";

/** All choices. */
export const GPU_CHOICES = ["native", "dawn", "auto"] as const satisfies readonly GpuChoice[];

/** A product that a subgroup computes together: sum[rows,columns] += left[rows,depth] · right[depth,columns]. */
export interface MatrixShape {
  /** Rows of the left factor and of the sum. */
  readonly rows: number;
  /** Columns of the right factor and of the sum. */
  readonly columns: number;
  /** Columns of the left factor, and rows of the right one. */
  readonly depth: number;
  /** Element type of the factors. */
  readonly input: "f16";
  /** Element type of the sum. */
  readonly result: "f32" | "f16";
}

/**
 * Toggles of Dawn: `allow_unsafe_apis` offers subgroup matrices, which are experimental; f16 on NVIDIA and the memory
 * model of Vulkan are off by default. `timestamp_quantization` would round timestamps to 65 µs, which is longer than
 * most kernels take. The checks of bounds stay on.
 */
const DAWN_TOGGLES = [
  "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia,use_vulkan_memory_model",
  "disable-dawn-features=timestamp_quantization",
];

/** Milliseconds from one question of Dawn to the device, whether work is done, to the next. */
const TICK_MS = 1;

/**
 * Loads Dawn. While it waits for the device, Dawn asks it again in each `setImmediate()`, with a new native function per
 * call: some 100,000 per second, which take a core, and with which the host saw no results for up to
 * seconds, supposedly while V8 collected them. Here the calls with native functions wait for a timer.
 */
async function createDawn(): Promise<GPU> {
  const { create } = await load("webgpu"), { setImmediate } = globalThis;
  const paced = (callback: (...args: unknown[]) => void, ...args: unknown[]) =>
    isNative(callback) ? setTimeout(callback, TICK_MS, ...args) : setImmediate(callback, ...args);
  Object.assign(globalThis, { setImmediate: paced }); // Dawn reads it per call
  return create(DAWN_TOGGLES);
}

/** Whether a function is not written in JavaScript. */
function isNative(callback: unknown): boolean {
  return Function.prototype.toString.call(callback).endsWith("{ [native code] }");
}

/** The instance of Dawn. It stays referenced, as the process would crash if it were collected before its devices. */
let dawn: GPU | undefined;

/**
 * Requests the most powerful adapter of a provider; with `auto` that of Dawn, if Dawn is installed and finds one.
 *
 * @returns the provider and the adapter: null if there is none, undefined if the runtime has no WebGPU.
 * @throws {TypeError} if there is no such choice; {UserError} if Dawn is chosen and cannot be loaded;
 * {Deno.errors.NotCapable} if the permission to load it is missing.
 */
export async function requestAdapter(
  choice: GpuChoice,
): Promise<{ provider: Provider; adapter: GPUAdapter | null | undefined }> {
  if (!GPU_CHOICES.includes(choice)) {
    throw new TypeError(
      `Cannot open a device as gpu must be ${GPU_CHOICES.join(" or ")}: current value is ${
        quoted(choice)
      }`,
    );
  }
  const options: GPURequestAdapterOptions = { powerPreference: "high-performance" };
  if (choice === "dawn" || choice === "auto" && isDawnInstalled()) {
    try {
      dawn ??= await createDawn();
      const adapter = await dawn.requestAdapter(options);
      if (choice === "dawn" || adapter) return { provider: "dawn", adapter };
    } catch (error) {
      if (choice === "dawn" || !(error instanceof UserError)) throw error; // a permission is missing
    }
  }
  return { provider: "native", adapter: await navigator.gpu?.requestAdapter(options) };
}

/** A shape as Dawn 0.6.2 reports it: `M` rows, `N` columns, depth `K`. */
interface SubgroupMatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** The shapes of matrices that an adapter multiplies, of those whose factors are f16. */
export function matrixShapesOf({ info }: GPUAdapter): MatrixShape[] {
  const { subgroupMatrixConfigs = [] } = info as {
    subgroupMatrixConfigs?: readonly SubgroupMatrixConfig[];
  };
  return subgroupMatrixConfigs.flatMap(({ componentType, resultComponentType, M, N, K }) =>
    componentType === "f16" && (resultComponentType === "f16" || resultComponentType === "f32")
      ? [{ rows: M, columns: N, depth: K, input: componentType, result: resultComponentType }]
      : []
  );
}
