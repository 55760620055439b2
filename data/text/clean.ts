import { Buffer, isUtf8 } from "node:buffer";
import type { Block } from "./blocks.ts";
import { type Conversation, conversationOf } from "./conversations.ts";
import { DataError, TO_UTF8 } from "./data_error.ts";
import { inRow, parseRow, textIn } from "./rows.ts";

/** The clean documents of a block. */
export interface CleanBlock extends Pick<Block, "bytesRead"> {
  /** Texts or conversations; the first and the last may be parts of longer texts. */
  readonly documents: readonly (string | Conversation)[];
  /** The place in the file of each document. */
  readonly places: readonly number[];
  /**
   * What is counted and hashed: UTF-8, a zero byte after each document that ends here. A conversation is a JSON list of
   * roles and contents by turns.
   */
  readonly text: Uint8Array<ArrayBuffer>;
  /** Documents that end here. */
  readonly ended: number;
  /** Lines, elements or rows without a document, because their text is null or blank. */
  readonly blank: number;
  /** Conversations that are left out because the assistant says nothing in them. */
  readonly unanswered: number;
}

/**
 * Cleans the documents of a block: `\r\n` becomes `\n`, white space at both ends is removed, and blank documents are
 * dropped. Conversations stay as they are.
 */
export function clean(block: Block): CleanBlock {
  const { ends, continued, open, bytesRead } = block, last = ends.length - 1;
  const documents: (string | Conversation)[] = [], places: number[] = [];
  let blank = 0, unanswered = 0;
  for (const [i, place] of block.places.entries()) {
    let document = readDocument(block, i);
    if (typeof document === "string") {
      const isBeginning = i > 0 || !continued, isEnding = i < last || !open;
      if (isBeginning) document = document.trimStart();
      if (isEnding) document = document.trimEnd();
      if (isBeginning && isEnding && document === "") {
        if (block.placeUnit !== "byte") blank++;
        continue;
      }
    } else if (document.every(({ role }) => role !== "assistant")) {
      unanswered++;
      continue;
    }
    documents.push(document);
    places.push(place);
  }
  const ended = documents.length - (open ? 1 : 0);
  const texts = documents.map((document, i) =>
    (typeof document === "string"
      ? document
      : JSON.stringify(document.flatMap(({ role, content }) => [role, content]))) +
    (i < ended ? "\0" : "")
  );
  const text = new TextEncoder().encode(texts.join(""));
  return { documents, places, text, ended, blank, unanswered, bytesRead };
}

/** Reads a document of a block; one that is null is empty. */
function readDocument(block: Block, i: number): string | Conversation {
  const { file, placeUnit, field, conversation, isJson, ends } = block, place = block.places[i]!;
  const { buffer, byteOffset, length } = block.bytes.subarray(ends[i - 1] ?? 0, ends[i]);
  const bytes = Buffer.from(buffer, byteOffset, length),
    record = `${file} as ${placeUnit} ${place}`;
  const refuse = (what: string, at: number, advice = "") =>
    new DataError(
      (placeUnit === "byte"
        ? `${file} as it must be ${what}: the first byte that is not is at ${place + at}`
        : `${record} must be ${what}: it is not`) + advice,
    );
  if (!isUtf8(bytes)) {
    const replaced = Buffer.from(bytes.toString()); // has U+FFFD for what is not UTF-8
    const at = bytes.findIndex((byte, i) => byte !== replaced[i]);
    throw refuse("UTF-8", at, `; ${TO_UTF8}`);
  }
  let text = bytes.toString().replace(/^\ufeff/, ""); // of a file that was appended to another
  if (isJson) {
    const found = inRow(record, () => {
      const row = parseRow(text, placeUnit === "line" ? ONE_PER_LINE : undefined);
      return conversation ? conversationOf(row, conversation) ?? "" : textIn(row, field);
    });
    if (typeof found !== "string") return found;
    text = found;
  }
  if (text.includes(ZEROS)) throw refuse("text, not bytes of 0", bytes.indexOf(ZEROS));
  return text.replaceAll("\r\n", "\n");
}

const ONE_PER_LINE = "objects must be one per line, or all in one array";

/** Zero bytes in a row that no text has: a file that was not written to its end may be full of them. */
const ZEROS = "\0".repeat(16);
