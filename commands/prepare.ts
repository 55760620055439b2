import { Option } from "@commander-js/extra-typings";
import { parseDataSpec } from "../data/text/dataset.ts";
import { TEXT_FIELD, UNDERSTOOD } from "../data/text/formats.ts";
import { loadTokenizer } from "../data/tokenizer/load.ts";
import { loadCorpus } from "../data/tokens/corpus.ts";
import { countAnswers } from "../data/tokens/token_dataset.ts";
import { byteCount, duration } from "../files/units.ts";
import { UserError } from "../files/user_error.ts";
import { command, listenForInterrupts, output, run, status, wholeNumber } from "./command.ts";
import { giveBack, HUB, namesHub } from "./permissions.ts";
import { DataProgressDisplay } from "./progress.ts";

/** `prepare`: tokenizes a data set into the cache that `train` reads. */
const program = command("prepare", "Tokenize data, so that training on it starts at once.")
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
  .action((data, { cache, validationData, dataVersion, textField, tokenizer, workers }) =>
    run(async () => {
      if (cache === "") {
        throw new UserError(
          "Cannot prepare as --cache must name a directory: it is empty",
        );
      }
      const interrupts = await listenForInterrupts("stopping; press Ctrl-C again to quit at once");
      const { signal } = interrupts;
      const display = new DataProgressDisplay();
      const start = performance.now();
      if (!namesHub(...data, ...validationData ?? [], tokenizer)) giveBack(...HUB);
      try {
        const baseTokenizer = await loadTokenizer(tokenizer, {
          signal,
          onNotice: display.status,
        });
        const corpus = await loadCorpus({
          data: parseDataSpec(data),
          validationData: validationData && parseDataSpec(validationData),
          vocabulary: "full",
          baseTokenizer,
          dataVersion,
          textField,
          workers,
          cacheDirectory: cache,
          signal,
          onProgress: (progress) => display.show(progress),
          onNotice: display.status,
        });
        display.close();
        const { training, validation, cached, name, bytes } = corpus;
        const seconds = (performance.now() - start) / 1000;
        status(
          cached
            ? `found in ${cache}`
            : `written to ${cache}: ${byteCount(bytes)} of text in ${duration(seconds)}, ` +
              `${byteCount(bytes / seconds)}/s`,
        );
        const documents = training.documents + validation.documents;
        const answers = countAnswers(training);
        const said = answers === undefined
          ? ""
          : `, ${answers + (countAnswers(validation) ?? 0)} of them in answers`;
        output(
          `${name}: ${documents} ${training.answersOf ? "conversations" : "documents"}, ` +
            `${training.length + validation.length} tokens${said}\n`,
        );
        corpus.close();
      } catch (error) {
        display.close();
        if (!signal.aborted) throw error;
        status("stopped; the same command resumes here");
        return interrupts.exitCode;
      }
    })
  );

await program.parseAsync();
