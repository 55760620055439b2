import { type Arena, createArena, tensorNamed } from "../kernels/arena.ts";
import {
  type Histogram,
  histogram,
  HISTOGRAM_LENGTH,
  histogramOf,
} from "../kernels/histogram/histogram.ts";
import { Program } from "../kernels/program.ts";
import { download, size, type Tensor, upload, viewTensor } from "../kernels/tensor.ts";
import type { Gpt } from "../model/gpt.ts";

/** The histogram of a parameter, or of its gradient. */
export interface ParameterHistogram extends Histogram {
  /** Name of the parameter. */
  readonly name: string;
  /** Whether it counts the weights or their gradient. */
  readonly of: "weight" | "gradient";
}

/** The counting of all weights and gradients of a training, recorded once and run when it is wanted. */
export interface Histograms extends Disposable {
  /**
   * Counts the weights after the last step that was submitted, and the gradients of this step: summed over its
   * micro-batches, before clipping. Waits for the device.
   *
   * @param lossScale that of the step. The gradients on the device have it as a factor; it is a power of two, so that
   * dividing by it only changes under which power a number is counted.
   */
  run(lossScale: number): Promise<ParameterHistogram[]>;
}

/** Allocates the counts, and records the counting. */
export function createHistograms(
  { device, table, parameters }: Gpt,
  { gradients }: { gradients: Arena },
): Histograms {
  const rows = table.flatMap(({ name, trained }) => [
    { name, of: "weight", x: tensorNamed(parameters, name) } as const,
    ...(trained ? [{ name, of: "gradient", x: tensorNamed(gradients, name) } as const] : []),
  ]);
  const keyOf = ({ name, of }: { name: string; of: string }) => `${of} ${name}`;
  const counts = createArena(device, "histograms", {
    shapes: new Map(rows.map((row) => [keyOf(row), [HISTOGRAM_LENGTH]])),
    dtype: "u32",
  });
  const program = new Program(device);
  for (const row of rows) {
    histogram(program, { x: flattened(row.x) }, { counts: tensorNamed(counts, keyOf(row)) });
  }
  const zeros = new Uint32Array(size(counts.flat.shape));
  return {
    async run(lossScale) {
      await program.compiling();
      upload(device, counts.flat, zeros);
      program.run();
      const [all] = await download(device, counts.flat);
      return rows.map((row) => {
        const { name, of } = row, from = tensorNamed(counts, keyOf(row)).offsetBytes / 4;
        const counted = histogramOf(all!.subarray(from, from + HISTOGRAM_LENGTH));
        return { name, of, ...(of === "gradient" ? divided(counted, lossScale) : counted) };
      });
    },
    [Symbol.dispose]() {
      program[Symbol.dispose]();
      counts.flat.buffer.destroy();
    },
  };
}

function flattened(tensor: Tensor): Tensor {
  return viewTensor(tensor, { offset: 0, shape: [size(tensor.shape)] });
}

/** The histogram of numbers that are divided by a power of two. */
function divided(histogram: Histogram, divisor: number): Histogram {
  const shift = (buckets: Readonly<Record<number, number>>) =>
    Object.fromEntries(
      Object.entries(buckets).map(([power, count]) => [Number(power) - Math.log2(divisor), count]),
    );
  const { min, max, positive, negative } = histogram;
  return {
    ...histogram,
    min: min === null ? null : min / divisor,
    max: max === null ? null : max / divisor,
    positive: shift(positive),
    negative: shift(negative),
  };
}
