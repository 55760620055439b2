import { existsSync } from "node:fs";
import { command, runCommand, status } from "../commands/command.ts";
import { UserError } from "../files/user_error.ts";
import {
  headline,
  type MachineResults,
  machineSection,
  type NamedReport,
  profileTables,
  PROVIDERS,
  type PyTorchReport,
  replaceSection,
  scalingTable,
} from "./markdown.ts";
import { figuresOf, modelledTrainings } from "./ranks_cost.ts";
import { type RanksResults, ranksSection } from "./ranks_markdown.ts";
import { drawRanks } from "./ranks_plot.ts";
import type { RanksReport } from "./ranks_report.ts";
import { parseReport, type Report } from "./report.ts";
import { drawScaling } from "./scaling_plot.ts";

/**
 * The text of every file that is generated from bench/results/, by its path from the root: README.md,
 * docs/performance.md, bench/NOTES.md, docs/several-machines.md, and a figure beside each report with a scaling run or
 * of several ranks.
 *
 * @param root of the project, with a slash at its end.
 * @throws {UserError} if a report is damaged, a page lacks its markers, or a report and PyTorch's report of
 * that name are of different devices.
 */
export async function filesFromResults(root: URL): Promise<Map<string, string>> {
  const folder = new URL("bench/results/", root), machines = readResults(folder);
  const files = new Map<string, string>();
  const rewrite = (path: string, sections: readonly string[]) => {
    const text = Deno.readTextFileSync(new URL(path, root));
    files.set(path, replaceSection(text, sections.join("\n\n"), path));
  };
  rewrite("README.md", machines.map(headline).filter((part) => part !== ""));
  rewrite("docs/performance.md", machines.map(machineSection));
  rewrite(
    "bench/NOTES.md",
    machines.flatMap(({ reports }) =>
      reports.flatMap(({ report }) => {
        const { scaling, profiles } = report;
        const tables = [
          ...(scaling ? [scalingTable(scaling)] : []),
          ...(profiles ? [`Where the time goes:`, ...profileTables(profiles)] : []),
        ];
        return tables.length > 0 ? [`### ${titleOf(report)}`, ...tables] : [];
      })
    ),
  );
  for (const { name, report } of machines.flatMap(({ reports }) => reports)) {
    if (!report.scaling) continue;
    const title = `A training step on ${titleOf(report)}`;
    files.set(`bench/results/${name}.svg`, await drawScaling(report.scaling.points, { title }));
  }
  const ranks = readRanks(folder);
  if (ranks) {
    const { report } = ranks, title = `A training step on many ranks, ${titleOf(report)}`;
    rewrite("docs/several-machines.md", [ranksSection(ranks)]);
    files.set(
      `bench/results/${ranks.name}.svg`,
      await drawRanks(report, figuresOf(ranks), modelledTrainings(report), { title }),
    );
  }
  return files;
}

/** Reads the reports of several ranks on one machine; undefined if there are none. */
function readRanks(folder: URL): RanksResults | undefined {
  const file = [...Deno.readDirSync(folder)].map(({ name }) => name).sort()
    .find((name) => /^ranks_(?!messages_|tcp_).*\.json$/.test(name));
  if (file === undefined) return undefined;
  const read = <R>(file: string) =>
    parseReport(Deno.readTextFileSync(new URL(file, folder)), file) as unknown as R;
  const machine = file.replace(/^ranks_/, ""), ddp = new URL(`ddp_${machine}`, folder);
  return {
    name: nameOf(file),
    report: read<RanksReport>(file),
    byMessages: read<RanksReport>(`ranks_messages_${machine}`),
    overTcp: read<RanksReport>(`ranks_tcp_${machine}`),
    ddp: existsSync(ddp) ? read<PyTorchReport>(`ddp_${machine}`) : undefined,
  };
}

/** The device of a report, and the provider if it is not Deno's own. */
function titleOf({ device: { name, provider } }: Pick<Report, "device">): string {
  return provider === "native" ? name : `${name}, ${PROVIDERS[provider]}`;
}

/**
 * Reads each NAME.json of a folder, with dawn_NAME.json and pytorch_NAME.json of the same machine if there are any. GPUs
 * come first. Results and scaling that a report lacks, as that run measured less, come from NAME.2.json, then from
 * NAME.3.json, and so on: earlier reports of the same device.
 */
function readResults(folder: URL): MachineResults[] {
  const files = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
  const read = (file: string) => parseReport(Deno.readTextFileSync(new URL(file, folder)), file);
  const machines = files.filter((file) => /^(?!pytorch_|dawn_|ranks_|ddp_)[^.]+\.json$/.test(file))
    .map((file) => {
      const others = [`dawn_${file}`, `pytorch_${file}`].filter((other) => files.includes(other));
      const earlierThan = (file: string) =>
        files.filter((other) => other !== file && other.replace(/\.\d+\.json$/, ".json") === file)
          .map(read);
      const earlier = earlierThan(file), report = earlier.reduce(completed, read(file));
      const reports: NamedReport[] = [{ name: nameOf(file), report, earlier }];
      let pytorch: PyTorchReport | undefined, earlierOfPyTorch: PyTorchReport[] = [];
      for (const other of others) {
        const before = earlierThan(other), theirs = before.reduce(completed, read(other));
        const { name } = theirs.device;
        if (wordsOf(name) !== wordsOf(report.device.name)) {
          throw new UserError(
            `Cannot compare ${file} with ${other} as both must be of one device: ` +
              `current devices are ${report.device.name} and ${name}`,
          );
        }
        if (other.startsWith("dawn_")) {
          const device = { ...theirs.device, name: report.device.name }; // one name per machine
          reports.push({ name: nameOf(other), report: { ...theirs, device }, earlier: before });
        }
        if (other.startsWith("pytorch_")) {
          [pytorch, ...earlierOfPyTorch] = [theirs, ...before] as unknown as PyTorchReport[];
        }
      }
      return { reports, pytorch, earlierOfPyTorch };
    });
  const isCpu = ({ reports: [first] }: MachineResults) => Number(first!.report.device.isCpu);
  return machines.sort((a, b) => isCpu(a) - isCpu(b));
}

/** A report with what only an earlier one has, in the order of that one, as it measured more. */
function completed(report: Report, { results, scaling }: Report): Report {
  const own = new Map(report.results.map((result) => [result.name, result]));
  const merged = results.map((result) => own.get(result.name) ?? result);
  const names = new Set(results.map(({ name }) => name));
  return {
    ...report,
    results: [...merged, ...report.results.filter(({ name }) => !names.has(name))],
    ...(report.scaling ?? scaling ? { scaling: report.scaling ?? scaling } : {}),
  };
}

/** The name of a report, without `.json`. */
function nameOf(file: string): string {
  return file.replace(/\.json$/, "");
}

/** The words of a device's name, which providers join and capitalise differently. */
function wordsOf(name: string): string {
  return name.toLowerCase().replaceAll(/\W+/g, " ").trim();
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
    .action(() => runCommand(main)).parseAsync();
}
