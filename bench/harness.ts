import copy from "./copy.wgsl" with { type: "text" };
import { Random } from "../data/random.ts";
import type { Device } from "../kernels/device.ts";
import { matmul } from "../kernels/matmul/matmul.ts";
import { Program, splitWorkgroups } from "../kernels/program.ts";
import {
  bytesPerElement,
  createTensor,
  type DType,
  type Tensor,
  tensorBytes,
  upload,
} from "../kernels/tensor.ts";
import { clockOf, median, timePasses, warmUpMsOf } from "../kernels/timing.ts";
import { tune } from "../kernels/tune.ts";

/**
 * Work of a benchmark, counted by hand: operations, or bytes if each input is read and each output written
 * once.
 */
export type Work = { readonly flops: number } | { readonly bytes: number };

/** One benchmark of kernels. */
export interface KernelBench {
  /** Such as `linear forward f16 [4096,768]x[768,2304]`. */
  readonly name: string;
  readonly work: Work;
  /** Records what is timed, on tensors from `make`. */
  record(program: Program, make: Maker): void;
  /** Label of the launches that are timed, if the op also records others. */
  readonly only?: string;
}

/** Makes the tensors of one benchmark. */
export interface Maker {
  /** Uniform random numbers in (−1, 1), because some GPUs are faster on zeros than on real data. */
  noise(shape: readonly number[], dtype: DType): Tensor;
  /** All zero. */
  zeros(shape: readonly number[], dtype: DType): Tensor;
  /** These values. */
  of(shape: readonly number[], dtype: DType, values: ArrayLike<number>): Tensor;
}

/** The limits of this adapter, measured at the beginning of every run. */
export interface Roofline {
  /** Bytes read and written per second by a copy of a large tensor. */
  readonly bytesPerSecond: number;
  /** Operations per second of this project's product of large square matrices. */
  readonly flopsPerSecond: number;
}

/** One line of the report; each kind of benchmark sets the fields that it measures. */
export interface Result {
  readonly name: string;
  /** Median. */
  readonly ms: number;
  /** Least and most of the samples. */
  readonly rangeMs?: readonly [number, number];
  readonly work?: Work;
  /** Share of the roofline that was reached. */
  readonly share?: number;
  /** Kernels that the tuner chose, by key. */
  readonly choices?: Readonly<Record<string, string>>;
  /** Time on the device, if it has timestamps. */
  readonly gpuMs?: number;
  /** Share of the wall-clock time in which the device was idle. */
  readonly idleShare?: number;
  readonly tokensPerSecond?: number;
  /** Most bytes that all buffers had at one time. */
  readonly peakBytes?: number;
  readonly launches?: number;
  /** Bytes of a training step before anything is allocated: those of its activations, and all. */
  readonly planned?: { readonly activations: number; readonly step: number };
  /** Milliseconds of Muon in a training step, and those of its operations at the rate of the roofline. */
  readonly muon?: { readonly ms: number; readonly floorMs: number };
  /** Milliseconds of each part of a cold start. */
  readonly parts?: Readonly<Record<string, number>>;
  /** Milliseconds of the shaders that take the longest to compile, by label. */
  readonly compile?: Readonly<Record<string, number>>;
}

/** Samples per benchmark, and the time that one should take on a GPU and on a CPU adapter. */
const SAMPLES = 9;
const SAMPLE_MS = { gpu: 4, cpu: 40 };

/** Most repeats per sample. */
const MOST_REPEATS = 500;

/** Times kernels on one device. */
export class Harness {
  readonly device: Device;
  readonly #noise = new Map<DType, Tensor>();
  #roofline: Roofline | undefined;

  /** A harness that knows no roofline yet. */
  constructor(device: Device) {
    this.device = device;
  }

