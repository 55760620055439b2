import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { HubError, hubFile, type HubOptions, parseHubSpec } from "./hub.ts";
import {
  gpt2Tokenizer,
  parseTokenizer,
  type ParseTokenizerOptions,
  type Tokenizer,
} from "./tokenizer.ts";

/** How to load a tokenizer: what its file does not say, and how to reach the hub. */
export type LoadTokenizerOptions = ParseTokenizerOptions & HubOptions;

const TOKENIZER = "tokenizer.json", CONFIG = "tokenizer_config.json";

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
  const file = await hubFile({ ...repo, type: "model", path }, options);
  const config = { ...repo, type: "model", path: path.replace(/[^/]*$/, CONFIG) } as const;
  const beside = await hubFile({ ...config, revision: file.commit }, options).catch((error) => {
    // not every repository has one, and offline, none in the cache is taken for that
    if (error instanceof HubError && (error.status === 404 || error.status === undefined)) return;
    throw error;
  });
  return await parseFiles({ tokenizer: file.path, config: beside?.path, name: spec }, options);
}

/**
 * Reads a `tokenizer.json`, or the one in a folder, and the `tokenizer_config.json` beside it.
 *
 * @throws {Error} if there is no such file.
 * @throws {SyntaxError | RangeError} as `parseTokenizer()` does.
 */
export async function readTokenizer(
  path: string,
  options: ParseTokenizerOptions = {},
): Promise<Tokenizer> {
  const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory();
  const tokenizer = isFolder ? join(path, TOKENIZER) : path;
  const config = join(dirname(tokenizer), CONFIG);
  const files = { tokenizer, config: existsSync(config) ? config : undefined, name: tokenizer };
  return await parseFiles(files, options);
}

async function parseFiles(
  { tokenizer, config, name }: { tokenizer: string; config: string | undefined; name: string },
  { endOfText, vocabularySize }: ParseTokenizerOptions,
): Promise<Tokenizer> {
  const json = readText(tokenizer);
  const end = endOfText ?? (config === undefined ? undefined : endOfTextIn(config));
  return await parseTokenizer(json, name, { endOfText: end, vocabularySize });
}

/** The `eos_token` of a `tokenizer_config.json`, if it has one. */
function endOfTextIn(path: string): string | undefined {
  let config: { eos_token?: string | { content?: string } | null } | null;
  try {
    config = JSON.parse(readText(path));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new SyntaxError(`Cannot read ${path} as it must be JSON`);
  }
  const token = config?.eos_token;
  return (typeof token === "object" ? token?.content : token) ?? undefined;
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const reason = code === "ENOENT" ? "there is no such file" : message;
    throw new Error(`Cannot read tokenizer ${path}: ${reason}`);
  }
}
