import { dirname } from "node:path";
import { command, listenForInterrupts, output, run, status, wholeNumber } from "../data/command.ts";
import { loadCorpus, loadWhole } from "../data/corpus.ts";
import { DataProgressDisplay } from "../data/progress.ts";
import type { DataProgress } from "../data/sources.ts";
import { findCheckpoint, loadModel } from "../generate/load.ts";
import { openDevice } from "../kernels/device.ts";
import { readTrainerState } from "../model/checkpoint.ts";
import { createEvaluator } from "./evaluate.ts";
import type { ResolvedOptions } from "./options.ts";
import { cacheBeside } from "./train.ts";
import { choicesOf } from "./tuning.ts";

/** Tokens that are evaluated unasked: about a megabyte of text. */
const EVALUATION_TOKENS = 250_000;

/** `eval`: how well a trained model predicts a text. */
const program = command("eval", "Measure how well a trained model predicts a text.")
  .option("--run <directory>", "take the newest checkpoint of this run", "runs/default")
  .option("--checkpoint <directory>", "take this checkpoint")
  .option("--data <what...>", "files, as for train (default: what the training held out)")
  .option("--text-field <name>", "field of JSON lines or Parquet that holds the text", "text")
  .option(
    "--tokens <n>",
    "evaluate so many, from the beginning; 0: all",
    wholeNumber(),
    EVALUATION_TOKENS,
  )
  .option("--json", "a JSON object instead of a table")
  .action((options) =>
    run(async () => {
      const path = findCheckpoint({
        run: options.run,
        ...(options.checkpoint === undefined ? {} : { checkpoint: options.checkpoint }),
        onWarning: (sentence) => status(`Warning: ${sentence}`),
      });
      const state = readTrainerState(path);
      const saved = state.options as unknown as ResolvedOptions;
      const device = await openDevice();
      for (const [key, variant] of choicesOf(state, device) ?? []) device.choices.set(key, variant);
      const model = await loadModel(device, { checkpoint: path });
      const { tokenizer } = model;
      const display = new DataProgressDisplay();
      const reading = {
        cacheDirectory: cacheBeside(dirname(dirname(path))),
        onProgress: (progress: DataProgress) => display.show(progress),
        onNotice: status,
      };
      const heldOut = async () => {
        const { data, dataVersion, textField } = saved;
        const corpus = await loadCorpus({ data, dataVersion, textField, tokenizer, ...reading });
        const name = `${corpus.ownValidation ? "validation text" : "held out"} of ${corpus.name}`;
        return { text: corpus.validation, name };
      };
      const other = async (data: string[]) => {
        const { textField } = options;
        return {
          text: await loadWhole({ data, textField, tokenizer, ...reading }),
          name: data.join(", "),
        };
      };
      const { text, name } = await (options.data ? other(options.data) : heldOut());
      display.close();
      const maxTokens = options.tokens || Infinity;
      const some = text.length > maxTokens ? `the first ${maxTokens} of ` : "";
      status(`evaluating ${path} on ${some}${text.length} tokens`);
      const evaluator = createEvaluator(model.gpt, tokenizer, text, {
        batchSize: saved.batchSize,
        sequenceLength: saved.contextLength,
        maxTokens,
      });
      const { loss, perplexity, bitsPerByte, tokens } = await evaluator.run((done) =>
        status(`${Math.floor(100 * done / Math.min(text.length, maxTokens))} % evaluated`)
      );
      output(
        options.json
          ? JSON.stringify({
            checkpoint: path,
            data: name,
            loss,
            perplexity,
            bitsPerByte,
            tokens,
          }) +
            "\n"
          : [
            `checkpoint     ${path}`,
            `data           ${name}, ${tokens} tokens`,
            `loss           ${loss.toFixed(4)} nats a token`,
            `perplexity     ${perplexity.toFixed(3)}`,
            `bits per byte  ${bitsPerByte.toFixed(4)}`,
            "",
          ].join("\n"),
      );
    })
  );

await program.parseAsync();
