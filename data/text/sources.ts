import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readSync,
  realpathSync,
  statSync,
} from "node:fs";
import { basename, join, resolve } from "node:path";
import { DataError } from "./data_error.ts";
import { csvPieces } from "./csv.ts";
import { arrayPieces, linePieces, type Piece, type PlaceUnit, textPieces } from "./documents.ts";
import { listOfNames } from "./fields.ts";
import { type Format, formatOf, FORMATS, HEAD_BYTES, packingOf, PACKINGS } from "./formats.ts";
import { hubFile, type HubOptions, listHubFiles, parseHubSpec } from "../hub/hub.ts";
import { isSystemError } from "../../files/disk.ts";
import { load } from "../../files/packages.ts";
import { UserError } from "../../files/user_error.ts";
import { parquetPieces } from "./parquet.ts";
import { SAMPLE_COUNT, sampleStories } from "./stories.ts";
import { decodeUtf16, unpack } from "./unpack.ts";

/** Documents that come one after the other, however many; read as often as one likes. */
export interface Source {
  /** What it is called in messages. */
  readonly name: string;
  /** What tells its content from any other, in 64 hexadecimal digits; cheap to find out. */
  readonly fingerprint: string;
  /** Bytes that are read of it, compressed where it is. */
  readonly bytes: number;
  /** About so many bytes of text are in it. */
  readonly textBytes: number;
  /** Reads it from the beginning. */
  read(): AsyncIterable<Portion>;
}

/** Some documents of a source, or stretches of them, in order. */
export interface Portion {
  /** The documents. */
  readonly pieces: readonly Piece[];
  /** What their places count. */
  readonly placeUnit: PlaceUnit;
  /** The file they are from, for messages. */
  readonly file: string;
  /** Where the pieces are JSON objects: the field that holds the document. */
  readonly field?: string;
  /** Bytes of the source read so far. */
  readonly bytesRead: number;
}

/** How to find and read data. */
export interface SourceOptions extends Omit<HubOptions, "onProgress"> {
  /**
   * The field of JSON, or the column of CSV, TSV and Parquet, that holds the text; `text` by default.
   * A nested one in JSON and Parquet is `data.text`.
   */
  readonly textField?: string | undefined;
  /** Which edition of `tinystories`; `v2` if not given. */
  readonly dataVersion?: "v1" | "v2" | undefined;
  /** Is called with the progress of a download. */
  readonly onProgress?: (progress: DataProgress) => void;
}

/** How far work on data is: it is downloaded, then tokenized, and at last checksums are made. */
export interface DataProgress {
  /** What is being done; the last two make a tokenizer. */
  readonly stage: "downloading" | "tokenizing" | "finishing" | "reading" | "merging tokens of";
  /** What to: a file or a source. */
  readonly name: string;
  /** What is counted, if it is not bytes. */
  readonly counted?: "tokens";
  /** Bytes done: of the file, the source or the tokens. */
  readonly doneBytes: number;
  /** Bytes in all. */
  readonly totalBytes: number;
}

/** What a user names: the built-in stories, TinyStories, at a revision if wanted, or files. */
export type DataSpec = "sample" | "tinystories" | `tinystories@${string}` | readonly string[];

/** Reads what a user names from the words of a command. */
export function parseDataSpec(words: readonly string[]): DataSpec {
  const [word] = words;
  const isSet = words.length === 1 && /^(sample|tinystories(@.+)?)$/.test(word!);
  return isSet ? word as DataSpec : words;
}

/**
 * The data of `asked`, named as in `found` where both mean the same: a revision that `asked` omits is that of
 * `found`, and two spellings of a path are the same path.
 */
export function asFound(asked: DataSpec, found: DataSpec): DataSpec {
  if (typeof asked === "string" || typeof found === "string") {
    return typeof asked === typeof found && isSameSpec(asked as string, found as string)
      ? found
      : asked;
  }
  return asked.map((spec, i) => {
    const other = found[i];
    return other !== undefined && isSameSpec(spec, other, { isPath: true }) ? other : spec;
  });
}

