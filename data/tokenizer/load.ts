import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { reading } from "../../files/disk.ts";
import {
  isObject,
  type JsonObject,
  MOST_JSON_BYTES,
  parseJsonObject,
  readText,
} from "../../files/json.ts";
import { TOKENIZER_CONFIG_FILE, TOKENIZER_FILE } from "../../files/names.ts";
import { standIn } from "../../files/stand_in.ts";
import { UserError } from "../../files/user_error.ts";
import { HubError, hubFile, type HubOptions, parseHubSpec } from "../hub/hub.ts";
import { END_OF_TEXT, gpt2File } from "./byte_level.ts";
import { CHAT_TEMPLATE_FILE, parseChatTemplate } from "./chat_template.ts";
import {
  gpt2Tokenizer,
  NAME_A_TOKENIZER,
  parseTokenizer,
  type ParseTokenizerOptions,
  type Tokenizer,
} from "./tokenizer.ts";
import type { AddedToken } from "./tokenizer_file.ts";

/** How to load a tokenizer: options that its file leaves open, and how to reach the hub. */
export type LoadTokenizerOptions = ParseTokenizerOptions & HubOptions;

/** The two files that GPT-2's tokenizer came with. */
const VOCAB = "vocab.json", MERGES = "merges.txt";

/** Files that name the tokens with a role, such as to end a document, and those that were added. */
const ROLES = "special_tokens_map.json", ADDED = "added_tokens.json";

/** What is read beside the vocabulary. */
const BESIDE = [ADDED, TOKENIZER_CONFIG_FILE, ROLES, CHAT_TEMPLATE_FILE];

/** Of the names of a repository's files, those that its tokenizer is read from. */
export function tokenizerFileNames(names: readonly string[]): string[] {
  const main = names.includes(TOKENIZER_FILE) ? [TOKENIZER_FILE] : [VOCAB, MERGES];
  return [...main, ...BESIDE].filter((name) => names.includes(name));
}

/** Whether a folder has a tokenizer. */
export function hasTokenizer(folder: string): boolean {
  const has = (name: string) => existsSync(join(folder, name));
  return has(TOKENIZER_FILE) || (has(VOCAB) && has(MERGES));
}

/**
 * Whether a folder has a tokenizer with a chat template.
 *
 * @throws {UserError} if its configuration cannot be read.
 */
export function hasChatTemplate(folder: string): boolean {
  if (existsSync(join(folder, CHAT_TEMPLATE_FILE))) return true;
  const path = join(folder, TOKENIZER_CONFIG_FILE);
  return existsSync(path) && (parseJsonObject(readText(path), path).chat_template ?? null) !== null;
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
  const get = (path: string, revision = repo.revision) =>
    hubFile({ ...repo, type: "model", path, revision }, { ...options, mostBytes: MOST_JSON_BYTES });
  const file = await get(path);
  for (const name of BESIDE) {
    await get(path.replace(/[^/]*$/, name), file.commit).catch((error) => {
      // not every repository has one
      if (!(error instanceof HubError) || error.status !== 404) throw error;
    });
  }
  return await readTokenizer(file.path, options);
}

