import { basename, dirname, resolve } from "node:path";
import { command, output, run, status, wholeNumber } from "./command.ts";
import { DataError } from "../data/text/data_error.ts";
import { type CorpusOptions, hashData, loadCorpus, loadWhole } from "../data/tokens/corpus.ts";
import { TEXT_FIELD } from "../data/text/formats.ts";
import { giveBack, HUB } from "./permissions.ts";
import { DataProgressDisplay } from "./progress.ts";
import { parseDataSpec } from "../data/text/dataset.ts";
import type { DataProgress } from "../data/text/documents.ts";
import { findNamedModel, withModelOptions } from "./named_model.ts";
import { loadSource } from "../generate/load.ts";
import { openDevice } from "../kernels/device.ts";
import { DIVERGED } from "../kernels/sample/sample.ts";
import { readTrainerState } from "../model/files/checkpoint.ts";
import { resolvePrecision } from "../model/precision.ts";
import { createEvaluator } from "../train/evaluate.ts";
import { evaluationRows } from "../train/limits.ts";
import type { ResolvedOptions } from "../train/options.ts";
import { fineTuningDefaults } from "../train/resolve.ts";
import { cacheBeside } from "../train/plan.ts";
import { choicesOf, DEFAULTS_INSTEAD, forgetUnavailable } from "../train/tuning.ts";
import { UserError } from "../files/user_error.ts";

/** Tokens to evaluate by default: about a megabyte of text. */
const EVALUATION_TOKENS = 250_000;

/** `eval`: how well a trained model predicts a text. */
const program = withModelOptions(
  command("eval", "Measure how well a trained model predicts a text."),
)
  .optionsGroup("Evaluation:")
  .option(
    "--data <what...>",
    "files, as for train; of the text of the training, only the held-out part (default: that part)",
  )
  .option("--text-field <name>", TEXT_FIELD, "text")
  .option(
    "--tokens <n>",
    "tokens to evaluate, from the beginning of the text; 0: all",
    wholeNumber(),
    EVALUATION_TOKENS,
  )
  .option("--json", "print a JSON object instead of a table")
  .action((options) =>
    run(async () => {
      const display = new DataProgressDisplay();
      const callbacks = {
        onProgress: (progress: DataProgress) => display.show(progress),
        onNotice: display.status,
      };
      const source = await findNamedModel(options);
      const path = options.model ?? source.checkpoint!;
      const state = source.checkpoint === undefined
        ? undefined
        : readTrainerState(source.checkpoint);
      const saved = state?.options as ResolvedOptions | undefined;
      const device = await openDevice();
      const choices = state && choicesOf(state, device);
      for (const [key, variant] of choices ?? []) device.choices.set(key, variant);
      const { config } = source, precision = resolvePrecision(device, "auto");
      const sequenceLength = saved?.contextLength ?? config.contextLength;
      const shape = {
        sequenceLength,
        batchSize: evaluationRows(device, {
          ...{ config, precision, sequenceLength },
          batchSize: saved?.batchSize ?? fineTuningDefaults(config).batchSize,
        }),
      };
      const model = loadSource(device, source);
      const { tokenizer } = model;
      const checkpoints = source.checkpoint && dirname(resolve(source.checkpoint));
      const reading = {
        ...callbacks,
        // a checkpoint that was copied out of its run has no cache directory
        ...(checkpoints && basename(checkpoints) === "checkpoints"
          ? { cacheDirectory: cacheBeside(dirname(checkpoints)) }
          : {}),
      };
      const heldOut = async (from: Omit<CorpusOptions, "tokenizer">) => {
        const refuse = (requirement: string, reason: string) =>
          new UserError(
            `Cannot evaluate ${path} on its held-out text as its data must ${requirement}: ${reason}; ` +
              `give the present path of its text, or another text, with --data`,
          );
        const corpus = await loadCorpus({ ...from, tokenizer, ...reading }).catch((error) => {
          if (options.data || !(error instanceof DataError)) throw error;
          throw refuse("be readable", error.reason);
        });
        if (state && corpus.hash !== state.data.hash) {
          throw refuse("stay what it was", `${corpus.name} has changed since`);
        }
        const name = `${corpus.ownValidation ? "validation text" : "held out"} of ${corpus.name}`;
        return { text: corpus.validation, name };
      };
      const other = async (words: string[]) => {
        const from = { data: parseDataSpec(words), textField: options.textField };
        // of the run's text, which may have moved, only the held-out part was not trained on
        if (state && await hashData({ ...from, tokenizer, ...reading }) === state.data.hash) {
          return await heldOut(from);
        }
        return {
          text: await loadWhole({ ...from, tokenizer, ...reading }),
          name: words.join(", "),
        };
      };
      const { data = "sample", dataVersion, textField } = saved ?? {};
      const { text, name } =
        await (options.data ? other(options.data) : heldOut({ data, dataVersion, textField }))
          .finally(() => display.close()); // an open bar would leave the terminal without its cursor
      giveBack(...HUB, "write");
      const maxTokens = options.tokens || Infinity;
      const some = text.length > maxTokens ? `the first ${maxTokens} of ` : "";
      status(`evaluating ${path} on ${some}${text.length} tokens`);
      const evaluator = createEvaluator(model.gpt, tokenizer, text, {
        ...shape,
        maxTokens,
      });
      const unknown = choices && forgetUnavailable(evaluator.program, "the checkpoint");
      if (unknown !== undefined) status(`${unknown}; ${DEFAULTS_INSTEAD}`);
      const { loss, perplexity, bitsPerByte, tokens } = await evaluator.run({
        onProgress: (done) =>
          status(`${Math.floor(100 * done / Math.min(text.length, maxTokens))} % evaluated`),
      });
      if (!Number.isFinite(loss)) {
        throw new UserError(
          `Cannot evaluate ${path} as its loss must be finite: current value is ${loss}`,
          { hint: DIVERGED },
        );
      }
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
            `loss           ${loss.toFixed(4)} nats per token`,
            `perplexity     ${perplexity.toFixed(3)}`,
            `bits per byte  ${bitsPerByte.toFixed(4)}`,
            "",
          ].join("\n"),
      );
    })
  );

await program.parseAsync();