function isSameSpec(asked: string, found: string, { isPath = false } = {}): boolean {
  if (asked === found || asked === found.replace(/^(hf:.*|tinystories)@.*$/, "$1")) return true;
  return isPath && ![asked, found].some((spec) => spec.startsWith("hf:")) &&
    resolve(asked) === resolve(found);
}

/**
 * A path or pattern made absolute, so that it means the same in another working directory. A pattern stays
 * relative if the name of the working directory would itself be a pattern.
 */
function fromRoot(spec: string): string {
  const stays = isPattern(spec) && isPattern(resolve("."));
  return stays && !statSync(spec, { throwIfNoEntry: false }) ? spec : resolve(spec);
}

/** A data set: what to train on and, where it brings one, what to validate with. */
export interface DataSources {
  /** What to train on. */
  readonly training: Source;
  /** The data set's own validation text. */
  readonly validation?: Source;
  /** What was named: each file of the hub at the commit that was found, others by their whole paths. */
  readonly data: DataSpec;
}

/** The files of TinyStories (Eldan and Li 2023, https://arxiv.org/abs/2305.07759). */
const TINYSTORIES = {
  v1: { training: "TinyStories-train.txt", validation: "TinyStories-valid.txt" },
  v2: {
    training: "TinyStoriesV2-GPT4-train.txt",
    validation: "TinyStoriesV2-GPT4-valid.txt",
  },
};

/**
 * Finds data: the built-in stories; TinyStories, which is downloaded from the Hugging Face hub; or files.
 *
 * Each file is a path, a pattern such as `books/*.txt.gz`, or `hf:OWNER/NAME/FILE`, at `@REVISION` if
 * wanted, where FILE may be a pattern too. `FORMATS` says what files may hold; a file that is named more
 * than once is read once. Everywhere white space around documents is dropped, as are empty documents; line
 * ends become `\n`.
 *
 * @throws {UserError} if a file cannot be found or read; {UserError} if its format is not understood;
 * {HubError} if it cannot be downloaded.
 */
export async function openSources(
  data: DataSpec,
  options: SourceOptions = {},
): Promise<DataSources> {
  if (data === "sample") {
    const stories = sampleStories({ seed: SAMPLE_SEED, count: SAMPLE_COUNT });
    return { training: textSource("sample", stories), data };
  }
  if (typeof data !== "string") {
    const { files, pinned } = await findFiles(data, options);
    return { training: sourceOf(files, options), data: pinned };
  }
  const { dataVersion = "v2" } = options;
  const names = TINYSTORIES[dataVersion];
  const [name, revision = "main"] = data.split("@");
  const title = dataVersion === "v2" ? name! : `${name} ${dataVersion}`;
  const find = async (file: string, revision: string) =>
    await filesOfHub(`hf:roneneldan/TinyStories/${file}@${revision}`, options);
  const training = await find(names.training, revision);
  const [, commit] = training.pinned.split("@");
  return {
    training: { ...sourceOf(training.files, options), name: title },
    validation: {
      ...sourceOf((await find(names.validation, commit!)).files, options),
      name: `${title}, validation`,
    },
    data: `tinystories@${commit!}`,
  };
}

/** The seed of the data set `sample`: it is one fixed text. */
const SAMPLE_SEED = 1;

/** A source of texts that are in memory. */
export function textSource(name: string, documents: readonly string[]): Source {
  const hash = createHash("sha256");
  for (const document of documents) hash.update(document).update("\0");
  const encoder = new TextEncoder();
  const bytes = documents.reduce((sum, document) => sum + document.length, 0);
  return {
    name,
    fingerprint: hash.digest("hex"),
    bytes,
    textBytes: bytes,
    async *read() {
      let bytesRead = 0;
      for (const [i, document] of documents.entries()) {
        const piece = { bytes: encoder.encode(document), begins: true, ends: true, place: i + 1 };
        bytesRead += document.length;
        yield { pieces: [piece], placeUnit: "document", file: name, bytesRead };
      }
    },
  };
}

