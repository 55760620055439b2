import { wrap } from "../files/table.ts";
import { countParameters } from "../model/parameters.ts";
import { type PyTorchReport, si, table } from "./markdown.ts";
import { benchConfig } from "./models.ts";
import {
  type ExchangeFigures,
  type Exchanging,
  figuresOf,
  LEAST_EFFICIENCY,
  type ModelledTraining,
  modelledTrainings,
  MOST_HOSTS,
  mostHosts,
  type Network,
  NETWORKS,
  RANKS_PER_HOST,
  type RanksReports,
  stepMs,
} from "./ranks_cost.ts";
import { type RanksReport, type RanksResult, SYNC_EVERY } from "./ranks_report.ts";
import { percent, time } from "./report.ts";

/**
 * Reports of several ranks as Markdown, which `deno task bench:readme` writes into docs/several-machines.md.
 *
 * @module
 */

/** What was measured on the ranks of one host. */
export interface RanksResults extends RanksReports {
  /** Name of the report's file without `.json`. */
  readonly name: string;
  /** PyTorch's DDP on the same machine. */
  readonly ddp: PyTorchReport | undefined;
}

/** The section of a machine: what was measured, and what the model says of more ranks. */
export function ranksSection({ name, ddp, ...reports }: RanksResults): string {
  const { report, byMessages, overTcp } = reports;
  const { device, ranks, placement, command, date, deno } = report;
  const figures = figuresOf(reports), trainings = modelledTrainings(report);
  return [
    paragraph(`Measured on ${ranks} ranks of one host: ${placement}.`),
    table(["measured by", "on", "with"], [
      [`\`${command}\``, date, `Deno ${deno}, ${device.backend}`],
      [`\`${byMessages.command}\`, by messages`, byMessages.date, `Deno ${byMessages.deno}`],
      [`\`${overTcp.command}\`, over TCP`, overTcp.date, `Deno ${overTcp.deno}`],
      ...ddp ? [[`\`${ddp.command}\``, ddp.date, `PyTorch ${ddp.torch}, CUDA ${ddp.cuda}`]] : [],
    ]),
    table(
      [
        "step",
        "1 rank >",
        `${ranks} ranks >`,
        "tokens/s >",
        "of linear >",
        "exchange >",
        "model >",
        ...ddp ? ["PyTorch's DDP >", "of linear >"] : [],
      ],
      stepRows(report, figures, ddp),
    ),
    table(["exchange", "wait >", "download >", "sum >", "upload >", "all >"], exchangeRows(report)),
    "The model's figures:",
    table(["figure", "value >", "from"], figureRows(figures)),
    `![time of a step over ranks](../bench/results/${name}.svg)`,
    paragraph(
      `The share of linear speed by the model, with ${RANKS_PER_HOST} ranks per host, and the most hosts ` +
        `with which it is at least ${
          percent(LEAST_EFFICIENCY)
        }: so far synchronous training pays, and ` +
        `beyond that DiLoCo every ${SYNC_EVERY} steps, up to its own number of hosts.`,
    ),
    table(
      [
        "training, network",
        ...HOSTS.map((hosts) => `${hosts} ${hosts === 1 ? "host" : "hosts"} >`),
        "pays up to >",
        ...HOSTS.slice(1).map((hosts) => `DiLoCo, ${hosts} >`),
        "DiLoCo pays up to >",
      ],
      trainings.flatMap((training) =>
        NETWORKS.map((network) => modelRow(figures, training, network))
      ),
    ),
  ].filter((part) => part !== "").join("\n\n");
}

/** A text in lines as `deno fmt` breaks them. */
const paragraph = (text: string) => wrap(text, 100);

/** Numbers of hosts in the table of the model. */
const HOSTS = [1, 2, 64, MOST_HOSTS];

/** The network of ranks that are all on one host. */
const ONE_HOST = { bytesPerSecond: Infinity };

