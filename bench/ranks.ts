import { command, output, runCommand, status } from "../commands/command.ts";
import { gpuOption } from "../commands/gpu.ts";
import { openTransport } from "../distributed/open_mpi.ts";
import type { Batches } from "../data/tokens/batches.ts";
import { checkSameBits } from "../distributed/same_bits.ts";
import { type ExchangeMs, TensorSum } from "../distributed/tensor_sum.ts";
import { oneRank, type Transport } from "../distributed/transport.ts";
import type { WireType } from "../distributed/wire.ts";
import { replaceText } from "../files/disk.ts";
import { fromJsonBytes, toJsonBytes } from "../files/json.ts";
import { UserError } from "../files/user_error.ts";
import { type Device, openDevice } from "../kernels/device.ts";
import {
  createTensor,
  mapForReading,
  size,
  type Tensor,
  tensorBytes,
  upload,
} from "../kernels/tensor.ts";
import { median } from "../kernels/timing.ts";
import { tune, untuned } from "../kernels/tune.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import type { Precision } from "../model/precision.ts";
import { initializeParameters } from "../model/weights.ts";
import { OuterStep } from "../train/diloco.ts";
import { describeDevices, devicesOf } from "../train/ranks.ts";
import { createTrainStep, type StepOptions, type TrainStep } from "../train/step.ts";
import { StepShare } from "../train/step_share.ts";
import { matrixTypes } from "./harness.ts";
import { benchConfig, type BenchModel, STEP_OPTIONS } from "./models.ts";
import {
  exchangeName,
  outerStepName,
  type RanksReport,
  type RanksResult,
  SYNC_EVERY,
  TINY_SUM,
} from "./ranks_report.ts";
import { resultLine } from "./report.ts";
import { sampleBatches } from "./text.ts";

/** `bench:ranks`: what ranks under mpirun exchange, and how fast they train together. */
const program = command(
  "bench:ranks",
  "Measure what the ranks of mpirun exchange, and how fast they train together: mpirun -n 2 ./toy bench:ranks",
)
  .addOption(gpuOption())
  .option(
    "--filter <text...>",
    'only the results whose names contain one of the texts, as in --filter exchange "gpt2 8x1024 x 16"',
  )
  .option("--seconds <seconds>", "begin nothing new after this time", Number)
  .option("--json <file>", "write the report to this file too, anew after each result")
  .action((options) => runCommand(() => main(options)));

/** A training that is timed on all ranks together, and on one alone. */
export interface Case {
  readonly model: BenchModel;
  readonly batchSize: number;
  /** Micro-batches per step and rank. */
  readonly accumulation: number;
  /** In which gradients travel; f32 by default. */
  readonly wire?: WireType;
  /** Whether ranks exchange weights every `SYNC_EVERY` steps, and no gradients. */
  readonly isDiloco?: true;
}

const SIZES = [
  { model: "gpt2", batchSize: 8 },
  { model: "mini", batchSize: 32 },
  { model: "mini", batchSize: 128 },
] as const;

const CASES: readonly Case[] = [
  ...SIZES.flatMap((sizes) => [
    { ...sizes, accumulation: 1 },
    { ...sizes, accumulation: 4 },
    { ...sizes, accumulation: 4, isDiloco: true } as const,
    { ...sizes, accumulation: 16 },
  ]),
  ...SIZES.map((sizes) => ({ ...sizes, accumulation: 4, wire: "f16" }) as const), // the slowest
];

/** The cases of a CPU adapter. */
const CPU_CASES: readonly Case[] = [
  { model: "nano", batchSize: 4, accumulation: 4 },
  { model: "nano", batchSize: 4, accumulation: 4, isDiloco: true },
];

/** What every measurement needs. */
export interface Ranks {
  readonly transport: Transport;
  readonly device: Device;
  readonly precision: Precision;
  /** Whether something of this name is measured; all ranks ask together. */
  wants(name: string): Promise<boolean>;
  /** Notes a result, on rank 0. */
  add(result: RanksResult): void;
}

/** The options that were typed, and defaults. */
type Options = ReturnType<typeof program.opts>;

