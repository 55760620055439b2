import { printable } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";
import type { Conversation, Message } from "../text/conversations.ts";
import {
  addedSpans,
  ConversationError,
  type RenderConversation,
  spansOfTokens,
} from "./answer_spans.ts";
import { defaultTemplate } from "./chat_template.ts";
import { createRenderer, type Renderer, type Span, TemplateError } from "./jinja.ts";
import type { Tokenizer } from "./tokenizer.ts";

export { ConversationError, type Span };

/** A conversation as a model reads it. */
export interface EncodedConversation {
  /** The tokens. */
  readonly ids: readonly number[];
  /**
   * What the assistant says in it, in order, as parts of `ids`: the tokens that a model learns to predict. Each
   * includes the tokens that end the message.
   */
  readonly answers: readonly Span[];
}

/** How conversations become tokens. */
export interface ChatFormat {
  /** The Jinja template: that of the tokenizer, or `defaultChatTemplate()`. */
  readonly template: string;
  /** Ids at which an answer ends: those of the tokenizer, and the one that ends a message in the template. */
  readonly endIds: readonly number[];
  /**
   * The text of a conversation; with `addGenerationPrompt` it ends where an answer begins.
   *
   * @throws {ConversationError} if the template refuses it.
   */
  render(messages: Conversation, options?: { addGenerationPrompt?: boolean }): string;
  /**
   * The tokens of a whole conversation, and which of them the assistant says: what the template marks with
   * `{% generation %}`, or otherwise what an assistant's message adds to the text that asks for it.
   *
   * @throws {ConversationError} if the template refuses it.
   */
  encode(messages: Conversation): EncodedConversation;
  /**
   * The tokens that a model reads to answer the last message.
   *
   * @throws {ConversationError} if the template refuses it.
   */
  promptIds(messages: Conversation): number[];
}

/** The tokens of ChatML, which begin and end a message. */
export const CHATML_TOKENS = ["<|im_start|>", "<|im_end|>"] as const;

/** ChatML, for tokenizers that have its tokens (https://github.com/openai/openai-python/blob/v0.28.1/chatml.md). */
const CHATML = "{% for message in messages %}" +
  "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}" +
  "{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/**
 * The chat template of a tokenizer that came without one. It is ChatML if the tokenizer has the tokens
 * `<|im_start|>` and `<|im_end|>`. Otherwise roles are text, such as `<|user|>` on a line, and the token that ends a
 * document ends each message: every tokenizer has that one, and every model ends its texts with it.
 */
export function defaultChatTemplate(
  { encode, decode, beginOfText, endOfTextToken }: Tokenizer,
): string {
  const begin = beginOfText === undefined ? "" : `{{ ${JSON.stringify(decode([beginOfText]))} }}`;
  const hasChatml = CHATML_TOKENS.every((token) => encode(token).length === 1);
  if (hasChatml) return begin + CHATML;
  return begin + "{% for message in messages %}" +
    "{% if not loop.first %}{{ '\\n' }}{% endif %}" +
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + " +
    `${JSON.stringify(endOfTextToken)} }}` +
    "{% endfor %}" +
    "{% if add_generation_prompt %}{% if messages %}{{ '\\n' }}{% endif %}" +
    "{{ '<|assistant|>\\n' }}{% endif %}";
}

/**
 * The tokenizer of a model that is trained on conversations: it has a chat template, its own or the default one, and a
 * text ends where an answer does.
 *
 * @throws {UserError} if the template is not Jinja.
 */
export async function withChatFormat(tokenizer: Tokenizer): Promise<Tokenizer> {
  const { template, endIds } = await createChatFormat(tokenizer);
  const { chatTemplate: given } = tokenizer;
  if (defaultTemplate(given) !== undefined) return { ...tokenizer, endIds };
  // a model may have templates of other names alone
  const chatTemplate = typeof given === "object"
    ? [{ name: "default", template }, ...given]
    : template;
  return { ...tokenizer, chatTemplate, endIds };
}

/**
 * The chat format of a tokenizer.
 *
 * @param options.now the date for templates that ask for it; without it they use the date that they fall back to, so
 * that the tokens of a training do not depend on the day.
 * @throws {UserError} if the template is not Jinja.
 *
 * @example Encode a conversation
 * ```ts
 * import { createChatFormat, gpt2Tokenizer } from "../../mod.ts";
 *
 * const format = await createChatFormat(await gpt2Tokenizer());
 * const { ids, answers } = format.encode([
 *   { role: "user", content: "Who is Tim?" },
 *   { role: "assistant", content: "A boy." },
 * ]);
 * console.log(ids.slice(answers[0]!.start)); // "A boy.<|endoftext|>"
 * ```
 */
export async function createChatFormat(
  tokenizer: Tokenizer,
  { now }: { now?: Date | undefined } = {},
): Promise<ChatFormat> {
  const template = defaultTemplate(tokenizer.chatTemplate) ?? defaultChatTemplate(tokenizer);
  let renderer: Renderer;
  try {
    renderer = await createRenderer(template, { now });
  } catch (error) {
    if (!(error instanceof TemplateError)) throw error;
    const { chatTemplateFile: file } = tokenizer;
    const what = file === undefined ? "a chat template" : `the chat template in ${printable(file)}`;
    throw new UserError(`Cannot use ${what} as it must be Jinja: ${error.message}`);
  }
  const { endOfTextToken: eos_token, bosToken: bos_token = eos_token } = tokenizer;
  const rendered: RenderConversation = (messages, add_generation_prompt = false) => {
    const variables = { bos_token, eos_token, tools: null, documents: null };
    try {
      return renderer({ ...variables, messages: messages.map(wellFormed), add_generation_prompt });
    } catch (error) {
      if (!(error instanceof TemplateError)) throw error;
      throw new ConversationError(`it must fit the chat template: ${error.message}`);
    }
  };
  const end = messageEnd(tokenizer, rendered);
  const { endOfText, endIds = [endOfText] } = tokenizer;
  return {
    template,
    endIds: [...new Set([...end ? [end.id] : [], ...endIds])],
    render: (messages, { addGenerationPrompt = false } = {}) =>
      rendered(messages, addGenerationPrompt).text,
    encode(messages) {
      const { text, generated } = rendered(messages), ids = tokenizer.encode(text);
      const spans = generated ?? addedSpans(messages, { text, render: rendered, end: end?.text });
      return { ids, answers: spansOfTokens(tokenizer, { text, ids, spans }) };
    },
    promptIds: (messages) => tokenizer.encode(rendered(messages, true).text),
  };
}

/** A message without halves of characters, which become U+FFFD in tokens. */
function wellFormed({ role, content }: Message): Message {
  return { role, content: content.toWellFormed() };
}

/** The token that ends an answer: the first special one behind it in the template, if there is one. */
function messageEnd(
  { encode, decode, byteLength }: Tokenizer,
  render: RenderConversation,
): { id: number; text: string } | undefined {
  const answer = "answer";
  let text = "";
  try {
    ({ text } = render([
      { role: "user", content: "question" },
      { role: "assistant", content: answer },
    ]));
  } catch (error) {
    if (!(error instanceof ConversationError)) throw error; // a template that wants other messages says so later
  }
  const at = text.lastIndexOf(answer);
  const behind = at < 0 ? [] : encode(text.slice(at + answer.length));
  const id = behind.find((id) => byteLength(id) === 0);
  return id === undefined ? undefined : { id, text: decode([id]) };
}
