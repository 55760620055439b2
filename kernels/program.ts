import { type Device, LimitError } from "./device.ts";
import { compile, type Pipeline } from "./pipelines.ts";
import {
  type Binding,
  bindingsOf,
  compilable,
  type Constants,
  labelOf,
  type Shader,
  SIZES,
  specialize,
  unroll,
} from "./shader.ts";
import { createTensor, type DType, size, type Tensor, tensorBytes } from "./tensor.ts";

export type { Constants, Shader };

/** Work for which there are several kernels. Which of them is the fastest depends on the device. */
export interface Tunable {
  /** Operation, shapes and types, which determine the fastest kernel of a device. */
  readonly key: string;
  /** Names of the kernels. */
  readonly variants: readonly string[];
  /** The kernel to use if nothing was measured. */
  readonly preferred: string;
  /** Records the launches of one of the kernels. */
  record(program: Program, variant: string): void;
}

/** A kernel launch: a shader, its tensors and its number of workgroups. */
export interface Dispatch {
  /** The text of the shader's files by path. */
  shader: Shader;
  /** Values of the shader's top-level constants and aliases. */
  constants?: Constants;
  /**
   * The tensors by the names of the shader's bindings. A tensor that is bound only if a constant is true may be
   * undefined, and is ignored if the constant is false.
   */
  tensors: Readonly<Record<string, Tensor | undefined>>;
  /**
   * Values by the names of the fields of the shader's uniforms, fixed when the launch is recorded. Values of a
   * uniform that the constants leave out are ignored. A boolean becomes 1 or 0.
   */
  uniforms?: Readonly<Record<string, number | boolean>>;
  /**
   * Whether the uniform `sizes` is a constant of the shader, so that the launch need not wait for it; false by default.
   * Each set of sizes is compiled then. All fields of the struct must be there whatever the constants are.
   */
  constantSizes?: boolean;
  /** Workgroups in each dimension. */
  workgroups: readonly [x: number, y?: number, z?: number];
  /** Most loop iterations of one invocation, summed over all its loops that are not unrolled; 0 by default. */
  iterations?: number;
  /** Bytes of workgroup memory that the shader declares, each variable a multiple of 16; 0 by default. */
  workgroupBytes?: number;
}

/**
 * Most loop iterations of one invocation on a CPU adapter, summed over all its loops: half of the 65,535
 * iterations after which Mesa's lavapipe leaves a loop without an error (Mesa 22.3, measured November 2026).
 */
const MAX_ITERATIONS = 32768;

/**
 * Most launches of a program. A launch costs the host about ten microseconds and two kilobytes, and the device
 * a few microseconds. A deep model has thousands of launches, and more if it computes the logits of a large
 * vocabulary in many chunks.
 */
const MAX_LAUNCHES = 65536;

/** Name of the tensors of `Program.scratch()`. */
export const SCRATCH = "scratch";

/** Most loop iterations of one invocation on a device; GPUs have no limit. */
export function maxIterationsOf({ isCpu }: Pick<Device, "isCpu">): number {
  return isCpu ? MAX_ITERATIONS : Infinity;
}

/** A launch that was recorded. */
export interface Launch {
  /** Path that names its shader. */
  readonly label: string;
  /** What it binds beside its uniforms. */
  readonly tensors: readonly BoundTensor[];
}

/** A tensor that a launch binds. */
export interface BoundTensor {
  /** Name of the shader's binding. */
  readonly name: string;
  /** The tensor, or the part of one. */
  readonly tensor: Tensor;
  /** Whether the shader may write it; it may read every tensor. */
  readonly isWritten: boolean;
}

/** A launch with its pipeline and bindings. */
interface Step extends Launch {
  readonly pipeline: Pipeline;
  readonly entries: GPUBindGroupEntry[];
  /** The bindings, which exist from the first run on: they need the compiled shader. */
  group?: GPUBindGroup;
  readonly workgroups: readonly [number, number?, number?];
}

/** What a program runs, and how often. */
export interface RunOptions {
  /** Times in a row, once by default. */
  readonly repeats?: number;
  /** Index of the first launch, 0 by default. */
  readonly from?: number;
  /** Index after the last launch; by default that of the end. */
  readonly to?: number;
  /** The timestamps that the pass writes; none by default. */
  readonly timestampWrites?: GPUComputePassTimestampWrites | undefined;
}