async function main(options: Options): Promise<void> {
  const { filter = [""], seconds = Infinity } = options;
  const transport = openTransport("auto");
  if (transport.size < 2) {
    throw new UserError("Cannot measure an exchange as there must be several ranks: there is one", {
      hint: "Start them with: mpirun -n 2 ./toy bench:ranks",
    });
  }
  const device = await openDevice(options);
  const { provider, name, backend, isCpu } = device;
  const results: RanksResult[] = [];
  const report: RanksReport = {
    command: `mpirun -n ${transport.size} ./toy bench:ranks` +
      (options.gpu === "native" ? "" : ` --gpu ${options.gpu}`) +
      (options.filter ? ` --filter ${options.filter.map((text) => `"${text}"`).join(" ")}` : ""),
    date: new Date().toISOString().slice(0, 10),
    deno: Deno.version.deno,
    device: { provider, name, backend, isCpu },
    ranks: transport.size,
    placement: describeDevices(await devicesOf(transport, device)),
    results,
  };
  const text = () => `${JSON.stringify(report, null, 2)}\n`;
  const ranks: Ranks = {
    transport,
    device,
    precision: matrixTypes(device)[0] as Precision,
    async wants(name) {
      const isTimely = toJsonBytes(performance.now() < 1000 * seconds); // by the clock of rank 0
      return filter.some((text) => name.includes(text)) &&
        fromJsonBytes(await transport.broadcast(isTimely)) as boolean;
    },
    add(result) {
      if (transport.rank > 0) return;
      results.push(result);
      status(resultLine(result));
      if (options.json) replaceText(options.json, text()); // an interrupted run keeps its results
    },
  };
  if (transport.rank === 0) status(report.placement);
  await measureExchanges(ranks);
  const sizes = Map.groupBy(
    isCpu ? CPU_CASES : CASES,
    ({ model, batchSize, wire }) => `${model} ${batchSize} ${wire}`,
  );
  for (const cases of sizes.values()) await measureSteps(ranks, cases);
  if (transport.rank === 0) output(text());
  await transport.close();
}

/** Times that an exchange is timed. */
const ROUNDS = 5;

/** Milliseconds of an action that all ranks begin together: the median of several. */
async function timeTogether(
  transport: Transport,
  rounds: number,
  action: () => Promise<void>,
): Promise<number> {
  await action();
  const samples: number[] = [];
  for (let round = 0; round < rounds; round++) {
    await transport.barrier();
    const since = performance.now();
    await action();
    samples.push(performance.now() - since);
  }
  return median(samples);
}

/** The mean of parts over several runs. */
function meanParts(total: ExchangeMs | undefined, runs: number): Record<string, number> {
  return Object.fromEntries(Object.entries(total ?? {}).map(([part, ms]) => [part, ms / runs]));
}

/** Measures the sum of a few numbers, and exchanges of the size of models, by their parts. */
export async function measureExchanges(ranks: Ranks): Promise<void> {
  const { transport, device, add } = ranks;
  if (await ranks.wants(TINY_SUM)) {
    const few = new Float32Array(2);
    const manyMs = await timeTogether(transport, ROUNDS, async () => {
      for (let i = 0; i < 100; i++) await transport.sum(few);
    });
    add({ name: TINY_SUM, ms: manyMs / 100, ranks: transport.size });
  }
  for (const floats of device.isCpu ? [200_000] : [16_135_168, 124_439_808]) {
    if (!await ranks.wants(exchangeName(floats))) continue;
    const tensor = createTensor(device, "gradients", { shape: [floats], dtype: "f32" });
    upload(device, tensor, new Float32Array(floats).fill(1 / 3));
    const idle = () => device.gpu.queue.onSubmittedWorkDone();
    using exchange = new TensorSum(device, transport, [[tensor]]);
    const ms = await timeTogether(transport, ROUNDS, async () => {
      await exchange.run();
      await idle();
    });
    const parts = meanParts(exchange.takeMs(), ROUNDS + 1); // with the one that warms up
    parts["read back alone"] = await timeReadBack(ranks, tensor);
    const host = new Float32Array(floats).fill(1 / 3);
    parts["sum alone"] = await timeTogether(transport, ROUNDS, () => transport.sum(host));
    parts["upload alone"] = await timeTogether(transport, ROUNDS, async () => {
      upload(device, tensor, host);
      await idle();
    });
    add({ name: exchangeName(floats), ms, ranks: transport.size, floats, parts });
    tensor.buffer.destroy();
  }
}

