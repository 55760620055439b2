import { dirname } from "node:path";
import { command, output, run, status } from "../data/command.ts";
import { loadCorpus, loadWhole } from "../data/corpus.ts";
import { findSource, loadSource } from "../generate/load.ts";
import { openDevice } from "../kernels/device.ts";
import { readTrainerState } from "../model/checkpoint.ts";
import { createEvaluator } from "./evaluate.ts";
import { fineTuningDefaults, type ResolvedOptions } from "./options.ts";
import { cacheBeside } from "./train.ts";
import { choicesOf } from "./tuning.ts";

/** `eval`: how well a trained model predicts a text. */
const program = command("eval", "Measure how well a trained model predicts a text.")
  .option("--run <directory>", "take the newest checkpoint of this run", "runs/default")
  .option("--checkpoint <directory>", "take this checkpoint")
  .option("--model <name>", "take another model: distilgpt2, hf:OWNER/NAME, or a directory")
  .option("--data <file...>", "text files (default: what the training held out)")
  .option("--json", "a JSON object instead of a table")
  .action((options) =>
    run(async () => {
      const source = await findSource({
        run: options.run,
        ...(options.checkpoint === undefined ? {} : { checkpoint: options.checkpoint }),
        ...(options.model === undefined ? {} : { model: options.model }),
        hub: { onNotice: status },
        onWarning: (sentence) => status(`Warning: ${sentence}`),
      });
      const path = options.model ?? source.checkpoint!;
      const state = source.checkpoint === undefined
        ? undefined
        : readTrainerState(source.checkpoint);
      const saved = state?.options as ResolvedOptions | undefined;
      const device = await openDevice();
      const choices = state && choicesOf(state, device);
      for (const [key, variant] of choices ?? []) device.choices.set(key, variant);
      const model = loadSource(device, source);
      const { tokenizer } = model;
      const heldOut = async () => {
        const corpus = await loadCorpus({
          data: saved?.data ?? "sample",
          tokenizer,
          ...(state ? { cacheDirectory: cacheBeside(dirname(dirname(source.checkpoint!))) } : {}),
        });
        return { text: corpus.validation, name: `held out of ${corpus.name}` };
      };
      const { text, name } = options.data
        ? { text: loadWhole({ data: options.data, tokenizer }), name: options.data.join(", ") }
        : await heldOut();
      status(`evaluating ${path} on ${text.tokens.length} tokens`);
      const evaluator = createEvaluator(model.gpt, tokenizer, text, {
        batchSize: saved?.batchSize ?? fineTuningDefaults(model.gpt.config).batchSize,
        sequenceLength: saved?.contextLength ?? model.gpt.config.contextLength,
      });
      const { loss, perplexity, bitsPerByte, tokens } = await evaluator.run();
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
