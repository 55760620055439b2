import { statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { quoted } from "../files/printable.ts";
import { byteCount, byteCounts } from "../files/units.ts";
import { freeMemory, misfitOf, shortageOf } from "../kernels/fit.ts";
import { findSource, loadSource } from "../generate/load.ts";
import { type Device, DeviceError, openDevice } from "../kernels/device.ts";
import type { DryDevice } from "../kernels/dry_device.ts";
import { listCheckpoints, readHint } from "../model/files/checkpoint.ts";
import { LinkedAbort, unlessAborted } from "./abort.ts";
import { ApiError } from "./api_error.ts";
import { MOST_WAITING_FOR_MODEL, PLAYGROUND_SLOTS } from "./limits.ts";
import type { Models } from "./models.ts";
import { Mutex } from "./mutex.ts";
import { recordServedModel, ServedModel } from "./served_model.ts";

/**
 * One model on one device: that of the last request.
 *
 * @module
 */

/** How runs are found, the device is opened, and the memory is measured. */
export interface CurrentModelOptions {
  /** The directory of the run with a name; undefined if there is no such run. */
  readonly findRun: (name: string) => string | undefined;
  /** Opens the device, by default that of the machine. */
  readonly open?: () => Promise<Device>;
  /** Free bytes of the system's memory. */
  readonly freeBytes?: () => number;
}

/** The checkpoint that a name stands for. */
interface NamedCheckpoint {
  readonly run: string;
  /** Directory of the run. */
  readonly directory: string;
  /** `latest`, `best` or a number of steps. */
  readonly checkpoint: string;
  readonly path: string;
}

/**
 * Holds the model of the last request. A device is opened, and a model loaded, when a request first needs it. Before
 * another model is loaded, the one that is held is freed.
 */
export class CurrentModel implements Models {
  readonly #findRun: CurrentModelOptions["findRun"];
  readonly #open: () => Promise<Device>;
  /** Free bytes of the system's memory. */
  readonly freeBytes: () => number;
  readonly #closing = new AbortController();
  readonly #loading = new Mutex(); // held by a request that waits until its model is loaded
  #waiting = 0;
  #device: Device | undefined;
  #loaded: { readonly key: string; readonly model: ServedModel } | undefined;
  readonly #users = new Set<Promise<unknown>>(); // each resolves once an action with the model has ended

  constructor({ findRun, open = openDevice, freeBytes = freeMemory }: CurrentModelOptions) {
    this.#findRun = findRun;
    this.#open = open;
    this.freeBytes = freeBytes;
  }

  async use<T>(
    name: string,
    signal: AbortSignal,
    action: (model: ServedModel, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    this.#find(name); // a wrong name is refused at once
    using stop = new LinkedAbort(signal, this.#closing.signal);
    const user = Promise.withResolvers<void>();
    let model: ServedModel | undefined;
    try {
      model = await this.#enter(name, stop.signal, user.promise);
      return await action(model, stop.signal);
    } catch (error) {
      const isCurrent = model === this.#loaded?.model; // another user may have dropped it already
      // after an error of kind `invalid` the device stays usable
      if (error instanceof DeviceError && error.kind !== "invalid" && isCurrent) await this.#drop();
      throw error;
    } finally {
      this.#users.delete(user.promise);
      user.resolve();
    }
  }

  /** Waits until the model of a name is loaded, and counts a user of it. */
  async #enter(name: string, signal: AbortSignal, user: Promise<void>): Promise<ServedModel> {
    if (this.#waiting === MOST_WAITING_FOR_MODEL) {
      throw new ApiError(
        429,
        `Cannot answer as at most ${MOST_WAITING_FOR_MODEL} requests may wait for their model: try again later`,
        { code: "rate_limit_exceeded", retryAfterSeconds: 1 },
      );
    }
    this.#waiting++;
    try {
      using _ = await this.#loading.acquire(signal);
      const isLoaded = this.#loaded?.key === keyOf(this.#find(name).path);
      if (!isLoaded) await unlessAborted(Promise.all(this.#users), signal); // of the model before
      // meanwhile a training may have removed the checkpoint that was found, or saved a newer one
      const model = await this.#load(this.#find(name));
      this.#users.add(user);
      return model;
    } finally {
      this.#waiting--;
    }
  }

  get must(): string {
    return "the name of a run";
  }

  /** Stops what is done with the model, lets nothing else begin, and frees model and device. */
  async close(): Promise<void> {
    this.#closing.abort(new ApiError(503, "Cannot answer as the server is closed"));
    await this.#loading.idle();
    await Promise.all(this.#users);
    await this.#drop();
  }

  /** The checkpoint of a name. */
  #find(name: string): NamedCheckpoint {
    const isRun = this.#findRun(name) !== undefined; // its name may end like that of a checkpoint
    const [, run = name, which] = !isRun && /^(.*)@(\d+|best)$/s.exec(name) || [];
    const directory = this.#findRun(run);
    const checkpoints = directory === undefined ? [] : listCheckpoints(directory);
    const step = which === "best" ? readHint(directory ?? "", "best") || undefined : which;
    const found = which === undefined
      ? checkpoints[0]
      : checkpoints.find((checkpoint) => checkpoint.step === Number(step));
    if (directory !== undefined && found) {
      return { run, directory, checkpoint: which ?? "latest", path: found.path };
    }
    throw new ApiError(
      404,
      `Cannot find the model ${quoted(name)} as ` +
        (directory === undefined
          ? "there is no such run"
          : checkpoints.length === 0
          ? "its run has no checkpoint"
          : `its run has no such checkpoint: there are ${
            checkpoints.map(({ step }) => step).reverse().slice(-30).join(", ")
          }`),
      { param: "model", code: "model_not_found" },
    );
  }

  /** Loads a checkpoint, unless it is there already. */
  async #load({ run, directory, checkpoint, path }: NamedCheckpoint): Promise<ServedModel> {
    if (this.#loaded?.key === keyOf(path)) return this.#loaded.model;
    const source = await findSource({ run: directory, checkpoint });
    const key = keyOf(source.checkpoint ?? path); // of an older one if the newest is damaged
    if (this.#loaded?.key === key) return this.#loaded.model;
    const device = this.#device ??= await this.#open();
    const before = this.#loaded?.model;
    this.#loaded = undefined;
    await before?.engine.close();
    before?.gpt.destroy();
    await device.gpu.queue.onSubmittedWorkDone(); // the memory of the model before is free then
    const slots = PLAYGROUND_SLOTS[device.isCpu ? "cpu" : "gpu"];
    const name = `${run}@${Number(basename(source.checkpoint ?? path))}`;
    const needBytes = checkMemory(device, (dry) => recordServedModel(dry, source, { slots }), {
      what: `load ${name}`,
      freeBytes: this.freeBytes(),
    });
    const model = new ServedModel(name, loadSource(device, source), { slots });
    await device.gpu.queue.onSubmittedWorkDone();
    try {
      device.check(); // it reports exhausted memory late
    } catch (error) {
      if (!(error instanceof DeviceError && error.kind === "memory")) throw error;
      throw new DeviceError(
        `Cannot load ${name} as it needs ${byteCount(needBytes)}: ${error.message}`,
        "memory",
      );
    }
    this.#loaded = { key, model };
    return model;
  }

  async #drop(): Promise<void> {
    const model = this.#loaded?.model, device = this.#device;
    this.#loaded = this.#device = undefined;
    await model?.engine.close();
    device?.destroy();
  }
}

/** Identifies the files of a checkpoint: a later training may write another one at the same path. */
function keyOf(path: string): string {
  const { ino, mtimeMs } = statSync(path);
  return [resolve(path), ino, mtimeMs].join();
}

/**
 * Makes sure that some work fits the device and the free memory of the system: weights pass through it even if the
 * device has separate memory.
 *
 * @param options.what verb and object of the sentence "Cannot … as".
 * @returns the bytes that the work needs.
 * @throws {ApiError} 503, with both figures.
 */
export function checkMemory(
  device: Device,
  record: (dry: DryDevice) => void,
  { what, freeBytes }: { what: string; freeBytes: number },
): number {
  let needBytes = 0;
  const problem = misfitOf(device, (dry) => {
    record(dry);
    needBytes = dry.bytes;
  }, { freeBytes: Infinity });
  if (problem) {
    throw new ApiError(
      503,
      `Cannot ${what} as it must fit ${device.name} ${shortageOf(problem)}`,
    );
  }
  if (needBytes <= freeBytes) return needBytes;
  const [need, free] = byteCounts(needBytes, freeBytes);
  throw new ApiError(
    503,
    `Cannot ${what} as the memory that it needs must be free: it needs ${need}, and ${free} are free`,
  );
}
