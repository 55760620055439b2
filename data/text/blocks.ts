import type { ConversationFields } from "./conversations.ts";

/**
 * Blocks of about a megabyte of documents, which one thread reads, and several clean and tokenize.
 *
 * @module
 */

/** A document as it stands in its file, or a part of one that is too long to be held whole. */
export interface Part {
  /** UTF-8, or a JSON value. */
  readonly bytes: Uint8Array;
  /** Its place in the file, in a `PlaceUnit`: a byte counted from 0, anything else from 1. */
  readonly place: number;
  /** Whether the document continues in the next part. */
  readonly open?: boolean;
}

/** Unit of places: the byte in a text; in other formats the record that holds a document. */
export type PlaceUnit = "byte" | "line" | "element" | "row" | "document";

/** What the parts of a file have in common. */
export interface PartsOrigin {
  /** Name of the file in messages. */
  readonly file: string;
  /** Unit of the places of its parts. */
  readonly placeUnit: PlaceUnit;
  /** The field or column that holds the documents; a nested one is `data.text`. */
  readonly field: string;
  /** The fields or columns in its place if the documents are conversations. */
  readonly conversation?: ConversationFields | undefined;
  /** Whether parts are JSON objects with these fields. */
  readonly isJson: boolean;
}

/** Consecutive documents of one file; the first and the last may be parts of longer ones. */
export interface Block extends PartsOrigin {
  /** The documents, one after the other. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Where each document ends in `bytes`. */
  readonly ends: readonly number[];
  /** The place of each document in the file. */
  readonly places: readonly number[];
  /** Whether the first document began in an earlier block. */
  readonly continued: boolean;
  /** Whether the last document continues in the next block. */
  readonly open: boolean;
  /** Bytes of all files read so far. */
  readonly bytesRead: number;
}

/** Bytes at which a block is full; its last part may exceed them. */
const BLOCK_BYTES = 2 ** 20;

/** Gathers the parts of a file into blocks. The bounds of blocks depend on the parts alone. */
export async function* blocksOf(
  parts: AsyncIterable<readonly Part[]>,
  origin: PartsOrigin,
  progress: { bytesRead: number },
): AsyncGenerator<Block> {
  let gathered: Part[] = [], length = 0, continued = false;
  const flush = (): Block => {
    const bytes = new Uint8Array(length), ends: number[] = [], places: number[] = [];
    let at = 0, open = false;
    for (const part of gathered) {
      if (open) ends.pop(); // its document continues
      else places.push(part.place);
      bytes.set(part.bytes, at);
      ends.push(at += part.bytes.length);
      open = part.open ?? false;
    }
    const { bytesRead } = progress;
    const block = { ...origin, bytesRead, bytes, ends, places, continued, open };
    [gathered, length, continued] = [[], 0, open];
    return block;
  };
  for await (const some of parts) {
    for (const part of some) {
      gathered.push(part);
      length += part.bytes.length;
      if (length >= BLOCK_BYTES) yield flush();
    }
  }
  if (gathered.length > 0) yield flush();
}
