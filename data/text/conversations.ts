import { isObject, type JsonObject } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { fieldOf, RowError } from "./rows.ts";

/**
 * Conversations: messages in turn, each with the role of who says it; and how rows of data hold them.
 *
 * @module
 */

/** One message of a conversation. */
export interface Message {
  /** Who says it. Chat templates know `system`, `user` and `assistant`; some know others. */
  readonly role: "system" | "user" | "assistant" | (string & Record<never, never>);
  /** What is said. */
  readonly content: string;
}

/** Messages in the order in which they were said. */
export type Conversation = readonly Message[];

/** Fields of a row that hold a conversation: one a list of messages, or two a question and its answer. */
export type ConversationFields =
  | { readonly messages: string }
  | { readonly prompt: string; readonly completion: string };

/** Fields that hold a list of messages, by OpenAI's and by ShareGPT's name. */
const LISTS = ["messages", "conversations"] as const;

/** The fields of a question and its answer. */
const PAIR = { prompt: "prompt", completion: "completion" } as const;

/** Fields beside the messages: an instruction for the assistant, and tools, which are refused. */
const SYSTEM = "system", TOOLS = ["tools", "functions"] as const;

/** Roles by the names that OpenAI has for them. */
const OPENAI_ROLES: Readonly<Record<string, Message["role"]>> = {
  system: "system",
  developer: "system",
  user: "user",
  assistant: "assistant",
};

/** Roles by the names that data has for them, those of ShareGPT among them. */
const ROLES: typeof OPENAI_ROLES = {
  ...OPENAI_ROLES,
  human: "user",
  gpt: "assistant",
  model: "assistant",
};

/** Roles and fields of messages that call tools. */
const TOOL_ROLES = ["tool", "function", "function_call", "observation"];
const TOOL_FIELDS = ["tool_calls", "function_call"] as const;

/**
 * The fields by which rows hold conversations.
 *
 * @param row the first row, or one whose values have the types of those of the file.
 * @param textField the field that the user names.
 * @returns undefined if rows hold texts: they do if they have a field `text` and the user names no list.
 */
export function conversationFields(
  row: object,
  textField?: string,
): ConversationFields | undefined {
  const has = (name: string) => Object.hasOwn(row, name);
  if (textField !== undefined) {
    return Array.isArray(fieldOf(row, textField)) ? { messages: textField } : undefined;
  }
  if (has("text")) return undefined;
  const list = LISTS.find(has);
  if (list !== undefined) return { messages: list };
  return Object.values(PAIR).every(has) ? PAIR : undefined;
}

/** The columns of a table that a conversation is read from, if they are there. */
export function conversationColumns(fields: ConversationFields): string[] {
  return [...Object.values(fields), SYSTEM, ...TOOLS];
}

/**
 * The conversation that a row holds. Values may be written as JSON, as tables without nested values have them.
 *
 * @returns undefined if the row holds null.
 * @throws {MalformedMessage} if it does not hold a conversation.
 */
export function conversationOf(
  row: JsonObject,
  fields: ConversationFields,
): Conversation | undefined {
  refuseTools(row, TOOLS, "");
  const messages = "messages" in fields
    ? listOf(fieldOf(row, fields.messages), fields.messages)
    : pairOf(row, fields);
  const system = row[SYSTEM];
  if (!messages || isNothing(system)) return messages;
  if (typeof system === "string") return [{ role: "system", content: system }, ...messages];
  throw new MalformedMessage(`its field ${SYSTEM}`, "a string", system);
}

const NO_TOOLS = "tools are not supported: leave out conversations that have them";
const NO_WEIGHTS = "the loss counts all that the assistant says: leave out what it must not learn";
const EXAMPLE = 'a message is {"role": "user", "content": "Hello"}';

function isNothing(value: unknown): boolean {
  return value === undefined || value === null || value === "" ||
    Array.isArray(value) && value.length === 0;
}

