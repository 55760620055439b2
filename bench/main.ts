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
import type { PresetName } from "../model/config.ts";
import type { Precision } from "../model/precision.ts";

/** `bench`: how fast this machine is, and how much of what it could do. */
const program = command("bench", "Measure the kernels, training and generation on this machine.")
  .option("--filter <text>", "only benchmarks with this text in their name (roofline: always)")
  .addOption(
    new Option("--precision <kind>", "of training and generation; f16 is autocast")
      .choices(["auto", "f16", "f32"] as const).default("auto" as const),
  )
  .option("--variants", "every kernel that the tuner compares, one by one")
  .option("--profile", "where the time of a training step and of a token goes, kernel by kernel")
  .option("--scaling", "also training steps over batch, context, width and layers")
  .option("--json <file>", "write the report to this file too")
  .option("--compare <file>", "the ratio to an older report; fails if something got slower")
  .option("--tolerance <share>", "by how much it may get slower", realNumber, 0.1)
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
  // before anything is measured, so that a wrong path costs no time
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
  // one benchmark that fails, for want of memory perhaps, does not take the others with it
  const failures: string[] = [];
  const attempt = async (name: string, measure: () => Promise<void>) => {
    try {
      await measure();
    } catch (error) {
      device.check(); // the device itself has failed: nothing after this can be trusted
      failures.push(name);
      status(wrap(`${name} failed: ${(error as Error).message}`, 80, "  "));
    }
  };
  status(wrap(`${device.name}, ${device.backend}; times by ${harness.clock}, medians`, 80, "  "));

  status("\nroofline");
  const { results: limits, ...roofline } = await harness.roofline();
  limits.forEach(show);

  const kernels = [...kernelBenches(device), ...decodeBenches(device)]
    .filter(({ name }) => wanted(name));
  if (kernels.length > 0) status("\nkernels, and their share of the roofline");
  for (const bench of kernels) {
    await attempt(bench.name, async () => {
      show(await harness.measure(bench));
      if (options.variants) (await harness.measureVariants(bench)).forEach(show);
    });
  }
  harness.destroy();

  const precision = options.precision === "auto"
    ? matrixTypes(device)[0] as Precision
    : options.precision;
  const steps = trainSteps(device, precision);
  const profiles: Record<string, ProfileRow[]> = {};
  for (const bench of steps.filter((bench) => wanted(trainStepName(bench)))) {
    const name = trainStepName(bench);
    status(`\n${name}: some seconds`);
    const progress = everyTwoSeconds(status);
    const onTuning = (done: number, of: number) => progress(`  ${done} of ${of} kernels tuned`);
    await attempt(name, async () => {
      show(await measureTrainStep(device, bench, { onTuning }));
      if (!options.profile) return;
      profiles[name] = await profileTrainStep(device, bench);
      for (const line of profileLines(profiles[name])) status(line);
    });
  }
  for (const bench of generations(device, precision)) {
    const name = generateName(bench);
    if (!wanted(name)) continue;
    status(`\n${name}: some seconds`);
    await attempt(name, async () => {
      show(await measureGenerate(device, bench));
      if (!options.profile) return;
      profiles[name] = await profileGenerate(device, bench);
      for (const line of profileLines(profiles[name])) status(line);
    });
  }
  const coldStart = coldStartName(steps[0]!);
  if (wanted(coldStart)) {
    status(`\n${coldStart}: some seconds`);
    await attempt(coldStart, async () => show(await measureColdStart(steps[0]!)));
  }
  const points = options.scaling
    ? scalingSteps(device, precision).filter((step) => wanted(scalingName(step)))
    : [];
  let scaling: Scaling | undefined;
  if (points.length > 0) {
    const { model, config: { vocabularySize } } = points[0]!.bench;
    status(`\nscaling from ${precision} ${model}, vocabulary ${vocabularySize}, untuned`);
    status(SCALING_HEAD);
    const onPoint = (point: ScalingPoint) => status(scalingLine(point));
    scaling = await measureScaling(device, points, { roofline, attempt, onPoint });
  }

  const report: Report = {
    command: commandLine(["deno", "task", "bench", ...howMeasured(Deno.args)]),
    date: new Date().toISOString().slice(0, 10),
    deno: Deno.version.deno,
    device: { name: device.name, backend: device.backend, isCpu: device.isCpu },
    clock: harness.clock,
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

/** The arguments but for files that are written or compared with: those are of one machine alone. */
function howMeasured(args: readonly string[]): string[] {
  const isFile = (arg: string | undefined) => arg === "--json" || arg === "--compare";
  return args.filter((arg, i) => !/^--(json|compare)(=|$)/.test(arg) && !isFile(args[i - 1]));
}

/** Shows a line at most every two seconds, the first one after two. */
function everyTwoSeconds(show: (line: string) => void): (line: string) => void {
  let last = performance.now();
  return (line) => {
    if (performance.now() - last < 2000) return;
    last = performance.now();
    show(line);
  };
}

/** The training steps of a device, the smallest first. */
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

/** Generations of one text and of many; on a GPU over a context that PyTorch's baseline has too. */
function generations(device: Device, precision: Precision): GenerateBench[] {
  const model = device.isCpu ? "nano" : "mini", tokens = device.isCpu ? 64 : 256;
  const config = benchConfig(model);
  const contextLength = device.isCpu ? config.contextLength : 512;
  return (device.isCpu ? [1, 8] : [1, 64]).map((streams) => (
    { model, config: { ...config, contextLength }, streams, tokens, precision }
  ));
}

await program.parseAsync();
