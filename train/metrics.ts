import type { GptConfig } from "../model/config.ts";
import { countParameters } from "../model/parameters.ts";

/**
 * `metrics.jsonl`, what a run notes while it trains: a JSON object a line, of kind `start`, `step` or
 * `evaluation`. Where a training was resumed, steps may be in it twice.
 *
 * @module
 */

/** One line, as far as those who read it need it; what is not finite is null. */
export interface Metric {
  /** What happened. */
  kind: string;
  /** Steps done then. */
  step: number;
  /** Loss of a step or an evaluation. */
  loss?: number | null;
  /** Speed of a step. */
  tokensPerSecond?: number;
  /** Of an evaluation: bits per byte of text. */
  bitsPerByte?: number | null;
  /** Of an evaluation: the least loss possible, where it is known. */
  entropyPerToken?: number;
  /** Of a start: parameters of the model. */
  parameters?: number;
  /** Of a start: `flopsPerToken()` of the model. */
  flopsPerToken?: number;
}

/** The lines that are whole, and the numbers of those that are not, as a run that was killed leaves. */
export function parseMetrics(text: string): { metrics: Metric[]; damaged: number[] } {
  const metrics: Metric[] = [], damaged: number[] = [];
  text.split("\n").forEach((line, i) => {
    if (line === "") return;
    try {
      const metric = JSON.parse(line) as Metric;
      if (typeof metric?.kind !== "string" || !Number.isSafeInteger(metric.step)) throw 0;
      metrics.push(metric);
    } catch {
      damaged.push(i + 1);
    }
  });
  return { metrics, damaged };
}

/** What a training notes as it starts or goes on: how large its model is. */
export function startMetric(config: GptConfig, step: number): Metric {
  return {
    kind: "start",
    step,
    parameters: countParameters(config),
    flopsPerToken: flopsPerToken(config),
  };
}

/**
 * Operations of training on one token: 6 a parameter, and 12 · L · T · C for attention.
 *
 * As PaLM counts them (Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B): what the
 * causal mask hides counts as if it were computed, and what is frozen as if it were trained.
 */
export function flopsPerToken(config: GptConfig): number {
  const { layers, width, contextLength } = config;
  return 6 * countParameters(config) + 12 * layers * contextLength * width;
}
