import { openDataset } from "../../../data/text/dataset.ts";
import { tokenizeDocuments } from "../../../data/tokens/tokenize.ts";
import { readTokenizer } from "../../../data/tokenizer/load.ts";

/** Tokenizes a file with two workers and notes each step: what the test kills. */
const [file, tokenizerFile, cacheDirectory] = Deno.args as [string, string, string];
const { training } = await openDataset([file]);
const tokenizer = await readTokenizer(tokenizerFile);
console.log("ready");
const tokens = await tokenizeDocuments({ ...training, bytes: 1e9 }, {
  tokenizer,
  cacheDirectory,
  workers: 2,
  recordMs: 0,
});
tokens.close();
console.log("done");
