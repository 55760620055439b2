import { openDataset } from "../../../data/text/dataset.ts";
import { tokenizeDocuments } from "../../../data/tokens/tokenize.ts";
import { passHours } from "../../hours.ts";
import { readTokenizer } from "../../../data/tokenizer/load.ts";

/** Tokenizes a file with two workers and records its progress after each block: what the test kills. */
const [file, tokenizerFile, cacheDirectory] = Deno.args as [string, string, string];
const { training } = await openDataset([file]);
const tokenizer = await readTokenizer(tokenizerFile);
passHours();
console.log("ready");
const tokens = await tokenizeDocuments({ ...training, bytes: 1e9 }, {
  tokenizer,
  cacheDirectory,
  workers: 2,
});
tokens.close();
console.log("done");
