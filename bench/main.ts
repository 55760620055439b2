import { Option } from "@commander-js/extra-typings";
import { command, output, realNumber, runCommand, status } from "../commands/command.ts";
import { gpuOption, openGpu } from "../commands/gpu.ts";
import { commandLine } from "../files/command_line.ts";
import { checkReplaceable, replaceText } from "../files/disk.ts";
import { readText } from "../files/json.ts";
import { quoted } from "../files/printable.ts";
import { wrap } from "../files/table.ts";
import { UserError } from "../files/user_error.ts";
import type { Device } from "../kernels/device.ts";
import { clockOf } from "../kernels/timing.ts";
import type { Precision } from "../model/precision.ts";
import {
  decodeBenches,
  generateBenches,
  generateName,
  measureGenerate,
  profileGenerate,
} from "./generate.ts";
import {
  checkDistinct,
  Harness,
  matrixTypes,
  type Result,
  type Roofline,
  rooflineBenches,
} from "./harness.ts";
import { kernelBenches } from "./kernels.ts";
import {
  compare,
  comparisonLine,
  detailLines,
  parseReport,
  profileLines,
  RECOMPUTATION_HEAD,
  recomputationLine,
  recomputations,
  type Report,
  resultLine,
  SCALING_HEAD,
  scalingLine,
  slower,
} from "./report.ts";
import { measureScaling, type Scaling, scalingName, scalingSteps } from "./scaling.ts";
import {
  coldStartName,
  measureColdStart,
  measureTrainStep,
  type ProfileRow,
  profileTrainStep,
  trainStepBenches,
  trainStepName,
} from "./train_step.ts";

/** `bench`: the speed of this machine, and its share of the roofline. */
const program = command("bench", "Measure the kernels, training and generation on this machine.")
  .option(
    "--filter <text...>",
    "only benchmarks with one of these texts in their name, and the roofline",
  )
  .addOption(
    new Option("--precision <kind>", "precision of training and generation; f16 is autocast")
      .choices(["auto", "f16", "f32"] as const).default("auto" as const),
  )
  .addOption(gpuOption())
  .option("--variants", "also time every kernel that the tuner compares")
  .option("--profile", "also time each kernel of a training step and of a generated token")
  .option("--scaling", "also time training steps over batch, context, width and layers")
  .option("--json <file>", "write the report to this file too, anew after each result")
  .option("--compare <file>", "print ratios to an older report; fail if a benchmark is slower")
  .option(
    "--tolerance <share>",
    "share by which a benchmark may be slower than in --compare (default: 0.1)",
    realNumber,
  )
  .action((options) => runCommand(() => main(options)));

/** The options that were typed, and defaults. */
type Options = ReturnType<typeof program.opts>;

async function main(options: Options): Promise<number> {
  if (options.tolerance !== undefined && options.compare === undefined) {
    throw new UserError(
      `Cannot measure as --tolerance needs --compare: current value is ${options.tolerance}`,
    );
  }
  // check paths first, so that a wrong one costs no time
  if (options.json !== undefined) {
    checkReplaceable(options.json, {
      flag: "--json",
      kind: "an older report",
      isOfKind: isReport,
    });
  }
  const old = options.compare === undefined
    ? undefined
    : parseReport(readText(options.compare, "report"), options.compare);
  const device = await openGpu(options), clock = clockOf(device);
  status(wrap(`${device.name}, ${device.backend}; times by ${clock}, medians`, 80, "  "));
  const precision = options.precision === "auto"
    ? matrixTypes(device)[0] as Precision
    : options.precision;

  checkFilter(namesOf(device, precision, options), options.filter);
  const about = {
    command: commandLine([
      "deno",
      "task",
      options.gpu === "native" ? "bench" : "bench:ffi",
      ...howMeasured(Deno.args),
    ]),
    date: new Date().toISOString().slice(0, 10),
    deno: Deno.version.deno,
    device: {
      provider: device.provider,
      name: device.name,
      backend: device.backend,
      isCpu: device.isCpu,
    },
    clock,
  };
  const reportOf = (bench: BenchRun, roofline: Roofline, scaling?: Scaling): Report => ({
    ...about,
    roofline,
    results: bench.results,
    ...(options.profile ? { profiles: bench.profiles } : {}),
    ...(scaling?.points.length ? { scaling } : {}),
  });
  const write = (report: Report) => {
    if (options.json) replaceText(options.json, `${JSON.stringify(report, null, 2)}\n`);
  };
  const bench = new BenchRun(device, options, (bench) => {
    if (bench.roofline) write(reportOf(bench, bench.roofline));
  });
  const roofline = await runKernels(bench);
  await runModels(bench, precision, roofline);
  const scaling = options.scaling ? await runScaling(bench, precision, roofline) : undefined;
  const report = reportOf(bench, roofline, scaling);
  write(report);
  const failed = bench.failures.length > 0;
  if (failed) status(`\n${wrap(`failed: ${bench.failures.join("; ")}`, 80, "  ")}`);
  const isAsFast = old === undefined || reportComparison(report, old, options.tolerance ?? 0.1);
  // the lines above say the same to people
  if (!Deno.stdout.isTerminal()) output(`${JSON.stringify(report)}\n`);
  return failed || !isAsFast ? 1 : 0;
}

