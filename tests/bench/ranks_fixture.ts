import { SUM_FLOATS } from "../../distributed/transport.ts";
import type { RanksReports } from "../../bench/ranks_cost.ts";
import {
  exchangeName,
  outerStepName,
  type RanksReport,
  type RanksResult,
  TINY_SUM,
} from "../../bench/ranks_report.ts";

/** Whole pieces of a sum. */
const FLOATS = [16 * SUM_FLOATS, 118 * SUM_FLOATS] as const;

/** Reports of two ranks. */
export function ranksReports(): RanksReports {
  const tiny = { byMessages: 0.08, overTcp: 0.11 };
  return {
    report: ranksReport(0.12, {}),
    byMessages: ranksReport(tiny.byMessages, { isExchange: true }),
    overTcp: ranksReport(tiny.overTcp, { isExchange: true, slower: 2 }),
  };
}

/** A report with an exchange of 1 ns per byte, whose sum is so many times slower. */
function ranksReport(tinyMs: number, { isExchange = false, slower = 1 }): RanksReport {
  const result = (name: string, ms: number, more: Partial<RanksResult> = {}): RanksResult => ({
    name,
    ms,
    ranks: 2,
    ...more,
  });
  const step = (model: "mini" | "gpt2", batch: string, oneMs: number): RanksResult[] => {
    const place = { model, batch, accumulation: 16 },
      name = `train step f16 ${model} ${batch} x 16`;
    const parts = { wait: oneMs, download: 0.02 * oneMs, sum: 0.1 * oneMs, upload: 0.03 * oneMs };
    return [
      result(`${name}, 2 ranks`, 1.25 * oneMs, { ...place, parts, tokensPerSecond: 16000 }),
      result(`${name}, 1 rank`, oneMs, { ...place, ranks: 1, tokensPerSecond: 10000 }),
      result(`${name}, 2 ranks by DiLoCo`, 1.02 * oneMs, {
        ...place,
        isDiloco: true,
        innerMs: oneMs,
        tokensPerSecond: 19600,
      }),
    ];
  };
  return {
    command: `mpirun -n 2 ./toy bench:ranks${isExchange ? ' --filter "sum of" exchange' : ""}`,
    date: "2026-11-30",
    deno: "2.9.6",
    device: { provider: "native", name: "A GPU", backend: "Vulkan", isCpu: false },
    ranks: 2,
    placement: "rank 0 computes on A GPU at 1, rank 1 on A GPU at 2",
    results: [
      result(TINY_SUM, tinyMs),
      ...FLOATS.map((floats) => {
        const ms = 4e-6 * floats,
          parts = {
            wait: 11,
            download: ms,
            sum: slower * ms,
            upload: ms,
            "sum alone": slower * ms,
            "read back alone": 11 + ms / 4,
          };
        return result(exchangeName(floats), 11 + (2 + slower) * ms, { floats, parts });
      }),
      ...isExchange ? [] : [
        ...step("mini", "32x128", 160),
        ...step("gpt2", "8x1024", 2464),
        ...(["mini", "gpt2"] as const).map((model, i) => {
          const floats = FLOATS[i]!, ms = 4e-6 * floats;
          const parts = { wait: 11, download: ms, sum: ms, upload: 2 * ms };
          return result(outerStepName(model), 11 + 4 * ms, { floats, parts });
        }),
      ],
    ],
  };
}
