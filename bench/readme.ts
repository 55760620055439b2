import { command, run, status } from "../commands/command.ts";
import { UserError } from "../files/user_error.ts";
import {
  headline,
  type MachineResults,
  machineSection,
  profileTables,
  type PyTorchReport,
  replaceSection,
  scalingTable,
} from "./markdown.ts";
import { parseReport } from "./report.ts";
import { drawScaling } from "./scaling_plot.ts";

/**
 * The text of every file that is generated from bench/results/, by its path from the root: README.md,
 * docs/performance.md, bench/NOTES.md, and a figure beside each report with a scaling run.
 *
 * @param root of the project, with a slash at its end.
 * @throws {UserError} if a report is damaged, a page lacks its markers, or a report and PyTorch's report of
 * that name are of different devices.
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
        ...(profiles ? [`Where the time goes:`, ...profileTables(profiles)] : []),
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

/**
 * Reads each NAME.json of a folder, and pytorch_NAME.json of the same machine if there is one. GPUs come
 * first.
 */
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

/** `bench:readme`: writes the files of `filesFromResults()`. */
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
    "Write the results in bench/results/ into README.md, docs/ and bench/NOTES.md.",
  )
    .action(() => run(main)).parseAsync();
}
