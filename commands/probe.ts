import { type Device, openDevice } from "../kernels/device.ts";
import type { MatrixShape, Provider } from "../kernels/provider.ts";
import { resolvePrecision } from "../model/precision.ts";
import { choosePreset } from "../train/setup.ts";

/** What a provider offers on this machine. */
export interface ProviderFacts {
  /** Name of the adapter. */
  readonly adapter: string;
  /** Whether the adapter computes on the CPU. */
  readonly isCpu: boolean;
  /** The graphics interface and the vendor. */
  readonly backend: string;
  /** Features that are requested and that the adapter lists. */
  readonly features: readonly string[];
  /** Invocations per subgroup, if kernels use subgroups. */
  readonly subgroupSize?: number;
  /** Shapes that the tensor cores multiply. */
  readonly matrixShapes: readonly MatrixShape[];
  /** Bytes. */
  readonly largestBuffer: number;
  /** Bytes. */
  readonly largestBinding: number;
  /** Invocations and bytes of memory per workgroup, at most. */
  readonly workgroup: { readonly invocations: number; readonly bytes: number };
  /** What a training chooses there. */
  readonly auto: string;
}

/** The facts of a provider, or the sentence that says why it offers nothing. */
export type Probe = ProviderFacts | { readonly error: string };

/** The facts of a provider that works in this process. */
export async function probe(gpu: Provider): Promise<Probe> {
  try {
    using device = await openDevice({ gpu });
    return factsOf(device);
  } catch (error) {
    return { error: (error as Error).message };
  }
}

function factsOf(device: Device): ProviderFacts {
  const { gpu: { limits }, subgroupSize } = device;
  return {
    adapter: device.name,
    isCpu: device.isCpu,
    backend: device.backend,
    features: [...device.features],
    ...subgroupSize === undefined ? {} : { subgroupSize },
    matrixShapes: device.matrixShapes,
    largestBuffer: limits.maxBufferSize,
    largestBinding: device.maxBindingBytes,
    workgroup: {
      invocations: limits.maxComputeInvocationsPerWorkgroup,
      bytes: limits.maxComputeWorkgroupStorageSize,
    },
    auto: `${choosePreset(device, "auto").reason}; precision ${resolvePrecision(device, "auto")}`,
  };
}

/** Seconds after which the process of Dawn is ended. On SwiftShader and two cores it needs a few. */
const MOST_SECONDS = 60;

/**
 * The facts of Dawn, from a separate process: a fault in native code would end this one, or native code may not return.
 */
export async function probeDawn(): Promise<Probe> {
  const late = AbortSignal.timeout(1000 * MOST_SECONDS);
  const { code, signal, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["run", "-q", "--no-prompt", "--no-lock"],
      ...["--allow-read", "--allow-ffi=dawn", "--allow-env=TOY_COMMAND"],
      import.meta.filename!,
    ],
    cwd: new URL("..", import.meta.url),
    signal: late,
  }).output();
  if (late.aborted) return { error: `Dawn did not answer within ${MOST_SECONDS} s` };
  const text = new TextDecoder().decode(stdout), lines = text.trim().split("\n");
  if (code === 0) return JSON.parse(lines.at(-1)!);
  const said = new TextDecoder().decode(stderr).trim().split("\n")[0];
  return {
    error: `Dawn ended its process with ${signal ?? `status ${code}`}${said ? `: ${said}` : ""}`,
  };
}

if (import.meta.main) {
  console.log(JSON.stringify(await probe("dawn")));
  Deno.exit(0); // whatever Dawn does when it ends
}
