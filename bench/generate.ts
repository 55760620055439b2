import type { Result } from "./harness.ts";
import { meterMemory } from "./memory.ts";
import { gpt2Tokenizer } from "../data/tokenizer.ts";
import { createDecoder } from "../generate/decoder.ts";
import { DEFAULT_SAMPLER, generateBatch } from "../generate/generate.ts";
import type { LoadedModel } from "../generate/load.ts";
import type { Device } from "../kernels/device.ts";
import { clockOf, median, timePasses } from "../kernels/timing.ts";
import { Random } from "../data/random.ts";
import type { GptConfig } from "../model/config.ts";
import { createGpt } from "../model/gpt.ts";
import type { Precision } from "../model/precision.ts";
import { initializeParameters } from "../model/weights.ts";

/** A generation to time. */
export interface GenerateBench {
  /** Such as `mini`. */
  readonly model: string;
  readonly config: GptConfig;
  readonly streams: number;
  /** New tokens of each stream, of which none ends early. */
  readonly tokens: number;
  readonly precision: Precision;
}

/** What a generation's name says: `generate f16 mini 64 streams x 256`. */
export function generateName({ model, streams, tokens, precision }: GenerateBench): string {
  return `generate ${precision} ${model} ${streams} stream${streams > 1 ? "s" : ""} x ${tokens}`;
}

/** Generations whose median counts, and repeats of the pass of one token that is timed. */
const SAMPLES = 5, PASSES = 5, REPEATS = 16;

/** Seed of the weights. */
const SEED = 4;

/**
 * Generation by the wall clock, from a prompt of one token to the last text, as a user's program calls
 * it; and how long the device takes for one token of all streams, about half way through the texts.
 */
export async function measureGenerate(device: Device, bench: GenerateBench): Promise<Result> {
  const { config, streams, tokens, precision } = bench;
  const memory = meterMemory(device);
  const gpt = createGpt(device, config, { precision });
  const random = new Random(SEED);
  initializeParameters(gpt, () => random.normal());
  const prompt = [0];
  const model: LoadedModel = {
    gpt,
    tokenizer: {
      ...await gpt2Tokenizer(),
      vocabularySize: config.vocabularySize,
      endOfText: -1,
      encode: () => prompt,
    },
  };
  try {
    const tell = async () => {
      const start = performance.now();
      const options = {
        streams: Array.from({ length: streams }, (_, seed) => ({ prompt: "one token", seed })),
        maxNewTokens: tokens,
      };
      let drawn = 0;
      for await (const { result } of generateBatch(model, options)) drawn += result?.tokens ?? 0;
      if (drawn !== streams * tokens) {
        throw new Error(`Cannot time ${drawn} tokens: some are missing`);
      }
      return performance.now() - start;
    };
    await tell(); // compiles
    const samples: number[] = [];
    for (let i = 0; i < SAMPLES; i++) samples.push(await tell());
    const ms = median(samples);

    const decoder = createDecoder(gpt, {
      texts: new Array(streams).fill(prompt),
      seeds: [...new Array(streams).keys()],
      maxNewTokens: tokens,
      sampler: DEFAULT_SAMPLER,
    });
    const repeats = Math.min(REPEATS, Math.floor(tokens / 2 / PASSES));
    await decoder.next(Math.floor(tokens / 2) - repeats * PASSES);
    const passes = await timePasses(device, [{ program: decoder.pass, repeats }], {
      rounds: PASSES,
    });
    const gpuMs = median(passes.map(([ms]) => ms! / repeats)); // of one token of all streams
    const launches = decoder.pass.length;
    decoder.destroy();
    return {
      name: generateName(bench),
      ms,
      rangeMs: [Math.min(...samples), Math.max(...samples)],
      tokensPerSecond: streams * tokens / ms * 1e3,
      launchesPerToken: launches,
      ...(clockOf(device) === "timestamps"
        ? { gpuMs: gpuMs * tokens, idleShare: 1 - gpuMs * tokens / ms }
        : {}),
      peakBytes: memory.peakBytes,
    };
  } finally {
    memory.stop();
    gpt.destroy();
  }
}
