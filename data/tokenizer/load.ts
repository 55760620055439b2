import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { reading } from "../../files/disk.ts";
import { TOKENIZER_CONFIG_FILE, TOKENIZER_FILE } from "../../files/names.ts";
import {
  checkFields,
  isObject,
  type JsonObject,
  MOST_JSON_BYTES,
  parseJsonObject,
  readText,
} from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { standIn } from "../../files/stand_in.ts";
import { UserError } from "../../files/user_error.ts";
import { HubError, hubFile, type HubOptions, parseHubSpec } from "../hub/hub.ts";
import { END_OF_TEXT, gpt2File } from "./byte_level.ts";
import {
  gpt2Tokenizer,
  parseTokenizer,
  type ParseTokenizerOptions,
  type Tokenizer,
} from "./tokenizer.ts";
import { ADDED_TOKEN_FIELDS, type AddedToken } from "./tokenizer_file.ts";

/** How to load a tokenizer: options that its file leaves open, and how to reach the hub. */
export type LoadTokenizerOptions = ParseTokenizerOptions & HubOptions;

/** The two files that GPT-2's tokenizer came with. */
const VOCAB = "vocab.json", MERGES = "merges.txt";

/** Files that add to a tokenizer: which tokens have a role, such as to end a document, and which tokens were added. */
const SPECIAL = "special_tokens_map.json";
const ADDED = "added_tokens.json";

/** Of the names of a repository's files, those that its tokenizer is read from. */
export function tokenizerFileNames(names: readonly string[]): string[] {
  const main = names.includes(TOKENIZER_FILE) ? [TOKENIZER_FILE] : [VOCAB, MERGES];
  return [...main, ADDED, TOKENIZER_CONFIG_FILE, SPECIAL].filter((name) => names.includes(name));
}

/** Whether a folder has a tokenizer. */
export function hasTokenizer(folder: string): boolean {
  const has = (name: string) => existsSync(join(folder, name));
  return has(TOKENIZER_FILE) || (has(VOCAB) && has(MERGES));
}

/**
 * The tokenizer that a user names: `gpt2`, `hf:OWNER/NAME` (with `@REVISION`, if it must be a certain
 * one), the path of a `tokenizer.json`, or of a folder that holds one.
 *
 * `eos_token` in the `tokenizer_config.json` beside it says what ends a document; without that, its name
 * among the special tokens does.
 *
 * @throws {UserError} if there is no such file, or as `parseTokenizer()` does; {HubError} if the hub does not
 * give it.
 *
 * @example Use GPT-2's tokenizer; `hf:EleutherAI/gpt-neo-125m` names one of the hub
 * ```ts
 * import { loadTokenizer } from "../../mod.ts";
 *
 * const tokenizer = await loadTokenizer("gpt2");
 * console.log(tokenizer.encode("Once upon a time"));
 * ```
 */
export async function loadTokenizer(
  spec: string,
  options: LoadTokenizerOptions = {},
): Promise<Tokenizer> {
  if (spec === "gpt2") return await gpt2Tokenizer();
  if (!spec.startsWith("hf:")) return await readTokenizer(spec, options);
  const { path = TOKENIZER_FILE, ...repo } = parseHubSpec(spec);
  const limits = { ...options, mostBytes: MOST_JSON_BYTES };
  const file = await hubFile({ ...repo, type: "model", path }, limits);
  const textOf = async (name: string) => {
    const beside = path.replace(/[^/]*$/, name);
    const request = { ...repo, type: "model", path: beside, revision: file.commit } as const;
    const found = await hubFile(request, limits).catch((error) => {
      // not every repository has one; offline, a file that is not in the cache counts as absent
      if (error instanceof HubError && (error.status ?? 404) === 404) return undefined;
      throw error;
    });
    return found && readText(found.path);
  };
  const json = readText(file.path, "tokenizer");
  const nameOf = (name: string) => `${name} of ${spec}`;
  return await parseFiles({ json, where: spec, textOf, nameOf }, options);
}

/**
 * Reads a `tokenizer.json`, or a folder with that or with `vocab.json` and `merges.txt`; and beside it
 * `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
 *
 * @throws {UserError} if there is no such file, or as `parseTokenizer()` does.
 */
export async function readTokenizer(
  path: string,
  options: ParseTokenizerOptions = {},
): Promise<Tokenizer> {
  const status = reading(
    () => statSync(path, { throwIfNoEntry: false }),
    (reason) => new UserError(`Cannot read tokenizer ${path}: ${reason}`),
  );
  const isFolder = status?.isDirectory() ?? false;
  const folder = isFolder ? path : dirname(path),
    file = isFolder ? join(path, TOKENIZER_FILE) : path;
  const nameOf = (name: string) => join(folder, name);
  const textOf = (name: string) =>
    Promise.resolve(existsSync(nameOf(name)) ? readText(nameOf(name)) : undefined);
  const isOlder = isFolder && !existsSync(file) && hasTokenizer(folder);
  const json = isOlder ? undefined : readText(file, "tokenizer");
  const where = isOlder ? `${VOCAB} and ${MERGES} in ${folder}` : file;
  return await parseFiles({ json, where, textOf, nameOf }, options);
}

/** The files of a tokenizer. */
interface Files {
  /** The `tokenizer.json`; without it there are `vocab.json` and `merges.txt`. */
  readonly json: string | undefined;
  /** Its name in messages. */
  readonly where: string;
  /** The text of a file beside it, if there is such a file. */
  readonly textOf: (name: string) => Promise<string | undefined>;
  /** The name of a file beside it in messages. */
  readonly nameOf: (name: string) => string;
}

