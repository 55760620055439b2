/**
 * Conversations: messages in turn, each with the role of who says it.
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
