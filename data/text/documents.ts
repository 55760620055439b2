import { createHash } from "node:crypto";
import { UserError } from "../../files/user_error.ts";
import { type Block, blocksOf, type PartsOrigin } from "./blocks.ts";
import { clean, type CleanBlock } from "./clean.ts";
import type { Conversation } from "./conversations.ts";
import { SEPARATOR } from "./readers.ts";

/** A sequence of documents that can be read any number of times. */
export interface Documents {
  /** Name in messages. */
  readonly name: string;
  /** Identifies the content, in 64 hexadecimal digits; cheap to compute. */
  readonly fingerprint: string;
  /** Bytes to read, compressed if the files are. */
  readonly bytes: number;
  /** Lines that end in the first 64 KiB, if they come from one text file, where nothing but marks separates documents. */
  readonly lines?: number;
  /** Whether they are conversations. */
  readonly areConversations?: boolean;
  /** Reads the documents from the first. */
  read(): AsyncIterable<Block>;
}

/** Progress of work on data: its download, its tokenization, the training of a tokenizer. */
export interface DataProgress {
  /** The work; the last two stages train a tokenizer. */
  readonly stage: "downloading" | "tokenizing" | "reading" | "merging tokens of";
  /** The file or the documents. */
  readonly name: string;
  /** The unit if it is not bytes. */
  readonly counted?: "tokens";
  /** Bytes or tokens that are done. */
  readonly doneBytes: number;
  /** Bytes or tokens in all. */
  readonly totalBytes: number;
}

/** Callbacks during the reading of documents, and how to end it. */
export interface ReadOptions {
  /** Ends the work. */
  readonly signal?: AbortSignal | undefined;
  /** Is called with the progress of the work. */
  readonly onProgress?: ((progress: DataProgress) => void) | undefined;
  /** Is called with sentences for the user: how many rows hold no text. */
  readonly onNotice?: ((sentence: string) => void) | undefined;
}

/** Documents that are in memory. */
export function documentsOf(name: string, texts: readonly string[]): Documents {
  return inMemory(name, texts, { isJson: false });
}

/** Conversations that are in memory. */
export function conversationsOf(name: string, conversations: readonly Conversation[]): Documents {
  const rows = conversations.map((messages) => JSON.stringify({ messages }));
  const conversation = { messages: "messages" };
  return { ...inMemory(name, rows, { isJson: true, conversation }), areConversations: true };
}

function inMemory(
  name: string,
  texts: readonly string[],
  how: Pick<PartsOrigin, "isJson" | "conversation">,
): Documents {
  const hash = createHash("sha256"), encoder = new TextEncoder();
  for (const text of texts) hash.update(text).update("\0");
  return {
    name,
    bytes: texts.reduce((sum, text) => sum + text.length, 0),
    fingerprint: hash.digest("hex"),
    read() {
      const progress = { bytesRead: 0 };
      async function* parts() {
        for (const [i, text] of texts.entries()) {
          progress.bytesRead += text.length;
          yield [{ bytes: encoder.encode(text), place: i + 1 }];
        }
      }
      const origin = { file: name, placeUnit: "document", field: "text", ...how } as const;
      return blocksOf(parts(), origin, progress);
    },
  };
}

/**
 * Passes on the blocks of documents, and reports the progress and how many rows hold no text.
 *
 * @param blocks those of `documents`, cleaned and perhaps tokenized.
 * @throws {UserError} if no row is used; the reason of `signal` if it aborts.
 */
export async function* reported<Cleaned extends Omit<CleanBlock, "documents" | "places">>(
  documents: Documents,
  stage: DataProgress["stage"],
  blocks: AsyncIterable<Cleaned>,
  { signal, onProgress, onNotice }: ReadOptions,
): AsyncGenerator<Cleaned> {
  const { name, bytes: totalBytes } = documents;
  let rows = 0, blank = 0, unanswered = 0;
  for await (const block of blocks) {
    onProgress?.({ stage, name, doneBytes: block.bytesRead, totalBytes });
    blank += block.blank;
    unanswered += block.unanswered;
    rows += block.blank + block.unanswered + block.ended;
    yield block;
    signal?.throwIfAborted();
  }
  checkRows(documents, { blank, unanswered, rows }, onNotice);
}

/**
 * The texts of documents; a long document gives several texts, each of which ends with a word. A conversation gives
 * the contents of its messages.
 */
export async function* readTexts(
  documents: Documents,
  options: ReadOptions = {},
): AsyncGenerator<string> {
  async function* blocks() {
    for await (const block of documents.read()) yield clean(block);
  }
  for await (const block of reported(documents, "reading", blocks(), options)) {
    for (const document of block.documents) {
      if (typeof document === "string") yield document;
      else yield* document.map(({ content }) => content);
    }
  }
}

/** Lines of a text file above which a notice says that they are one document. */
const MANY_LINES = 100;

/**
 * Reports how many rows hold no text, in how many conversations the assistant says nothing, and whether a text file of
 * many lines is one document.
 *
 * @throws {UserError} if no row is used.
 */
function checkRows(
  { name, lines = 0 }: Documents,
  { blank, unanswered, rows }: { blank: number; unanswered: number; rows: number },
  onNotice: ReadOptions["onNotice"],
): void {
  if (rows === blank) {
    throw new UserError(
      `Cannot use ${name} as data must hold text: ` +
        (rows > 0 ? `the text of all its ${rows} rows is null or blank` : "it is empty"),
    );
  }
  if (rows === blank + unanswered) {
    throw new UserError(
      `Cannot use ${name} as the assistant must say something in its conversations: ` +
        `it does in none of ${unanswered}`,
      { hint: `Answers are messages like {"role": "assistant", "content": "Hello"}` },
    );
  }
  if (blank > 0) {
    onNotice?.(`skipped ${blank} of ${rows} rows of ${name}: their text is null or blank`);
  }
  if (unanswered > 0) {
    onNotice?.(
      `left out ${unanswered} of ${rows - blank} conversations of ${name}: ` +
        "the assistant says nothing in them",
    );
  }
  if (rows - blank === 1 && lines > MANY_LINES) {
    onNotice?.(`${name} is one document: if it holds several, put ${SEPARATOR} between them`);
  }
}