/**
 * A list of kernel launches, recorded once and replayed every step.
 *
 * @example Run a kernel and read its result
 * ```ts
 * import { openDevice } from "../mod.ts";
 * import { Program } from "./program.ts";
 * import { createTensor, download, upload } from "./tensor.ts";
 *
 * const scale = `
 * struct Sizes {
 *   factor: f32,
 * }
 * @group(0) @binding(0) var<storage, read> x: array<f32>;
 * @group(0) @binding(1) var<storage, read_write> y: array<f32>;
 * @group(0) @binding(2) var<uniform> sizes: Sizes;
 *
 * @compute @workgroup_size(4)
 * fn main(@builtin(local_invocation_index) index: u32) {
 *   y[index] = sizes.factor * x[index];
 * }
 * `;
 * const device = await openDevice();
 * const x = createTensor(device, "x", { shape: [4], dtype: "f32" });
 * const y = createTensor(device, "y", { shape: [4], dtype: "f32" });
 * upload(device, x, [1, 2, 3, 4]);
 *
 * using program = new Program(device);
 * program.dispatch({
 *   shader: { "scale.wgsl": scale },
 *   tensors: { x, y },
 *   uniforms: { factor: 10 },
 *   workgroups: [1],
 * });
 * program.run();
 * const [values] = await download(device, y);
 * console.log(values); // Float32Array [10, 20, 30, 40]
 * ```
 */
export class Program implements Disposable {
  /** The device on which the program runs. */
  readonly device: Device;
  readonly #steps: Step[] = [];
  readonly #uniformBuffers: GPUBuffer[] = [];
  readonly #scratch: Tensor[][] = []; // by slot
  /** Work recorded so far whose kernel the tuner may choose, by key. */
  readonly tunables: Map<string, Tunable> = new Map();

  /** Creates an empty program for a device. */
  constructor(device: Device) {
    this.device = device;
  }

  /** Number of launches recorded so far. */
  get length(): number {
    return this.#steps.length;
  }

  /** The launches recorded so far, in order. */
  get launches(): readonly Launch[] {
    return this.#steps;
  }

  /** Paths that name the shaders of the launches recorded so far, in order. */
  get labels(): string[] {
    return this.#steps.map(({ label }) => label);
  }

  /**
   * A tensor for intermediate results, which belongs to the program. The next call for the same slot may return
   * the same memory: launches that are recorded after it overwrite the content. Slots share no memory.
   *
   * @param options.slot 0 by default.
   * @param options.dtype f32 by default.
   */
  scratch(
    shape: readonly number[],
    { slot = 0, dtype = "f32" }: { slot?: number; dtype?: DType } = {},
  ): Tensor {
    const length = tensorBytes({ shape, dtype }) / 4, tensors = this.#scratch[slot] ??= [];
    let tensor = tensors.at(-1);
    if (!tensor || size(tensor.shape) < length) {
      tensor = createTensor(this.device, SCRATCH, { shape: [length], dtype: "f32" });
      tensors.push(tensor); // earlier launches keep the smaller tensor
    }
    return { ...tensor, shape, dtype };
  }

  /**
   * Creates scratch tensors of the sizes that another program came to need, so that a program of the same launches keeps no
   * smaller one beside them.
   */
  reserveScratch(planned: Program): void {
    planned.#scratch.forEach((tensors, slot) => this.scratch(tensors.at(-1)!.shape, { slot }));
  }

  /** Bytes of scratch tensors. */
  get scratchBytes(): number {
    return this.#scratch.flat().reduce((sum, { buffer }) => sum + buffer.size, 0);
  }

