import { environmentVariable } from "../files/environment.ts";
import { type Device, openDevice } from "../kernels/device.ts";
import type { GpuChoice } from "../kernels/provider.ts";

/** The provider that tests use: that of the environment's TOY_GPU, by default native. */
export const TEST_GPU = (environmentVariable("TOY_GPU") ?? "native") as GpuChoice;

/** Opens a device of the provider that tests use. */
export function openTestDevice(): Promise<Device> {
  return openDevice({ gpu: TEST_GPU });
}
