import { resolve } from "node:path";
import type { HubOptions } from "../data/hub/hub.ts";
import { asFound } from "../data/text/dataset.ts";
import { loadTokenizer } from "../data/tokenizer/load.ts";
import { isPartOf } from "../data/tokenizer/tokenizer.ts";
import { loadCorpus } from "../data/tokens/corpus.ts";
import { flagOf } from "../files/command_line.ts";
import { printable } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { withHash } from "../generate/base.ts";
import { findModel, hashModel, MODEL_NAMES } from "../generate/source.ts";
import type { TrainerState } from "../model/files/trainer_state.ts";
import type { Callbacks } from "./events.ts";
import {
  isGiven,
  type OptionName,
  optionsWhere,
  type ResolvedOptions,
  savedIn,
  type TRAIN_OPTIONS,
  type TrainOptions,
} from "./options.ts";
import { mustStay, NAME_THE_TEXT } from "./resolve.ts";
import type { Resumed } from "./run.ts";

/**
 * New names for the inputs of a resumed run: its text, tokenizer and model may have moved, or be named from another
 * working directory. Their content decides whether they are those that the run began with.
 *
 * @module
 */

/** New names of a run's inputs, whose content is the same. */
export interface Renamed {
  options: Partial<TrainOptions>;
  /** The model that the training began with, if it has a new name. */
  source?: TrainerState["source"];
}

/** Where the inputs are looked up. */
interface Places extends Pick<HubOptions, "environment"> {
  cacheDirectory: string;
}

/**
 * Compares the inputs that are named now with those that a run began with.
 *
 * @returns the names that changed.
 * @throws {UserError} naming both if the content differs.
 */
export async function findRenamed(
  given: Partial<TrainOptions>,
  resumed: Resumed,
  places: Places,
  callbacks: Callbacks,
): Promise<Renamed> {
  const { source, ...model } = await renamedModel(given, resumed, places, callbacks);
  const options = {
    ...await renamedData(given, resumed, places, callbacks),
    ...await renamedTokenizer(given, resumed, places, callbacks),
    ...model,
  };
  return { options, ...(source ? { source } : {}) };
}

/** Options that say what the text is and how it is read. */
const DATA_OPTIONS = optionsWhere(({ names }) => names === "data") as (keyof DataOptions)[];

/** Their values. */
type DataOptions = Pick<
  ResolvedOptions,
  {
    [Name in OptionName]: (typeof TRAIN_OPTIONS)[Name] extends { names: "data" } ? Name : never;
  }[OptionName]
>;

async function renamedData(
  given: Partial<TrainOptions>,
  { path, state, tokenizer }: Resumed,
  places: Places,
  callbacks: Callbacks,
): Promise<Partial<TrainOptions>> {
  const saved = savedIn(state), { data, validationData } = saved;
  const asked = Object.fromEntries(
    DATA_OPTIONS.map((name) => [name, isGiven(given[name]) ? given[name] : saved[name]]),
  ) as DataOptions;
  asked.data = asFound(asked.data, data);
  if (validationData) asked.validationData = asFound(asked.validationData!, validationData);
  const changed = DATA_OPTIONS.filter((name) =>
    JSON.stringify(asked[name]) !== JSON.stringify(saved[name])
  );
  if (changed.length === 0) return {};
  // a data set of another name or edition has other text: it is refused without a download
  const [set, other] = [setOf(saved), setOf(asked)];
  if (set === undefined || other === undefined || set === other) {
    const options = { ...places, ...callbacks, ...asked, tokenizer, workers: given.workers };
    const { hash, close } = await loadCorpus({ ...options, whole: true });
    close();
    if (hash === state.data.hash) {
      return Object.fromEntries(changed.map((name) => [name, asked[name]]));
    }
  }
  throw new UserError(
    `Cannot resume ${path} as its data must stay ${describeData(saved)}: ` +
      `${describeData(asked)} holds other text`,
    { hint: NAME_THE_TEXT },
  );
}

/** The built-in data set that the options name, with its edition and without its revision. */
function setOf({ data, dataVersion }: DataOptions): string | undefined {
  if (typeof data !== "string") return undefined;
  const [name] = data.split("@");
  return name === "tinystories" ? `${name} ${dataVersion ?? "v2"}` : name;
}

/** The words of a command that name the text. */
function describeData(options: DataOptions): string {
  const words = DATA_OPTIONS.filter((name) => options[name] !== undefined)
    .flatMap((name) => [name === "data" ? [] : flagOf(name), options[name]!].flat());
  return printable(words.join(" "));
}

async function renamedTokenizer(
  given: Partial<TrainOptions>,
  { path, state, tokenizer }: Resumed,
  { environment }: Places,
  { onNotice, signal }: Callbacks,
): Promise<Partial<TrainOptions>> {
  const asked = wholeSpec(given.tokenizer, ["gpt2"]), saved = state.options.tokenizer as string;
  if (asked === undefined || asked === wholeSpec(saved ?? "gpt2", ["gpt2"])) return {};
  if (state.options.initFrom === undefined) {
    const hub = { ...(environment ? { environment } : {}), onNotice, signal };
    if (await isPartOf(tokenizer, await loadTokenizer(asked, hub))) return { tokenizer: asked };
  }
  throw mustStay("tokenizer", given.tokenizer, saved, path);
}

async function renamedModel(
  given: Partial<TrainOptions>,
  { path, state }: Resumed,
  { environment }: Places,
  callbacks: Callbacks,
): Promise<Partial<TrainOptions> & Pick<Renamed, "source">> {
  const names = Object.keys(MODEL_NAMES), asked = wholeSpec(given.initFrom, names);
  const { initFrom: saved, contextLength } = savedIn(state);
  if (asked === undefined || asked === wholeSpec(saved, names) || asked === state.source?.spec) {
    return {};
  }
  if (state.source) {
    const hub = environment ? { environment } : {};
    const { sha256 } = state.source;
    const found = withHash(asked, sha256); // not always the newest checkpoint of a run
    if (found) return { initFrom: asked, source: { spec: found.spec, sha256 } };
    const other = await findModel(asked, { ...hub, ...callbacks, contextLength });
    if (hashModel(other) === sha256) {
      return { initFrom: asked, source: { spec: other.spec, sha256 } };
    }
  }
  throw mustStay("initFrom", given.initFrom, saved, path);
}

/** A spec that means the same in every working directory: paths become absolute, names do not change. */
export function wholeSpec<T extends string | undefined>(spec: T, names: readonly string[]): T {
  if (spec === undefined || spec.startsWith("hf:") || names.includes(spec)) return spec;
  return resolve(spec) as T;
}