  /** Measures the roofline, to which the shares of later results refer. */
  async roofline(): Promise<Roofline & { results: Result[] }> {
    const results: Result[] = [];
    for (const bench of rooflineBenches(this.device)) results.push(await this.measure(bench));
    const best = (unit: "flops" | "bytes") =>
      Math.max(
        ...results.map(({ work, ms }) => (work as Record<string, number>)[unit]! / ms * 1e3)
          .filter((rate) => rate > 0),
      );
    this.#roofline = { bytesPerSecond: best("bytes"), flopsPerSecond: best("flops") };
    return { ...this.#roofline, results: results.map((result) => this.#withShare(result)) };
  }

  /** Times one benchmark, with the kernels that the tuner finds to be the fastest. */
  async measure(bench: KernelBench): Promise<Result> {
    return await this.#withTensors(bench, async (record) => {
      using untuned = new Program(this.device); // work to tune may use its scratch memory
      record(untuned);
      const tunables = [...untuned.tunables.values()];
      await tune(this.device, tunables);
      using program = new Program(this.device);
      record(program);
      const launches = program.labels.flatMap((label, i) =>
        bench.only === undefined || label === bench.only ? [i] : []
      );
      const result = await this.#time({ program, launches });
      const choices = tunables.flatMap(({ key }) => {
        const choice = this.device.choices.get(key);
        return choice === undefined ? [] : [[key, choice]];
      });
      return this.#withShare({
        name: bench.name,
        ...result,
        work: bench.work,
        // an op that only prepares what is timed has variants, too
        ...(choices.length > 0 && bench.only === undefined
          ? { choices: Object.fromEntries(choices) }
          : {}),
      });
    });
  }

  /** Times every variant of a benchmark's tunable work; returns one result per variant. */
  async measureVariants(bench: KernelBench): Promise<Result[]> {
    return await this.#withTensors(bench, async (record) => {
      const results: Result[] = [];
      using untuned = new Program(this.device);
      record(untuned);
      for (const tunable of untuned.tunables.values()) {
        for (const variant of tunable.variants) {
          using program = new Program(this.device);
          tunable.record(program, variant);
          const result = await this.#time({ program });
          const name = `${bench.name} as ${variant}`;
          results.push(this.#withShare({ name, ...result, work: bench.work }));
        }
      }
      return results;
    });
  }

  /** Frees what all benchmarks share. */
  destroy(): void {
    for (const { buffer } of this.#noise.values()) buffer.destroy();
    this.#noise.clear();
  }

  /** Warms up, then times several passes with one read-back. */
  async #time(
    run: { program: Program; launches?: readonly number[] },
  ): Promise<Pick<Result, "ms" | "rangeMs">> {
    const once = await timePasses(this.device, [{ ...run, repeats: 1 }], { rounds: 2 });
    const wanted = this.device.isCpu ? SAMPLE_MS.cpu : SAMPLE_MS.gpu;
    // the wall clock includes a wait of 10 ms
    const passMs = clockOf(this.device) === "timestamps" ? wanted : 50 * wanted;
    const repeats = Math.max(1, Math.min(MOST_REPEATS, Math.round(passMs / once[1]![0]!)));
    const rounds = await timePasses(this.device, [{ ...run, repeats }], {
      rounds: SAMPLES,
      warmUpMs: warmUpMsOf(this.device),
    });
    const samples = rounds.map(([ms]) => ms! / repeats);
    return { ms: median(samples), rangeMs: [Math.min(...samples), Math.max(...samples)] };
  }

  #withShare(result: Result): Result {
    const { work, ms } = result;
    if (!this.#roofline || !work) return result;
    const { flopsPerSecond, bytesPerSecond } = this.#roofline;
    const leastMs = 1e3 *
      ("flops" in work ? work.flops / flopsPerSecond : work.bytes / bytesPerSecond);
    return { ...result, share: leastMs / ms };
  }

  /** Makes a benchmark's tensors once, lets `body` record on them, and frees them. */
  async #withTensors<T>(
    bench: KernelBench,
    body: (record: (program: Program) => void) => Promise<T>,
  ): Promise<T> {
    const { device } = this;
    const made: Tensor[] = [];
    let next = 0;
    // a benchmark that is recorded again gets the same tensors in the same order
    const once = (make: () => Tensor): Tensor => made[next++] ??= make();
    const make: Maker = {
      noise: (shape, dtype) => once(() => this.#noisy(shape, dtype)),
      zeros: (shape, dtype) => once(() => createTensor(device, "zeros", { shape, dtype })),
      of: (shape, dtype, values) =>
        once(() => {
          const tensor = createTensor(device, "values", { shape, dtype });
          upload(device, tensor, values);
          return tensor;
        }),
    };
    try {
      return await body((program) => {
        next = 0;
        bench.record(program, make);
      });
    } finally {
      for (const { buffer } of made) buffer.destroy();
    }
  }

  /** A tensor of noise: copies of one block that the host draws. */
  #noisy(shape: readonly number[], dtype: DType): Tensor {
    const { device } = this;
    let block = this.#noise.get(dtype);
    if (!block) {
      const length = 2 ** 20, random = new Random(1);
      block = createTensor(device, "noise", { shape: [length], dtype });
      upload(device, block, Float32Array.from({ length }, () => 2 * random.uniform() - 1));
      this.#noise.set(dtype, block);
    }
    const tensor = createTensor(device, "noise", { shape, dtype });
    fillWithCopies(device, tensor, block);
    return tensor;
  }
}