  /**
   * Appends a launch, and compiles its shader if the device has not done so before.
   *
   * @throws {TypeError} if a tensor or uniform is missing, the shader declares none of that name, or a buffer is
   * bound both to be read and to be written; {LimitError} if the launch would exceed a limit of the device, or on a CPU
   * adapter the number of loop iterations; {RangeError} if an offset is not aligned or a uniform is out of range.
   */
  dispatch(dispatch: Dispatch): void {
    const { shader, tensors, uniforms = {}, workgroups } = dispatch;
    const label = labelOf(shader);
    const constants = {
      ...dispatch.constants,
      ...dispatch.constantSizes
        ? { [SIZES]: constantSizes(label, this.device.pipelines.declaredBy(shader), uniforms) }
        : {},
    };
    const compiled = this.#compile(shader, constants), { bindings, declared } = compiled;
    checkNames(label, "tensor", tensors, namesOf(bindings), namesOf(declared));
    checkNames(label, "uniform", uniforms, fieldsOf(bindings), fieldsOf(declared));
    checkWrites(label, bindings, tensors);
    const bound = bindings.filter(({ fields }) => !fields).map(({ name, isWritten }) => (
      { name, tensor: tensors[name]!, isWritten }
    ));
    this.#checkLimits(label, bound.map(({ tensor }) => tensor), dispatch);
    const entries = bindings.map(({ name, binding, fields }): GPUBindGroupEntry => ({
      binding,
      resource: fields
        ? { buffer: this.#uniformBuffer(label, bytesOf(label, fields, uniforms)) }
        : resourceOf(tensors[name]!),
    }));
    this.#steps.push({ label, tensors: bound, pipeline: compiled, entries, workgroups });
  }

  /** The compiled shader, which the device caches. */
  #compile(shader: Shader, constants: Constants): Pipeline {
    const { gpu, pipelines, features, background } = this.device;
    let pipeline = pipelines.get(shader, constants);
    if (!pipeline) {
      const source = specialize(shader, constants);
      const compiled = compile(gpu, {
        label: labelOf(shader),
        // a getter, since a dry device does not read it and unrolling takes most of the time
        get code() {
          return compilable(unroll(source), features);
        },
      }, background);
      pipeline = Object.assign(compiled, {
        bindings: bindingsOf(source),
        declared: pipelines.declaredBy(shader),
      });
      pipelines.add(shader, constants, pipeline);
    }
    return pipeline;
  }

