/** A shader to compile. */
export interface ShaderSource {
  /** The path that names it. */
  readonly label: string;
  readonly code: string;
}

/**
 * Milliseconds after which other devices help, unless half of the shaders are compiled by then, as they are if the driver
 * has kept them (mini's training step: all in 0.2 s on an H200, and in 4.8 s if not, November 2026).
 */
const PATIENCE_MS = 200;

/** Threads that Dawn has per device to compile. */
const THREADS = 2;

/**
 * Compiles the shaders of a device of Dawn in other threads. Dawn has two threads per device. While more shaders wait than
 * these compile, further devices compile them too, the longest ones first: drivers keep what they have compiled, so that
 * the device itself then compiles them in milliseconds. Where a driver keeps nothing, the device does not wait for others.
 */
export class BackgroundCompiler {
  readonly #gpu: GPUDevice;
  readonly #openHelper: () => Promise<GPUDevice>;
  readonly #mostHelpers: number;
  readonly #patienceMs: number;
  /** What is not compiled, in the order in which the device compiles it. */
  readonly #waiting = new Set<ShaderSource>();
  /** What a further device has compiled, or begun to. */
  readonly #helped = new WeakSet<ShaderSource>();
  /** Shaders that are compiled since the device began to compile, and whether it has begun. */
  #compiled = 0;
  #isBusy = false;

  /**
   * @param openHelper opens a further device of the same adapter.
   * @param options.cores of the machine, which has further devices for as many threads; by default its own.
   */
  constructor(
    gpu: GPUDevice,
    openHelper: () => Promise<GPUDevice>,
    { cores = navigator.hardwareConcurrency, patienceMs = PATIENCE_MS } = {},
  ) {
    this.#gpu = gpu;
    this.#openHelper = openHelper;
    this.#mostHelpers = Math.floor(cores / THREADS) - 1;
    this.#patienceMs = patienceMs;
  }

  /** Compiles a shader. */
  async compile({ label, code }: ShaderSource): Promise<GPUComputePipeline> {
    const source = { label, code };
    this.#waiting.add(source);
    const compiled = compileOn(this.#gpu, source);
    if (!this.#isBusy) {
      this.#isBusy = true;
      this.#compiled = 0;
      Deno.unrefTimer(setTimeout(() => this.#help(), this.#patienceMs)); // a program that ends does not wait for it
    }
    try {
      return await compiled;
    } finally {
      this.#waiting.delete(source);
      this.#compiled++;
    }
  }

  /** Opens devices while there is enough to do for one more, and lets them compile. */
  async #help(): Promise<void> {
    const helpers: Promise<void>[] = [],
      wants = () => this.#left().length > THREADS * helpers.length;
    try {
      while (this.#compiled < this.#waiting.size && wants() && helpers.length < this.#mostHelpers) {
        const helper = await this.#openHelper();
        const threads = Array.from({ length: THREADS }, () => this.#compileLongest(helper));
        helpers.push(Promise.all(threads).then(() => helper.destroy()));
      }
    } catch {
      // no further device could be opened: the device compiles by itself
    }
    await Promise.all(helpers);
    this.#isBusy = false;
  }

  /** What nobody has begun to compile, as far as is known; the longest, which take the longest, first. */
  #left(): ShaderSource[] {
    return [...this.#waiting].slice(THREADS).filter((source) => !this.#helped.has(source))
      .sort((a, b) => b.code.length - a.code.length);
  }

  /** Compiles on a further device, until the device itself has begun to compile what is left. */
  async #compileLongest(helper: GPUDevice): Promise<void> {
    for (let [source] = this.#left(); source; [source] = this.#left()) {
      this.#helped.add(source);
      await compileOn(helper, source).catch(() => {}); // the device itself reports why
    }
  }
}

function compileOn(gpu: GPUDevice, { label, code }: ShaderSource): Promise<GPUComputePipeline> {
  const module = gpu.createShaderModule({ label, code });
  return gpu.createComputePipelineAsync({ label, layout: "auto", compute: { module } });
}
