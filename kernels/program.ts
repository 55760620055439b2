import { type Device, LimitError } from "./device.ts";
import { type Constants, specialize } from "./shader.ts";
import { createTensor, size, type Tensor, tensorBytes, viewTensor } from "./tensor.ts";
import type { Tunable } from "./tune.ts";

export type { Constants, Tunable };

/** One kernel launch: what runs, on which tensors, over how many workgroups. */
export interface Dispatch {
  /** Path of the shader, for error messages. */
  label: string;
  /** WGSL text of the shader. */
  source: string;
  /** Values of the shader's top-level constants and aliases. */
  constants: Constants;
  /** Tensors in binding order, from binding 0. */
  tensors: readonly Tensor[];
  /** Workgroups in each dimension. */
  workgroups: readonly [x: number, y?: number, z?: number];
  /** Values fixed for this launch, as one uniform `array<vec4u, …>` after the last tensor. */
  uniforms?: readonly number[];
  /** Upper bound of the loop iterations of one invocation, summed over all its loops. */
  iterations?: number;
  /** Bytes of workgroup memory that the shader declares. */
  workgroupBytes?: number;
}

/**
 * Most loop iterations that one invocation may make on a CPU adapter, over all its loops: Mesa's lavapipe
 * leaves loops without an error after 65,535 (Mesa 22.3, measured November 2026), so half of that is refused.
 */
export const MAX_ITERATIONS = 32768;

/**
 * Most launches of a program: each takes the host some ten microseconds and two kilobytes, and the device
 * some microseconds. A deep model has thousands; more come of a large vocabulary's logits in many chunks.
 */
export const MAX_LAUNCHES = 65536;

/** Most loop iterations that one invocation may make on a device: GPUs have no bound. */
export function maxIterationsOf({ isCpu }: Pick<Device, "isCpu">): number {
  return isCpu ? MAX_ITERATIONS : Infinity;
}

/** A launch with its pipeline and bindings. */
interface Step {
  readonly label: string;
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly workgroups: readonly [number, number?, number?];
}

/** A list of kernel launches, recorded once and replayed every step. */
export class Program {
  /** The device on which the program runs. */
  readonly device: Device;
  readonly #steps: Step[] = [];
  readonly #uniformBuffers: GPUBuffer[] = [];
  readonly #scratch: Tensor[] = [];
  #unread: Tensor | undefined;
  /** What the launches recorded so far leave to the tuner, by key. */
  readonly tunables: Map<string, Tunable> = new Map();

  /** An empty program for a device. */
  constructor(device: Device) {
    this.device = device;
  }

  /** Number of launches recorded so far. */
  get length(): number {
    return this.#steps.length;
  }

  /** What each launch recorded so far runs, in order. */
  get labels(): string[] {
    return this.#steps.map(({ label }) => label);
  }

  /**
   * An f32 tensor for intermediate results, whose content the next launches that ask for scratch
   * overwrite. It belongs to the program.
   */
  scratch(shape: readonly number[]): Tensor {
    const length = size(shape);
    let tensor = this.#scratch.at(-1);
    if (!tensor || size(tensor.shape) < length) {
      tensor = createTensor(this.device, "scratch", { shape: [length], dtype: "f32" });
      this.#scratch.push(tensor); // launches recorded before keep the smaller one
    }
    return viewTensor(tensor, { offset: 0, shape });
  }

  /**
   * An f32 tensor [4] for bindings that a shader declares and, as it is specialised, never reads: at least
   * one element of any type. It belongs to the program.
   */
  get unread(): Tensor {
    return this.#unread ??= createTensor(this.device, "unread", { shape: [4], dtype: "f32" });
  }

