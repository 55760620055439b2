import { Option } from "@commander-js/extra-typings";
import { DataError } from "../data/text/data_error.ts";
import { parseDataSpec } from "../data/text/dataset.ts";
import { TEXT_FIELD } from "../data/text/formats.ts";
import type { Tokenizer } from "../data/tokenizer/tokenizer.ts";
import { type Corpus, type CorpusOptions, loadCorpus } from "../data/tokens/corpus.ts";
import { countAnswers, type TokenDataset } from "../data/tokens/token_dataset.ts";
import { UserError } from "../files/user_error.ts";
import { runOf } from "../generate/base.ts";
import { loadSource } from "../generate/load.ts";
import { newestIn } from "../generate/source.ts";
import type { Device } from "../kernels/device.ts";
import { DIVERGED } from "../kernels/sample/sample.ts";
import type { GptConfig } from "../model/config.ts";
import { readTrainerState } from "../model/files/checkpoint.ts";
import type { TrainerState } from "../model/files/trainer_state.ts";
import { resolvePrecision } from "../model/precision.ts";
import { createEvaluator } from "../train/evaluate.ts";
import { evaluationRows } from "../train/limits.ts";
import type { ResolvedOptions } from "../train/options.ts";
import { cacheBeside, textOf } from "../train/training_data.ts";
import { fineTuningDefaults } from "../train/resolve.ts";
import { choicesOf, DEFAULTS_INSTEAD, forgetUnavailable } from "../train/tuning.ts";
import { command, output, runCommand, status, wholeNumber } from "./command.ts";
import { openGpu } from "./gpu.ts";
import { findNamedModel, quantizeOption, withModelOptions } from "./named_model.ts";
import { giveBack, HUB } from "./permissions.ts";
import { ProgressDisplay } from "./progress.ts";

/** Tokens to evaluate by default: about a megabyte of text. */
const EVALUATION_TOKENS = 250_000;

/** `eval`: how well a trained model predicts a text. */
const program = withModelOptions(
  command("eval", "Measure how well a trained model predicts a text."),
)
  .addOption(quantizeOption())
  .optionsGroup("Evaluation:")
  .option(
    "--data <what...>",
    "text to evaluate, named as for train; of the text of the training only the held-out part is read " +
      "(default: that part, or the text of train --validation-data)",
  )
  .addOption(
    new Option(
      "--held-out-of <run>",
      "evaluate on the held-out text of this run, for example to compare a base with it",
    ).conflicts("data"),
  )
  .option("--text-field <name>", `${TEXT_FIELD} (default: text)`)
  .option(
    "--tokens <n>",
    "tokens to evaluate, from the beginning of the text, rounded up to whole batches; 0: all",
    wholeNumber(),
    EVALUATION_TOKENS,
  )
  .option("--json", "print a JSON object instead of a table");

/** The options that were typed, and defaults. */
type EvalOptions = ReturnType<typeof program.opts>;

async function main(options: EvalOptions): Promise<void> {
  const source = await findNamedModel(options), { checkpoint, config } = source;
  const path = options.model ?? checkpoint!;
  const state = checkpoint === undefined ? undefined : readTrainerState(checkpoint);
  const trained = options.heldOutOf === undefined
    ? state
    : readTrainerState(newestIn(options.heldOutOf));
  if (!trained && !options.data) {
    throw new UserError(
      `Cannot evaluate ${path} as it records no text of its training: name a text with --data, or a run ` +
        "with --held-out-of",
    );
  }
  using display = new ProgressDisplay();
  const device = await openGpu(options);
  const choices = state && choicesOf(state, device);
  for (const [key, variant] of choices ?? []) device.choices.set(key, variant);
  const shape = shapeOf(device, config, trained);
  const { gpt, tokenizer } = loadSource(device, source, { quantize: options.quantize });
  const { text, name } = await openText(options, { path, checkpoint, trained, tokenizer, display });
  display.close();
  giveBack(...HUB, "write");

  const maxTokens = options.tokens || Infinity;
  const answers = countAnswers(text), all = answers ?? text.length; // of a conversation only answers are predicted
  const [some, rounded] = all > maxTokens
    ? [`the first ${maxTokens} of `, ", rounded up to whole batches"]
    : ["", ""];
  const inAnswers = answers === undefined ? "" : " in answers";
  status(`evaluating ${path} on ${some}${all} tokens${inAnswers}${rounded}`);
  const evaluator = createEvaluator(gpt, tokenizer, text, { ...shape, maxTokens });
  const unknown = choices && forgetUnavailable(evaluator.program, "the checkpoint");
  if (unknown !== undefined) status(`${unknown}; ${DEFAULTS_INSTEAD}`);
  const totalBytes = Math.min(all, maxTokens), counted = "tokens";
  const onProgress = (doneBytes: number) =>
    display.show({ stage: "evaluating", name: path, counted, doneBytes, totalBytes });
  onProgress(0);
  const { loss, perplexity, bitsPerByte, tokens } = await evaluator.run({ onProgress });
  display.close();
  if (!Number.isFinite(loss)) {
    throw new UserError(
      `Cannot evaluate ${path} as its loss must be finite: current value is ${loss}`,
      { hint: DIVERGED },
    );
  }
  if (options.json) {
    const result = { checkpoint: path, data: name, loss, perplexity, bitsPerByte, tokens };
    output(`${JSON.stringify(result)}\n`);
    return;
  }
  output(`checkpoint     ${path}
data           ${name}, ${tokens} tokens
loss           ${loss.toFixed(4)} nats per token
perplexity     ${perplexity.toFixed(3)}
bits per byte  ${bitsPerByte.toFixed(4)}
`);
}

