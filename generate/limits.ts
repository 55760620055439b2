import { UserError } from "../files/user_error.ts";
import { byteCounts } from "../files/units.ts";
import { type Device, LimitError } from "../kernels/device.ts";
import { type DryDevice, dryDevice } from "../kernels/dry_device.ts";
import type { SamplerOptions } from "../kernels/sample/sample.ts";
import { createGpt, type Gpt } from "../model/gpt.ts";
import { countParameters } from "../model/parameters.ts";
import { createDecoder, mostTexts } from "./decoder.ts";

/**
 * Whether a device can do some work, found before the work begins: it is recorded on a `dryDevice()`, which
 * allocates nothing. What does not fit is refused in terms that a user can change.
 *
 * @module
 */

/** Free bytes of memory; infinite without the permission to ask. */
export function freeMemory(): number {
  const asked = { name: "sys", kind: "systemMemoryInfo" } as const;
  if (Deno.permissions.querySync(asked).state !== "granted") return Infinity;
  return Deno.systemMemoryInfo().available;
}

/**
 * Why some work does not fit a device; undefined if it does.
 *
 * Memory counts only if the device is the CPU: its memory is taken at the first write, and if none is left
 * the system kills the process without a message. A GPU reports what it cannot allocate.
 */
export function misfitOf(
  device: Device,
  record: (dry: DryDevice) => void,
  { freeBytes = freeMemory() }: { freeBytes?: number } = {},
): LimitError | undefined {
  const dry = dryDevice(device);
  try {
    record(dry);
  } catch (error) {
    if (error instanceof LimitError) return error;
    throw error;
  }
  if (!device.isCpu || dry.bytes <= freeBytes) return undefined;
  return new LimitError(
    `Cannot allocate ${dry.bytes} bytes on ${device.name} as ${freeBytes} bytes are free`,
    { limit: "memory", most: freeBytes, need: dry.bytes },
  );
}

/** The limit of a device that some work exceeds, in brackets, to end a sentence with. */
export function shortageOf({ exceeded: { limit, most, need } }: LimitError): string {
  const [needBytes, mostBytes] = byteCounts(need, most);
  const words = {
    binding: `a kernel sees at most ${mostBytes} of a tensor, which would have ${needBytes}`,
    buffer: `a buffer holds at most ${mostBytes}, and this would take ${needBytes}`,
    "workgroup memory": `a workgroup has ${mostBytes} of memory, and this would take ${needBytes}`,
    memory: `${mostBytes} of memory are free, and this would take ${needBytes}`,
    workgroups: `a kernel starts at most ${most} workgroups in a row, and this would take ${need}`,
    launches: `a pass has at most ${most} launches, and this would take more`,
    loop: `a loop on a CPU adapter has at most ${most} turns, and this would take ${need}`,
  };
  return `(${words[limit]})`;
}

/** The largest number from 1 to `most` that fits, given that all smaller ones then fit; 0 if none does. */
export function largestThat(fits: (value: number) => boolean, most: number): number {
  let low = 0, high = most + 1;
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle)) low = middle;
    else high = middle;
  }
  return low;
}

/** What is to be generated. */
export interface GenerationPlan {
  /** Tokens of the longest prompt. */
  readonly promptTokens: number;
  readonly maxNewTokens: number;
  /** Texts to continue. */
  readonly samples: number;
  readonly sampler: SamplerOptions;
  /** Free bytes of memory for model and texts on a CPU adapter; not checked by default. */
  readonly freeBytes?: number;
}

/**
 * How many texts a device continues side by side.
 *
 * @throws {UserError} naming what to lower if it cannot hold even one.
 */
export function textsAtOnce(
  { device, config, precision }: Pick<Gpt, "device" | "config" | "precision">,
  { promptTokens, maxNewTokens, samples, sampler, freeBytes = Infinity }: GenerationPlan,
): number {
  const misfit = (texts: number, tokens: number) =>
    misfitOf(device, (dry) => {
      createDecoder(createGpt(dry, config, { precision }), {
        texts: new Array(texts).fill([0, 0]), // two tokens, so that the pass that reads a prompt is recorded
        seeds: new Array(texts).fill(0),
        maxNewTokens: Math.max(1, tokens - 2),
        sampler,
      });
    }, { freeBytes });
  const tokens = promptTokens + maxNewTokens;
  let texts = Math.min(samples, mostTexts({ device, config, precision }, tokens));
  let problem = misfit(texts, tokens);
  while (problem && texts > 1) {
    texts = Math.floor(texts / 2);
    problem = misfit(texts, tokens);
  }
  if (!problem) return texts;
  const reason = shortageOf(problem), { name } = device;
  const most = largestThat((n) => !misfit(1, n), tokens);
  if (most > promptTokens) {
    throw new UserError(
      `Cannot generate as --max-new-tokens must be at most ${
        most - promptTokens
      } after a prompt of ` +
        `${promptTokens} token${promptTokens === 1 ? "" : "s"} on ${name}: ` +
        `current value is ${maxNewTokens} ${reason}`,
    );
  }
  if (most > 1) {
    throw new UserError(
      `Cannot generate as the prompt must have fewer than ${most} tokens on ${name}: ` +
        `current number is ${promptTokens} ${reason}`,
    );
  }
  throw new UserError(
    `Cannot generate as the model must be smaller on ${name}: ` +
      `it has ${countParameters(config)} parameters ${reason}`,
  );
}