/** Milliseconds until the bytes of a tensor are in the host's memory, without copies there. */
async function timeReadBack({ transport, device }: Ranks, tensor: Tensor): Promise<number> {
  const bytes = tensorBytes(tensor);
  const staging = device.gpu.createBuffer({ size: bytes, usage: 0x01 | 0x08 }); // MAP_READ | COPY_DST
  const ms = await timeTogether(transport, ROUNDS, async () => {
    const encoder = device.gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(tensor.buffer, tensor.offsetBytes, staging, 0, bytes);
    device.gpu.queue.submit([encoder.finish()]);
    await mapForReading(device, [staging], tensor.name);
    staging.unmap();
  });
  staging.destroy();
  return ms;
}

/** Milliseconds of the steps that are timed together. */
const WALL_MS = 1000;

/** A model with its batches. */
interface Training {
  readonly gpt: Gpt;
  readonly batches: Batches;
  readonly options: Pick<StepOptions, "batchSize" | "sequenceLength"> & Partial<StepOptions>;
}

/**
 * Times steps of the ranks of a transport, which begin with the same weights.
 *
 * @param options.syncEvery above 1 for steps whose gradients are not exchanged.
 * @param options.after is called before the step is freed, with a function that submits one more.
 */
async function timeSteps(
  transport: Transport,
  { gpt, batches, options }: Training,
  { gradientAccumulation, wire = "f32", syncEvery = 1, after }: {
    readonly gradientAccumulation: number;
    readonly wire?: WireType | undefined;
    readonly syncEvery?: number;
    readonly after?: (trainStep: TrainStep, submit: () => Promise<void>) => Promise<void>;
  },
): Promise<Pick<RanksResult, "ms" | "rangeMs" | "parts" | "ranks" | "tokensPerSecond">> {
  const ranks = transport.size;
  initializeParameters(gpt, { seed: 0 });
  using trainStep = createTrainStep(gpt, {
    ...options,
    gradientAccumulation,
    wire,
    syncEvery,
    transport,
  });
  const start = { step: 0, batchIndex: 0, gradientAccumulation, syncEvery };
  const share = new StepShare(transport, batches, start);
  let step = 0;
  const submit = async () => {
    await share.submit({ gpt, trainStep }, { kind: "step", step: step++, learningRate: 1e-4 });
  };
  const timed = async (count: number) => {
    await transport.barrier();
    trainStep.takeExchangeMs();
    const since = performance.now(), ends: number[] = [];
    for (let i = 0; i < count; i++) {
      await submit();
      ends.push(performance.now());
    }
    await trainStep.reports(1);
    const ms = (performance.now() - since) / count;
    const samples = ends.map((end, i) => end - (ends[i - 1] ?? since));
    // only steps that exchange something end before the next is submitted
    const rangeMs = [Math.min(...samples), Math.max(...samples)] as const;
    return { ms, ...ranks > 1 && syncEvery === 1 ? { rangeMs } : {} };
  };
  await timed(1); // compiles
  const wanted = Math.max(3, Math.min(300, Math.round(WALL_MS / (await timed(1)).ms)));
  const count = fromJsonBytes(await transport.broadcast(toJsonBytes(wanted))) as number;
  const times = await timed(count);
  const parts = meanParts(trainStep.takeExchangeMs(), count);
  await after?.(trainStep, submit);
  const tokens = ranks * gradientAccumulation * options.batchSize * options.sequenceLength;
  return { ...times, parts, ranks, tokensPerSecond: 1e3 * tokens / times.ms };
}

