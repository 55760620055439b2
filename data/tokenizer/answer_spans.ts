import { Buffer } from "node:buffer";
import { UserError } from "../../files/user_error.ts";
import type { Conversation } from "../text/conversations.ts";
import type { Rendered, Span } from "./jinja.ts";
import type { Tokenizer } from "./tokenizer.ts";

/**
 * What the assistant says in a conversation: which parts of its text, if the template does not mark them, and which of
 * its tokens.
 *
 * @module
 */

/** A conversation that a chat template cannot write. */
export class ConversationError extends UserError {
  /** Tells this error from others without `instanceof`. */
  override name = "ConversationError";
  /** What it must be, and why it is not: `it must fit the chat template: it says "Roles must alternate"`. */
  readonly reason: string;

  /** An error whose sentence is `Cannot encode a conversation as` and the reason. */
  constructor(reason: string) {
    super(`Cannot encode a conversation as ${reason}`);
    this.reason = reason;
  }
}

/**
 * Renders a conversation; with the second argument, up to where an answer begins.
 *
 * @throws {ConversationError} if the template refuses it.
 */
export type RenderConversation = (messages: Conversation, asks?: boolean) => Rendered;

/** A conversation, its text, and what rendered it. */
interface WholeConversation {
  readonly text: string;
  readonly render: RenderConversation;
  /** The text that ends messages, if there is one. */
  readonly end: string | undefined;
}

/** Messages up to which all beginnings of a conversation are rendered, which takes quadratic time. */
const MOST_WHOLE = 16;

/** Messages before an answer with which it is rendered, at most. */
const MOST_BEFORE = 8;

/**
 * What assistants' messages add to the text of a conversation: what they have beyond the text that asks for them. If a
 * template writes an answer in another way once the conversation continues, as Qwen3's leaves out thoughts, the answer
 * ends with the token that ends messages.
 *
 * An answer of a long conversation is rendered with the turn before it alone. All that the parts add must make up the
 * text; if it does not, as in a template that numbers the turns, the whole beginnings are rendered.
 *
 * @throws {ConversationError} if the template writes the beginning of the conversation in several ways.
 */
export function addedSpans(messages: Conversation, whole: WholeConversation): Span[] {
  if (messages.length > MOST_WHOLE) {
    try {
      return spansByParts(messages, whole, { isWhole: false });
    } catch (error) {
      if (!(error instanceof ConversationError)) throw error; // also of a template that refuses a part
    }
  }
  return spansByParts(messages, whole, { isWhole: true });
}

function spansByParts(
  messages: Conversation,
  { text, render, end }: WholeConversation,
  { isWhole }: { isWhole: boolean },
): Span[] {
  const refuse = (i: number) =>
    new ConversationError(
      `the chat template must mark what the assistant says with {% generation %}, or write the ` +
        `beginning of a conversation always alike: it does not up to message ${i + 1} of ` +
        `${messages.length}`,
    );
  const firstTurn = messages.findIndex(({ role }) => role !== "system");
  if (firstTurn < 0) return []; // nothing but the system
  const head = messages.slice(0, firstTurn);
  /** The text of the system's messages at the beginning and of a part of the others. */
  const textOf = (from: number, to: number, asks = false) =>
    !asks && from === firstTurn && to === messages.length
      ? text
      : render([...head, ...messages.slice(from, to)], asks).text;
  const spans: Span[] = [];
  let from = firstTurn, before = "", start = 0; // of an answer: its part, the text of that, where the answer begins
  /** Units by which a text of the part exceeds the one before the answer; undefined if they are not those of the whole. */
  const added = (longer: string): number | undefined => {
    const isKept = longer.startsWith(before) && text.startsWith(longer.slice(before.length), start);
    return isKept ? longer.length - before.length : undefined;
  };
  let turn = firstTurn, turnBefore = firstTurn, isFirst = true;
  messages.forEach(({ role }, i) => {
    if (role === "user") [turnBefore, turn] = [turn, i];
    if (role !== "assistant") return;
    const asking = textOf(from, i, true), units = added(asking);
    if (units === undefined) throw refuse(i);
    start += units;
    before = asking;
    if (!isWhole && !isFirst) {
      from = Math.max(turnBefore, i - MOST_BEFORE);
      before = textOf(from, i, true);
    }
    isFirst = false;
    const kept = added(textOf(from, i + 1));
    if (kept !== undefined) {
      if (kept > 0) spans.push({ start, end: start + kept });
      return;
    }
    const at = end === undefined ? -1 : text.indexOf(end, start);
    if (at < 0) throw refuse(i);
    spans.push({ start, end: at + end!.length });
  });
  const isComplete = isWhole ||
    start + (added(textOf(from, messages.length)) ?? NaN) === text.length;
  if (!isComplete) throw refuse(messages.length - 1);
  return spans;
}