/** Fills a tensor with copies of one block: the host would need a minute to draw a billion numbers. */
export function fillWithCopies(device: Device, tensor: Tensor, block: Tensor): void {
  const bytes = tensorBytes(tensor), step = tensorBytes(block);
  const encoder = device.gpu.createCommandEncoder();
  for (let at = 0; at < bytes; at += step) {
    const count = Math.min(step, bytes - at), to = tensor.offsetBytes + at;
    encoder.copyBufferToBuffer(block.buffer, block.offsetBytes, tensor.buffer, to, count);
  }
  device.gpu.queue.submit([encoder.finish()]);
}

/**
 * The benchmarks that set the roofline. Their tensors are several times larger than the caches of a large
 * GPU or of a CPU.
 */
export function rooflineBenches(device: Device): KernelBench[] {
  const megabytes = device.isCpu ? 64 : 1024, side = device.isCpu ? 512 : 4096;
  const N = megabytes * 2 ** 20 / 16;
  const copies = [1, 4].map((VECTORS): KernelBench => ({
    name: `copy f32 ${megabytes} MiB, ${VECTORS} vector${VECTORS > 1 ? "s" : ""} each`,
    work: { bytes: 2 * 16 * N },
    record(program, make) {
      const WORKGROUP_SIZE = 256;
      program.dispatch({
        shader: { "bench/copy.wgsl": copy },
        constants: { VECTORS, WORKGROUP_SIZE },
        tensors: { x: make.noise([N, 4], "f32"), y: make.zeros([N, 4], "f32") },
        uniforms: { N },
        workgroups: splitWorkgroups(Math.ceil(N / VECTORS / WORKGROUP_SIZE)),
        iterations: VECTORS,
      });
    },
  }));
  const product = squareProduct({ side, layout: "NN", dtype: matrixTypes(device)[0]! });
  return [...copies, { ...product, name: `roofline ${product.name}` }]; // that of the kernels is another result
}

/** Element types of matrices in benchmarks; the first is the one that training uses. */
export function matrixTypes(device: Device): DType[] {
  if (device.isCpu) return ["f32"];
  return device.features.has("shader-f16") ? ["f16", "f32"] : ["f32"];
}

/** A product of square matrices; in the layout, T says that an operand is stored transposed. */
export function squareProduct(
  { side, layout, dtype }: { side: number; layout: "NN" | "NT" | "TN"; dtype: DType },
): KernelBench {
  return {
    name: `matmul ${layout} ${dtype} [${side},${side}]x[${side},${side}]`,
    work: { flops: 2 * side ** 3 },
    record(program, make) {
      const square = () => make.noise([side, side], dtype);
      matmul(program, { a: square(), b: square() }, { y: square() }, {
        transposeA: layout[0] === "T",
        transposeB: layout[1] === "T",
      });
    },
  };
}

/**
 * Makes sure that benchmarks have different names, by which reports are compared.
 *
 * @throws {RangeError} naming those that several have.
 */
export function checkDistinct(names: readonly string[]): void {
  const repeated = names.filter((name, i) => names.indexOf(name) !== i);
  if (repeated.length === 0) return;
  throw new RangeError(
    `Cannot measure as every benchmark must have its own name: several are ${repeated.join("; ")}`,
  );
}

/** Bytes of a tensor with that many elements. */
export function bytesOf(elements: number, dtype: DType): number {
  return elements * bytesPerElement(dtype);
}