/** Measures training steps of a model: for each case those of all ranks, and of one alone with as many micro-batches. */
export async function measureSteps(ranks: Ranks, cases: readonly Case[]): Promise<void> {
  const { transport, device, precision, add } = ranks, { rank, size: all } = transport;
  const [{ model, batchSize }] = cases as [Case];
  const config = benchConfig(model), sequenceLength = config.contextLength;
  const sizes = { ...STEP_OPTIONS, batchSize, sequenceLength };
  using resources = new DisposableStack();
  let training: Training | undefined; // allocated for the first case that is wanted
  const alone = new Set<number>(); // accumulations with which one rank was timed
  for (const { accumulation, wire, isDiloco } of cases) {
    const which = { model, batch: `${batchSize}x${sequenceLength}`, accumulation };
    const step = `train step ${precision} ${model} ${which.batch} x ${accumulation}`;
    const name = `${step}, ${all} ranks${isDiloco ? " by DiLoCo" : wire ? ` --wire ${wire}` : ""}`;
    if (!await ranks.wants(name)) continue;
    if (!training) {
      const gpt = resources.adopt(createGpt(device, config, { precision }), (gpt) => gpt.destroy());
      const { vocabularySize } = config;
      training = { gpt, options: sizes, batches: sampleBatches({ ...sizes, vocabularySize }) };
      await tuneOnFirst(ranks, gpt, sizes);
    }
    const options = { gradientAccumulation: accumulation, wire };
    if (rank === 0 && !alone.has(accumulation)) {
      add({ name: `${step}, 1 rank`, ...await timeSteps(oneRank, training, options), ...which });
    }
    alone.add(accumulation);
    await transport.barrier();
    if (isDiloco) {
      const [inner, outer] = await timeDiloco(ranks, model, training, options);
      add({ name, ...inner, ...which, isDiloco });
      add(outer);
    } else {
      const together = await timeSteps(transport, training, options);
      await checkSameBits(transport, device, training.gpt.parameters.flat);
      add({ name, ...together, ...which, wire });
    }
  }
}

/** Times steps by DiLoCo, with the share of an exchange that comes every `SYNC_EVERY` steps, and that exchange. */
async function timeDiloco(
  ranks: Ranks,
  model: BenchModel,
  training: Training,
  options: { readonly gradientAccumulation: number },
) {
  let outer: RanksResult | undefined;
  const inner = await timeSteps(ranks.transport, training, {
    ...options,
    syncEvery: SYNC_EVERY,
    async after(trainStep, submit) {
      outer = await timeOuterStep(ranks, model, { gpt: training.gpt, trainStep, submit });
    },
  });
  const ms = inner.ms + outer!.ms / SYNC_EVERY;
  const tokensPerSecond = inner.tokensPerSecond! * inner.ms / ms;
  return [{ ...inner, ms, innerMs: inner.ms, tokensPerSecond }, outer!] as const;
}

/** Times the exchange of weights by DiLoCo, after a step of each rank on its own. */
async function timeOuterStep(
  { transport, device }: Ranks,
  model: BenchModel,
  { gpt, trainStep, submit }: {
    readonly gpt: Gpt;
    readonly trainStep: TrainStep;
    readonly submit: () => Promise<void>;
  },
): Promise<RanksResult> {
  initializeParameters(gpt, { seed: 0 }); // the ranks have moved apart
  using outer = new OuterStep(transport, { gpt, trainStep });
  outer.start();
  await submit();
  const ms = await timeTogether(transport, ROUNDS, async () => {
    await outer.run();
    await device.gpu.queue.onSubmittedWorkDone();
  });
  return {
    name: outerStepName(model),
    ...{ ms, ranks: transport.size, floats: size(trainStep.gradients.flat.shape) },
    parts: meanParts(outer.takeMs(), ROUNDS + 1), // with the one that warms up
  };
}

/** Tunes the kernels of a step on rank 0, for all ranks: the bits of their sums must not depend on the rank. */
async function tuneOnFirst(
  { transport, device }: Ranks,
  gpt: Gpt,
  options: Parameters<typeof createTrainStep>[1],
): Promise<void> {
  if (transport.rank === 0) {
    for (const gradientAccumulation of [1, 2]) {
      using step = createTrainStep(gpt, { ...options, gradientAccumulation });
      const tunables = [...step.program.tunables.values()];
      if (untuned(device, tunables).length > 0) await tune(device, tunables);
    }
  }
  const choices = await transport.broadcast(toJsonBytes([...device.choices]));
  for (const [key, choice] of fromJsonBytes(choices) as [string, string][]) {
    device.choices.set(key, choice);
  }
}

if (import.meta.main) await program.parseAsync();
