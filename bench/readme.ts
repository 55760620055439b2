import {
  headline,
  type MachineResults,
  machineSection,
  profileTable,
  type PyTorchReport,
  replaceSection,
  scalingTable,
} from "./markdown.ts";
import { parseReport } from "./report.ts";
import { drawScaling } from "./scaling_plot.ts";
import { command, run, status } from "../commands/command.ts";
import { UserError } from "../files/user_error.ts";

/**
 * Every file that follows from bench/results/, by its path from the root: README.md, docs/performance.md, bench/NOTES.md
 * and a figure beside each report that has scaling.
 *
 * @param root of the project, with a slash at its end.
 * @throws {UserError} if a report is damaged, or a page lacks its markers.
 * @throws {UserError} if PyTorch ran on another device than the report of the same name.
 */
export async function filesFromResults(root: URL): Promise<Map<string, string>> {
  const machines = readResults(new URL("bench/results/", root));
  const files = new Map<string, string>();
  const rewrite = (path: string, sections: readonly string[]) => {
    const text = Deno.readTextFileSync(new URL(path, root));
    files.set(path, replaceSection(text, sections.join("\n\n"), path));
  };
  rewrite("README.md", machines.map(headline).filter((part) => part !== ""));
  rewrite("docs/performance.md", machines.map(machineSection));
  rewrite(
    "bench/NOTES.md",
    machines.flatMap(({ report: { device, scaling, profiles } }) => {
      const tables = [
        ...(scaling ? [scalingTable(scaling)] : []),
        ...(profiles ? [`Where the time goes:`, profileTable(profiles)] : []),
      ];
      return tables.length > 0 ? [`### ${device.name}`, ...tables] : [];
    }),
  );
  for (const { name, report: { device, scaling } } of machines) {
    if (!scaling) continue;
    const title = `A training step on ${device.name}`;
    files.set(`bench/results/${name}.svg`, await drawScaling(scaling.points, { title }));
  }
  return files;
}

/** Reports in a folder with PyTorch's of the same machine: NAME.json, pytorch_NAME.json. GPUs first. */
function readResults(folder: URL): MachineResults[] {
  const names = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
  const read = (file: string) => parseReport(Deno.readTextFileSync(new URL(file, folder)), file);
  const machines = names.filter((file) => /^(?!pytorch_).*\.json$/.test(file)).map((file) => {
    const name = file.replace(/\.json$/, ""), theirs = `pytorch_${file}`;
    const report = read(file);
    if (!names.includes(theirs)) return { name, report };
    const pytorch = read(theirs) as unknown as PyTorchReport;
    if (pytorch.device.name !== report.device.name) {
      throw new UserError(
        `Cannot compare ${file} with ${theirs} as both must be of one device: ` +
          `current devices are ${report.device.name} and ${pytorch.device.name}`,
      );
    }
    return { name, report, pytorch };
  });
  return machines.sort((a, b) => Number(a.report.device.isCpu) - Number(b.report.device.isCpu));
}

/** `bench:readme`: writes those files. */
async function main(): Promise<void> {
  const root = new URL("../", import.meta.url);
  for (const [path, text] of await filesFromResults(root)) {
    Deno.writeTextFileSync(new URL(path, root), text);
    status(`wrote ${path}`);
  }
}

if (import.meta.main) {
  await command(
    "bench:readme",
    "Write what bench/results/ says into README.md, docs/ and bench/NOTES.md.",
  )
    .action(() => run(main)).parseAsync();
}