/**
 * Reads a `tokenizer.json`, or a folder with that or with `vocab.json` and `merges.txt`; and beside it
 * `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and `chat_template.jinja`.
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
  const isFolder = status?.isDirectory() ?? false, folder = isFolder ? path : dirname(path);
  const at = (name: string) => join(folder, name), file = isFolder ? at(TOKENIZER_FILE) : path;
  const isOlder = isFolder && !existsSync(file) && hasTokenizer(folder);
  const where = isOlder ? `${VOCAB} and ${MERGES} in ${folder}` : file;
  const text = isOlder ? undefined : readText(file, "tokenizer");
  const objectOf = (name: string): JsonObject =>
    existsSync(at(name)) ? parseJsonObject(readText(at(name)), at(name)) : {};
  const config = objectOf(TOKENIZER_CONFIG_FILE), roles = objectOf(ROLES);
  const roleOf = (role: string) => contentOf(config[role]) ?? contentOf(roles[role]);
  const special = specialContents(config, roles);
  // a description in the configuration replaces the older table of ids
  const added = (isObject(config.added_tokens_decoder)
    ? Object.entries(config.added_tokens_decoder)
      .map(([id, token]) => ({ ...token as JsonObject, id: Number(id) }))
    : Object.entries(objectOf(ADDED))
      .map(([content, id]) => ({ content, id, special: special.has(content) }))) as AddedToken[];
  const json = text === undefined
    ? JSON.stringify(olderFile({
      vocab: objectOf(VOCAB) as Record<string, number>,
      merges: readMerges(at(MERGES)),
      added,
      special,
      prefix: config.add_prefix_space === true,
    }))
    : withAddedTokens(text, added, where);
  const { endOfText = roleOf("eos_token") } = options, begin = roleOf("bos_token");
  const tokenizer = await parseTokenizer(json, where, { ...options, endOfText });
  const isApart = existsSync(at(CHAT_TEMPLATE_FILE));
  const chatTemplateFile = at(isApart ? CHAT_TEMPLATE_FILE : TOKENIZER_CONFIG_FILE);
  const chatTemplate = parseChatTemplate(
    isApart ? readText(chatTemplateFile) : config.chat_template,
    chatTemplateFile,
  );
  return {
    ...tokenizer,
    ...(begin === undefined || begin === tokenizer.endOfTextToken ? {} : { bosToken: begin }),
    ...(chatTemplate === undefined ? {} : { chatTemplate, chatTemplateFile }),
  };
}

/** The text of a token as configurations write it: itself, or an object that describes it. */
function contentOf(token: unknown): string | undefined {
  const content = isObject(token) ? token.content : token;
  return typeof content === "string" ? content : undefined;
}

/** The contents of the tokens to which configurations give a role, such as to end a text. */
function specialContents(...configs: JsonObject[]): Set<string> {
  const names = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map((role) => `${role}_token`);
  const tokens = configs.flatMap((config) =>
    [...names, "additional_special_tokens"].flatMap((name) => config[name])
  );
  return new Set(tokens.map(contentOf).filter((content) => content !== undefined));
}

/** The `tokenizer.json` of the older files. Tokens of the vocabulary that have a role are added tokens, too. */
function olderFile(
  { vocab, merges, added, special, prefix }: Parameters<typeof gpt2File>[0] & {
    special: ReadonlySet<string>;
  },
): JsonObject {
  const known = new Set(added.map(({ content }) => content));
  const more = [...new Set([...special, END_OF_TEXT])]
    .filter((content) => Object.hasOwn(vocab, content) && !known.has(content))
    .map((content) => ({ id: vocab[content]!, content, special: true }));
  return gpt2File({ vocab, merges, added: [...added, ...more], prefix: prefix ?? false });
}

/** The lines of a `merges.txt`. */
function readMerges(path: string): string[] {
  const text = readText(path), instead = standIn(text);
  if (instead) throw new UserError(`Cannot read ${path} as ${instead}`);
  return text.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version"));
}

/**
 * A `tokenizer.json` with the added tokens that only the files beside it have. They come last, as Hugging Face
 * transformers adds them.
 */
function withAddedTokens(json: string, added: readonly AddedToken[], where: string): string {
  if (added.length === 0) return json;
  const file = parseJsonObject(json, where, NAME_A_TOKENIZER), there = file.added_tokens ?? [];
  if (!Array.isArray(there)) return json; // parseTokenizer() refuses it
  const known = new Set(there.map(contentOf));
  const missing = added.filter(({ content }) => !known.has(content));
  return missing.length === 0
    ? json
    : JSON.stringify({ ...file, added_tokens: [...there, ...missing] });
}