/** One source of one or more files; see `openSources()`. */
export async function fileSource(
  data: readonly string[],
  options: SourceOptions = {},
): Promise<Source> {
  return sourceOf((await findFiles(data, options)).files, options);
}

/** The files that are named, each once, and their names with each file of the hub at its commit. */
async function findFiles(
  data: readonly string[],
  options: SourceOptions,
): Promise<{ files: DataFile[]; pinned: string[] }> {
  const files = new Map<string, DataFile>();
  const pinned: string[] = [], repeated = new Set<string>();
  for (const spec of data) {
    const found = spec.startsWith("hf:") ? await filesOfHub(spec, options) : await localFiles(spec);
    pinned.push(found.pinned);
    for (const file of found.files) {
      if (files.has(file.identity)) repeated.add(file.name);
      else files.set(file.identity, file);
    }
  }
  if (repeated.size > 0) {
    options.onNotice?.(`named more than once, but read once: ${nameOf([...repeated])}`);
  }
  return { files: [...files.values()], pinned };
}

/** What a user names. */
interface Found {
  files: DataFile[];
  /** How to name it again, each file of the hub at the commit that was found. */
  pinned: string;
}

function sourceOf(files: readonly DataFile[], options: SourceOptions): Source {
  const { textField = "text" } = options;
  const hash = createHash("sha256");
  for (const { fingerprint, format } of files) {
    const { kind, packing } = format;
    const how = { kind, compressed: packing !== undefined };
    hash.update(JSON.stringify([fingerprint, how, kind === "text" ? "" : textField]));
  }
  return {
    name: nameOf(files.map(({ name }) => name)),
    fingerprint: hash.digest("hex"),
    bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
    textBytes: files.reduce((sum, { bytes, format }) => sum + bytes * expansionOf(format), 0),
    async *read() {
      let before = 0;
      for (const file of files) {
        for await (const portion of readFile(file, textField)) {
          yield { ...portion, bytesRead: before + portion.bytesRead };
        }
        before += file.bytes;
      }
    },
  };
}

function nameOf(paths: readonly string[]): string {
  const names = paths.map((path) => basename(path));
  const more = names.length - LISTED;
  return more > 1 ? `${names.slice(0, LISTED).join(", ")} and ${more} more` : names.join(", ");
}

/** Files that a name lists. */
const LISTED = 3;

/** A file that was found. */
interface DataFile {
  /** What it is called in messages. */
  readonly name: string;
  /** The same for all names of one file. */
  readonly identity: string;
  /** Where it lies. */
  readonly path: string;
  readonly format: Format;
  readonly bytes: number;
  readonly fingerprint: string;
}

/** Bytes of text that a byte of a file comes to, as a rule. */
function expansionOf({ kind, packing }: Format): number {
  return packing ? 3 : kind === "parquet" ? 2 : 1;
}

/** The files that `hf:OWNER/NAME/FILE` stands for, in the order of their names; FILE may be a pattern. */
async function filesOfHub(spec: string, options: SourceOptions): Promise<Found> {
  const { repo, path, revision = "main" } = parseHubSpec(spec);
  if (path === undefined) {
    throw new UserError(
      `Cannot use ${spec} as data as it must name a file: hf:OWNER/NAME/FILE, ` +
        `or a pattern such as hf:OWNER/NAME/data/*.parquet`,
    );
  }
  const { onProgress, onNotice = () => {}, environment, signal } = options;
  const hub = { onNotice, ...(environment ? { environment } : {}), ...(signal ? { signal } : {}) };
  const find = async (path: string, revision: string) => {
    const file = await hubFile({ type: "dataset", repo, path, revision }, {
      ...hub,
      onProgress: (doneBytes, totalBytes) =>
        onProgress?.({ stage: "downloading", name: path, doneBytes, totalBytes }),
    });
    const name = `hf:${repo}/${path}`;
    const local = await localFile(file.path, name);
    const fingerprint = file.sha256 ?? local.fingerprint;
    return { ...local, identity: `${name}@${file.commit}`, fingerprint, commit: file.commit };
  };
  let paths = [path];
  if (isPattern(path)) {
    const matches = await matcher(path);
    const all = (await listHubFiles({ type: "dataset", repo, revision }, hub))
      .map((file) => file.path);
    if (!all.includes(path)) paths = all.filter(matches);
    if (paths.length === 0) {
      throw new DataError(`${spec}: no file matches it; there are ${listOfNames(all)}`);
    }
    onNotice(`${spec}: ${paths.length} ${paths.length === 1 ? "file" : "files"}`);
  }
  const files = [await find(paths[0]!, revision)];
  const { commit } = files[0]!;
  for (const other of paths.slice(1)) files.push(await find(other, commit));
  return { files, pinned: `hf:${repo}/${path}@${commit}` };
}