/** Whether a file is a report that `--json` wrote. */
function isReport(path: string): boolean {
  try {
    parseReport(readText(path), path);
    return true;
  } catch (error) {
    if (error instanceof UserError) return false;
    throw error;
  }
}

/** Names of all benchmarks that a call can run. */
function namesOf(device: Device, precision: Precision, { scaling }: Options): string[] {
  const steps = trainStepBenches(device, precision);
  const kernels = [...rooflineBenches(device), ...kernelBenches(device), ...decodeBenches(device)];
  const names = [
    ...kernels.map(({ name }) => name),
    ...steps.map(trainStepName),
    ...generateBenches(device, precision).map(generateName),
    coldStartName(steps[0]!),
    ...(scaling ? scalingSteps(device, precision).map(scalingName) : []),
  ];
  checkDistinct(names);
  return names;
}

/**
 * Makes sure that each text of a filter selects a benchmark.
 *
 * @throws {UserError} with all names in its hint.
 */
function checkFilter(names: readonly string[], filter: readonly string[] = []): void {
  for (const text of filter) {
    if (names.some((name) => name.includes(text))) continue;
    throw new UserError(
      `Cannot run a benchmark as --filter must be a part of a name: current value is ${
        quoted(text)
      }`,
      { hint: ["The names:", ...new Set(names)].join("\n  ") },
    );
  }
}

/** The benchmarks of one call: the device, the results so far, and how they are printed. */
class BenchRun {
  readonly device: Device;
  readonly results: Result[] = [];
  /** With --profile: the kernels of each run, by its name. */
  readonly profiles: Record<string, ProfileRow[]> = {};
  /** Names of the benchmarks that failed. */
  readonly failures: string[] = [];
  readonly options: Options;
  /** Undefined until it is measured. */
  roofline?: Roofline;
  readonly #onResult: (bench: BenchRun) => void;

  constructor(device: Device, options: Options, onResult: (bench: BenchRun) => void) {
    this.device = device;
    this.options = options;
    this.#onResult = onResult;
  }

  /** Whether --filter selects a benchmark. */
  wants(name: string): boolean {
    const { filter } = this.options;
    return filter === undefined || filter.some((text) => name.includes(text));
  }

  add(result: Result): void {
    this.results.push(result);
    status(resultLine(result));
    for (const line of detailLines(result)) status(line);
    this.#onResult(this);
  }

  /** Measures, and if that fails reports it, so that other benchmarks still run. */
  async guarded(name: string, measure: () => Promise<void>): Promise<void> {
    try {
      await measure();
    } catch (error) {
      this.device.check(); // if the device itself has failed, no later measurement is valid
      this.failures.push(name);
      status(wrap(`${name} failed: ${(error as Error).message}`, 80, "  "));
    }
  }

  /** Measures the run of a model and, with --profile, its kernels. */
  async measure(
    name: string,
    measure: () => Promise<Result>,
    profile?: () => Promise<ProfileRow[]>,
  ): Promise<void> {
    if (!this.wants(name)) return;
    status(`\n${name}: some seconds`);
    await this.guarded(name, async () => {
      this.add(await measure());
      if (!this.options.profile || !profile) return;
      const rows = this.profiles[name] = await profile();
      for (const line of profileLines(rows)) status(line);
    });
  }
}

