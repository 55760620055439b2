import { existsSync, readdirSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { HubError, hubFile, type HubOptions, listHubFiles, parseHubSpec } from "../data/hub/hub.ts";
import { readGgufTokenizer } from "../data/tokenizer/gguf_reader.ts";
import { hasTokenizer, readTokenizer, tokenizerFileNames } from "../data/tokenizer/load.ts";
import type { DataProgress } from "../data/text/documents.ts";
import { gpt2Tokenizer, type Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { commandLine, taskCommand } from "../files/command_line.ts";
import { reading } from "../files/disk.ts";
import { CONFIG_FILE, GENERATION_FILE } from "../files/names.ts";
import { MOST_JSON_BYTES, readText } from "../files/json.ts";
import { printable, quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import {
  listCheckpoints,
  newestCheckpoint,
  readTrainerState,
  STATE_FILE,
  verifyCheckpoint,
} from "../model/files/checkpoint.ts";
import { CheckpointError } from "../model/files/trainer_state.ts";
import type { GptConfig } from "../model/config.ts";
import type { Gpt } from "../model/gpt.ts";
import { parseEndIds, parseHuggingFaceConfig } from "../model/files/hugging_face.ts";
import { ggufIn, isGguf, openGguf } from "../model/files/llama_cpp_reader.ts";
import {
  ADAPTER_CONFIG,
  type AdapterBase,
  adapterValues,
  chooseAdapterFile,
  mergeLora,
  parseAdapterConfig,
  type PeftLora,
  storedAdapters,
} from "../model/files/lora.ts";
import { weightBeside } from "../model/parameters.ts";
import {
  chooseModelFile,
  hashFiles,
  isIndex,
  MODEL_FILES,
  openTensorFiles,
  shardNames,
  type TensorFiles,
} from "../model/files/tensor_files.ts";
import { listOfNames, loadParameters, unexpectedTensors } from "../model/weights.ts";
import { placeAt } from "./place.ts";
import { type BaseQuery, findBase, type Found, openTensors, weightFiles } from "./base.ts";

/** Models that have short names: their repositories on the hub. */
export const MODEL_NAMES: Readonly<Record<string, string>> = {
  distilgpt2: "distilbert/distilgpt2",
  gpt2: "openai-community/gpt2",
  "gpt2-medium": "openai-community/gpt2-medium",
  "gpt2-large": "openai-community/gpt2-large",
  "gpt2-xl": "openai-community/gpt2-xl",
};

/** Where a model was found, with its configuration and tokenizer; its parameters are not loaded yet. */
export interface ModelSource {
  /** Name that finds the same model again: `hf:OWNER/NAME@COMMIT`, or the absolute path of a directory. */
  readonly spec: string;
  /** Directory of its files, or its GGUF file; if it has adapters, that of their base. */
  readonly directory: string;
  /** The configuration of the model without adapters. */
  readonly config: GptConfig;
  /** Its tokenizer. */
  readonly tokenizer: Tokenizer;
  /** Directory of its checkpoint, if it is one. */
  readonly checkpoint?: string;
  /** Adapters to merge into it, the directory of their file, and the `spec` of their base. */
  readonly adapters?: {
    readonly lora: PeftLora;
    readonly directory: string;
    readonly base: string;
  };
}

/** How to find a model, and callbacks during the search. */
export interface FindModelOptions extends Omit<HubOptions, "onProgress"> {
  /** Number of positions to use, beginning with the first; all by default. */
  readonly contextLength?: number | undefined;
  /** Base of adapters, as a `spec` of `findModel()`; by default the model that they name. */
  readonly base?: string | undefined;
  /** Is called with the progress of a download. */
  readonly onProgress?: (progress: DataProgress) => void;
}

/**
 * Finds a model and reads its configuration and tokenizer; a model of the hub is downloaded first.
 *
 * @param spec a name of `MODEL_NAMES`; `hf:OWNER/NAME` or `hf:OWNER/NAME/FILE.gguf`, with or without `@REVISION`; a
 * `.gguf` file; or a directory: a model or PEFT adapters as Hugging Face's libraries write them, a checkpoint, or a
 * run, of which the newest checkpoint is used.
 * @throws {UserError} if there is no such model; {HubError} if the hub refuses it; {CheckpointError} if a
 * checkpoint is damaged, or if the base of adapters is missing or is another model.
 */
export async function findModel(
  spec: string,
  options: FindModelOptions = {},
): Promise<ModelSource> {
  return await readModel(await findFiles(spec, options), options);
}

/**
 * Reads the configuration and tokenizer of the model in a directory.
 *
 * @param found the directory; a checkpoint must have been verified.
 * @param likely directories where the base of adapters may be, if it is not at the place that they name.
 */
export async function readModel(
  { spec, directory }: Found,
  options: FindModelOptions = {},
  likely: readonly string[] = [],
): Promise<ModelSource> {
  const isCheckpoint = existsSync(join(directory, STATE_FILE));
  const origin = isCheckpoint ? { spec, checkpoint: directory } : { spec };
  if (existsSync(join(directory, ADAPTER_CONFIG))) {
    return { ...origin, ...await readAdapters(directory, options, likely) };
  }
  checkBaseOption(directory, options);
  return { ...origin, directory, ...await readWholeModel(directory, options) };
}

/** Reads the configuration and tokenizer of adapters and of their base. */
async function readAdapters(
  directory: string,
  { base: given, ...options }: FindModelOptions,
  likely: readonly string[],
): Promise<Omit<ModelSource, "spec" | "checkpoint">> {
  const path = join(directory, ADAPTER_CONFIG);
  const { lora, ...base } = parseAdapterConfig(readText(path), path);
  const recorded = recordedBase(directory, base);
  const query = { adapters: directory, ...recorded, given, likely };
  const found = await findBase(query, (spec) => findFiles(spec, options), options);
  if (existsSync(join(found.directory, ADAPTER_CONFIG))) { // perhaps these adapters themselves
    throw new UserError(
      `Cannot load ${directory} as the base of its adapters must be a whole model: ` +
        `${printable(recorded.named)}, which they name, has adapters itself`,
    );
  }
  const { config, tokenizer } = await readWholeModel(found.directory, options);
  storedAdapters(config, lora); // throws if they do not fit
  const { endIds = [] } = tokenizer, { vocabularySize } = config;
  const own = hasTokenizer(directory)
    ? { ...await readTokenizer(directory, { vocabularySize }), endIds }
    : tokenizer;
  return {
    directory: found.directory,
    config,
    tokenizer: withEndIds(own, directory, options),
    adapters: { lora, directory, base: found.spec },
  };
}

/** The base that adapters name: a checkpoint records its hash, too; other programs write a path or a name on the hub. */
function recordedBase(
  directory: string,
  { base, revision }: AdapterBase,
): Pick<BaseQuery, "named" | "sha256"> {
  const state = existsSync(join(directory, STATE_FILE)) ? readTrainerState(directory) : undefined;
  if (state?.source) return { named: state.source.spec, sha256: state.source.sha256 };
  const isOnHub = !existsSync(base) && isRepository(base);
  const suffix = revision === undefined ? "" : `@${revision}`;
  return { named: isOnHub ? `hf:${base}${suffix}` : base, sha256: undefined };
}

/**
 * Makes sure that no base is given for a whole model.
 *
 * @throws {UserError} naming the model and the base.
 */
export function checkBaseOption(
  directory: string,
  { base }: Pick<FindModelOptions, "base">,
): void {
  if (base === undefined) return;
  throw new UserError(
    `Cannot load ${directory} with a base as it must hold adapters: ` +
      `current --base is ${base}`,
  );
}

function isRepository(name: string): boolean {
  return /^[\w.-]+(\/[\w.-]+)?$/.test(name);
}

/** Finds the files of a model. */
async function findFiles(spec: string, options: FindModelOptions): Promise<Found> {
  const named = Object.hasOwn(MODEL_NAMES, spec) ? `hf:${MODEL_NAMES[spec]}` : spec;
  if (named.startsWith("hf:")) return await download(named, options);
  const refuse = (reason: string, hint?: string) =>
    new UserError(
      `Cannot find the model ${
        quoted(spec)
      } as it must be a directory, a .gguf file, hf:OWNER/NAME, or one of ` +
        `${Object.keys(MODEL_NAMES).join(", ")}: ${reason}`,
      { hint },
    );
  const status = reading(() => statSync(spec, { throwIfNoEntry: false }), refuse);
  if (status?.isFile() && ggufIn(spec) !== undefined) {
    return { spec: resolve(spec), directory: spec };
  }
  const { reason, load } = placeAt(spec) ?? {};
  if (reason !== undefined && load?.[1] !== spec) {
    throw refuse(reason, load && `A model is at ${commandLine([load[1]])}`);
  }
  const isRun = existsSync(join(spec, "checkpoints"));
  const directory = isRun ? newestIn(spec, options.onNotice) : spec;
  if (!isRun && existsSync(join(directory, STATE_FILE))) verifyCheckpoint(directory);
  return { spec: resolve(directory), directory };
}

/**
 * The newest whole checkpoint of a run.
 *
 * @throws {CheckpointError} if there is none; its hint names the newest run beside it, if there is one.
 */
export function newestIn(run: string, onWarning: (sentence: string) => void = () => {}): string {
  const newest = newestCheckpoint(run, onWarning);
  if (newest !== undefined) return newest;
  const other = newestRunBeside(run), folder = dirname(run);
  const listing = taskCommand("runs", ...folder === "runs" ? [] : [folder]);
  throw new CheckpointError(
    existsSync(run)
      ? `Cannot load a model as ${run} holds no checkpoint`
      : `Cannot load a model from ${run} as there is no such directory`,
    {
      hint: other === undefined
        ? `Train a model first: ${taskCommand("train")}; one to chat with: ` +
          taskCommand("train", "--data", "conversations", "--out", "runs/chat")
        : `To use the newest run: ${commandLine(["--run", other])}; to list all: ${listing}`,
    },
  );
}

/** The run in the same folder whose newest checkpoint was saved last. */
function newestRunBeside(run: string): string | undefined {
  const folder = dirname(run);
  try {
    const times = readdirSync(folder).flatMap((name): [path: string, savedMs: number][] => {
      const path = join(folder, name), [checkpoint] = listCheckpoints(path);
      return checkpoint ? [[path, statSync(checkpoint.path).mtimeMs]] : [];
    });
    return times.sort(([, a], [, b]) => b - a)[0]?.[0];
  } catch {
    return undefined; // the folder is absent, may not be read, or changes meanwhile
  }
}

/** Downloads the files of a model, all of one commit of its repository. */
async function download(
  spec: string,
  { onProgress = () => {}, ...options }: FindModelOptions,
): Promise<Found> {
  const { path, ...repository } = parseHubSpec(spec);
  if (path !== undefined && !isGguf(path)) {
    throw new UserError(
      `Cannot load a model from ${spec} as it must name a whole repository or a .gguf file: leave out /${path}`,
    );
  }
  const repo = { ...repository, type: "model" as const };
  const get = (path: string, revision = repo.revision) =>
    hubFile({ ...repo, path, ...(revision === undefined ? {} : { revision }) }, {
      ...options,
      ...(/\.(json|txt)$/.test(path) ? { mostBytes: MOST_JSON_BYTES } : {}),
      onProgress: (doneBytes, totalBytes) =>
        onProgress({ stage: "downloading", name: path, doneBytes, totalBytes }),
    });
  if (path !== undefined) {
    const { path: file, commit } = await get(path);
    return { spec: `hf:${repo.repo}/${path}@${commit}`, directory: file };
  }
  const names = (await listHubFiles(repo, options)).map(({ path }) => path);
  const isAdapter = names.includes(ADAPTER_CONFIG);
  const { path: first, commit } = await get(isAdapter ? ADAPTER_CONFIG : CONFIG_FILE);
  const more = async (name: string) => (await get(name, commit)).path;
  for (const name of tokenizerFileNames(names)) await more(name);
  if (names.includes(GENERATION_FILE)) await more(GENERATION_FILE);
  const chosen = isAdapter ? { name: chooseAdapterFile(names) } : chooseModelFile(names);
  if (chosen === undefined) {
    throw new HubError(
      `Cannot load a model from ${spec} as it must hold one of ${
        MODEL_FILES.filter((name) => !isIndex(name)).join(", ")
      }: it has ` +
        (printable(names.filter((name) => !/^\.|\.(md|txt|json)$/.test(name)).join(", ")) ||
          "none"),
    );
  }
  const file = await more(chosen.name);
  if (chosen.notice) options.onNotice?.(chosen.notice);
  if (isIndex(chosen.name)) {
    for (const name of shardNames(readText(file), file)) await more(name);
  }
  return { spec: `hf:${repo.repo}@${commit}`, directory: dirname(first) };
}

/** Reads the configuration and tokenizer of a whole model: a directory or a GGUF file. */
async function readWholeModel(
  directory: string,
  options: FindModelOptions,
): Promise<Pick<ModelSource, "config" | "tokenizer">> {
  const { contextLength } = options, gguf = ggufIn(directory);
  const { config, tokenizer } = gguf === undefined
    ? await readDirectory(directory, options)
    : await readGguf(gguf, options);
  if (contextLength !== undefined && contextLength > config.contextLength) {
    throw new UserError(
      `Cannot use a model of ${config.contextLength} positions for contexts of ${contextLength} tokens: ` +
        `choose at most ${config.contextLength} for ${directory}`,
    );
  }
  return {
    config: contextLength === undefined ? config : { ...config, contextLength },
    tokenizer: withEndIds(tokenizer, directory, options),
  };
}

async function readDirectory(
  directory: string,
  options: FindModelOptions,
): Promise<Pick<ModelSource, "config" | "tokenizer">> {
  const path = join(directory, CONFIG_FILE), json = readIfThere(path);
  if (json === undefined) {
    throw new UserError(
      `Cannot load a model from ${directory} as it must hold config.json: it has ` +
        `${printable(namesIn(directory).slice(0, 8).join(", ")) || "no files"}`,
    );
  }
  const notice = chooseModelFile(namesIn(directory))?.notice;
  if (notice) options.onNotice?.(`${notice}, in ${directory}`);
  const { tensors, close } = openTensors(directory);
  close(); // names and shapes are known
  const config = parseHuggingFaceConfig(json, path, tensors), { vocabularySize } = config;
  reportUnexpected(directory, config, tensors, options);
  const tokenizer = hasTokenizer(directory)
    ? await readTokenizer(directory, { vocabularySize })
    : await tokenizerOfGpt2(directory, config, options);
  return { config, tokenizer };
}

async function readGguf(
  path: string,
  options: FindModelOptions,
): Promise<Pick<ModelSource, "config" | "tokenizer">> {
  const { config, values, tensors, close } = openGguf(path), { vocabularySize } = config;
  close();
  reportUnexpected(path, config, tensors, options);
  return { config, tokenizer: await readGgufTokenizer(values, { vocabularySize, where: path }) };
}

/** Reports the tensors in a model's files for which the model has no parameter. */
function reportUnexpected(
  path: string,
  config: GptConfig,
  tensors: TensorFiles["tensors"],
  { onNotice }: FindModelOptions,
): void {
  const unexpected = unexpectedTensors(config, tensors.keys());
  if (unexpected.length === 0) return;
  onNotice?.(
    `ignoring tensors in ${path} that the model of its configuration does not have: ` +
      listOfNames(unexpected),
  );
}

/**
 * A tokenizer with the ids at which the texts of a directory's model end: those of `eos_token_id` in
 * `generation_config.json`, or otherwise in `config.json`, and always the id that ends a document, since models are
 * trained here with it.
 *
 * @throws {UserError} if a file is not a JSON object, or if its `eos_token_id` is not an id.
 */
export function withEndIds(
  tokenizer: Tokenizer,
  directory: string,
  { onNotice = () => {} }: Pick<FindModelOptions, "onNotice"> = {},
): Tokenizer {
  const { vocabularySize, endOfText, endOfTextToken, endIds = [] } = tokenizer;
  for (const name of [GENERATION_FILE, CONFIG_FILE]) {
    const path = join(directory, name), json = readIfThere(path);
    const ids = json === undefined ? [] : parseEndIds(json, path);
    const known = ids.filter((id) => id >= 0 && id < vocabularySize);
    if (known.length < ids.length) {
      onNotice(
        `ignoring the eos_token_id ${ids.find((id) => !known.includes(id))} of ${path}: ` +
          `ids of this model are below ${vocabularySize}`,
      );
    }
    if (known.length === 0) continue;
    if (known.includes(endOfText)) return { ...tokenizer, endIds: known };
    onNotice(
      `texts end at ${quoted(endOfTextToken)}, which ends documents, and at the eos_token_id ` +
        `${printable(known.join(", "))} of ${path}`,
    );
    return { ...tokenizer, endIds: [...known, endOfText] };
  }
  return endIds.includes(endOfText) ? tokenizer : { ...tokenizer, endIds: [...endIds, endOfText] };
}

/** GPT-2's tokenizer, for models with as many tokens and without a tokenizer; GPT-Neo has the same. */
async function tokenizerOfGpt2(
  directory: string,
  { vocabularySize }: GptConfig,
  { onNotice = () => {} }: FindModelOptions,
): Promise<Tokenizer> {
  const tokenizer = await gpt2Tokenizer();
  if (tokenizer.vocabularySize !== vocabularySize) {
    throw new UserError(
      `Cannot load a model from ${directory} as it must have a tokenizer: ` +
        `there is neither tokenizer.json nor vocab.json with merges.txt`,
    );
  }
  onNotice(`using GPT-2's tokenizer, as ${directory} has none`);
  return tokenizer;
}

/** Names in a directory. */
function namesIn(directory: string): string[] {
  return reading(
    () => readdirSync(directory),
    (reason) => new UserError(`Cannot read the directory ${directory}: ${reason}`),
  );
}

function readIfThere(path: string): string | undefined {
  return existsSync(path) ? readText(path) : undefined;
}

/**
 * Loads the parameters of a model from its source, and merges its adapters.
 *
 * @throws {UserError} if a file cannot be read, or if its tensors are not those of the model.
 */
export function fillModel(gpt: Gpt, { directory, config, adapters }: ModelSource): void {
  const changes = new Map<string, (values: Float32Array) => void>();
  const open = [openTensors(directory)];
  try {
    if (adapters) {
      const path = adapterFileIn(adapters.directory);
      const file = openTensorFiles([path]);
      open.push(file);
      const stored = storedAdapters(config, adapters.lora);
      const parts = adapterValues(config, stored, file.tensors, path);
      for (const adapter of stored) {
        const name = weightBeside(adapter), before = changes.get(name);
        const [A, B] = [adapter.A, adapter.B].map((name) => parts.get(name)!);
        changes.set(name, (values) => {
          before?.(values); // GPT-Neo's q, k and v are one parameter
          mergeLora(adapter, { A: A!, B: B! }, values);
        });
      }
    }
    loadParameters(gpt, open[0]!.tensors, directory, { changes });
  } finally {
    for (const files of open) files.close();
  }
}

/**
 * The files of a model in a directory: weights, configuration and tokenizer.
 *
 * @throws {UserError} if the directory cannot be read, or holds no model.
 */
export function modelPaths(directory: string): string[] {
  const gguf = ggufIn(directory);
  if (gguf !== undefined) return [gguf];
  const names = namesIn(directory), index = chooseModelFile(names)?.name;
  const more = [
    CONFIG_FILE,
    GENERATION_FILE,
    ...tokenizerFileNames(names),
    ...(index ? [index] : []),
  ];
  const paths = more.filter((name) => names.includes(name)).map((name) => join(directory, name));
  return [...new Set([...paths, ...weightFiles(directory)])];
}

function adapterFileIn(directory: string): string {
  return join(directory, chooseAdapterFile(namesIn(directory)));
}

/** SHA-256 of the files that `fillModel()` reads. */
export function hashModel({ directory, adapters }: ModelSource): string {
  return hashFiles([
    ...weightFiles(directory),
    ...(adapters ? [adapterFileIn(adapters.directory)] : []),
  ]);
}
