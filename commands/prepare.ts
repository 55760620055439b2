import { Option } from "@commander-js/extra-typings";
import { parseDataSpec } from "../data/text/dataset.ts";
import { TEXT_FIELD, UNDERSTOOD } from "../data/text/formats.ts";
import { loadTokenizer } from "../data/tokenizer/load.ts";
import { loadCorpus } from "../data/tokens/corpus.ts";
import { countAnswers } from "../data/tokens/token_dataset.ts";
import { byteCount, duration } from "../files/units.ts";
import {
  command,
  listenForInterrupts,
  output,
  runCommand,
  status,
  wholeNumber,
} from "./command.ts";
import { giveBack, HUB, namesHub } from "./permissions.ts";
import { ProgressDisplay } from "./progress.ts";

/** `prepare`: tokenizes a data set into the cache that `train` reads. */
const program = command("prepare", "Tokenize data, so that training on it starts at once.", {
  "--data": "the data is an argument",
  "--out": "--cache names the directory",
})
  .argument(
    "<data...>",
    "tinystories, files, patterns, or hf:OWNER/NAME/FILE, with or without @REVISION; files are " +
      `${UNDERSTOOD}; in text files <|endoftext|> separates documents`,
  )
  .option("--validation-data <what...>", "text to validate with, as for train")
  .addOption(
    new Option("--data-version <version>", "edition of tinystories (default: v2)")
      .choices(["v1", "v2"] as const),
  )
  .option("--text-field <name>", `${TEXT_FIELD} (default: text)`)
  .option("--tokenizer <what>", "gpt2, a tokenizer.json, or hf:OWNER/NAME", "gpt2")
  .option("--workers <n>", "number of workers (default: one per core, at most 3)", wholeNumber(1))
  .option("--cache <directory>", "directory for the token files", "runs/cache")
  .action((data, options) => runCommand(() => main(data, options)));

/** The options that were typed, and defaults. */
type PrepareOptions = ReturnType<typeof program.opts>;

async function main(data: string[], options: PrepareOptions): Promise<number> {
  const interrupts = await listenForInterrupts("stopping; press Ctrl-C again to quit at once");
  using display = new ProgressDisplay();
  if (!namesHub(...data, ...options.validationData ?? [], options.tokenizer)) giveBack(...HUB);
  try {
    await prepare(data, options, { signal: interrupts.signal, display });
    return 0;
  } catch (error) {
    display.close();
    if (!interrupts.signal.aborted) throw error;
    status("stopped; the same command resumes here");
    return interrupts.exitCode;
  }
}

/** Tokenizes the data into the cache, or finds it there. */
async function prepare(
  data: string[],
  { cache, validationData, dataVersion, textField, tokenizer, workers }: PrepareOptions,
  { signal, display }: { signal: AbortSignal; display: ProgressDisplay },
): Promise<void> {
  const startMs = performance.now(), { callbacks } = display;
  const corpus = await loadCorpus({
    data: parseDataSpec(data),
    validationData: validationData && parseDataSpec(validationData),
    vocabulary: "full",
    baseTokenizer: await loadTokenizer(tokenizer, { signal, onNotice: callbacks.onNotice }),
    dataVersion,
    textField,
    workers,
    cacheDirectory: cache,
    signal,
    ...callbacks,
  });
  display.close();
  const { training, validation, cached, name, bytes } = corpus;
  const seconds = (performance.now() - startMs) / 1000;
  status(
    cached
      ? `found in ${cache}`
      : `written to ${cache}: ${byteCount(bytes)} of text in ${duration(seconds)}, ` +
        `${byteCount(bytes / seconds)}/s`,
  );
  const documents = training.documents + validation.documents;
  const answerTokens = countAnswers(training);
  const inAnswers = answerTokens === undefined
    ? ""
    : `, ${answerTokens + (countAnswers(validation) ?? 0)} of them in answers`;
  output(
    `${name}: ${documents} ${training.answersOf ? "conversations" : "documents"}, ` +
      `${training.length + validation.length} tokens${inAnswers}\n`,
  );
  corpus.close();
}

await program.parseAsync();
