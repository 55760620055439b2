import { dirname, join } from "node:path";
import { Batches, type BatchesOptions } from "../data/tokens/batches.ts";
import { type Corpus, loadCorpus } from "../data/tokens/corpus.ts";
import { misfitsOf } from "../data/tokens/vocabulary_fit.ts";
import type { HubOptions } from "../data/hub/hub.ts";
import { type HubError, processEnvironment } from "../data/hub/request.ts";
import { DataError } from "../data/text/data_error.ts";
import { loadTokenizer } from "../data/tokenizer/load.ts";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { taskCommand } from "../files/command_line.ts";
import { UserError } from "../files/user_error.ts";
import { type Callbacks, notice, notices, reporting, type TrainEvent } from "./events.ts";
import type { TrainerState } from "../model/files/trainer_state.ts";
import type { ResolvedOptions, TrainOptions } from "./options.ts";
import { NAME_THE_TEXT } from "./resolve.ts";
import type { Setup, Workplace } from "./run.ts";

/**
 * The data of a training: its text, found and tokenized, and what is said about it.
 *
 * @module
 */

/** The cache directory and the hub of a training's data. */
export function dataPlaces({ hub, out, directory }: Workplace) {
  return { ...hub, cacheDirectory: cacheBeside(out), readOnly: directory === undefined };
}

/** The text of a training by its checkpoint, as `loadCorpus()` finds it again. */
export function textOf({ options }: Pick<TrainerState, "options">) {
  const saved = options as Partial<ResolvedOptions>;
  const { data = "sample", validationData, dataVersion, textField } = saved;
  return { data, validationData, dataVersion, textField };
}

/** Finds and tokenizes the data, or finds its tokens in the cache. */
export async function* openCorpus(
  place: Workplace,
  { given, resumed, hasNewData, initial }: Setup,
): AsyncGenerator<TrainEvent, Corpus> {
  const { data, dataVersion, textField, workers, vocabulary } = given;
  const { documents, validationDocuments } = place;
  const validationData = validationDocuments ??
    (given.validationData === "auto" ? undefined : given.validationData);
  const files = [documents ?? data, validationData].filter((named) => Array.isArray(named)).flat();
  if (files.length > 0) yield notice(`reading ${files.join(", ")}`);
  using resources = new DisposableStack(); // closes the corpus unless it is returned
  const opened = yield* reporting(async (callbacks) =>
    await loadCorpus({
      ...dataPlaces(place),
      ...callbacks,
      validationData,
      dataVersion,
      textField,
      workers,
      vocabulary,
      data: documents ?? (data === "auto" ? "sample" : data),
      ...(resumed || initial
        ? { tokenizer: (resumed ?? initial)!.tokenizer }
        : { baseTokenizer: await tokenizerOf(given, place.hub, callbacks) }),
    }).catch((error) => {
      if (!resumed || !(error instanceof DataError) || hasNewData) throw error;
      throw new UserError(
        `Cannot resume ${resumed.path} as its data must be readable: ${error.reason}`,
        { hint: NAME_THE_TEXT },
      );
    }), place.signal);
  const corpus = resources.adopt(opened, (corpus) => corpus.close());
  if (initial) {
    const { tokenizer, training } = corpus;
    yield* notices(...await misfitsOf(tokenizer, training, given.initFrom!));
  }
  if (resumed && corpus.hash !== resumed.state.data.hash) {
    throw new UserError(
      `Cannot resume ${resumed.path} as its data must be unchanged: ` +
        `${corpus.name} has changed since`,
      { hint: documents ?? validationDocuments ? GIVE_THE_TEXTS : NAME_THE_TEXT },
    );
  }
  resources.move();
  return corpus;
}

/**
 * The choices with those that the kind of the documents decides, whatever a plan says: each conversation sees only
 * itself.
 *
 * @throws {UserError} if the options contradict that.
 */
export function* fittingTo(
  setup: Setup,
  { name, training }: Corpus,
): Generator<TrainEvent, Setup> {
  const { given, typed } = setup;
  if (!training.answersOf || given.documents === "apart") return setup;
  if (typed.includes("documents")) {
    throw new UserError(
      `Cannot train on ${name} with --documents ${given.documents} as each conversation must see ` +
        `only itself: use --documents apart`,
    );
  }
  yield notice(`--documents apart, as ${name} holds conversations`);
  return { ...setup, given: { ...given, documents: "apart" } };
}

/** The batches of a training. */
export function batchesOf(
  { training, tokenizer: { endOfText, beginOfText } }: Corpus,
  options: Omit<BatchesOptions, "padding" | "beginOfText">,
): Batches {
  return new Batches(training, { ...options, padding: endOfText, beginOfText });
}

/** A sentence if there are conversations that rows are too short for. */
export function shortRows(
  { conversations }: Batches,
  contextLength: number,
): string | undefined {
  const { cut, leftOut, used } = conversations ?? { cut: 0, leftOut: 0, used: 0 };
  if (cut === 0 && leftOut === 0) return undefined;
  const parts = [
    ...(leftOut > 0
      ? [`left out ${leftOut} of ${used + leftOut} conversations, whose first answer is not in it`]
      : []),
    ...(cut > 0 ? [`left out the last messages of ${cut} conversations`] : []),
  ];
  return `--context-length ${contextLength}: ${parts.join("; ")}`;
}

/** What to do if a program gives other texts than before. */
const GIVE_THE_TEXTS = "Give the same texts, choose another out, or start over with fresh: true";

/** The tokenizer that the options name; undefined for GPT-2's, of which the data may need only a part. */
async function tokenizerOf(
  { tokenizer }: TrainOptions,
  hub: Pick<HubOptions, "environment">,
  { onNotice, signal }: Callbacks,
): Promise<Tokenizer | undefined> {
  if (tokenizer === undefined || tokenizer === "gpt2") return undefined;
  return await loadTokenizer(tokenizer, { ...hub, onNotice, signal });
}

/** The environment of a dry run, which downloads nothing. */
export function offline(environment = processEnvironment()): Record<string, string | undefined> {
  return { ...environment, HF_HUB_OFFLINE: "1" };
}

/** The error of a dry run if data or a model are not on this machine. */
export function notDownloaded({ message }: HubError): UserError {
  const [, what = "its data"] = /^Cannot \w+ (\S+)/.exec(message) ?? [];
  return new UserError(
    `Cannot estimate the training as ${what} must be on this machine: a dry run downloads nothing`,
    {
      hint: `${taskCommand("prepare")} downloads data, ${
        taskCommand("generate", "--model")
      } a model`,
    },
  );
}

/**
 * Tokens of held-out text below which its loss is a rough figure: the loss of single tokens spreads by about two nats,
 * so that the mean of so many has a standard error of 0.06.
 */
const FEW_TOKENS = 1000;

/** A sentence if there is little text to validate with. */
export function littleHeldOut({ validation }: Corpus): string | undefined {
  if (validation.length >= FEW_TOKENS) return undefined;
  return `the validation text has only ${validation.length} tokens: its loss, and which checkpoint is the best, ` +
    `are partly chance; --validation-data names more text`;
}

/** The cache directory of all runs in the same folder, which `prepare` also fills. */
export function cacheBeside(runDirectory: string): string {
  return join(dirname(runDirectory), "cache");
}
