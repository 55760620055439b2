import type { Conversation } from "../../data/text/conversations.ts";
import { createChatFormat } from "../../data/tokenizer/chat_format.ts";
import { parseTokenizer } from "../../data/tokenizer/tokenizer.ts";
import { UserError } from "../../files/user_error.ts";

/** Conversations as transformers encodes them: `tests/golden/conversations.json`. */
export interface EncodedByTransformers {
  readonly tokenizer: unknown;
  /** Chat templates by kind. */
  readonly templates: Readonly<Record<string, string>>;
  /** The `eos_token` by kind. */
  readonly ends: Readonly<Record<string, string>>;
  readonly cases: readonly {
    readonly kind: string;
    readonly messages: Conversation;
    /** Present if the template refuses the conversation; otherwise the others are. */
    readonly error?: true;
    readonly ids?: readonly number[];
    /** 1 for each of the ids that the assistant says. */
    readonly mask?: readonly number[];
    /** The ids that ask for an answer. */
    readonly prompt?: readonly number[];
  }[];
}

/** What differs between transformers and this library, as sentences. */
export async function differencesOf(
  { tokenizer, templates, ends, cases }: EncodedByTransformers,
): Promise<string[]> {
  const differences: string[] = [];
  for (const [kind, chatTemplate] of Object.entries(templates)) {
    const endOfText = ends[kind]!, json = JSON.stringify(tokenizer);
    const own = await parseTokenizer(json, "tokenizer.json", { endOfText });
    const format = await createChatFormat({ ...own, chatTemplate, bosToken: "<|begin_of_text|>" });
    for (const { messages, ...theirs } of cases.filter((one) => one.kind === kind)) {
      const compare = (what: string, ours: unknown, other: unknown) => {
        if (JSON.stringify(ours) === JSON.stringify(other)) return;
        const conversation = JSON.stringify(messages);
        differences.push(
          `${kind}, ${what} of ${conversation}:\n  ${ours}\n  ${other} (transformers)`,
        );
      };
      try {
        const { ids, answers } = format.encode(messages);
        const mask = ids.map((_, i) => answers.some(({ start, end }) => i >= start && i < end));
        compare("refusal", undefined, theirs.error);
        compare("ids", ids, theirs.ids);
        compare("mask", mask.map(Number), theirs.mask);
        compare("prompt", format.promptIds(messages), theirs.prompt);
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        compare("refusal", true, theirs.error);
      }
    }
  }
  return differences;
}

if (import.meta.main) {
  const given = JSON.parse(Deno.readTextFileSync(Deno.args[0]!)) as EncodedByTransformers;
  const differences = await differencesOf(given);
  for (const difference of differences) console.log(difference);
  Deno.exit(differences.length > 0 ? 1 : 0);
}
