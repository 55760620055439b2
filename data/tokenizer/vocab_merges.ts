import { checkFields, isObject, type JsonObject, parseJsonObject } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { standIn } from "../../files/stand_in.ts";
import { END_OF_TEXT } from "./tokenizer.ts";
import { ADDED_TOKEN_FIELDS, type AddedToken, gpt2File } from "./tokenizer_file.ts";

/** The files that a tokenizer came in before there was `tokenizer.json`. */
export interface OlderFiles {
  /** `vocab.json`: ids by token. */
  readonly vocab: string;
  /** `merges.txt`: a pair of tokens a line. */
  readonly merges: string;
  /** `added_tokens.json`, if it is there: ids by token. */
  readonly added?: string | undefined;
  /** `tokenizer_config.json`. */
  readonly config?: JsonObject;
  /** `special_tokens_map.json`. */
  readonly special?: JsonObject;
}

/** The fields that name a special token, or several. */
const ROLES = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map((role) => `${role}_token`);

/**
 * The `tokenizer.json` that says what GPT-2's older files say.
 *
 * Added tokens are those of `added_tokens_decoder` in `tokenizer_config.json`, or else of `added_tokens.json`,
 * as in Hugging Face transformers; special are those with a role.
 *
 * @param where the folder with the files, for error messages.
 * @throws {SyntaxError} if one of them is not what it should be.
 */
export function tokenizerJsonOf(
  { vocab, merges, added, config = {}, special = {} }: OlderFiles,
  where: string,
): string {
  const ids = idTable(vocab, `vocab.json in ${where}`);
  const instead = standIn(merges);
  if (instead) throw new SyntaxError(`Cannot read merges.txt in ${where} as ${instead}`);
  const lines = merges.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version"));
  const wrong = lines.findIndex((line) => line.split(" ").length !== 2);
  if (wrong >= 0) {
    throw new SyntaxError(
      `Cannot read merges.txt in ${where} as each line must be a pair of tokens: ` +
        `current merge ${wrong} is ${quoted(lines[wrong])}`,
    );
  }
  const tokens = addedTokens({ added, config, special }, where);
  const known = new Set(tokens.map(({ content }) => content));
  for (const content of specialContents({ config, special }).add(END_OF_TEXT)) {
    const id = Object.hasOwn(ids, content) ? ids[content]! : undefined;
    if (id !== undefined && !known.has(content)) tokens.push({ id, content, special: true });
  }
  return JSON.stringify(
    gpt2File({
      vocab: ids,
      merges: lines,
      added: tokens,
      prefix: config.add_prefix_space === true,
    }),
  );
}

/** What the files beside a `tokenizer.json` say, or beside the older two. */
type FilesBeside = Pick<OlderFiles, "added" | "config" | "special">;

/** The tokens that `tokenizer_config.json` describes, or else `added_tokens.json`. */
function addedTokens(
  { added, config = {}, special = {} }: FilesBeside,
  where: string,
): AddedToken[] {
  if (isObject(config.added_tokens_decoder)) {
    return decoderTokens(config.added_tokens_decoder, where);
  }
  if (added === undefined) return [];
  const named = specialContents({ config, special });
  return Object.entries(idTable(added, `added_tokens.json in ${where}`))
    .map(([content, id]) => ({ id, content, special: named.has(content) }));
}

/** What is named as having a role, such as the end of a text. */
function specialContents({ config = {}, special = {} }: FilesBeside): Set<string> {
  return new Set(
    [config, special].flatMap((fields) => [
      ...ROLES.map((role) => fields[role]),
      ...(Array.isArray(fields.additional_special_tokens) ? fields.additional_special_tokens : []),
    ]).map(tokenContent).filter((content) => content !== undefined),
  );
}

/**
 * A `tokenizer.json` with the added tokens that only the files beside it have; they are added last, as Hugging
 * Face transformers does.
 *
 * @param where the folder with the files, for error messages.
 * @throws {SyntaxError} if one of them is not what it should be.
 */
export function withTokensBeside(json: string, beside: FilesBeside, where: string): string {
  const given = addedTokens(beside, where);
  if (given.length === 0) return json;
  let file: unknown;
  try {
    file = JSON.parse(json);
  } catch {
    return json; // which is refused when it is read
  }
  if (!isObject(file) || !Array.isArray(file.added_tokens ?? [])) return json;
  const there = (file.added_tokens ?? []) as unknown[], known = new Set(there.map(tokenContent));
  const missing = given.filter(({ content }) => !known.has(content));
  return missing.length === 0
    ? json
    : JSON.stringify({ ...file, added_tokens: [...there, ...missing] });
}

/** The text of a token as configurations write it: itself, or an object that describes it. */
export function tokenContent(token: unknown): string | undefined {
  const content = isObject(token) ? token.content : token;
  return typeof content === "string" ? content : undefined;
}

function idTable(json: string, where: string): Record<string, number> {
  const ids = parseJsonObject(json, where);
  const wrong = Object.entries(ids).find(([, id]) => !Number.isSafeInteger(id));
  if (wrong === undefined) return ids as Record<string, number>;
  throw new SyntaxError(
    `Cannot read ${where} as it must give every token a whole number: ` +
      `current number of ${quoted(wrong[0])} is ${quoted(wrong[1])}`,
  );
}

function decoderTokens(decoder: JsonObject, where: string): AddedToken[] {
  const refuse = (requirement: string, value: unknown) =>
    new SyntaxError(
      `Cannot read tokenizer_config.json in ${where} as ${requirement}: ` +
        `current value is ${quoted(value)}`,
    );
  return Object.entries(decoder).map(([id, token]) => {
    const name = `added_tokens_decoder ${quoted(id)}`;
    if (!/^\d+$/.test(id)) throw refuse(`an id of added_tokens_decoder must be a number`, id);
    if (!isObject(token)) throw refuse(`${name} must be an object`, token);
    checkFields(
      token,
      ADDED_TOKEN_FIELDS,
      (requirement, value) => refuse(`${name} ${requirement}`, value),
    );
    return { ...token, id: Number(id) } as unknown as AddedToken;
  });
}
