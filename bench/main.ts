import { Option } from "@commander-js/extra-typings";
import { readText } from "../files/json.ts";
import { Harness, matrixTypes, type Result } from "./harness.ts";
import {
  decodeBenches,
  type GenerateBench,
  generateName,
  measureGenerate,
  profileGenerate,
} from "./generate.ts";
import { kernelBenches } from "./kernels.ts";
import { benchConfig, OWN_VOCABULARY } from "./models.ts";
import {
  compare,
  comparisonLine,
  detailLines,
  parseReport,
  profileLines,
  type Report,
  resultLine,
  SCALING_HEAD,
  scalingLine,
  slower,
  wrap,
} from "./report.ts";
import {
  measureScaling,
  type Scaling,
  scalingName,
  type ScalingPoint,
  scalingSteps,
} from "./scaling.ts";
import {
  coldStartName,
  measureColdStart,
  measureTrainStep,
  type ProfileRow,
  profileTrainStep,
  type TrainStepBench,
  trainStepName,
} from "./train_step.ts";
import { command, output, realNumber, run, status } from "../commands/command.ts";
import { commandLine } from "../files/command_line.ts";
import { checkFilePath, replaceText } from "../files/disk.ts";
import { type Device, openDevice } from "../kernels/device.ts";
import { clockOf } from "../kernels/timing.ts";
import type { PresetName } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";

/** `bench`: the speed of this machine, and its share of the roofline. */
const program = command("bench", "Measure the kernels, training and generation on this machine.")
  .option("--filter <text>", "only benchmarks with this text in their name, and the roofline")
  .addOption(
    new Option("--precision <kind>", "precision of training and generation; f16 is autocast")
      .choices(["auto", "f16", "f32"] as const).default("auto" as const),
  )
  .option("--variants", "also time every kernel that the tuner compares")
  .option("--profile", "also time each kernel of a training step and of a generated token")
  .option("--scaling", "also time training steps over batch, context, width and layers")
  .option("--json <file>", "write the report to this file too")
  .option("--compare <file>", "print ratios to an older report; fail if a benchmark is slower")
  .option("--tolerance <share>", "share by which a benchmark may be slower", realNumber, 0.1)
  .action((options) => run(() => main(options)));

interface Options {
  filter?: string | undefined;
  precision: Precision | "auto";
  variants?: true | undefined;
  profile?: true | undefined;
  scaling?: true | undefined;
  json?: string | undefined;
  compare?: string | undefined;
  tolerance: number;
}

