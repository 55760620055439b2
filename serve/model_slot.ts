import { statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { quoted } from "../files/printable.ts";
import { byteCount, byteCounts } from "../files/units.ts";
import { createDecoder } from "../generate/decoder.ts";
import { DEFAULT_SAMPLER } from "../generate/generate.ts";
import { freeMemory, misfitOf, shortageOf } from "../generate/limits.ts";
import { findSource, type LoadedModel, loadSource } from "../generate/load.ts";
import type { ModelSource } from "../generate/source.ts";
import { type Device, DeviceError, openDevice } from "../kernels/device.ts";
import type { DryDevice } from "../kernels/dry_device.ts";
import { createActivations } from "../model/activations.ts";
import { listCheckpoints, readHint } from "../model/files/checkpoint.ts";
import { createGpt } from "../model/gpt.ts";
import { resolvePrecision } from "../model/precision.ts";
import { ApiError } from "./api_error.ts";

/**
 * One model on one device, for one request at a time.
 *
 * @module
 */

/** A model that is loaded, and its name. */
export interface ServedModel extends LoadedModel {
  /** `RUN@STEP`. */
  readonly name: string;
}

/** How a slot finds runs, opens the device, and measures the memory. */
export interface ModelSlotOptions {
  /** The directory of the run with a name; undefined if there is no such run. */
  readonly findRun: (name: string) => string | undefined;
  /** Opens the device, by default that of the machine. */
  readonly open?: () => Promise<Device>;
  /** Free bytes of the system's memory. */
  readonly freeBytes?: () => number;
}

/** A checkpoint that a name stands for. */
interface Found {
  readonly run: string;
  /** Directory of the run. */
  readonly directory: string;
  /** `latest`, `best` or a number of steps. */
  readonly checkpoint: string;
  readonly path: string;
}

/** Requests that wait for their turn, at most. */
const MOST_WAITING = 64;

/**
 * Holds the model of the last request. A device is opened, and a model loaded, when a request first needs it. Before
 * another model is loaded, the one that is held is freed.
 */
export class ModelSlot {
  readonly #findRun: ModelSlotOptions["findRun"];
  readonly #open: () => Promise<Device>;
  /** Free bytes of the system's memory. */
  readonly freeBytes: () => number;
  readonly #closing = new AbortController();
  #device: Device | undefined;
  #loaded: { readonly key: string; readonly model: ServedModel } | undefined;
  #lastTurn: Promise<void> = Promise.resolve();
  #waiting = 0;

  constructor({ findRun, open = openDevice, freeBytes = freeMemory }: ModelSlotOptions) {
    this.#findRun = findRun;
    this.#open = open;
    this.freeBytes = freeBytes;
  }

  /**
   * Waits for a turn, loads the model, and runs an action; meanwhile no other action runs.
   *
   * @param name `RUN` for its newest whole checkpoint, `RUN@STEP` or `RUN@best`.
   * @param signal gives the turn up; the action is called with a signal that also aborts when the slot is closed.
   * @throws {ApiError} 404 if there is no such model, 503 if memory is short or too many requests wait;
   * {UserError} if the model cannot be loaded; {DeviceError} if the device fails, and the next request opens another.
   */
  async use<T>(
    name: string,
    signal: AbortSignal,
    action: (model: ServedModel, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const stop = AbortSignal.any([signal, this.#closing.signal]);
    this.#find(name); // a wrong name is refused at once
    using _ = await this.#turn(stop);
    try {
      // meanwhile a training may have removed the checkpoint that was found, or saved a newer one
      return await action(await this.#load(this.#find(name)), stop);
    } catch (error) {
      // of any other kind, the device stays usable
      if (error instanceof DeviceError && error.kind !== "invalid") this.#drop();
      throw error;
    }
  }

  /** Stops the action that runs, lets no other begin, and frees model and device. */
  async close(): Promise<void> {
    this.#closing.abort(new ApiError(503, "Cannot answer as the server is closed"));
    await this.#lastTurn;
    this.#drop();
  }

  /** Waits for those before; the turn ends when it is disposed. */
  async #turn(signal: AbortSignal): Promise<Disposable> {
    signal.throwIfAborted();
    if (this.#waiting === MOST_WAITING) {
      throw new ApiError(
        503,
        `Cannot answer as at most ${MOST_WAITING} requests may wait: try again later`,
      );
    }
    const turn = Promise.withResolvers<void>(), before = this.#lastTurn;
    this.#lastTurn = before.then(() => turn.promise);
    const aborted = Promise.withResolvers<never>(), abort = () => aborted.reject(signal.reason);
    signal.addEventListener("abort", abort);
    this.#waiting++;
    try {
      await Promise.race([before, aborted.promise]);
    } catch (error) {
      turn.resolve();
      throw error;
    } finally {
      this.#waiting--;
      signal.removeEventListener("abort", abort);
    }
    return { [Symbol.dispose]: turn.resolve };
  }

  /** The checkpoint of a name. */
  #find(name: string): Found {
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
      { param: "model" },
    );
  }

  /** Loads a checkpoint, unless it is there already. */
  async #load({ run, directory, checkpoint, path }: Found): Promise<ServedModel> {
    if (this.#loaded?.key === keyOf(path)) return this.#loaded.model;
    const source = await findSource({ run: directory, checkpoint });
    const key = keyOf(source.checkpoint ?? path); // of an older one if the newest is damaged
    if (this.#loaded?.key === key) return this.#loaded.model;
    const device = this.#device ??= await this.#open();
    this.#loaded?.model.gpt.destroy();
    this.#loaded = undefined;
    await device.gpu.queue.onSubmittedWorkDone(); // the memory of the model before is free then
    const name = `${run}@${Number(basename(source.checkpoint ?? path))}`;
    const needBytes = checkMemory(device, (dry) => recordModel(dry, source), {
      what: `load ${name}`,
      freeBytes: this.freeBytes(),
    });
    const model: ServedModel = { ...loadSource(device, source), name };
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

  #drop(): void {
    this.#loaded = undefined;
    this.#device?.destroy();
    this.#device = undefined;
  }
}

/** Identifies the files of a checkpoint: a later training may write another one at the same path. */
function keyOf(path: string): string {
  const { ino, mtimeMs } = statSync(path);
  return [resolve(path), ino, mtimeMs].join();
}

/** Records a model, and what the completion of a text as long as its context needs. */
function recordModel(dry: DryDevice, { config }: ModelSource): void {
  const precision = resolvePrecision(dry, "auto"), { contextLength } = config;
  const gpt = createGpt(dry, config, { precision });
  const batch = { batchSize: 1, sequenceLength: contextLength };
  createActivations(dry, config, { batch, precision, purpose: "evaluation" });
  createDecoder(gpt, {
    prompts: [[0, 0]],
    seeds: [0],
    maxNewTokens: contextLength - 1,
    sampler: DEFAULT_SAMPLER,
  });
}

/**
 * Makes sure that some work fits the device and the free memory of the system: weights pass through it even if the
 * device has memory of its own.
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
