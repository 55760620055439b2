import { type Device, openDevice } from "../kernels/device.ts";
import { resolvePrecision } from "../model/precision.ts";
import { choosePreset } from "../train/setup.ts";
import { command, output, run } from "./command.ts";

/** `doctor`: describes this machine, and says how to fix what is missing. */
const program = command("doctor", "Say what this machine offers and how to fix what is missing.")
  .action(() => run(main));

/** The command that installs a driver, by operating system. */
const DRIVERS: Partial<Record<typeof Deno.build.os, string>> = {
  linux: "apt-get install libvulkan1 mesa-vulkan-drivers   (and, for an NVIDIA card, its driver)",
  darwin: "softwareupdate --install --all   (Metal comes with macOS 10.14 or newer)",
  windows: "winget upgrade --all   (or install the graphics card's driver)",
};

async function main(): Promise<number> {
  const rows: [name: string, value: string][] = [[
    "Deno",
    `${Deno.version.deno} on ${Deno.build.target}`,
  ]];
  const fixes: string[] = [];
  let device: Device | undefined;
  try {
    device = await openDevice();
  } catch (error) {
    rows.push(["adapter", `none: ${(error as Error).message}`]);
    fixes.push(
      `install a graphics driver: ${DRIVERS[Deno.build.os] ?? "see your system's manual"}`,
    );
  }
  if (device) {
    const { limits } = device.gpu;
    rows.push(
      ["adapter", `${device.name}${device.isCpu ? " (computes on the CPU)" : ""}`],
      ["driver", device.backend],
      ["features", [...device.features].join(", ") || "none"],
      ["subgroups", device.subgroupSize ? `of ${device.subgroupSize}, tested` : "not used"],
      ["largest buffer", megabytes(limits.maxBufferSize)],
      ["largest binding", megabytes(device.maxBindingBytes)],
      [
        "workgroup",
        `${limits.maxComputeInvocationsPerWorkgroup} invocations, ` +
        `${limits.maxComputeWorkgroupStorageSize / 1024} KiB`,
      ],
      [
        "auto",
        `${choosePreset(device, "auto").reason}; precision ` +
        resolvePrecision(device, "auto"),
      ],
    );
    if (device.isCpu) {
      fixes.push(
        "training runs on the CPU; if this machine has a GPU, install its driver: " +
          (DRIVERS[Deno.build.os] ?? "see your system's manual"),
      );
    }
    if (!device.features.has("shader-f16")) {
      fixes.push(
        Deno.build.os === "linux"
          ? `f16 is missing, perhaps because Vulkan is: ${DRIVERS.linux}`
          : "f16 is missing, so training uses f32; a newer graphics driver may support it",
      );
    }
  }
  const width = Math.max(...rows.map(([name]) => name.length));
  for (const [name, value] of rows) output(`${name.padEnd(width)}  ${value}\n`);
  for (const sentence of fixes) output(`\nto fix: ${sentence}\n`);
  return device ? 0 : 1;
}

function megabytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}

await program.parseAsync();