  #uniformBuffer(label: string, data: ArrayBuffer): GPUBuffer {
    const { gpu } = this.device;
    const buffer = gpu.createBuffer({
      label: `${label} uniforms`,
      size: data.byteLength,
      usage: 0x40 | 0x08, // UNIFORM | COPY_DST
    });
    gpu.queue.writeBuffer(buffer, 0, data);
    this.#uniformBuffers.push(buffer);
    return buffer;
  }

  /**
   * Resolves once all shaders of the program are compiled; undefined if they are. A program runs before that, too, but
   * then compiles one shader after another.
   */
  compiling(): Promise<unknown> | undefined {
    const waits = new Set(this.#steps.flatMap(({ pipeline: { compiling } }) => compiling ?? []));
    return waits.size > 0 ? Promise.all(waits) : undefined;
  }

  /** Encodes all launches, or those with these indices, into an open compute pass. */
  encode(pass: GPUComputePassEncoder, launches?: readonly number[]): void {
    encodeSteps(this.device, pass, launches?.map((i) => this.#steps[i]!) ?? this.#steps);
  }

  /**
   * Submits launches `from` to `to` − 1 in one pass, `repeats` times in a row; by default all launches once.
   * Does not wait for the device.
   */
  run({ repeats = 1, from = 0, to = this.length, timestampWrites }: RunOptions = {}): void {
    const encoder = this.device.gpu.createCommandEncoder();
    const pass = encoder.beginComputePass(timestampWrites ? { timestampWrites } : {});
    const steps = this.#steps.slice(from, to);
    for (let i = 0; i < repeats; i++) encodeSteps(this.device, pass, steps);
    pass.end();
    this.device.gpu.queue.submit([encoder.finish()]);
  }

  /** Frees the uniforms and scratch tensors of the program; all other tensors belong to the caller. */
  destroy(): void {
    for (const { buffer } of this.#scratch.flat()) buffer.destroy();
    for (const buffer of this.#uniformBuffers) buffer.destroy();
  }

  /** Calls `destroy()`, at the end of the block in which `using` declares the program. */
  [Symbol.dispose](): void {
    this.destroy();
  }

  #checkLimits(
    label: string,
    tensors: readonly Tensor[],
    { workgroups, iterations = 0, workgroupBytes = 0 }: Pick<
      Dispatch,
      "workgroups" | "iterations" | "workgroupBytes"
    >,
  ): void {
    const { name, maxBindingBytes, gpu: { limits } } = this.device;
    if (this.length === MAX_LAUNCHES) {
      throw new LimitError(
        `Cannot dispatch ${label} as a program has at most ${MAX_LAUNCHES} launches: ` +
          `current number is ${this.length}`,
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
          `Cannot dispatch ${label} as each dimension must have 1 to ${most} workgroups: ` +
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

function encodeSteps(
  { gpu }: Device,
  pass: GPUComputePassEncoder,
  steps: readonly Step[],
): void {
  for (const step of steps) {
    const { label, pipeline: { pipeline }, entries, workgroups } = step;
    step.group ??= gpu.createBindGroup({ label, layout: pipeline.getBindGroupLayout(0), entries });
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, step.group);
    pass.dispatchWorkgroups(...workgroups as [number]);
  }
}

function resourceOf(tensor: Tensor): GPUBufferBinding {
  return { buffer: tensor.buffer, offset: tensor.offsetBytes, size: tensorBytes(tensor) };
}

function namesOf(bindings: readonly Binding[]): string[] {
  return bindings.filter(({ fields }) => !fields).map(({ name }) => name);
}

function fieldsOf(bindings: readonly Binding[]): string[] {
  return bindings.flatMap(({ fields = [] }) => fields.map(({ name }) => name));
}

/** @throws {TypeError} if a required name is missing, or a given name is not declared. */
function checkNames(
  label: string,
  kind: "tensor" | "uniform",
  given: Readonly<Record<string, unknown>>,
  required: readonly string[],
  declared: readonly string[],
): void {
  const names = Object.keys(given).filter((name) => given[name] !== undefined);
  const missing = required.find((name) => !names.includes(name));
  if (missing !== undefined) {
    throw new TypeError(
      `Cannot dispatch ${label} as the ${kind} ${missing} is missing: current names are ${names}`,
    );
  }
  const unknown = names.find((name) => !declared.includes(name));
  if (unknown !== undefined) {
    throw new TypeError(
      `Cannot dispatch ${label} as it declares no ${kind} ${unknown}: declared names are ${declared}`,
    );
  }
}

/** @throws {TypeError} if a launch would read and write one buffer through two bindings, which WebGPU refuses. */
function checkWrites(
  label: string,
  bindings: readonly Binding[],
  tensors: Dispatch["tensors"],
): void {
  const read = new Map<GPUBuffer, string>();
  for (const { name, fields, isWritten } of bindings) {
    if (!fields && !isWritten) read.set(tensors[name]!.buffer, name);
  }
  for (const { name, isWritten } of bindings) {
    const source = isWritten ? read.get(tensors[name]!.buffer) : undefined;
    if (source === undefined) continue;
    throw new TypeError(
      `Cannot dispatch ${label} as its output ${name} must be in another buffer than its input ${source}: ` +
        `both are in that of "${tensors[name]!.name}"`,
    );
  }
}

/** The bytes of a uniform: its fields in order, padded to a multiple of 16 bytes. */
function bytesOf(
  label: string,
  fields: NonNullable<Binding["fields"]>,
  values: Readonly<Record<string, number | boolean>>,
): ArrayBuffer {
  const buffer = new ArrayBuffer(Math.ceil(fields.length / 4) * 16), view = new DataView(buffer);
  fields.forEach((field, i) => {
    const value = valueOf(label, field, values);
    if (field.type === "f32") view.setFloat32(4 * i, value, true);
    else view.setUint32(4 * i, value, true);
  });
  return buffer;
}

/** The value of a field of a uniform. */
function valueOf(
  label: string,
  { name, type }: NonNullable<Binding["fields"]>[number],
  values: Readonly<Record<string, number | boolean>>,
): number {
  const value = Number(values[name]);
  const least = type === "u32" ? 0 : -(2 ** 31);
  if (type !== "f32" && (!Number.isInteger(value) || value < least || value >= least + 2 ** 32)) {
    throw new RangeError(
      `Cannot dispatch ${label} as the uniform ${name} must be a ${type}: current value is ${value}`,
    );
  }
  return value;
}

/** The uniform `sizes` of a shader as a constant. */
function constantSizes(
  label: string,
  declared: readonly Binding[],
  values: Readonly<Record<string, number | boolean>>,
): string {
  const { fields = [] } = declared.find(({ name }) => name === SIZES) ?? {};
  const literals = fields.map((field) => `${field.type}(${valueOf(label, field, values)})`);
  return `Sizes(${literals.join(", ")})`;
}

/**
 * Workgroups in a full row of `splitWorkgroups()`: a power of two below the 65,535 that WebGPU guarantees per
 * dimension. Shaders declare the same constant.
 */
const WORKGROUPS_PER_ROW = 32768;

/**
 * Distributes a count of workgroups over two dimensions. The shader computes the index of a workgroup as
 * `group.y * WORKGROUPS_PER_ROW + group.x`; the last row may be longer than needed.
 */
export function splitWorkgroups(count: number): [x: number, y: number] {
  return [Math.min(count, WORKGROUPS_PER_ROW), Math.ceil(count / WORKGROUPS_PER_ROW)];
}