/** Measures the roofline, then the kernels. */
async function runKernels(bench: BenchRun): Promise<Roofline> {
  const { device, options } = bench, harness = new Harness(device);
  status("\nroofline");
  const { results, ...roofline } = await harness.roofline();
  bench.roofline = roofline;
  for (const result of results) bench.add(result);
  const kernels = [...kernelBenches(device), ...decodeBenches(device)]
    .filter(({ name }) => bench.wants(name));
  if (kernels.length > 0) {
    status("\nkernels, and their share of the roofline");
    status("(above 100 %: data that fits a cache, or a product faster than the roofline's)");
  }
  for (const kernel of kernels) {
    await bench.guarded(kernel.name, async () => {
      bench.add(await harness.measure(kernel));
      if (!options.variants) return;
      const variants = await harness.measureVariants(kernel);
      if (variants.length === 0) status("  no other variants on this machine");
      for (const result of variants) bench.add(result);
    });
  }
  harness.destroy();
  return roofline;
}

/** Measures training steps, generation, and a cold start. */
async function runModels(
  bench: BenchRun,
  precision: Precision,
  { flopsPerSecond }: Roofline,
): Promise<void> {
  const { device } = bench, steps = trainStepBenches(device, precision);
  if (device.isCpu) {
    const gpu = { ...device, isCpu: false };
    const skipped = [
      ...trainStepBenches(gpu, precision).filter((step) => bench.wants(trainStepName(step))),
      ...generateBenches(gpu, precision).filter((one) => bench.wants(generateName(one))),
    ].map(({ model }) => model);
    const models = [...new Set(skipped)].join(", ");
    if (models !== "") status(`\nskipped, as a CPU adapter is too slow for them: ${models}`);
  }
  for (const step of steps) {
    const progress = everyTwoSeconds(status);
    const onTuning = (done: number, of: number) => progress(`  ${done} of ${of} kernels tuned`);
    await bench.measure(
      trainStepName(step),
      () => measureTrainStep(device, step, { onTuning, flopsPerSecond }),
      // what a step computes again has the kernels that compute it first
      step.recompute ? undefined : () => profileTrainStep(device, step),
    );
  }
  const recomputed = recomputations(bench.results);
  if (recomputed.length > 0) status(`\n${RECOMPUTATION_HEAD}`);
  for (const recomputation of recomputed) status(recomputationLine(recomputation));
  for (const generation of generateBenches(device, precision)) {
    await bench.measure(
      generateName(generation),
      () => measureGenerate(device, generation),
      () => profileGenerate(device, generation),
    );
  }
  await bench.measure(coldStartName(steps[0]!), () => measureColdStart(steps[0]!, device.provider));
}

/** Measures training steps over batch, context, width and layers. */
async function runScaling(
  bench: BenchRun,
  precision: Precision,
  roofline: Roofline,
): Promise<Scaling | undefined> {
  const steps = scalingSteps(bench.device, precision)
    .filter((step) => bench.wants(scalingName(step)));
  if (steps.length === 0) return undefined;
  const { model, config: { vocabularySize } } = steps[0]!.bench;
  status(`\nscaling from ${precision} ${model}, vocabulary ${vocabularySize}, untuned`);
  status(SCALING_HEAD);
  return await measureScaling(bench.device, steps, {
    roofline,
    guarded: (name, measure) => bench.guarded(name, measure),
    onPoint: (point) => status(scalingLine(point)),
  });
}

/** Prints the ratios to an older report; returns whether no benchmark became slower. */
function reportComparison(report: Report, old: Report, tolerance: number): boolean {
  const comparisons = compare(report, old);
  status(`\nbefore (${old.date}, ${old.device.name}), now, and the ratio of the times`);
  for (const comparison of comparisons) status(comparisonLine(comparison));
  const names = slower(comparisons, tolerance).map(({ name }) => name);
  if (names.length > 0) {
    status(`\n${wrap(`slower by more than ${tolerance}: ${names.join("; ")}`, 80, "  ")}`);
  }
  if (comparisons.length === 0) status("no benchmark is in both reports");
  return names.length === 0 && comparisons.length > 0;
}

/** The arguments without the files of --json and --compare, which are paths of one machine. */
function howMeasured(args: readonly string[]): string[] {
  const isFile = (arg: string | undefined) => arg === "--json" || arg === "--compare";
  return args.filter((arg, i) => !/^--(json|compare)(=|$)/.test(arg) && !isFile(args[i - 1]));
}

/** Limits `show` to one line every two seconds, the first after two. */
function everyTwoSeconds(show: (line: string) => void): (line: string) => void {
  let last = performance.now();
  return (line) => {
    if (performance.now() - last < 2000) return;
    last = performance.now();
    show(line);
  };
}

await program.parseAsync();
