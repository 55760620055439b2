import { replaceText } from "../../files/disk.ts";
import { parseJsonObject, readText } from "../../files/json.ts";
import { printable } from "../../files/printable.ts";
import { DataError } from "./data_error.ts";
import {
  type Conversation,
  conversationFields,
  conversationOf,
  MalformedConversation,
} from "./conversations.ts";

/**
 * Whole files of conversations, one per line of JSON, as `--data` reads them.
 *
 * @module
 */

/**
 * Reads all conversations of a file.
 *
 * @throws {UserError} if it cannot be read, or if a line that is not blank does not hold a conversation.
 */
export function readConversations(path: string): Conversation[] {
  const text = readText(path).replace(/^\ufeff/, "");
  const conversations = text.split("\n").flatMap((line, i) => {
    if (line.trim() === "") return [];
    const place = `line ${i + 1}`, row = parseJsonObject(line, `${place} of ${path}`);
    const names = Object.keys(row);
    const fields = conversationFields(names.filter((name) => name !== "text")); // no texts are wanted here
    if (!fields) {
      throw new DataError(
        `${path} as ${place} must hold a conversation in a field messages: its fields are ` +
          (printable(names.join(", ")) || "none"),
      );
    }
    try {
      return [conversationOf(row, fields) ?? []];
    } catch (error) {
      if (!(error instanceof MalformedConversation)) throw error;
      throw new DataError(`${path} as ${place} must ${error.message}`);
    }
  }).filter(({ length }) => length > 0);
  if (conversations.length > 0) return conversations;
  throw new DataError(`${path} as it must hold a conversation: it has none`);
}

/**
 * Writes a file of conversations, with OpenAI's field `messages`.
 *
 * @throws {UserError} if the system refuses.
 */
export function saveConversations(path: string, conversations: readonly Conversation[]): void {
  replaceText(path, conversations.map((messages) => `${JSON.stringify({ messages })}\n`).join(""));
}