  /** Bytes of scratch tensors and what is never read. */
  get scratchBytes(): number {
    const unread = this.#unread ? [this.#unread] : [];
    return [...unread, ...this.#scratch].reduce((sum, tensor) => sum + tensor.buffer.size, 0);
  }

  /**
   * Appends one launch; its pipeline and bind group are made here, once.
   *
   * @throws {LimitError} if the launch would leave a limit of the device, or on a CPU adapter could run
   * into lavapipe's bound on loop iterations; {RangeError} if an offset is not aligned.
   */
  dispatch(dispatch: Dispatch): void {
    const { label, source, constants, tensors, workgroups, uniforms } = dispatch;
    this.#checkLimits(dispatch);
    const { gpu, pipelines } = this.device;
    const key = `${JSON.stringify(constants)}\n${source}`;
    let pipeline = pipelines.get(key);
    if (!pipeline) {
      const module = gpu.createShaderModule({ label, code: specialize(source, constants) });
      pipeline = gpu.createComputePipeline({ label, layout: "auto", compute: { module } });
      pipelines.set(key, pipeline);
    }
    const entries: GPUBindGroupEntry[] = tensors.map((t, binding) => ({
      binding,
      resource: { buffer: t.buffer, offset: t.offsetBytes, size: tensorBytes(t) },
    }));
    if (uniforms) {
      const data = new Uint32Array(Math.ceil(uniforms.length / 4) * 4);
      data.set(uniforms);
      const buffer = gpu.createBuffer({
        label: `${label} uniforms`,
        size: data.byteLength,
        usage: 0x40 | 0x08, // UNIFORM | COPY_DST
      });
      gpu.queue.writeBuffer(buffer, 0, data);
      this.#uniformBuffers.push(buffer);
      entries.push({ binding: tensors.length, resource: { buffer } });
    }
    const group = gpu.createBindGroup({ label, layout: pipeline.getBindGroupLayout(0), entries });
    this.#steps.push({ label, pipeline, group, workgroups });
  }

  /** Appends all launches, or those at these places, to a compute pass that is already open. */
  encode(pass: GPUComputePassEncoder, launches?: readonly number[]): void {
    encodeSteps(pass, launches?.map((place) => this.#steps[place]!) ?? this.#steps);
  }

  /**
   * Submits the launches from `from` up to, not including, `to` in one pass, `repeats` times in a row; all
   * launches once by default. Does not wait for the device.
   */
  run(
    { repeats = 1, from = 0, to = this.length }: { repeats?: number; from?: number; to?: number } =
      {},
  ): void {
    const encoder = this.device.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass();
    const steps = this.#steps.slice(from, to);
    for (let i = 0; i < repeats; i++) encodeSteps(pass, steps);
    pass.end();
    this.device.gpu.queue.submit([encoder.finish()]);
  }

  /** Frees uniforms and scratch of the program; other tensors belong to whoever made them. */
  destroy(): void {
    this.#unread?.buffer.destroy();
    for (const { buffer } of this.#scratch) buffer.destroy();
    for (const buffer of this.#uniformBuffers) buffer.destroy();
  }

  #checkLimits(
    { label, tensors, workgroups, iterations = 0, workgroupBytes = 0 }: Dispatch,
  ): void {
    const { name, maxBindingBytes, gpu: { limits } } = this.device;
    if (this.length === MAX_LAUNCHES) {
      throw new LimitError(
        `Cannot dispatch ${label} as a program has at most ${MAX_LAUNCHES} launches`,
        { limit: "launches", most: MAX_LAUNCHES, need: MAX_LAUNCHES + 1 },
      );
    }
    for (const t of tensors) {
      const bytes = tensorBytes(t);
      if (bytes > maxBindingBytes) {
        throw new LimitError(
          `Cannot bind "${t.name}" to ${label} as ${name} binds at most ${maxBindingBytes} bytes: ` +
            `current size is ${bytes} bytes`,
          { limit: "binding", most: maxBindingBytes, need: bytes },
        );
      }
      if (t.offsetBytes % limits.minStorageBufferOffsetAlignment !== 0) {
        throw new RangeError(
          `Cannot bind "${t.name}" to ${label} as offsets must be multiples of ` +
            `${limits.minStorageBufferOffsetAlignment} bytes: current offset is ${t.offsetBytes}`,
        );
      }
    }
    const { maxComputeWorkgroupsPerDimension: most } = limits;
    for (const count of workgroups) {
      if (!Number.isInteger(count) || count! < 1 || count! > most) {
        throw new LimitError(
          `Cannot dispatch ${label} as each dimension takes 1 to ${most} workgroups: ` +
            `current counts are [${workgroups}]`,
          { limit: "workgroups", most, need: count! },
        );
      }
    }
    const { maxComputeWorkgroupStorageSize: memory } = limits;
    if (workgroupBytes > memory) {
      throw new LimitError(
        `Cannot dispatch ${label} as ${name} has ${memory} bytes of workgroup memory: ` +
          `current need is ${workgroupBytes} bytes`,
        { limit: "workgroup memory", most: memory, need: workgroupBytes },
      );
    }
    const maxIterations = maxIterationsOf(this.device);
    if (!(iterations <= maxIterations)) {
      throw new LimitError(
        `Cannot dispatch ${label} as on ${name} one invocation may loop at most ${maxIterations} ` +
          `times: current bound is ${iterations}`,
        { limit: "loop", most: maxIterations, need: iterations },
      );
    }
  }
}

function encodeSteps(pass: GPUComputePassEncoder, steps: readonly Step[]): void {
  for (const { pipeline, group, workgroups } of steps) {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...workgroups as [number]);
  }
}

/** The f32 nearest to a number as the u32 with the same bits, for the uniforms of a dispatch. */
export function bitsOf(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]!;
}

/** Splits a count of workgroups over two dimensions, for shaders that flatten `x + y * 32768`. */
export function splitWorkgroups(count: number): [x: number, y: number] {
  return [Math.min(count, WORKGROUPS_PER_ROW), Math.ceil(count / WORKGROUPS_PER_ROW)];
}

/** Workgroups in a full row of `splitWorkgroups()`; WebGPU guarantees 65,535. */
export const WORKGROUPS_PER_ROW = 32768;
