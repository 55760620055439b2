import { Option } from "@commander-js/extra-typings";
import { type Device, openDevice } from "../kernels/device.ts";
import { GPU_CHOICES, type GpuChoice } from "../kernels/provider.ts";
import { TRAIN_OPTIONS } from "../train/options.ts";
import { giveBack } from "./permissions.ts";

/** `--gpu`, for commands that compute. */
export function gpuOption() {
  const { help, default: native } = TRAIN_OPTIONS.gpu;
  return new Option("--gpu <provider>", help).choices(GPU_CHOICES).default(native)
    .helpGroup("Device:");
}

/** Opens a device of the provider that `--gpu` names; after that no native code can be loaded. */
export async function openGpu({ gpu }: { gpu: GpuChoice }): Promise<Device> {
  const device = await openDevice({ gpu });
  giveBack("ffi");
  return device;
}
