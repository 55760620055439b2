import { SUM_FLOATS } from "../distributed/transport.ts";
import { countParameters } from "../model/parameters.ts";
import { stepCost } from "./cost.ts";
import { benchConfig, type BenchModel } from "./models.ts";
import { type RanksReport, type RanksResult, SYNC_EVERY, TINY_SUM } from "./ranks_report.ts";

/**
 * A model of the time of a training step on many ranks: the measured step of one rank, and the exchange, from measured
 * figures of one host and the rate of the network between hosts.
 *
 * An exchange waits until the gradients are in the host's memory. Then pieces of `SUM_FLOATS` are added up while the main
 * thread copies others. Each rank adds up a slice of each piece. On one host it copies its floats to memory that all
 * share, adds to them (R − 1) / R as many, and copies the sums from there. Between hosts it gets its slice of every other
 * rank, and hands the sums to every other rank: it sends and receives (R − 1) / R of its floats twice, in messages to
 * each other rank.
 *
 * @module
 */

/** A network between hosts. */
export interface Network {
  readonly name: string;
  /** The rate of its line. */
  readonly bytesPerSecond: number;
  /** The standard that sets it. */
  readonly standard: string;
}

/** The networks of the model. */
export const NETWORKS: readonly Network[] = [
  { name: "10 Gbit/s", bytesPerSecond: 10e9 / 8, standard: "IEEE 802.3ae" },
  { name: "100 Gbit/s", bytesPerSecond: 100e9 / 8, standard: "IEEE 802.3ba" },
  { name: "400 Gbit/s", bytesPerSecond: 400e9 / 8, standard: "IEEE 802.3bs" },
];

/** Ranks of a host in the model, a GPU each. */
export const RANKS_PER_HOST = 8;

/** Most hosts in the model. */
export const MOST_HOSTS = 1024;

/** Hosts, and the ranks of each. */
export interface Cluster {
  readonly hosts: number;
  readonly ranksPerHost: number;
}

/** A straight line: milliseconds of so many floats. */
interface Line {
  readonly fixedMs: number;
  readonly perFloatMs: number;
}

/** The figures of a machine on which the model rests. */
export interface ExchangeFigures {
  /** Of a call of MPI from Deno that waits for nobody. */
  readonly callMs: number;
  /** Of a message over TCP, without a wire. */
  readonly messageMs: number;
  /** Bytes per second that a rank copies or adds in shared memory. */
  readonly memoryBytesPerSecond: number;
  /** Bytes per second that a rank gets in messages from another one of its host, and over TCP. */
  readonly hereBytesPerSecond: number;
  readonly tcpBytesPerSecond: number;
  /** Reading back from the device into the host's memory, over PCIe. */
  readonly readBack: Line;
  /** Copies of the main thread: of what was read back to pieces, and of sums to the device's queue. */
  readonly copies: Line;
  /** Of an exchange, what it takes beside these and the sum. */
  readonly rest: Line;
  /** Of an exchange of weights by DiLoCo, the same, with the outer step. */
  readonly outerRest: Line;
}

/** Reports of two ranks on one host. */
export interface RanksReports {
  readonly report: RanksReport;
  /** The exchange without shared memory, by messages, as between hosts. */
  readonly byMessages: RanksReport;
  /** The same over TCP alone. */
  readonly overTcp: RanksReport;
}