async function parseFiles(files: Files, options: ParseTokenizerOptions): Promise<Tokenizer> {
  const { json, where, textOf, nameOf } = files;
  const objectOf = async (name: string): Promise<JsonObject> => {
    const text = await textOf(name);
    return text === undefined ? {} : parseJsonObject(text, nameOf(name));
  };
  const config = await objectOf(TOKENIZER_CONFIG_FILE), special = await objectOf(SPECIAL);
  const endOfText = options.endOfText ?? endIn(config, nameOf(TOKENIZER_CONFIG_FILE)) ??
    endIn(special, nameOf(SPECIAL));
  const withRole = specialContents(config, special);
  const addedText = await textOf(ADDED);
  const added = isObject(config.added_tokens_decoder)
    ? decoderTokens(config.added_tokens_decoder, nameOf(TOKENIZER_CONFIG_FILE))
    : addedText === undefined
    ? []
    : Object.entries(idTable(addedText, nameOf(ADDED)))
      .map(([content, id]) => ({ id, content, special: withRole.has(content) }));
  const whole = json === undefined
    ? await olderTokenizer(files, { added, withRole, prefix: config.add_prefix_space === true })
    : withAddedTokens(json, added);
  return await parseTokenizer(whole, where, { ...options, endOfText });
}

/** The `eos_token` of a configuration, if it has one. */
function endIn({ eos_token: token }: JsonObject, where: string): string | undefined {
  if (token === undefined || token === null) return undefined;
  const content = tokenContent(token);
  if (content !== undefined) return content;
  throw new UserError(
    `Cannot read ${where} as eos_token must be a text, or an object with one as content: ` +
      `current value is ${quoted(token)}`,
  );
}

/** The fields that name a special token. */
const ROLES = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map((role) => `${role}_token`);

/** The texts of tokens to which configurations give a role, such as to end a text. */
function specialContents(...configs: JsonObject[]): Set<string> {
  return new Set(
    configs.flatMap((fields) => [
      ...ROLES.map((role) => fields[role]),
      ...(Array.isArray(fields.additional_special_tokens) ? fields.additional_special_tokens : []),
    ]).map(tokenContent).filter((content) => content !== undefined),
  );
}

/** The text of a token as configurations write it: itself, or an object that describes it. */
function tokenContent(token: unknown): string | undefined {
  const content = isObject(token) ? token.content : token;
  return typeof content === "string" ? content : undefined;
}

/** Reads a table of ids by token. */
function idTable(json: string, where: string): Record<string, number> {
  const ids = parseJsonObject(json, where);
  const wrong = Object.entries(ids).find(([, id]) => !Number.isSafeInteger(id));
  if (wrong === undefined) return ids as Record<string, number>;
  throw new UserError(
    `Cannot read ${where} as it must give every token a whole number: ` +
      `current number of ${quoted(wrong[0])} is ${quoted(wrong[1])}`,
  );
}

/** Reads `added_tokens_decoder`: descriptions of tokens by id. */
function decoderTokens(decoder: JsonObject, where: string): AddedToken[] {
  const refuse = (requirement: string, value: unknown) =>
    new UserError(
      `Cannot read ${where} as ${requirement}: current value is ${quoted(value)}`,
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

/**
 * A `tokenizer.json` with the added tokens that only the files beside it have; they are added last, as Hugging
 * Face transformers does.
 */
function withAddedTokens(json: string, added: readonly AddedToken[]): string {
  if (added.length === 0) return json;
  let file: unknown;
  try {
    file = JSON.parse(json);
  } catch {
    return json; // parseTokenizer() refuses it
  }
  if (!isObject(file) || !Array.isArray(file.added_tokens ?? [])) return json;
  const there = (file.added_tokens ?? []) as unknown[], known = new Set(there.map(tokenContent));
  const missing = added.filter(({ content }) => !known.has(content));
  return missing.length === 0
    ? json
    : JSON.stringify({ ...file, added_tokens: [...there, ...missing] });
}

/** The `tokenizer.json` that is equivalent to `vocab.json` and `merges.txt`; tokens with a role are special. */
async function olderTokenizer(
  { textOf, nameOf }: Files,
  { added, withRole, prefix }: {
    added: readonly AddedToken[];
    withRole: ReadonlySet<string>;
    prefix: boolean;
  },
): Promise<string> {
  const [vocab, merges] = [(await textOf(VOCAB))!, (await textOf(MERGES))!];
  const ids = idTable(vocab, nameOf(VOCAB));
  const instead = standIn(merges);
  if (instead) throw new UserError(`Cannot read ${nameOf(MERGES)} as ${instead}`);
  const lines = merges.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version"));
  const wrong = lines.findIndex((line) => line.split(" ").length !== 2);
  if (wrong >= 0) {
    throw new UserError(
      `Cannot read ${nameOf(MERGES)} as each line must be a pair of tokens: ` +
        `current merge ${wrong} is ${quoted(lines[wrong])}`,
    );
  }
  const known = new Set(added.map(({ content }) => content));
  const ofModel = [...new Set([...withRole, END_OF_TEXT])]
    .filter((content) => Object.hasOwn(ids, content) && !known.has(content))
    .map((content) => ({ id: ids[content]!, content, special: true }));
  return JSON.stringify(
    gpt2File({ vocab: ids, merges: lines, added: [...added, ...ofModel], prefix }),
  );
}
