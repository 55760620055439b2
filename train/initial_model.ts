import { join, resolve } from "node:path";
import type { HubOptions } from "../data/hub/hub.ts";
import { taskCommand } from "../files/command_line.ts";
import { UserError } from "../files/user_error.ts";
import { KEPT_BASE } from "../generate/base.ts";
import { findModel, modelPaths, type ModelSource } from "../generate/source.ts";
import type { GptConfig, LoraConfig } from "../model/config.ts";
import { defaultTargets } from "../model/files/lora.ts";
import { noteAdapters } from "./directory/adapter_notes.ts";
import { notice, notices, reporting, type TrainEvent } from "./events.ts";
import type { TrainOptions } from "./options.ts";
import type { RunDirectory } from "./directory/run_directory.ts";

/**
 * The model from which a training starts, and the adapters that it trains for that model.
 *
 * @module
 */

/** Finds the model that `--init-from` names, if it is given. */
export async function* findInitial(
  { initFrom, base, contextLength, loraRank }: TrainOptions,
  { signal, ...hub }: Pick<HubOptions, "environment"> & { signal: AbortSignal | undefined },
): AsyncGenerator<TrainEvent, ModelSource | undefined> {
  if (initFrom === undefined) {
    if (base !== undefined) {
      throw new UserError(
        `Cannot train as --base needs adapters to start from or to resume: current value is ${base}`,
      );
    }
    if (loraRank === undefined) return undefined;
    throw new UserError(
      `Cannot train as --lora-rank needs --init-from, a model to train adapters for: ` +
        `current value is ${loraRank}`,
    );
  }
  yield notice(`looking for ${initFrom}`);
  const source = yield* reporting(
    (callbacks) => findModel(initFrom, { ...hub, ...callbacks, base, contextLength }),
    signal,
  );
  if (source.adapters && loraRank !== undefined) {
    throw new UserError(
      `Cannot train adapters for ${initFrom} as it must be a whole model: it has adapters, ` +
        `which ${taskCommand("export")} merges`,
    );
  }
  return source;
}

/** Copies the base of a run's adapters, or notes that it is needed: a resumed run and a loaded model need it. */
export function* holdBase(
  run: RunDirectory,
  base: string,
  { keepBase }: TrainOptions,
): Generator<TrainEvent> {
  const kept = join(run.path, KEPT_BASE);
  if (resolve(base) === resolve(kept)) return;
  if (keepBase) {
    yield notice(`copying ${base} to ${kept}`);
    run.copy(KEPT_BASE, modelPaths(base));
    return;
  }
  yield* notices(noteAdapters(run.path, base));
}

/** The options, with alpha and targets of adapters chosen. */
export function withAdapters(options: TrainOptions, config: GptConfig | undefined): TrainOptions {
  const { loraRank, loraAlpha, loraTargets } = options;
  if (loraRank === undefined || !config) return options;
  return {
    ...options,
    loraAlpha: loraAlpha ?? 2 * loraRank,
    loraTargets: loraTargets ?? defaultTargets(config).join(","),
  };
}

/** The adapters that the options describe, if they do. */
export function loraOf({ loraRank, loraAlpha, loraTargets }: TrainOptions): LoraConfig | undefined {
  if (loraRank === undefined) return undefined;
  return { rank: loraRank, alpha: loraAlpha!, targets: loraTargets!.split(",") };
}
