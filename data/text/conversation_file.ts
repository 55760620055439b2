import { replaceText } from "../../files/disk.ts";
import { readText } from "../../files/json.ts";
import { type Conversation, conversationFields, conversationOf } from "./conversations.ts";
import { DataError } from "./data_error.ts";
import { fieldNames, inRow, listOfNames, parseRow, RowError } from "./rows.ts";

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
  const lines = readText(path).replace(/^\ufeff/, "").split("\n");
  const conversations = lines.flatMap((line, i) =>
    line.trim() === "" ? [] : inRow(`${path} as line ${i + 1}`, () => {
      const row = parseRow(line), { text: _, ...others } = row; // no texts are wanted here
      const fields = conversationFields(others);
      if (fields) return [conversationOf(row, fields) ?? []];
      const names = listOfNames(fieldNames(row)) || "none";
      throw new RowError(`hold a conversation in a field messages: its fields are ${names}`);
    })
  ).filter(({ length }) => length > 0);
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
