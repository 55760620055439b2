import wrapAnsi from "wrap-ansi";
import { taskCommand } from "../files/command_line.ts";
import { environmentVariable } from "../files/environment.ts";
import { isDawnInstalled } from "../files/packages.ts";
import { printable } from "../files/printable.ts";
import { hasMatrices } from "../kernels/matrices.ts";
import type { MatrixShape } from "../kernels/provider.ts";
import { command, output, outputColumns, runCommand } from "./command.ts";
import { type Probe, probe, probeDawn } from "./probe.ts";

/** `doctor`: describes this machine, and says how to fix what is missing. */
const program = command("doctor", "Say what this machine offers and how to fix what is missing.")
  .option("--json", "print a JSON object instead of a table")
  .action((options) => runCommand(() => main(options)));

/** The command that installs a driver, by operating system. */
const DRIVERS: Partial<Record<typeof Deno.build.os, string>> = {
  linux: "apt-get install libvulkan1 mesa-vulkan-drivers   (and, for an NVIDIA card, its driver)",
  darwin: "softwareupdate --install --all   (Metal comes with macOS 10.14 or newer)",
  windows: "winget upgrade --all   (or install the graphics card's driver)",
};

async function main({ json }: { json?: true }): Promise<number> {
  const native = await probe("native");
  const dawn = isDawnInstalled() ? await probeDawn() : undefined;
  const auto = dawn && "adapter" in dawn && hasMatrices(dawn) ? "dawn" : "native";
  const fixes = [...fixesOfNative(native), ...fixesOfDawn(dawn)];
  const system = `${Deno.version.deno} on ${Deno.build.target}`, gpus = await gpusOfRanks();
  if (json) {
    output(`${JSON.stringify({ deno: system, native, dawn: dawn ?? null, auto, gpus, fixes })}\n`);
  } else {
    output(`Deno ${system}\n\n`);
    output(table(cellsOf(native), cellsOf(dawn), outputColumns()));
    output(`\n--gpu auto chooses ${auto}\n`);
    const own = environmentVariable("TOY_GPU_ADDRESS");
    if (own !== undefined) output(`\nthis rank has the GPU at ${printable(own)}\n`);
    else if (gpus.length > 1) {
      const addresses = gpus.map((address) => printable(address)).join(", ");
      output(`\nranks under mpirun have one GPU each, at ${addresses}\n`);
    }
    for (const sentence of fixes) output(`\nto fix: ${sentence}\n`);
  }
  return [native, dawn].some((one) => one && "adapter" in one) ? 0 : 1;
}

/** Addresses of the GPUs among which the ranks of this host are divided. */
async function gpusOfRanks(): Promise<string[]> {
  if (Deno.build.os !== "linux") return [];
  const { stdout } = await new Deno.Command("sh", {
    args: ["distributed/own_gpu.sh", "--list"],
    cwd: new URL("..", import.meta.url),
  }).output();
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  return lines.filter((line) => line !== "").map((line) => line.split(" ")[0]!);
}

/** What to do about what Deno's WebGPU lacks. */
function fixesOfNative(native: Probe): string[] {
  const { os } = Deno.build, driver = DRIVERS[os] ?? "see your system's manual";
  if ("error" in native) return [`install a graphics driver: ${driver}`];
  const fixes: string[] = [];
  if (native.isCpu) {
    fixes.push(
      "training runs on the CPU; if this machine has a GPU, install its driver: " + driver,
    );
  }
  if (!native.features.includes("shader-f16")) {
    fixes.push(
      os === "linux"
        ? `f16 is missing, perhaps because Vulkan is: ${driver}`
        : "f16 is missing, so training uses f32; a newer graphics driver may support it",
    );
  }
  return fixes;
}

/** What to do about what Dawn lacks, if it is installed. */
function fixesOfDawn(dawn: Probe | undefined): string[] {
  if (!dawn) return [];
  if ("error" in dawn) {
    return [
      "Dawn does not work here; a newer graphics driver may help, and --gpu native works without it",
    ];
  }
  if (dawn.isCpu || hasMatrices(dawn)) return [];
  return ["the driver offers Dawn no tensor cores that the kernels can use; a newer one may"];
}

/** The cells of a provider, by row. */
function cellsOf(probed: Probe | undefined): Record<string, string> {
  if (!probed) return { adapter: `not installed: ${taskCommand("dawn:install")}` };
  if ("error" in probed) return { adapter: `none: ${printable(probed.error)}` };
  const { adapter, isCpu, backend, features, subgroupSize, matrixShapes, workgroup } = probed;
  const others = features.filter((name) => !name.includes("subgroup"));
  return {
    adapter: `${printable(adapter)}${isCpu ? " (computes on the CPU)" : ""}`,
    backend: printable(backend),
    features: others.join(", ") || "none",
    subgroups: subgroupSize ? `of ${subgroupSize}, tested` : "not used",
    "tensor cores": matrixShapes.map(shapeText).join(", ") || "none",
    "largest buffer": mebibytes(probed.largestBuffer),
    "largest binding": mebibytes(probed.largestBinding),
    workgroup: `${workgroup.invocations} invocations, ${workgroup.bytes / 1024} KiB`,
    auto: probed.auto,
  };
}

function shapeText({ rows, columns, depth, input, result }: MatrixShape): string {
  return `${rows}x${columns}x${depth} ${input} to ${result}`;
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}

/** Least characters of a column of the table; on a narrower terminal the providers stand below each other. */
const LEAST_CELL = 24;

/** The cells of both providers beside each other, or below each other on a narrow terminal. */
function table(
  native: Record<string, string>,
  dawn: Record<string, string>,
  columns = Infinity,
): string {
  const names = [...new Set([...Object.keys(native), ...Object.keys(dawn)])];
  const label = Math.max(...names.map((name) => name.length));
  const half = Math.floor((columns - label - 4) / 2);
  if (half < LEAST_CELL) {
    return ([["native", native], ["dawn", dawn]] as const).map(([provider, cells]) =>
      `${provider}\n` +
      Object.entries(cells).map(([name, cell]) =>
        lines([name, cell], [label, Math.max(8, columns - label - 2)])
      ).join("")
    ).join("\n");
  }
  const rows = [
    ["", "native", "dawn"],
    ...names.map((name) => [
      name,
      native[name] ?? "",
      dawn[name] ?? "",
    ]),
  ];
  const widest = Math.max(...rows.map(([, cell]) => cell!.length));
  return rows.map((row) => lines(row, [label, Math.min(half, widest), half])).join("");
}

/** A row of cells that are wrapped to their widths. */
function lines(cells: readonly string[], widths: readonly number[]): string {
  const wrapped = cells.map((cell, i) =>
    widths[i] === Infinity ? [cell] : wrapAnsi(cell, widths[i]!, { hard: true }).split("\n")
  );
  const height = Math.max(...wrapped.map(({ length }) => length));
  return Array.from({ length: height }, (_, line) =>
    wrapped.map((cell, i) => {
      const text = cell[line] ?? "";
      return i === cells.length - 1 ? text : text.padEnd(widths[i]!);
    }).join("  ").trimEnd() + "\n").join("");
}

await program.parseAsync();