/** Rows of the training steps: those of several ranks beside that of one. */
function stepRows(
  report: RanksReport,
  figures: ExchangeFigures,
  ddp: PyTorchReport | undefined,
): string[][] {
  const isSame = (a: RanksResult, b: RanksResult) =>
    a.model === b.model && a.batch === b.batch && a.accumulation === b.accumulation;
  return report.results.filter(({ model, ranks }) => model !== undefined && ranks > 1)
    .flatMap((together) => {
      const { model, batch, accumulation, wire, isDiloco, innerMs, parts } = together;
      const { ms, tokensPerSecond = 0 } = together;
      const one = report.results.find((other) => other.ranks === 1 && isSame(other, together));
      if (!one) return [];
      const { download = 0, sum = 0, upload = 0 } = parts ?? {};
      const exchange = isDiloco ? 1 - (innerMs ?? ms) / ms : (download + sum + upload) / ms;
      const training = { floats: countParameters(benchConfig(model!)), oneRankMs: one.ms };
      const cluster = { hosts: 1, ranksPerHost: report.ranks };
      return [[
        `${model} ${batch} x ${accumulation}${
          isDiloco ? `, DiLoCo every ${SYNC_EVERY}` : wire ? `, --wire ${wire}` : ""
        }`,
        time(one.ms),
        time(ms),
        Math.round(tokensPerSecond).toLocaleString("en-US"),
        percent(one.ms / ms),
        percent(exchange),
        // the model has no rounding
        wire
          ? ""
          : time(stepMs(figures, training, isDiloco ? "DiLoCo" : "synchronous", cluster, ONE_HOST)),
        ...ddp ? isDiloco ? ["", ""] : ddpCells(ddp, together) : [],
      ]];
    });
}

/** The step of PyTorch's DDP with autocast, and its share of linear. */
function ddpCells({ results }: PyTorchReport, { model, batch, accumulation, ranks }: RanksResult) {
  const of = (who: string) =>
    results.find(({ name }) =>
      name === `train step ${model} ${batch} x ${accumulation}, eager fp16 autocast, ${who}`
    );
  const [together, one] = [of(`DDP, ${ranks} ranks`), of("1 rank")];
  return together && one ? [time(together.ms), percent(one.ms / together.ms)] : ["", ""];
}

/** Rows of the exchanges of gradients and of weights. */
function exchangeRows({ results }: RanksReport): string[][] {
  return results.flatMap(({ name, parts, ms, model, floats }) => {
    if (floats === undefined || !parts || model !== undefined) return [];
    const { wait = 0, download = 0, sum = 0, upload = 0 } = parts;
    return [[name, ...[wait, download, sum, upload, ms].map(time)]];
  });
}

/** Rows of the model's figures, each with its source. */
function figureRows(figures: ExchangeFigures): string[][] {
  const { callMs, messageMs, memoryBytesPerSecond, hereBytesPerSecond, tcpBytesPerSecond } =
    figures;
  const measured = "measured";
  const line = ({ fixedMs, perFloatMs }: ExchangeFigures["rest"]) =>
    `${time(fixedMs)} and ${si(4e3 / perFloatMs, "B/s")}`;
  return [
    ["a call of MPI from Deno", time(callMs), measured],
    ["a message over TCP, without a wire", time(messageMs), measured],
    ["copies and sums in shared memory, per rank", si(memoryBytesPerSecond, "B/s"), measured],
    ["from rank to rank of a host, by messages", si(hereBytesPerSecond, "B/s"), measured],
    ["from rank to rank over TCP", si(tcpBytesPerSecond, "B/s"), measured],
    ["reading back over PCIe, without copies on the host", line(figures.readBack), measured],
    ["copies of the host's main thread", line(figures.copies), measured],
    ["an exchange beside these", line(figures.rest), measured],
    ["an exchange of weights by DiLoCo beside these", line(figures.outerRest), measured],
    ...NETWORKS.map(({ name, bytesPerSecond, standard }) => [
      `network of ${name}`,
      si(bytesPerSecond, "B/s"),
      `its line's rate, ${standard}`,
    ]),
  ];
}

function modelRow(
  figures: ExchangeFigures,
  training: ModelledTraining,
  network: Network,
): string[] {
  const { model, batch, accumulation, oneRankMs } = training;
  const shares = (exchanging: Exchanging, all: readonly number[]) =>
    all.map((hosts) => {
      const cluster = { hosts, ranksPerHost: RANKS_PER_HOST };
      return percent(oneRankMs / stepMs(figures, training, exchanging, cluster, network));
    });
  const upTo = (exchanging: Exchanging) => {
    const hosts = mostHosts(figures, training, exchanging, network, MOST_HOSTS);
    return hosts === 0 ? "no host" : hosts === 1 ? "1 host" : `${hosts} hosts`;
  };
  return [
    `${model} ${batch} x ${accumulation}, ${network.name}`,
    ...shares("synchronous", HOSTS),
    upTo("synchronous"),
    ...shares("DiLoCo", HOSTS.slice(1)),
    upTo("DiLoCo"),
  ];
}