/**
 * The tokens that hold these parts of a text.
 *
 * The bytes of tokens say which, if the tokenizer changes no byte. Otherwise a part begins at the first token that
 * differs from those of the text before it.
 */
export function spansOfTokens(
  tokenizer: Tokenizer,
  { text, ids, spans }: { text: string; ids: readonly number[]; spans: readonly Span[] },
): Span[] {
  const tokensBefore = countByBytes(tokenizer, text, ids) ?? countByEncoding(tokenizer, text, ids);
  return spans.map(({ start, end }) => ({
    start: tokensBefore(start),
    end: tokensBefore(end, { withCut: true }),
  })).filter(({ start, end }) => start < end);
}

/**
 * Counts the tokens of a text that end at a place or before it; places ascend.
 *
 * @param options.withCut whether a token counts whose last bytes lie after the place.
 */
type TokensBefore = (place: number, options?: { withCut?: boolean }) => number;

/** Counts by the places where tokens end in UTF-8; undefined if the tokens do not give back the bytes of the text. */
function countByBytes(
  { byteLength, decode }: Tokenizer,
  text: string,
  ids: readonly number[],
): TokensBefore | undefined {
  const ends = new Uint32Array(ids.length);
  let end = 0;
  ids.forEach((id, i) => {
    end += byteLength(id) || Buffer.byteLength(decode([id])); // special tokens have no bytes in a text
    ends[i] = end;
  });
  if (end !== Buffer.byteLength(text)) return undefined;
  let units = 0, bytes = 0, token = 0;
  return (place, { withCut = false } = {}) => {
    bytes += Buffer.byteLength(text.slice(units, place));
    units = place;
    while (token < ids.length && ends[token]! <= bytes) token++;
    const isCut = token < ids.length && (token === 0 ? 0 : ends[token - 1]!) < bytes;
    return withCut && isCut ? token + 1 : token;
  };
}

/**
 * Counts by encoding the text up to the place: the tokens that are those of the whole text. What precedes a special token
 * is encoded once, as the tokens on both sides of it do not depend on each other.
 */
function countByEncoding(
  { encode, byteLength, decode }: Tokenizer,
  text: string,
  ids: readonly number[],
): TokensBefore {
  let from = 0, first = 0; // the place of the last special token that was found, and its index
  /** The tokens from there up to a place, as far as they are those of the whole text. */
  const common = (place: number): { length: number; isAll: boolean } => {
    const part = encode(text.slice(from, place));
    const differs = part.findIndex((id, i) => id !== ids[first + i]);
    return { length: differs < 0 ? part.length : differs, isAll: differs < 0 };
  };
  /** Moves to the last special token before a place, if the text before it has exactly the tokens before that one. */
  const advance = (count: number, place: number) => {
    let token = count - 1;
    while (token > first && byteLength(ids[token]!) > 0) token--;
    if (token <= first) return;
    const at = text.lastIndexOf(decode([ids[token]!]), place - 1);
    if (at <= from) return;
    const { length, isAll } = common(at);
    if (isAll && length === token - first) [from, first] = [at, token];
  };
  return (place) => {
    const count = first + common(place).length;
    advance(count, place);
    return count;
  };
}
