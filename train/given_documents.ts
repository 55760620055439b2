import type { Conversation } from "../data/text/conversations.ts";
import { conversationsOf, type Documents, documentsOf } from "../data/text/documents.ts";
import { quoted } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import type { TrainOptions } from "./options.ts";

/** Documents of a program: all are texts, or all are conversations. */
export type Texts = Iterable<string | Conversation> | AsyncIterable<string | Conversation>;

/** @throws {UserError} if documents are given, and named as well. */
export function checkGivenOnce(
  { texts, data, validationTexts, validationData }:
    & { texts: Texts | undefined; validationTexts: Texts | undefined }
    & Partial<Pick<TrainOptions, "data" | "validationData">>,
): void {
  if (texts !== undefined && data !== undefined) {
    throw new UserError(
      "Cannot train on texts and data as only one must be given: both are given",
    );
  }
  if (validationTexts !== undefined && validationData !== undefined) {
    throw new UserError(
      "Cannot validate with validationTexts and validationData as only one must be given: " +
        "both are given",
    );
  }
}

/**
 * The documents that a program gives; undefined if it gives none.
 *
 * @throws {UserError} if they are not all texts, or all conversations; the reason of `signal` if that aborts.
 */
export async function givenDocuments(
  name: string,
  texts: Texts | undefined,
  signal: AbortSignal | undefined,
): Promise<Documents | undefined> {
  if (texts === undefined) return undefined;
  const check = (ok: boolean, requirement: string, value: unknown) => {
    if (ok) return;
    throw new UserError(
      `Cannot use ${name} as ${requirement}: current value is ${quoted(value)}`,
    );
  };
  const { [Symbol.iterator]: iterator, [Symbol.asyncIterator]: asyncIterator } = Object(texts);
  // a single text is an iterable of its characters
  const isIterable = typeof texts !== "string" && Boolean(iterator ?? asyncIterator);
  check(isIterable, "it must be an iterable of strings", texts);
  const strings: string[] = [], conversations: Conversation[] = [];
  for await (const text of texts) {
    signal?.throwIfAborted();
    const number = strings.length + conversations.length + 1;
    if (typeof text === "string") strings.push(text);
    else if (Array.isArray(text)) conversations.push(text);
    else check(false, `text ${number} must be a string, or a list of messages`, text);
    const isMixed = strings.length > 0 && conversations.length > 0;
    check(!isMixed, `text ${number} must be of the kind of those before it`, text);
  }
  return conversations.length > 0
    ? conversationsOf(name, conversations)
    : documentsOf(name, strings);
}
