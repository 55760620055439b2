import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { readdirSync, realpathSync, type Stats, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import type { JsonObject } from "../../files/json.ts";
import { load } from "../../files/packages.ts";
import { UserError } from "../../files/user_error.ts";
import { hubFile, type HubOptions, listHubFiles, parseHubSpec } from "../hub/hub.ts";
import { blocksOf, type PartsOrigin } from "./blocks.ts";
import { type ConversationFields, conversationFields } from "./conversations.ts";
import { DataError } from "./data_error.ts";
import type { DataProgress, Documents } from "./documents.ts";
import { type Format, formatOf, HEAD_BYTES, READERS, sampleRow } from "./formats.ts";
import { attempt, OpenFile } from "./open_file.ts";
import { listOfNames } from "./rows.ts";
import { packingOf } from "./unpack.ts";

/**
 * Finds files of data on this machine and on the Hugging Face hub, and reads their documents.
 *
 * @module
 */

/** How to find and read data. */
export interface DataOptions extends Omit<HubOptions, "onProgress"> {
  /**
   * The field of JSON, or the column of CSV, TSV and Parquet, that holds the text, or a list of messages; a nested one
   * in JSON and Parquet is `data.text`. By default it is `text`; without a field of that name rows may hold
   * conversations, in the fields `messages` or `conversations`, or `prompt` and `completion`.
   */
  readonly textField?: string | undefined;
  /** Edition of `tinystories`; `v2` by default. */
  readonly dataVersion?: "v1" | "v2" | undefined;
  /** Is called with the progress of a download. */
  readonly onProgress?: ((progress: DataProgress) => void) | undefined;
}

/** A file that was found. */
interface DataFile {
  readonly path: string;
  /** Equal for all names of one file. */
  readonly identity: string;
  readonly format: Format;
  readonly origin: PartsOrigin;
  readonly bytes: number;
  /** Identifies the content. */
  readonly fingerprint: string;
  /** Lines that end in the first `HEAD_BYTES` of its content. */
  readonly lines: number;
}

/** Files that were found by a name. */
interface Found {
  files: DataFile[];
  /** The name with the commit that was found, or as an absolute path. */
  pinned: string;
}

/** The files that are named, each once, and their names with commits and absolute paths. */
export async function findFiles(
  data: readonly string[],
  options: DataOptions,
): Promise<{ files: DataFile[]; pinned: string[] }> {
  const files = new Map<string, DataFile>();
  const pinned: string[] = [], repeated = new Set<string>();
  for (const spec of data) {
    const found = spec.startsWith("hf:")
      ? await filesOfHub(spec, options)
      : await localFiles(spec, options);
    pinned.push(found.pinned);
    for (const file of found.files) {
      if (files.has(file.identity)) repeated.add(file.origin.file);
      else files.set(file.identity, file);
    }
  }
  if (repeated.size > 0) {
    options.onNotice?.(`named more than once, but read once: ${titleOf([...repeated])}`);
  }
  return { files: [...files.values()], pinned };
}

/** The files that a path or pattern names, sorted. */
async function localFiles(spec: string, options: DataOptions): Promise<Found> {
  if (spec === "-") {
    throw new DataError("-: standard input cannot be data, as data is read more than once");
  }
  const files: DataFile[] = [];
  for (const path of await expand(spec)) files.push(await localFile(path, options));
  // a pattern stays relative if the name of the working directory would itself be a pattern
  const staysRelative = isPattern(spec) && isPattern(resolve("."));
  return { files, pinned: staysRelative ? spec : resolve(spec) };
}

/** Whether two names are equal, or mean the same path on this machine. */
export function isSamePath(a: string, b: string): boolean {
  return a === b || ![a, b].some((name) => name.startsWith("hf:")) && resolve(a) === resolve(b);
}

function isPattern(text: string): boolean {
  return /[*?[{]/.test(text);
}

/** The paths that match a pattern, sorted; a path that exists or is no pattern stands for itself. */
async function expand(spec: string): Promise<string[]> {
  const find = (path: string) => attempt(path, () => statSync(path, { throwIfNoEntry: false }));
  if (!isPattern(spec) || find(spec)) return [spec];
  // node:fs has globSync(), which needs permission to read the environment
  const { default: picomatch } = await load("picomatch");
  const pattern = Deno.build.os === "windows" ? spec.replaceAll("\\", "/") : spec;
  const { base, glob } = picomatch.scan(pattern);
  if (glob === "") return [spec]; // a bracket without its other end is no pattern
  const directory = base || ".", matches = picomatch(glob);
  const names = attempt(
    spec,
    () => readdirSync(directory, { recursive: glob.includes("/"), encoding: "utf8" }),
  );
  const paths = names.filter((name) => matches(name.replaceAll("\\", "/")))
    .map((name) => join(base, name))
    .filter((path) => find(path)?.isFile());
  if (paths.length === 0) throw new DataError(`${spec}: no file matches it`);
  return paths.sort();
}

/** The files that `hf:OWNER/NAME/FILE` names, sorted; FILE may be a pattern. */
export async function filesOfHub(spec: string, options: DataOptions): Promise<Found> {
  const { repo, path, revision = "main" } = parseHubSpec(spec);
  if (path === undefined) {
    throw new UserError(
      `Cannot use ${spec} as data as it must name a file: hf:OWNER/NAME/FILE, ` +
        `or a pattern such as hf:OWNER/NAME/data/*.parquet`,
    );
  }
  let paths = [path];
  if (isPattern(path)) {
    const { default: picomatch } = await load("picomatch");
    const all = (await listHubFiles({ type: "dataset", repo, revision }, {
      ...options,
      onProgress: undefined,
    })).map((file) => file.path);
    if (!all.includes(path)) paths = all.filter((one) => picomatch.isMatch(one, path));
    if (paths.length === 0) {
      throw new DataError(`${spec}: no file matches it; there are ${listOfNames(all)}`);
    }
    options.onNotice?.(`${spec}: ${paths.length} ${paths.length === 1 ? "file" : "files"}`);
  }
  const files: DataFile[] = [];
  let commit = revision; // from the first file on its commit, for all
  for (const path of paths) {
    const found = await hubFile({ type: "dataset", repo, path, revision: commit }, {
      ...options,
      onProgress: (doneBytes, totalBytes) =>
        options.onProgress?.({ stage: "downloading", name: path, doneBytes, totalBytes }),
    });
    commit = found.commit;
    const name = `hf:${repo}/${path}`, file = await localFile(found.path, options, name);
    const fingerprint = found.sha256 ?? file.fingerprint;
    files.push({ ...file, identity: `${name}@${commit}`, fingerprint });
  }
  return { files, pinned: `hf:${repo}/${path}@${commit}` };
}

/** A file on this machine. Its name decides its format, and its first row whether rows hold conversations. */
async function localFile(
  path: string,
  options: DataOptions,
  name: string = path,
): Promise<DataFile> {
  const stats = attempt(name, () => statSync(path));
  if (stats.isDirectory()) {
    const example = JSON.stringify(join(path, "*.txt"));
    throw new DataError(`${name}: it is a directory; name its files, such as ${example}`);
  }
  if (!stats.isFile()) {
    throw new DataError(`${name}: it must be a regular file, as it is read more than once`);
  }
  using file = new OpenFile(path, name);
  const head = await file.head(HEAD_BYTES), format = formatOf(name, head);
  const isJson = format === "lines" || format === "array", { textField = "text" } = options;
  const { placeUnit } = READERS[format];
  const origin = { file: name, placeUnit, field: textField, isJson };
  const conversation = format === "text"
    ? undefined
    : conversationIn(name, await sampleRow(file, format, origin, head), options);
  return {
    path,
    identity: attempt(name, () => realpathSync(path)),
    format,
    origin: conversation ? { ...origin, conversation, isJson: true } : origin,
    bytes: stats.size,
    fingerprint: fingerprintOf(file, stats),
    lines: head.filter((byte) => byte === LINE_FEED).length,
  };
}

/** The fields in which rows like this one hold conversations, if they do. */
function conversationIn(
  name: string,
  row: JsonObject,
  { textField, onNotice }: DataOptions,
): ConversationFields | undefined {
  const fields = conversationFields(row, textField);
  if (fields || textField !== undefined) return fields;
  const { text: _, ...others } = row, unused = conversationFields(others);
  if (unused && "messages" in unused && Array.isArray(others[unused.messages])) {
    onNotice?.(
      `${name} has texts in its field text, which are used, and conversations in ` +
        `${unused.messages}: these are used with --text-field ${unused.messages}`,
    );
  }
  return undefined;
}

const LINE_FEED = 0x0a;

/** Most bytes of a file whose fingerprint covers its whole content. */
const SMALL = 16 * 2 ** 20;

/** Bytes at each end of a larger file that its fingerprint covers, beside its size and time of change. */
const GLANCE = 2 ** 20;

function fingerprintOf(file: OpenFile, { size, mtimeMs }: Stats): string {
  const hash = createHash("sha256");
  if (size <= SMALL) return hash.update(Buffer.from(file.slice(0))).digest("hex");
  return hash.update(JSON.stringify([size, mtimeMs]))
    .update(Buffer.from(file.slice(0, GLANCE)))
    .update(Buffer.from(file.slice(size - GLANCE)))
    .digest("hex");
}

/**
 * The documents of files, one file after the other.
 *
 * @throws {DataError} if some hold conversations and others texts.
 */
export function readFiles(files: readonly DataFile[]): Documents {
  const hash = createHash("sha256"), [first] = files;
  const isOfConversations = ({ origin }: DataFile) => origin.conversation !== undefined;
  for (const { origin, format, fingerprint } of files) {
    const how = { kind: format, compressed: packingOf(origin.file) !== undefined };
    const fields = origin.conversation ?? (format === "text" ? "" : origin.field);
    hash.update(JSON.stringify([fingerprint, how, fields]));
  }
  const has = files.find(isOfConversations), other = files.find((file) => !isOfConversations(file));
  if (has && other) {
    throw new DataError(
      `${has.origin.file} as files that are read together must all hold conversations, or all ` +
        `texts: it holds conversations, and ${other.origin.file} does not`,
    );
  }
  return {
    name: titleOf(files.map(({ origin }) => origin.file)),
    fingerprint: hash.digest("hex"),
    bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
    ...(files.length === 1 && first!.format === "text" ? { lines: first!.lines } : {}),
    ...(has ? { areConversations: true } : {}),
    async *read() {
      let before = 0;
      for (const { path, origin, format, bytes } of files) {
        using file = new OpenFile(path, origin.file);
        const parts = READERS[format].partsOf(file, origin);
        for await (const block of blocksOf(parts, origin, file)) {
          yield { ...block, bytesRead: before + block.bytesRead };
        }
        before += bytes;
      }
    },
  };
}

/** Names of files as one, for messages. */
function titleOf(paths: readonly string[]): string {
  return listOfNames(paths.map((path) => basename(path)), 3);
}
