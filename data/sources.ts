import { createHash } from "node:crypto";
import { closeSync, existsSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { createGunzip } from "node:zlib";
import { linePieces, type Piece, textPieces } from "./documents.ts";
import { hubFile, type HubOptions, parseHubSpec } from "./hub.ts";
import { parquetPieces } from "./parquet.ts";
import { SAMPLE_COUNT, sampleStories } from "./stories.ts";

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
  /** The file they are from, for messages. */
  readonly file: string;
  /** Where the pieces are JSON objects: the field that holds the document. */
  readonly field?: string;
  /** Bytes of the source read so far. */
  readonly bytesRead: number;
}

/** How to find and read data. */
export interface SourceOptions extends Omit<HubOptions, "onProgress"> {
  /** The field of JSON lines, or the column of Parquet files, that holds the text; `text` if not given. */
  readonly textField?: string | undefined;
  /** Which edition of `tinystories`; `v2` if not given. */
  readonly dataVersion?: "v1" | "v2" | undefined;
  /** Hears how far a download is. */
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
 * What is asked for, in the words of `found` wherever it names the same: a revision is that of `found` if
 * `asked` leaves it open, and a path that is written in another way is the same path.
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

/** Whether two namings mean the same data, if `asked` leaves revisions open that `found` has. */
export function isSameData(asked: DataSpec, found: DataSpec): boolean {
  return JSON.stringify(asFound(asked, found)) === JSON.stringify(found);
}

/**
 * A path or pattern so that it means the same in another working directory. A pattern stays as it is if the
 * working directory's own name would be one.
 */
function fromRoot(spec: string): string {
  const isPattern = /[*?[{]/;
  const stays = isPattern.test(spec) && isPattern.test(resolve("."));
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
 * wanted. By its name a file holds Parquet (`.parquet`), JSON lines (`.jsonl`, `.ndjson`, `.json`) or
 * text, and is compressed or not (`.gz`). Text is UTF-8, documents separated by
 * `<|endoftext|>`. Everywhere white space around documents is dropped, as are empty documents; line ends
 * become `\n`.
 *
 * @throws {Error} if a file cannot be found or read; {HubError} if it cannot be downloaded.
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
    const found = await findFiles(data, options);
    const pinned = data.map((spec, i) => found[i]![0]!.pinned ?? fromRoot(spec));
    return { training: sourceOf(found.flat(), options), data: pinned };
  }
  const { dataVersion = "v2" } = options;
  const names = TINYSTORIES[dataVersion];
  const [name, revision = "main"] = data.split("@");
  const title = dataVersion === "v2" ? name! : `${name} ${dataVersion}`;
  const find = async (file: string, revision: string) =>
    await fileOfHub(`hf:roneneldan/TinyStories/${file}@${revision}`, options);
  const training = await find(names.training, revision);
  const [, commit] = training.pinned!.split("@");
  return {
    training: { ...sourceOf([training], options), name: title },
    validation: {
      ...sourceOf([await find(names.validation, commit!)], options),
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
        yield { pieces: [piece], file: name, bytesRead };
      }
    },
  };
}

/** One source of one or more files; see `openSources()`. */
export async function fileSource(
  data: readonly string[],
  options: SourceOptions = {},
): Promise<Source> {
  return sourceOf((await findFiles(data, options)).flat(), options);
}

/** The files that each naming stands for, at least one. */
async function findFiles(
  data: readonly string[],
  options: SourceOptions,
): Promise<DataFile[][]> {
  const found: DataFile[][] = [];
  for (const spec of data) {
    found.push(
      spec.startsWith("hf:")
        ? [await fileOfHub(spec, options)]
        : (await expand(spec)).map(localFile),
    );
  }
  return found;
}

function sourceOf(files: readonly DataFile[], options: SourceOptions): Source {
  const { textField = "text" } = options;
  const hash = createHash("sha256");
  for (const { fingerprint, format } of files) {
    hash.update(JSON.stringify([fingerprint, format, format.kind === "text" ? "" : textField]));
  }
  return {
    name: nameOf(files),
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

function nameOf(files: readonly DataFile[]): string {
  const names = files.map(({ name }) => basename(name));
  const more = names.length - LISTED;
  return more > 1 ? `${names.slice(0, LISTED).join(", ")} and ${more} more` : names.join(", ");
}

/** Files that a name lists. */
const LISTED = 3;

/** A file that was found. */
interface DataFile {
  /** What it is called in messages. */
  readonly name: string;
  /** How to ask for the same again, whatever becomes of its revision. */
  readonly pinned?: string;
  /** Where it lies. */
  readonly path: string;
  readonly format: Format;
  readonly bytes: number;
  readonly fingerprint: string;
}

interface Format {
  readonly kind: "text" | "lines" | "parquet";
  readonly compressed: boolean;
}

function formatOf(name: string): Format {
  const compressed = /\.gz$/i.test(name);
  const inner = compressed ? name.slice(0, -3) : name;
  if (/\.parquet$/i.test(inner)) {
    if (compressed) {
      throw new RangeError(
        `Cannot read data file ${name} as Parquet must not be compressed once more: unpack it`,
      );
    }
    return { kind: "parquet", compressed };
  }
  return { kind: /\.(jsonl|ndjson|json)$/i.test(inner) ? "lines" : "text", compressed };
}

/** Bytes of text that a byte of a file comes to, as a rule. */
function expansionOf({ kind, compressed }: Format): number {
  return compressed ? 3 : kind === "parquet" ? 2 : 1;
}

async function fileOfHub(spec: string, options: SourceOptions): Promise<DataFile> {
  const { repo, path, revision } = parseHubSpec(spec);
  if (path === undefined) {
    throw new RangeError(
      `Cannot use ${spec} as data as it must name a file: hf:OWNER/NAME/FILE`,
    );
  }
  const { onProgress, onNotice, environment, signal } = options;
  const file = await hubFile(
    { type: "dataset", repo, path, ...(revision === undefined ? {} : { revision }) },
    {
      onProgress: (doneBytes, totalBytes) =>
        onProgress?.({ stage: "downloading", name: path, doneBytes, totalBytes }),
      ...(onNotice ? { onNotice } : {}),
      ...(environment ? { environment } : {}),
      ...(signal ? { signal } : {}),
    },
  );
  const { fingerprint, ...local } = localFile(file.path);
  const name = `hf:${repo}/${path}`;
  return {
    ...local,
    name,
    pinned: `${name}@${file.commit}`,
    format: formatOf(path),
    fingerprint: file.sha256 ?? fingerprint,
  };
}

/** The files that a path or pattern stands for, in the order of their names. */
async function expand(pattern: string): Promise<string[]> {
  if (statSync(pattern, { throwIfNoEntry: false }) || !/[*?[{]/.test(pattern)) return [pattern];
  // the platform's own globSync() wants to see the environment
  const { default: picomatch } = await import("npm:picomatch@4.0.7");
  const { base, glob } = picomatch.scan(pattern);
  const matches: (path: string) => boolean = picomatch(glob);
  const paths = existsSync(base || ".")
    ? readdirSync(base || ".", { recursive: glob.includes("/"), encoding: "utf8" })
      .filter((path) => matches(path.replaceAll("\\", "/")))
      .map((path) => join(base, path))
      .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile())
      .sort()
    : [];
  if (paths.length === 0) throw new Error(`Cannot read data files ${pattern}: there are none`);
  return paths;
}

function localFile(path: string): DataFile {
  return attempt(path, () => {
    const { size, mtimeMs } = statSync(path);
    if (statSync(path).isDirectory()) throw new Error("it is a directory");
    const file = openSync(path, "r");
    try {
      const fingerprint = fingerprintOf(file, { size, mtimeMs });
      return { name: path, path, format: formatOf(path), bytes: size, fingerprint };
    } finally {
      closeSync(file);
    }
  });
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
  const { kind, compressed } = format;
  const { handle, bytes } = attempt(name, () => {
    const handle = openSync(file.path, "r");
    return { handle, bytes: statSync(file.path).size };
  });
  try {
    if (kind === "parquet") {
      yield* parquetPieces({ file: name, handle, bytes, column: textField });
      return;
    }
    const progress = { bytesRead: 0 };
    const chunks = readChunks(handle, { name, progress });
    const text = compressed ? unpack(chunks, name) : chunks;
    if (kind === "lines") {
      for await (const pieces of linePieces(text, { file: name })) {
        yield { pieces, file: name, field: textField, ...progress };
      }
    } else {
      for await (const pieces of textPieces(text)) yield { pieces, file: name, ...progress };
    }
  } finally {
    closeSync(handle);
  }
}

async function* readChunks(
  handle: number,
  { name, progress }: { name: string; progress: { bytesRead: number } },
): AsyncGenerator<Uint8Array> {
  for (;;) {
    const chunk = new Uint8Array(CHUNK_BYTES);
    const length = attempt(
      name,
      () => readSync(handle, chunk, 0, chunk.length, progress.bytesRead),
    );
    if (length === 0) return;
    progress.bytesRead += length;
    yield chunk.subarray(0, length);
  }
}

/**
 * Unpacks gzip.  Files of several members, as parallel packers write them, are an error for the
 * platform's DecompressionStream.
 */
async function* unpack(
  chunks: AsyncIterable<Uint8Array>,
  name: string,
): AsyncGenerator<Uint8Array> {
  const gunzip = createGunzip({ chunkSize: 2 ** 18 });
  const feeding = (async () => {
    try {
      for await (const chunk of chunks) {
        if (!gunzip.write(chunk)) await new Promise((resolve) => gunzip.once("drain", resolve));
      }
      gunzip.end();
    } catch (error) {
      gunzip.destroy(error as Error);
    }
  })();
  try {
    for await (const chunk of gunzip) yield chunk;
    await feeding;
  } catch (error) {
    throw new Error(
      `Cannot read data file ${name} as it must be whole gzip: ${(error as Error).message}`,
    );
  } finally {
    gunzip.destroy();
  }
}

/** Does something with a file, and turns what goes wrong into a sentence that names it. */
function attempt<T>(path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (message.startsWith("Cannot ")) throw error;
    const reason = code === "ENOENT" ? "there is no such file" : message;
    throw new Error(`Cannot read data file ${path}: ${reason}`);
  }
}