async function main(options: Options): Promise<number> {
  // check paths first, so that a wrong one costs no time
  if (options.json !== undefined) checkFilePath(options.json, "--json");
  const old = options.compare === undefined
    ? undefined
    : parseReport(readText(options.compare, "report"), options.compare);
  const device = await openDevice();
  const harness = new Harness(device);
  const wanted = (name: string) => name.includes(options.filter ?? "");
  const results: Result[] = [];
  const show = (result: Result) => {
    results.push(result);
    status(resultLine(result));
    for (const line of detailLines(result)) status(line);
  };
  const failures: string[] = [];
  /** Measures, and if that fails reports it, so that other benchmarks still run. */
  const guarded = async (name: string, measure: () => Promise<void>) => {
    try {
      await measure();
    } catch (error) {
      device.check(); // if the device itself has failed, no later measurement is valid
      failures.push(name);
      status(wrap(`${name} failed: ${(error as Error).message}`, 80, "  "));
    }
  };
  const profiles: Record<string, ProfileRow[]> = {};
  /** Measures a run and, with --profile, its kernels. */
  const measureRun = async (
    name: string,
    measure: () => Promise<Result>,
    profile?: () => Promise<ProfileRow[]>,
  ) => {
    if (!wanted(name)) return;
    status(`\n${name}: some seconds`);
    await guarded(name, async () => {
      show(await measure());
      if (!options.profile || !profile) return;
      profiles[name] = await profile();
      for (const line of profileLines(profiles[name])) status(line);
    });
  };
  const clock = clockOf(device);
  status(wrap(`${device.name}, ${device.backend}; times by ${clock}, medians`, 80, "  "));

  status("\nroofline");
  const { results: limits, ...roofline } = await harness.roofline();
  limits.forEach(show);

  const kernels = [...kernelBenches(device), ...decodeBenches(device)]
    .filter(({ name }) => wanted(name));
  if (kernels.length > 0) status("\nkernels, and their share of the roofline");
  for (const bench of kernels) {
    await guarded(bench.name, async () => {
      show(await harness.measure(bench));
      if (options.variants) (await harness.measureVariants(bench)).forEach(show);
    });
  }
  harness.destroy();

  const precision = options.precision === "auto"
    ? matrixTypes(device)[0] as Precision
    : options.precision;
  const steps = trainSteps(device, precision);
  for (const bench of steps) {
    const progress = everyTwoSeconds(status);
    const onTuning = (done: number, of: number) => progress(`  ${done} of ${of} kernels tuned`);
    await measureRun(
      trainStepName(bench),
      () => measureTrainStep(device, bench, { onTuning }),
      () => profileTrainStep(device, bench),
    );
  }
  for (const bench of generations(device, precision)) {
    await measureRun(
      generateName(bench),
      () => measureGenerate(device, bench),
      () => profileGenerate(device, bench),
    );
  }
  await measureRun(coldStartName(steps[0]!), () => measureColdStart(steps[0]!));
  const points = options.scaling
    ? scalingSteps(device, precision).filter((step) => wanted(scalingName(step)))
    : [];
  let scaling: Scaling | undefined;
  if (points.length > 0) {
    const { model, config: { vocabularySize } } = points[0]!.bench;
    status(`\nscaling from ${precision} ${model}, vocabulary ${vocabularySize}, untuned`);
    status(SCALING_HEAD);
    const onPoint = (point: ScalingPoint) => status(scalingLine(point));
    scaling = await measureScaling(device, points, { roofline, guarded, onPoint });
  }

  const report: Report = {
    command: commandLine(["deno", "task", "bench", ...howMeasured(Deno.args)]),
    date: new Date().toISOString().slice(0, 10),
    deno: Deno.version.deno,
    device: { name: device.name, backend: device.backend, isCpu: device.isCpu },
    clock,
    roofline,
    results,
    ...(options.profile ? { profiles } : {}),
    ...(scaling?.points.length ? { scaling } : {}),
  };
  if (options.json) {
    replaceText(options.json, `${JSON.stringify(report, null, 2)}\n`);
  }
  let failed = failures.length > 0;
  if (failed) status(`\n${wrap(`failed: ${failures.join("; ")}`, 80, "  ")}`);
  if (old) {
    const comparisons = compare(report, old);
    status(`\nbefore (${old.date}, ${old.device.name}), now, and the ratio`);
    for (const comparison of comparisons) status(comparisonLine(comparison));
    const worse = slower(comparisons, options.tolerance).map(({ name }) => name);
    if (worse.length > 0) {
      const names = worse.join("; ");
      status(`\n${wrap(`slower by more than ${options.tolerance}: ${names}`, 80, "  ")}`);
    }
    if (comparisons.length === 0) status("no benchmark is in both reports");
    failed ||= worse.length > 0 || comparisons.length === 0;
  }
  output(`${JSON.stringify(report)}\n`);
  return failed ? 1 : 0;
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

/** The training steps to time on a device, the smallest first. */
function trainSteps(device: Device, precision: Precision): TrainStepBench[] {
  const step = (
    model: PresetName,
    batchSize: number,
    vocabularySize?: number,
  ): TrainStepBench => {
    const config = benchConfig(model, vocabularySize);
    return { model, config, batchSize, sequenceLength: config.contextLength, precision };
  };
  return device.isCpu
    ? [step("nano", 16)]
    : [step("mini", 32), step("mini", 32, OWN_VOCABULARY), step("gpt2", 8)];
}

/**
 * The generations to time, of one text and of many; on a GPU with the context of PyTorch's baseline.
 */
function generations(device: Device, precision: Precision): GenerateBench[] {
  const model = device.isCpu ? "nano" : "mini", tokens = device.isCpu ? 64 : 256;
  const config = benchConfig(model);
  const contextLength = device.isCpu ? config.contextLength : 512;
  return (device.isCpu ? [1, 8] : [1, 64]).map((streams) => (
    { model, config: { ...config, contextLength }, streams, tokens, precision }
  ));
}

await program.parseAsync();