/** The figures that the reports give. */
export function figuresOf({ report, byMessages, overTcp }: RanksReports): ExchangeFigures {
  const exchanges = report.results.filter(isExchange);
  const callMs = tinySumMs(byMessages) / callsByMessages(2);
  const bytesPerSecond = (bytes: number, { results }: RanksReport, calls: number) => {
    const { perFloatMs } = lineOf(results.filter(isExchange), ({ parts }) => parts!["sum alone"]!);
    return 1e3 * bytes / (perFloatMs - calls * callMs / SUM_FLOATS);
  };
  const figures = {
    callMs,
    messageMs: (tinySumMs(overTcp) - tinySumMs(byMessages)) / WAITS,
    memoryBytesPerSecond: bytesPerSecond(memoryBytes(2), report, callsInMemory(2)),
    // each of two ranks gets half of the floats twice
    hereBytesPerSecond: bytesPerSecond(4, byMessages, callsByMessages(2)),
    tcpBytesPerSecond: bytesPerSecond(4, overTcp, callsByMessages(2)),
    readBack: lineOf(exchanges, ({ parts }) => parts!["read back alone"]!),
    copies: lineOf(exchanges, ({ parts }) => parts!.download! + parts!.upload!),
  };
  const none = { fixedMs: 0, perFloatMs: 0 };
  const rest = (results: readonly RanksResult[]) =>
    lineOf(
      results,
      ({ ms, floats }) =>
        ms - exchangeMs({ ...figures, rest: none }, floats!, TWO_RANKS, NO_NETWORK),
    );
  const outer = report.results.filter(({ name }) => name.startsWith("outer step "));
  return { ...figures, rest: rest(exchanges), outerRest: rest(outer) };
}

/** The ranks of the reports, and what is between them. */
const TWO_RANKS = { hosts: 1, ranksPerHost: 2 }, NO_NETWORK = { bytesPerSecond: Infinity };

/** Bytes per float that a rank copies or adds in shared memory. */
function memoryBytes(ranks: number): number {
  return 4 * (2 + (ranks - 1) / ranks);
}

/** Calls of a piece in which ranks wait for each other: for its length, for its slices, and for their sums. */
const WAITS = 3;

/** Calls of MPI for a piece by messages: those, and an addition for each other rank. */
function callsByMessages(ranks: number): number {
  return WAITS + ranks - 1;
}

/** The same in shared memory, which takes two copies. */
function callsInMemory(ranks: number): number {
  return callsByMessages(ranks) + 2;
}

/** Milliseconds of a sum over all ranks. */
export function sumMs(
  figures: Omit<ExchangeFigures, "rest" | "outerRest">,
  floats: number,
  { hosts, ranksPerHost }: Cluster,
  { bytesPerSecond }: Pick<Network, "bytesPerSecond">,
): number {
  const { callMs, messageMs, memoryBytesPerSecond, hereBytesPerSecond, tcpBytesPerSecond } =
    figures;
  const ranks = hosts * ranksPerHost, pieces = Math.ceil(floats / SUM_FLOATS);
  if (ranks === 1) return 0;
  if (hosts === 1) {
    return pieces * callsInMemory(ranks) * callMs +
      1e3 * memoryBytes(ranks) * floats / memoryBytesPerSecond;
  }
  const here = ranksPerHost - 1, elsewhere = ranks - ranksPerHost;
  const bytes = 2 * 4 * floats / ranks; // to each other rank
  const wire = Math.min(bytesPerSecond, ranksPerHost * tcpBytesPerSecond);
  return pieces * callsByMessages(ranks) * callMs +
    pieces * WAITS * elsewhere * messageMs +
    1e3 * bytes * here / hereBytesPerSecond +
    1e3 * bytes * elsewhere * ranksPerHost / wire;
}

/** Milliseconds of the exchange of a step on several ranks. */
export function exchangeMs(
  figures: Omit<ExchangeFigures, "outerRest">,
  floats: number,
  ...where: [Cluster, Pick<Network, "bytesPerSecond">]
): number {
  const [{ hosts, ranksPerHost }] = where;
  if (hosts * ranksPerHost === 1) return 0;
  const sum = sumMs(figures, floats, ...where), copies = at(figures.copies, floats);
  return at(figures.readBack, floats) + Math.max(sum, copies) + at(figures.rest, floats);
}

/** Milliseconds of the exchange of weights by DiLoCo, divided among the steps between two of them. */
export function outerShareMs(
  figures: ExchangeFigures,
  ...where: [floats: number, Cluster, Pick<Network, "bytesPerSecond">]
): number {
  return exchangeMs({ ...figures, rest: figures.outerRest }, ...where) / SYNC_EVERY;
}

/** A model whose training on many ranks is modelled. */
export interface ModelledTraining {
  readonly model: BenchModel;
  /** Rows and tokens of a micro-batch, such as `8x1024`. */
  readonly batch: string;
  readonly accumulation: number;
  readonly floats: number;
  /** Milliseconds of a step on one rank. */
  readonly oneRankMs: number;
  /** Whether that was not measured, but is another model's by the ratio of their operations. */
  readonly isScaled: boolean;
}