/** The files that a path or pattern stands for, in the order of their names. */
async function localFiles(spec: string): Promise<Found> {
  const files: DataFile[] = [];
  for (const path of await expand(spec)) files.push(await localFile(path));
  return { files, pinned: fromRoot(spec) };
}

function isPattern(text: string): boolean {
  return /[*?[{]/.test(text);
}

/** Whether paths match a pattern. */
async function matcher(pattern: string): Promise<(path: string) => boolean> {
  const { default: picomatch } = await load("picomatch");
  const matches = picomatch(pattern);
  return (path) => matches(path);
}

/** The paths that a pattern stands for; the path itself if it is none. */
async function expand(spec: string): Promise<string[]> {
  const find = (path: string) => attempt(path, () => statSync(path, { throwIfNoEntry: false }));
  if (!isPattern(spec) || find(spec)) return [spec];
  // the platform's own globSync() wants to see the environment
  const { default: picomatch } = await load("picomatch");
  const pattern = Deno.build.os === "windows" ? spec.replaceAll("\\", "/") : spec;
  const { base, glob } = picomatch.scan(pattern);
  const matches = await matcher(glob);
  const paths = existsSync(base || ".")
    ? readdirSync(base || ".", { recursive: glob.includes("/"), encoding: "utf8" })
      .filter((path) => matches(path.replaceAll("\\", "/")))
      .map((path) => join(base, path))
      .filter((path) => find(path)?.isFile())
      .sort()
    : [];
  if (paths.length === 0) throw new DataError(`${spec}: no file matches it`);
  return paths;
}

/** A file on this machine. Its name decides its format. */
async function localFile(path: string, name: string = path): Promise<DataFile> {
  const { handle, bytes, fingerprint } = attempt(name, () => {
    const stats = statSync(path);
    if (stats.isDirectory()) {
      throw new DataError(
        `${name}: it is a directory; name its files: ${JSON.stringify(patternIn(path))}`,
      );
    }
    if (!stats.isFile()) {
      throw new DataError(`${name}: it must be a regular file, as it is read more than once`);
    }
    const handle = openSync(path, "r");
    try {
      return { handle, bytes: stats.size, fingerprint: fingerprintOf(handle, stats) };
    } catch (error) {
      closeSync(handle);
      throw error;
    }
  });
  try {
    const format = formatOf(name, await headOf(handle, name));
    return { name, identity: realpathSync(path), path, format, bytes, fingerprint };
  } finally {
    closeSync(handle);
  }
}

/** A pattern for the files of a directory that are understood. */
function patternIn(directory: string): string {
  const extensions = FORMATS.flatMap(({ extensions }) => extensions)
    .flatMap((extension) => [extension, ...Object.keys(PACKINGS).map((end) => extension + end)]);
  const names = readdirSync(directory);
  const found = extensions.find((extension) => names.some((name) => name.endsWith(extension)));
  return join(directory, `*${found ?? extensions[0]}`);
}

/** What the content of a file begins with, unpacked. */
async function headOf(handle: number, name: string): Promise<Uint8Array> {
  const packing = packingOf(name);
  const chunks = readChunks(handle, { name, most: HEAD_BYTES, progress: { bytesRead: 0 } });
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of packing ? unpack(chunks, packing, name) : chunks) {
    parts.push(part);
    length += part.length;
    if (length >= HEAD_BYTES) break;
  }
  return Buffer.concat(parts).subarray(0, HEAD_BYTES);
}

/** Files up to this size are known by their whole content. */
const SMALL = 16 * 2 ** 20;

/** Larger ones by size, time of change, and so much of their beginning and end. */
const GLANCE = 2 ** 20;

function fingerprintOf(
  file: number,
  { size, mtimeMs }: { size: number; mtimeMs: number },
): string {
  const hash = createHash("sha256");
  const stretches = size <= SMALL
    ? [[0, size] as const]
    : [[0, GLANCE] as const, [size - GLANCE, GLANCE] as const];
  if (size > SMALL) hash.update(JSON.stringify([size, mtimeMs]));
  for (const [start, length] of stretches) {
    const bytes = new Uint8Array(length);
    hash.update(bytes.subarray(0, readSync(file, bytes, 0, length, start)));
  }
  return hash.digest("hex");
}

/** Bytes that are read at a time. */
const CHUNK_BYTES = 4 * 2 ** 20;

async function* readFile(file: DataFile, textField: string): AsyncGenerator<Portion> {
  const { name, format } = file;
  const { handle, bytes } = attempt(name, () => {
    const handle = openSync(file.path, "r");
    return { handle, bytes: statSync(file.path).size };
  });
  try {
    const progress = { bytesRead: 0 };
    if (format.kind === "parquet") {
      const parquet = { file: name, handle, bytes, column: textField };
      for await (const { pieces, bytesRead } of parquetPieces(parquet)) {
        yield { pieces, placeUnit: "row", file: name, bytesRead };
      }
      return;
    }
    let text: AsyncIterable<Uint8Array> = readChunks(handle, { name, progress });
    if (format.packing) text = unpack(text, format.packing, name);
    if (format.encoding) text = decodeUtf16(text, format.encoding, name);
    const { read, placeUnit, ofObjects } = READERS[format.kind];
    const how = { placeUnit, file: name, ...(ofObjects ? { field: textField } : {}) };
    for await (const pieces of read(text, { file: name, column: textField })) {
      yield { pieces, ...how, ...progress };
    }
  } finally {
    closeSync(handle);
  }
}

/** How the documents in a stream of UTF-8 are found. */
interface Reader {
  read(
    text: AsyncIterable<Uint8Array>,
    options: { file: string; column: string },
  ): AsyncIterable<Piece[]>;
  readonly placeUnit: PlaceUnit;
  /** Whether what it finds are JSON objects. */
  readonly ofObjects?: boolean;
}

const READERS: Readonly<Record<Exclude<Format["kind"], "parquet">, Reader>> = {
  text: { read: (text) => textPieces(text), placeUnit: "byte" },
  lines: { read: linePieces, placeUnit: "line", ofObjects: true },
  array: { read: arrayPieces, placeUnit: "element", ofObjects: true },
  csv: { read: (text, how) => csvPieces(text, { ...how, tabs: false }), placeUnit: "line" },
  tsv: { read: (text, how) => csvPieces(text, { ...how, tabs: true }), placeUnit: "line" },
};

async function* readChunks(
  handle: number,
  { name, progress, most = CHUNK_BYTES }: {
    name: string;
    progress: { bytesRead: number };
    most?: number;
  },
): AsyncGenerator<Uint8Array> {
  for (;;) {
    const chunk = new Uint8Array(most);
    const length = attempt(
      name,
      () => readSync(handle, chunk, 0, chunk.length, progress.bytesRead),
    );
    if (length === 0) return;
    progress.bytesRead += length;
    yield chunk.subarray(0, length);
  }
}

/** Does something with a file; if the system refuses, the error's sentence names the file. */
function attempt<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (!isSystemError(error)) throw error;
    const reason = error.code === "ENOENT" ? "there is no such file" : error.message;
    throw new DataError(`${path}: ${reason}`);
  }
}
