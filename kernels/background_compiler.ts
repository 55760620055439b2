/** A shader to compile. */
export interface ShaderSource {
  /** The path that names it. */
  readonly label: string;
  readonly code: string;
}

/**
 * Milliseconds that a shader takes at most if the driver has kept it: if one takes longer, further devices help. Of mini's
 * training step a shader takes 5 to 25 ms on an H200 if the driver has kept it, and up to 1.1 s if not (November 2026).
 */
const PATIENCE_MS = 60;

/** Shaders that the device compiles at the same time: Dawn has two threads per device. A further device compiles one. */
const OWN_THREADS = 2;

/**
 * Logical cores per thread that compiles: two of one core take twice as long. On an H200 with 16 of them, a shader of 1.1 s
 * took 2 to 3.4 s beside 15 others.
 */
const CORES_PER_THREAD = 2;

/** A shader that is to be compiled, and what is told the result. */
interface Job extends ShaderSource {
  readonly resolve: (pipeline: Promise<GPUComputePipeline>) => void;
}

/**
 * Compiles the shaders of a device of Dawn in other threads, those with the longest text first, as they take the longest. If
 * the driver has not kept them, further devices compile shaders that wait, too: it keeps what these have compiled, so that
 * the device itself then compiles that in milliseconds.
 */
export class BackgroundCompiler {
  readonly #gpu: GPUDevice;
  readonly #openHelper: () => Promise<GPUDevice>;
  #mostHelpers: number;
  readonly #patienceMs: number;
  /** What nobody has begun to compile. */
  readonly #waiting: Job[] = [];
  /** Shaders that the device was given and has not compiled. */
  #given = 0;
  /** What compiles on the device or on another, and devices that are being opened. */
  readonly #underWay: Set<Promise<unknown>> = new Set();
  #isHelped = false;

  /**
   * @param openHelper opens a further device of the same adapter.
   * @param options.cores logical ones of the machine; by default its own.
   */
  constructor(
    gpu: GPUDevice,
    openHelper: () => Promise<GPUDevice>,
    { cores = navigator.hardwareConcurrency, patienceMs = PATIENCE_MS } = {},
  ) {
    this.#gpu = gpu;
    this.#openHelper = openHelper;
    this.#mostHelpers = Math.floor(cores / CORES_PER_THREAD) - OWN_THREADS;
    this.#patienceMs = patienceMs;
  }

  /** Compiles a shader. */
  compile({ label, code }: ShaderSource): Promise<GPUComputePipeline> {
    const { promise, resolve } = Promise.withResolvers<GPUComputePipeline>();
    this.#waiting.push({ label, code, resolve });
    this.#giveMore();
    return promise;
  }

  /** Resolves once nothing compiles: a process that ends before may be aborted. */
  async idle(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.allSettled(this.#underWay);
  }

  #track<T>(work: Promise<T>): Promise<T> {
    this.#underWay.add(work);
    const end = () => this.#underWay.delete(work);
    work.then(end, end);
    return work;
  }

  /** Gives the device what nobody has begun, so that its threads are busy. */
  #giveMore(): void {
    while (this.#given < OWN_THREADS && this.#waiting.length > 0) this.#give(this.#takeLongest()!);
  }

  /** Gives a shader to the device. */
  #give(job: Job): void {
    let isCompiled = false;
    const pipeline = this.#track(compileOn(this.#gpu, job));
    const end = () => {
      isCompiled = true;
      this.#given--;
      this.#giveMore();
    };
    this.#given++;
    pipeline.then(end, end);
    job.resolve(pipeline);
    // until the caller has asked for all that it needs, nothing is known of what was compiled meanwhile
    timer(0).then(() => timer(this.#patienceMs)).then(() => {
      if (!isCompiled) return this.#help();
    });
  }

  #takeLongest(): Job | undefined {
    this.#waiting.sort((a, b) => a.code.length - b.code.length);
    return this.#waiting.pop();
  }

  /** Opens devices while there is enough to do for one more, and lets them compile. */
  async #help(): Promise<void> {
    if (this.#isHelped) return;
    this.#isHelped = true;
    const helpers: Promise<void>[] = [];
    try {
      while (this.#waiting.length > helpers.length && helpers.length < this.#mostHelpers) {
        const helper = await this.#track(this.#openHelper());
        // at once: two seconds later, threads whose work had ended crashed in Dawn (an H200, November 2026)
        helpers.push(this.#compileOn(helper).then(() => helper.destroy()));
      }
    } catch {
      this.#mostHelpers = helpers.length; // no further one can be opened
    }
    await Promise.all(helpers);
    this.#isHelped = false;
  }

  /** Compiles on a further device what nobody has begun, and gives it to the device, whose driver then has it. */
  async #compileOn(helper: GPUDevice): Promise<void> {
    for (let job = this.#takeLongest(); job; job = this.#takeLongest()) {
      await this.#track(compileOn(helper, job)).catch(() => {}); // the device itself reports why
      this.#give(job);
    }
  }
}

async function compileOn(
  gpu: GPUDevice,
  { label, code }: ShaderSource,
): Promise<GPUComputePipeline> {
  const module = gpu.createShaderModule({ label, code });
  return await gpu.createComputePipelineAsync({ label, layout: "auto", compute: { module } });
}

/** A timer for which a program that ends does not wait. */
function timer(ms: number): Promise<void> {
  return new Promise((resolve) => Deno.unrefTimer(setTimeout(resolve, ms)));
}