/** Micro-batches per step in the model. */
const ACCUMULATION = 16;

/** The trainings of the model: mini and gpt2, which were measured, and gpt2-xl by its operations. */
export function modelledTrainings(report: RanksReport): ModelledTraining[] {
  const measured = (model: BenchModel, batch: string): ModelledTraining[] =>
    report.results.filter((one) =>
      one.model === model && one.batch === batch && one.accumulation === ACCUMULATION &&
      one.ranks === 1
    ).map(({ ms }) => ({
      model,
      batch,
      accumulation: ACCUMULATION,
      floats: countParameters(benchConfig(model)),
      oneRankMs: ms,
      isScaled: false,
    }));
  const [gpt2] = measured("gpt2", "8x1024"), [mini] = measured("mini", "32x128");
  const operations = (model: BenchModel) =>
    stepCost({
      config: benchConfig(model),
      batchSize: 8,
      sequenceLength: 1024,
      precision: "f16",
    }).flops;
  const xl: ModelledTraining[] = gpt2
    ? [{
      ...gpt2,
      model: "gpt2-xl",
      floats: countParameters(benchConfig("gpt2-xl")),
      oneRankMs: gpt2.oneRankMs * operations("gpt2-xl") / operations("gpt2"),
      isScaled: true,
    }]
    : [];
  return [...mini ? [mini] : [], ...gpt2 ? [gpt2] : [], ...xl];
}

/** Whether a step exchanges its gradients, or ranks exchange their weights every `SYNC_EVERY` steps. */
export type Exchanging = typeof EXCHANGING[number];

/** Both. */
export const EXCHANGING = ["synchronous", "DiLoCo"] as const;

/** Milliseconds of a step on several ranks. */
export function stepMs(
  figures: ExchangeFigures,
  { floats, oneRankMs }: Pick<ModelledTraining, "floats" | "oneRankMs">,
  exchanging: Exchanging,
  ...where: [Cluster, Pick<Network, "bytesPerSecond">]
): number {
  const exchange = exchanging === "synchronous" ? exchangeMs : outerShareMs;
  return oneRankMs + exchange(figures, floats, ...where);
}

/**
 * The most hosts, a power of two up to `most`, with which a step takes at most 1.25 times that of one rank, so that ranks
 * reach 0.8 of linear; 0 if even one host is too many.
 */
export function mostHosts(
  figures: ExchangeFigures,
  training: ModelledTraining,
  exchanging: Exchanging,
  network: Network,
  most: number,
): number {
  let hosts = 0;
  for (let next = 1; next <= most; next *= 2) {
    const cluster = { hosts: next, ranksPerHost: RANKS_PER_HOST };
    const ms = stepMs(figures, training, exchanging, cluster, network);
    if (ms > training.oneRankMs / LEAST_EFFICIENCY) break;
    hosts = next;
  }
  return hosts;
}

/** Share of linear from which more ranks are said to pay. */
export const LEAST_EFFICIENCY = 0.8;

function isExchange({ name }: RanksResult): boolean {
  return name.startsWith("exchange of ");
}

function tinySumMs({ results }: RanksReport): number {
  return results.find(({ name }) => name === TINY_SUM)!.ms;
}

/** The line through the results with the fewest and the most floats. */
function lineOf(results: readonly RanksResult[], msOf: (result: RanksResult) => number): Line {
  const sorted = results.toSorted((a, b) => a.floats! - b.floats!);
  const [first, last] = [sorted[0]!, sorted.at(-1)!];
  if (first.floats === last.floats) return { fixedMs: 0, perFloatMs: msOf(last) / last.floats! };
  const perFloatMs = (msOf(last) - msOf(first)) / (last.floats! - first.floats!);
  return { fixedMs: Math.max(0, msOf(first) - perFloatMs * first.floats!), perFloatMs };
}

function at({ fixedMs, perFloatMs }: Line, floats: number): number {
  return fixedMs + perFloatMs * floats;
}
