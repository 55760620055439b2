import { Buffer, isUtf8 } from "node:buffer";
import { isObject, type JsonObject } from "../../files/json.ts";
import { printable, quoted } from "../../files/printable.ts";
import { type Block, startOf } from "./blocks.ts";
import {
  type Conversation,
  type ConversationFields,
  conversationOf,
  MalformedConversation,
  serializeConversation,
} from "./conversations.ts";
import { DataError } from "./data_error.ts";
import { fieldNames, fieldOf, listOfNames } from "./fields.ts";
import { TO_UTF8 } from "./formats.ts";
import { joinLineEnds } from "./readers.ts";

/** The clean text of a block. */
export interface CleanBlock {
  /** The documents, a zero byte after each that ends here; in the memory of the block. */
  readonly text: Uint8Array<ArrayBuffer>;
  /** Where each document ends in `text`. */
  readonly ends: readonly number[];
  /** The place in the file of each document. */
  readonly places: readonly number[];
  /** Documents that end here. */
  readonly ended: number;
  /** Lines, elements or rows without a document, because their text is null or blank. */
  readonly blank: number;
  /** Conversations that are left out because the assistant says nothing in them. */
  readonly unanswered: number;
}

/**
 * Cleans the documents of a block in place: `\r\n` becomes `\n`, white space at both ends is removed,
 * blank documents are dropped, and a zero byte is put after each. Conversations become what `serializeConversation()`
 * writes.
 *
 * @throws {DataError} if a document is not text.
 */
export function clean(block: Block): CleanBlock {
  const { bytes, continued, open } = block;
  const ends: number[] = [], places: number[] = [], last = block.ends.length - 1;
  // the spare byte of each document keeps `at` before the bytes that are not cleaned yet
  let at = 0, blank = 0, unanswered = 0;
  block.ends.forEach((rawEnd, i) => {
    const isBeginning = i > 0 || !continued, isEnding = i < last || !open;
    let start = startOf(block, i);
    const unwrapped = unwrap(block, i, rawEnd);
    if (unwrapped === undefined) {
      unanswered++;
      return;
    }
    let end = unwrapped;
    const hasReturns = checkText(block, i, end);
    while (isBeginning && start < end) {
      const width = widthOfSpace(bytes, start);
      if (width === 0) break;
      start += width;
    }
    while (isEnding && end > start) {
      let character = end - 1;
      while ((bytes[character]! & 0xc0) === 0x80) character--;
      if (widthOfSpace(bytes, character) === 0) break;
      end = character;
    }
    if (isBeginning && isEnding && start === end) {
      if (block.placeUnit !== "byte") blank++;
      return;
    }
    bytes.copyWithin(at, start, end);
    end = at + end - start;
    if (hasReturns) end = joinLineEnds(bytes, at, end);
    ends.push(end);
    places.push(block.places[i]!);
    if (isEnding) bytes[end] = 0;
    at = isEnding ? end + 1 : end;
  });
  const ended = ends.length - (open ? 1 : 0);
  return { text: bytes.subarray(0, at), ends, places, ended, blank, unanswered };
}

/** Zero bytes in a row that no text has: a file that was not written to its end may be full of them. */
const ZEROS = "\0".repeat(16);

/**
 * Checks that a document is text.
 *
 * @returns whether it contains returns.
 */
function checkText(block: Block, i: number, end: number): boolean {
  const { bytes, places, placeUnit, file } = block;
  const start = startOf(block, i);
  const document = Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start);
  const fail = (requirement: string, byte: number, advice = "") =>
    new DataError(
      (placeUnit === "byte"
        ? `${file} as it must be ${requirement}: ` +
          `the first byte that is not is at ${places[i]! + byte}`
        : `${file} as ${placeUnit} ${places[i]} must be ${requirement}: it is not`) + advice,
    );
  if (!isUtf8(document)) {
    const replaced = Buffer.from(document.toString()); // has U+FFFD for what is not UTF-8
    throw fail("UTF-8", document.findIndex((byte, i) => byte !== replaced[i]), `; ${TO_UTF8}`);
  }
  const bytesAsText = document.toString("latin1"); // searched faster than bytes
  const zeros = bytesAsText.indexOf(ZEROS);
  if (zeros >= 0) throw fail("text, not bytes of 0", zeros);
  return bytesAsText.includes("\r");
}

