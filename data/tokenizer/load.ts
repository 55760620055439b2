import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { type JsonObject, MOST_JSON_BYTES, parseJsonObject, readText } from "../../files/json.ts";
import { quoted } from "../../files/printable.ts";
import { HubError, hubFile, type HubOptions, parseHubSpec } from "../hub/hub.ts";
import {
  gpt2Tokenizer,
  parseTokenizer,
  type ParseTokenizerOptions,
  type Tokenizer,
} from "./tokenizer.ts";
import { tokenContent, tokenizerJsonOf, withTokensBeside } from "./vocab_merges.ts";

/** How to load a tokenizer: what its file does not say, and how to reach the hub. */
export type LoadTokenizerOptions = ParseTokenizerOptions & HubOptions;

/** The file that says all of a tokenizer, and the two that GPT-2 came with. */
const TOKENIZER = "tokenizer.json", VOCAB = "vocab.json", MERGES = "merges.txt";

/** Files that say more: what ends a document, and, beside the older two, which tokens were added. */
const CONFIG = "tokenizer_config.json", SPECIAL = "special_tokens_map.json";
const ADDED = "added_tokens.json";

/** Of the names of a repository's files, those that its tokenizer is read from. */
export function tokenizerFileNames(names: readonly string[]): string[] {
  const main = names.includes(TOKENIZER) ? [TOKENIZER] : [VOCAB, MERGES];
  return [...main, ADDED, CONFIG, SPECIAL].filter((name) => names.includes(name));
}

/** Whether a folder has a tokenizer. */
export function hasTokenizer(folder: string): boolean {
  const has = (name: string) => existsSync(join(folder, name));
  return has(TOKENIZER) || (has(VOCAB) && has(MERGES));
}

/**
 * The tokenizer that a user names: `gpt2`, `hf:OWNER/NAME` (with `@REVISION`, where it must be a certain
 * one), the path of a `tokenizer.json`, or of a folder that holds one.
 *
 * What ends a document is said by `eos_token` in the `tokenizer_config.json` beside it, and otherwise by
 * its name.
 *
 * @throws {Error} if there is no such file, {HubError} if the hub does not give it.
 * @throws {SyntaxError | RangeError} as `parseTokenizer()` does.
 *
 * @example Use a tokenizer from the hub
 * ```ts ignore
 * const tokenizer = await loadTokenizer("hf:EleutherAI/gpt-neo-125m");
 * ```
 */
export async function loadTokenizer(
  spec: string,
  options: LoadTokenizerOptions = {},
): Promise<Tokenizer> {
  if (spec === "gpt2") return await gpt2Tokenizer();
  if (!spec.startsWith("hf:")) return await readTokenizer(spec, options);
  const { path = TOKENIZER, ...repo } = parseHubSpec(spec);
  const limits = { ...options, mostBytes: MOST_JSON_BYTES };
  const file = await hubFile({ ...repo, type: "model", path }, limits);
  const textOf = async (name: string): Promise<string | undefined> => {
    const named = { ...repo, type: "model", path: path.replace(/[^/]*$/, name) } as const;
    const found = await hubFile({ ...named, revision: file.commit }, limits).catch((error) => {
      // not every repository has one, and offline, none in the cache is taken for that
      if (error instanceof HubError && (error.status ?? 404) === 404) return undefined;
      throw error;
    });
    return found === undefined ? undefined : readText(found.path);
  };
  const beside = async (name: string): Promise<JsonObject> => {
    const text = await textOf(name);
    return text === undefined ? {} : parseJsonObject(text, `${name} of ${spec}`);
  };
  const config = await beside(CONFIG), special = await beside(SPECIAL), added = await textOf(ADDED);
  const endOfText = options.endOfText ?? endIn(config, CONFIG) ?? endIn(special, SPECIAL);
  const json = withTokensBeside(readText(file.path, "tokenizer"), { added, config, special }, spec);
  return await parseTokenizer(json, spec, { ...options, endOfText });
}

/**
 * Reads a `tokenizer.json`, or in a folder that or `vocab.json` with `merges.txt`, and what stands beside it:
 * `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`.
 *
 * @throws {Error} if there is no such file.
 * @throws {SyntaxError | RangeError} as `parseTokenizer()` does.
 */
export async function readTokenizer(
  path: string,
  options: ParseTokenizerOptions = {},
): Promise<Tokenizer> {
  const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const folder = isFolder ? path : dirname(path), file = isFolder ? join(path, TOKENIZER) : path;
  const textOf = (name: string) => {
    const path = join(folder, name);
    return existsSync(path) ? readText(path) : undefined;
  };
  const beside = (name: string): JsonObject => {
    const text = textOf(name);
    return text === undefined ? {} : parseJsonObject(text, join(folder, name));
  };
  const isOlder = isFolder && !existsSync(file) && hasTokenizer(folder);
  const json = isOlder ? undefined : readText(file, "tokenizer");
  const config = beside(CONFIG), special = beside(SPECIAL);
  const endOfText = options.endOfText ?? endIn(config, join(folder, CONFIG)) ??
    endIn(special, join(folder, SPECIAL));
  const added = textOf(ADDED);
  if (json !== undefined) {
    const whole = withTokensBeside(json, { added, config, special }, folder);
    return await parseTokenizer(whole, file, { ...options, endOfText });
  }
  const [vocab, merges] = [textOf(VOCAB)!, textOf(MERGES)!];
  const older = tokenizerJsonOf({ vocab, merges, added, config, special }, folder);
  const where = `${VOCAB} and ${MERGES} in ${folder}`;
  return await parseTokenizer(older, where, { ...options, endOfText });
}

/** The `eos_token` of a configuration, if it has one. */
function endIn({ eos_token: token }: JsonObject, where: string): string | undefined {
  if (token === undefined || token === null) return undefined;
  const content = tokenContent(token);
  if (content !== undefined) return content;
  throw new SyntaxError(
    `Cannot read ${where} as eos_token must be a text, or an object with one as content: ` +
      `current value is ${quoted(token)}`,
  );
}