function refuseTools(fields: JsonObject, names: readonly string[], path: string): void {
  const name = names.find((name) => !isNothing(fields[name]));
  if (name === undefined) return;
  throw new MalformedMessage(`${path}${name}`, "nothing", fields[name], NO_TOOLS);
}

/** A question and its answer, each a string or a list of messages. */
function pairOf(
  row: JsonObject,
  { prompt, completion }: { prompt: string; completion: string },
): Conversation | undefined {
  const parts = ([[prompt, "user"], [completion, "assistant"]] as const).map(([field, role]) => {
    const value = fieldOf(row, field);
    return typeof value === "string" ? [{ role, content: value }] : listOf(value, field);
  });
  return parts.includes(undefined) ? undefined : parts.flatMap((messages) => messages!);
}

function listOf(value: unknown, field: string): Conversation | undefined {
  const list = typeof value === "string" ? parsed(value) : value;
  if (list === null) return undefined;
  if (Array.isArray(list)) return list.map((item, i) => messageOf(item, `${field}[${i}]`));
  throw new MalformedMessage(`its field ${field}`, "a list of messages", value);
}

function parsed(json: string): unknown {
  if (json === "") return null;
  try {
    return JSON.parse(json);
  } catch {
    return undefined;
  }
}

function messageOf(item: unknown, place: string): Message {
  const fields = isObject(item) ? item : {}, { weight } = fields;
  if (!isNothing(weight) && weight !== 1) {
    throw new MalformedMessage(`${place}.weight`, "nothing but 1", weight, NO_WEIGHTS);
  }
  refuseTools(fields, TOOL_FIELDS, `${place}.`);
  const isShareGpt = !("role" in fields) && "from" in fields;
  return readMessage(item, place, {
    roles: ROLES,
    ...isShareGpt ? { roleField: "from", contentField: "value" } : {},
  });
}

/** A value that is no message, or not a part of one. */
export class MalformedMessage extends RowError {
  /** Where the value is: `messages[0].role`. */
  readonly place: string;
  /** What must be there. */
  readonly must: string;
  /** What is there. */
  readonly value: unknown;

  /** An error that says what must be in a place, and what to do if it stands in a row of data. */
  constructor(place: string, must: string, value: unknown, advice: string = EXAMPLE) {
    const current = value === undefined ? "it is absent" : `current value is ${quoted(value, 40)}`;
    super(`hold ${must} in ${place}: ${current}; ${advice}`);
    this.place = place;
    this.must = must;
    this.value = value;
  }
}

/**
 * A message as OpenAI writes it. Its content may be a list of parts, of which each is a text; these are joined.
 *
 * @param place where it is, for the error: `messages[0]`.
 * @param options.roles the roles by the names that it may have.
 * @throws {MalformedMessage} if it has another shape.
 */
export function readMessage(
  message: unknown,
  place: string,
  { roles = OPENAI_ROLES, roleField = "role", contentField = "content" } = {},
): Message {
  if (!isObject(message)) {
    throw new MalformedMessage(place, "an object with role and content", message);
  }
  const { [roleField]: role, [contentField]: content } = message;
  if (typeof role !== "string" || !Object.hasOwn(roles, role)) {
    const must = `one of ${Object.keys(roles).join(", ")}`;
    const advice = TOOL_ROLES.includes(String(role)) ? NO_TOOLS : EXAMPLE;
    throw new MalformedMessage(`${place}.${roleField}`, must, role, advice);
  }
  return { role: roles[role]!, content: contentOf(content, `${place}.${contentField}`) };
}

function contentOf(content: unknown, place: string): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content) || content.length === 0) {
    throw new MalformedMessage(place, "a text or a list of texts", content);
  }
  return content.map((part: unknown, i) => {
    const at = `${place}[${i}]`;
    if (!isObject(part)) throw new MalformedMessage(at, "an object with type and text", part);
    const { type, text } = part;
    if (type !== "text") {
      throw new MalformedMessage(`${at}.type`, '"text", as others are not supported', type);
    }
    if (typeof text === "string") return text;
    throw new MalformedMessage(`${at}.text`, "a text", text);
  }).join("");
}
