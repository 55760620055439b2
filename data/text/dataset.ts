import { conversationsOf, type Documents, documentsOf } from "./documents.ts";
import { type DataOptions, filesOfHub, findFiles, isSamePath, readFiles } from "./files.ts";
import { SAMPLE_COUNT, sampleStories } from "./stories.ts";
import { sampleConversations } from "./story_questions.ts";

/**
 * Data as a user names it.
 *
 * @module
 */

/** The built-in stories or conversations, TinyStories, at a revision if wanted, or names of files. */
export type DataSpec =
  | "sample"
  | "conversations"
  | "tinystories"
  | `tinystories@${string}`
  | readonly string[];

/** The documents of a data set. */
export interface Dataset {
  /** Documents to train on. */
  readonly training: Documents;
  /** Documents for validation, if the data set has them. */
  readonly validation?: Documents;
  /** The name of the data, with each file of the hub at its commit and other files by absolute paths. */
  readonly data: DataSpec;
  /** In the same way the name of the validation text, if it has a separate one. */
  readonly validationData?: DataSpec;
}

/** How to find and read data, and the text to validate with. */
export interface DatasetOptions extends DataOptions {
  /** All documents of this text are for validation, in place of those that the data set may have. */
  readonly validationData?: DataSpec | Documents | undefined;
}

/** Whether a word names a data set, and not a file. */
export function namesDataSet(word: string): boolean {
  return /^(sample|conversations|tinystories(@.+)?)$/.test(word);
}

/** The name of data that the words of a command line mean. */
export function parseDataSpec(words: readonly string[]): DataSpec {
  return words.length === 1 && namesDataSet(words[0]!) ? words[0] as DataSpec : words;
}

/**
 * The name `asked`, spelled as `found` if both mean the same data: a revision that `asked` omits is that of
 * `found`, and two spellings of a path are the same path.
 */
export function asFound(asked: DataSpec, found: DataSpec): DataSpec {
  if (typeof asked === "string" || typeof found === "string") {
    return typeof asked === typeof found && isSameName(asked as string, found as string)
      ? found
      : asked;
  }
  return asked.map((name, i) => i < found.length && isSameName(name, found[i]!) ? found[i]! : name);
}

function isSameName(asked: string, found: string): boolean {
  return isSamePath(asked, found) || asked === found.replace(/^(hf:.*|tinystories)@.*$/, "$1");
}

/** The seed of the data sets `sample` and `conversations`: each is one fixed text. */
const SAMPLE_SEED = 1;

/**
 * Finds data: the built-in stories, or the built-in conversations about them; TinyStories, which is downloaded from the
 * Hugging Face hub; files; or documents that are there already.
 *
 * Each file is a path, a pattern such as `books/*.txt.gz`, or `hf:OWNER/NAME/FILE`, with or without
 * `@REVISION`, in which FILE may be a pattern too. `FORMATS` lists the formats; a file that is named more
 * than once is read once. White space around documents and empty documents are dropped; line ends become
 * `\n`.
 *
 * @throws {DataError} if a file cannot be found or read, or its format is not supported; {HubError} if it
 * cannot be downloaded.
 */
export async function openDataset(
  data: DataSpec | Documents,
  options: DatasetOptions = {},
): Promise<Dataset> {
  const training = await openPart(data, "training", options), { validationData } = options;
  const hasValidation = typeof training.data === "string" && training.data !== "sample";
  const validation = validationData !== undefined || hasValidation
    ? await openPart(validationData ?? training.data, "validation", options)
    : undefined;
  return {
    training: training.documents,
    data: training.data,
    ...(validation && { validation: validation.documents }),
    ...(validation && validationData !== undefined && { validationData: validation.data }),
  };
}

/** The documents that a name means, and the name as in `Dataset`; of a data set of several parts those of one part. */
async function openPart(
  data: DataSpec | Documents,
  part: "training" | "validation",
  options: DataOptions,
): Promise<{ documents: Documents; data: DataSpec }> {
  if (data === "sample") {
    const stories = sampleStories({ seed: SAMPLE_SEED, count: SAMPLE_COUNT });
    return { documents: documentsOf("sample", stories), data };
  }
  if (data === "conversations") {
    const isTraining = part === "training";
    const conversations = sampleConversations({
      seed: SAMPLE_SEED,
      count: isTraining ? SAMPLE_COUNT : SAMPLE_COUNT / 20,
      unseen: !isTraining,
    });
    const name = isTraining ? data : `${data}, validation`;
    return { documents: conversationsOf(name, conversations), data };
  }
  if (typeof data === "object" && "read" in data) return { documents: data, data: [data.name] };
  if (typeof data !== "string") {
    const { files, pinned } = await findFiles(data, options);
    return { documents: readFiles(files), data: pinned };
  }
  // Eldan and Li 2023, https://arxiv.org/abs/2305.07759
  const [, revision = "main"] = data.split("@"), isV1 = options.dataVersion === "v1";
  const edition = isV1 ? "TinyStories" : "TinyStoriesV2-GPT4";
  const file = `${edition}-${part === "training" ? "train" : "valid"}.txt`;
  const spec = `hf:roneneldan/TinyStories/${file}@${revision}`;
  const { files, pinned } = await filesOfHub(spec, options);
  const title = isV1 ? "tinystories v1" : "tinystories";
  const name = part === "training" ? title : `${title}, validation`;
  const [, commit] = pinned.split("@");
  return { documents: { ...readFiles(files), name }, data: `tinystories@${commit!}` };
}