/**
 * Replaces a JSON object by the document in it, which is never longer.
 *
 * @returns the new end; undefined for a conversation in which the assistant says nothing.
 */
function unwrap(block: Block, i: number, end: number): number | undefined {
  const { bytes, field, conversation } = block, start = startOf(block, i);
  let document: string | undefined;
  if (conversation) {
    const messages = readMessages(block, i, conversation);
    if (messages?.every(({ role }) => role !== "assistant")) return undefined;
    document = messages && serializeConversation(messages);
  } else if (field === undefined) {
    return end;
  } else {
    document = readField(block, i, field);
  }
  if (document === undefined) return start;
  return start + new TextEncoder().encodeInto(document, bytes.subarray(start, end)).written;
}

/** The conversation in a JSON object; undefined if it is null. */
function readMessages(
  block: Block,
  i: number,
  fields: ConversationFields,
): Conversation | undefined {
  try {
    return conversationOf(readObject(block, i), fields);
  } catch (error) {
    if (!(error instanceof MalformedConversation)) throw error;
    const { file, placeUnit, places } = block;
    throw new DataError(`${file} as ${placeUnit} ${places[i]} must ${error.message}`);
  }
}

/** The text in a field of a JSON object; undefined if it is null. */
function readField(block: Block, i: number, field: string): string | undefined {
  const { file, placeUnit, places } = block, value = readObject(block, i);
  const text = fieldOf(value, field);
  if (text === null) return undefined;
  if (typeof text === "string") return text;
  throw new DataError(
    `${file} as ${placeUnit} ${places[i]} must hold a string in its field ${field}: ` +
      (text === undefined ? "" : `current value is ${quoted(text, 40)}; `) +
      `its fields are ${listOfNames(fieldNames(value))}; choose with --text-field`,
    { hint: "Conversations have a field messages or conversations, or prompt and completion" },
  );
}

/** The JSON object of a line, element or row. */
function readObject(block: Block, i: number): JsonObject {
  const { bytes, ends, places, placeUnit, file } = block;
  const fail = (requirement: string, value: string) =>
    new DataError(`${file} as ${placeUnit} ${places[i]} must ${requirement}: ${value}`);
  const start = startOf(block, i);
  const json = bytes.subarray(start, ends[i]!);
  if (!isUtf8(json)) throw fail("be UTF-8", "it is not");
  let value: unknown;
  try {
    value = parseJson(new TextDecoder().decode(json));
  } catch (error) {
    const reason = printable((error as Error).message.split("\n")[0]!);
    throw fail("be JSON", placeUnit === "line" ? `${reason}; ${ONE_PER_LINE}` : reason);
  }
  if (isObject(value)) return value;
  throw fail("be a JSON object", `current value is ${quoted(value, 40)}`);
}

const ONE_PER_LINE = "objects must be one per line, or all in one array";

/** Parses JSON; NaN, Infinity and -Infinity, which Python writes, become null. */
function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    if (!/NaN|Infinity/.test(text)) throw error;
    return JSON.parse(withoutNaN(text));
  }
}

/** Replaces NaN and the infinities outside strings; a pattern that matches whole strings overflows the stack. */
function withoutNaN(json: string): string {
  let isInString = false;
  return json.replace(/\\[^]|"|\bNaN\b|-?\bInfinity\b/g, (found) => {
    if (found === '"') isInString = !isInString;
    return isInString || found === '"' || found[0] === "\\" ? found : "null";
  });
}

/** Bytes of the character at a place if `String.trim()` removes it; otherwise 0. */
function widthOfSpace(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  if (first < 0x80) return first === 0x20 || (first >= 0x09 && first <= 0x0d) ? 1 : 0;
  const width = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  const character = Buffer.from(bytes.subarray(at, at + width)).toString();
  return character.trim() === "" ? width : 0;
}
