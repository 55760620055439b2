import { fileSource } from "../../../data/text/sources.ts";
import { tokenizeSource } from "../../../data/tokens/tokenize.ts";
import { readTokenizer } from "../../../data/tokenizer/load.ts";

/** Tokenizes a file with two workers and notes each step: what the test kills. */
const [file, tokenizerFile, cacheDirectory] = Deno.args as [string, string, string];
const source = await fileSource([file]);
const tokenizer = await readTokenizer(tokenizerFile);
console.log("ready");
const { text, heldOut } = await tokenizeSource({ ...source, bytes: 1e9 }, {
  tokenizer,
  cacheDirectory,
  holdOut: true,
  workers: 2,
  recordMs: 0,
});
text.close();
heldOut!.close();
console.log("done");
