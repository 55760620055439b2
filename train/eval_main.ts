import { dirname } from "node:path";
import { command, output, run, status } from "../data/command.ts";
import { loadCorpus, loadWhole } from "../data/corpus.ts";
import { findCheckpoint, loadModel } from "../generate/load.ts";
import { openDevice } from "../kernels/device.ts";
import { readTrainerState } from "../model/checkpoint.ts";
import { createEvaluator } from "./evaluate.ts";
import type { ResolvedOptions } from "./options.ts";
import { cacheBeside } from "./train.ts";
import { choicesOf } from "./tuning.ts";

/** `eval`: how well a trained model predicts a text. */
const program = command("eval", "Measure how well a trained model predicts a text.")
  .option("--run <directory>", "take the newest checkpoint of this run", "runs/default")
  .option("--checkpoint <directory>", "take this checkpoint")
  .option("--data <file...>", "text files (default: what the training held out)")
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
      const heldOut = async () => {
        const { data } = saved;
        const corpus = await loadCorpus({
          data,
          tokenizer,
          cacheDirectory: cacheBeside(dirname(dirname(path))),
        });
        return { text: corpus.validation, name: `held out of ${corpus.name}` };
      };
      const { text, name } = options.data
        ? { text: loadWhole({ data: options.data, tokenizer }), name: options.data.join(", ") }
        : await heldOut();
      status(`evaluating ${path} on ${text.tokens.length} tokens`);
      const evaluator = createEvaluator(model.gpt, tokenizer, text, {
        batchSize: saved.batchSize,
        sequenceLength: saved.contextLength,
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
