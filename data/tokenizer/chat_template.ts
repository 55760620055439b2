import { isObject } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { UserError } from "../../files/user_error.ts";

/** Name of the file that holds a chat template alone. */
export const CHAT_TEMPLATE_FILE = "chat_template.jinja";

/**
 * The Jinja template by which a model's chats become text, or several with names, as
 * `chat_template` of a `tokenizer_config.json` holds them
 * (https://huggingface.co/docs/transformers/chat_templating). Here it is kept as it is.
 */
export type ChatTemplate =
  | string
  | readonly { readonly name: string; readonly template: string }[];

/** Most characters of a template, and most templates; those in use have a few thousand, and at most three. */
const LONGEST = 2 ** 20, MOST = 16;

/**
 * The chat template that a model's files give, if they give one.
 *
 * @param where path of the file that has it, for error messages.
 * @throws {UserError} if it is neither a text nor a list of named texts, or too long.
 */
export function parseChatTemplate(given: unknown, where: string): ChatTemplate | undefined {
  if (given === undefined || given === null) return undefined;
  if (isTemplate(given)) return given;
  const isNamed = (item: unknown): item is { name: string; template: string } =>
    isObject(item) && isTemplate(item.name) && isTemplate(item.template);
  if (Array.isArray(given) && given.length <= MOST && given.every(isNamed)) {
    return given.map(({ name, template }) => ({ name, template }));
  }
  throw new UserError(
    `Cannot read ${where} as its chat template must be a text of at most ${LONGEST} characters, or a list of at ` +
      `most ${MOST} objects with the texts name and template: current value is ${quoted(given)}`,
  );
}

function isTemplate(value: unknown): value is string {
  return typeof value === "string" && value.length <= LONGEST;
}

/** The template of a model with several that is used unless another is named. */
export function defaultTemplate(template: ChatTemplate | undefined): string | undefined {
  if (typeof template === "string") return template;
  return template?.find(({ name }) => name === "default")?.template;
}
