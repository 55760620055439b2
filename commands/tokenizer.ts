import { openDataset, parseDataSpec } from "../data/text/dataset.ts";
import { readTexts } from "../data/text/documents.ts";
import { TEXT_FIELD } from "../data/text/formats.ts";
import { CHATML_TOKENS } from "../data/tokenizer/chat_format.ts";
import { LEAST_VOCABULARY, trainTokenizer } from "../data/tokenizer/train.ts";
import { taskCommand } from "../files/command_line.ts";
import { checkFilePath, replaceText } from "../files/disk.ts";
import { byteCount, duration } from "../files/units.ts";
import { UserError } from "../files/user_error.ts";
import { command, output, runCommand, status, wholeNumber } from "./command.ts";
import { OWN_RUN } from "./named_model.ts";
import { giveBack, HUB, namesHub } from "./permissions.ts";
import { ProgressDisplay } from "./progress.ts";

/** `tokenizer`: trains a tokenizer for `train --tokenizer`. */
const program = command("tokenizer", "Train a byte-level BPE tokenizer on your text.", {
  "--data": "the data is an argument",
})
  .argument(
    "<data...>",
    "tinystories, files, patterns, or hf:OWNER/NAME/FILE, as for prepare and train; the " +
      "<|endoftext|> between documents is not trained on",
  )
  .option("--vocab-size <n>", "number of tokens", wholeNumber(LEAST_VOCABULARY), 4096)
  .option(
    "--min-frequency <n>",
    "least number of occurrences of a pair that is merged",
    wholeNumber(1),
    2,
  )
  .option("--out <file>", "file to write", "tokenizer.json")
  .option("--force", "replace an existing file")
  .option("--text-field <name>", `${TEXT_FIELD} (default: text)`)
  .action((data, options) => runCommand(() => main(data, options)));

async function main(
  data: string[],
  { vocabSize: vocabularySize, minFrequency, out, force, textField }: ReturnType<
    typeof program.opts
  >,
): Promise<void> {
  if (checkFilePath(out, "--out") && !force) {
    throw new UserError(
      `Cannot write ${out} as the file exists: choose another --out, or --force`,
    );
  }
  using display = new ProgressDisplay();
  const startMs = performance.now(), { callbacks } = display;
  if (!namesHub(...data)) giveBack(...HUB);
  const { training } = await openDataset(parseDataSpec(data), { textField, ...callbacks });
  const { name } = training;
  const tokenizer = await trainTokenizer(readTexts(training, callbacks), {
    vocabularySize,
    minFrequency,
    ...(training.areConversations ? { specialTokens: CHATML_TOKENS } : {}),
    onProgress: (done, total) =>
      display.show({
        stage: "merging tokens of",
        name,
        counted: "tokens",
        doneBytes: done,
        totalBytes: total,
      }),
  });
  display.close();
  replaceText(out, tokenizer.json);
  const made = tokenizer.vocabularySize;
  if (made < vocabularySize) {
    status(
      `only ${made} of ${vocabularySize} tokens: no other pair occurs ${minFrequency} times`,
    );
  }
  const seconds = (performance.now() - startMs) / 1000;
  status(`read ${byteCount(training.bytes)} of ${name} in ${duration(seconds)}`);
  const field = textField === undefined ? [] : ["--text-field", textField];
  const words = ["--data", ...data, ...field, "--tokenizer", out, "--out", OWN_RUN];
  const use = taskCommand("train", ...words);
  output(`${out}: ${made} tokens; to use it: ${use}\n`);
}

await program.parseAsync();