/** The shape of the batches: that of the training whose text is evaluated, if it is known and fits. */
function shapeOf(device: Device, config: GptConfig, state: TrainerState | undefined) {
  const saved = state?.options as ResolvedOptions | undefined;
  const precision = resolvePrecision(device, "auto");
  const sequenceLength = Math.min(saved?.contextLength ?? Infinity, config.contextLength);
  const batchSize = evaluationRows(device, {
    config,
    precision,
    sequenceLength,
    batchSize: saved?.batchSize ?? fineTuningDefaults(config).batchSize,
  });
  return { sequenceLength, batchSize };
}

/** What is known of the text to evaluate. */
interface TextSource {
  /** The model, for messages. */
  readonly path: string;
  /** Its checkpoint, if it has one. */
  readonly checkpoint: string | undefined;
  /** The training whose held-out text is evaluated, if it is known. */
  readonly trained: TrainerState | undefined;
  readonly tokenizer: Tokenizer;
  readonly display: ProgressDisplay;
}

/** How `loadCorpus()` reads a text. */
type Reading = Omit<CorpusOptions, "data">;

/** A text to evaluate, and its name. */
interface EvaluatedText {
  readonly text: TokenDataset;
  readonly name: string;
}

/** The text that `--data` names, or the held-out text of the training. */
async function openText(
  { data, textField }: EvalOptions,
  { path, checkpoint, trained, tokenizer, display }: TextSource,
): Promise<EvaluatedText> {
  const run = checkpoint && runOf(checkpoint); // a checkpoint that was copied out of its run has none
  const reading: Reading = {
    ...run ? { cacheDirectory: cacheBeside(run) } : {},
    tokenizer,
    ...display.callbacks,
  };
  if (data) return await openNamed(data, { ...reading, textField }, trained);
  return await openHeldOut(trained!, reading, path);
}

/** The text that is named; of that of the training, which may have moved, only the part that was not trained on. */
async function openNamed(
  words: string[],
  reading: Reading,
  trained: TrainerState | undefined,
): Promise<EvaluatedText> {
  const from = { ...reading, data: parseDataSpec(words) };
  const { training, hash } = await loadCorpus({ ...from, whole: true });
  if (hash !== trained?.data.hash) return { text: training, name: words.join(", ") };
  return heldOut(await loadCorpus(from));
}

/**
 * The text that a training has held out.
 *
 * @throws {UserError} if it cannot be read, or has changed.
 */
async function openHeldOut(
  trained: TrainerState,
  reading: Reading,
  path: string,
): Promise<EvaluatedText> {
  const refuse = (requirement: string, reason: string) =>
    new UserError(
      `Cannot evaluate ${path} on its held-out text as its data must be ${requirement}: ${reason}; ` +
        `give the present path of its text, or another text, with --data`,
    );
  const corpus = await loadCorpus({ ...reading, ...textOf(trained) }).catch((error) => {
    throw error instanceof DataError ? refuse("readable", error.reason) : error;
  });
  if (corpus.hash !== trained.data.hash) {
    throw refuse("unchanged", `${corpus.name} has changed since`);
  }
  return heldOut(corpus);
}

/** The validation text of a corpus. */
function heldOut(
  { validation, validationData, validationHash, name }: Corpus,
): EvaluatedText {
  const named = validationData && [validationData].flat().join(", ");
  const text = `${validationHash ? "validation text" : "held out"} of ${name}`;
  return { text: validation, name: named ?? text };
}

program.action((options) => runCommand(() => main(options)));
await program.parseAsync();
