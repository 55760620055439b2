import { Argument, Option } from "@commander-js/extra-typings";
import { commandLine, taskCommand } from "../files/command_line.ts";
import { windowStart } from "../generate/slots.ts";
import type { GenerateResult } from "../generate/completion.ts";
import { type BatchPiece, generateBatch } from "../generate/generate.ts";
import { MAX_NEW_TOKENS, promptIdsOf, randomSeed, seedsFrom } from "../generate/request.ts";
import { loadSource } from "../generate/load.ts";
import { placeAt } from "../generate/place.ts";
import { validateSampler } from "../kernels/sample/sample.ts";
import { command, output, readStandardInput, runCommand, status, wholeNumber } from "./command.ts";
import { openGpu } from "./gpu.ts";
import {
  checkRoom,
  findNamedModel,
  modelWords,
  quantizeOption,
  withModelOptions,
} from "./named_model.ts";
import { giveBack, HUB } from "./permissions.ts";
import { samplerOf, withSamplerOptions } from "./sampler_options.ts";

/** Samples per command, at most: each of them needs memory from the start. */
const MOST_SAMPLES = 1_000_000;

/** `generate`: continues a text with a trained model. */
const program = withSamplerOptions(
  withModelOptions(
    command("generate", "Continue a text with a trained model.", {
      "--prompt": "the text is an argument: generate 'Once upon a time'",
      "--length": "--max-new-tokens limits what is added",
    }),
  )
    .addOption(quantizeOption())
    .addArgument(
      new Argument("[prompt]", "the text to continue; - reads it from standard input")
        .default("", "none"),
    )
    .optionsGroup("Length:")
    .option("--max-new-tokens <n>", "tokens to add, at most", wholeNumber(1), MAX_NEW_TOKENS)
    .addOption(
      new Option("--stop <text>", "end before this text; may be repeated")
        .argParser((text, others: string[]) => [...others, text]).default([], "none"),
    )
    .option("--samples <n>", "completions to generate", wholeNumber(1, MOST_SAMPLES), 1),
)
  .option(
    "--seed <n>",
    "the same seed gives the same completion (default: random)",
    wholeNumber(),
  )
  .optionsGroup("Output:")
  .option("--json", "one JSON object per completion instead of text")
  .action((given, options) => runCommand(() => main(given, options)));

async function main(given: string, options: ReturnType<typeof program.opts>): Promise<void> {
  const sampler = samplerOf(options), { maxNewTokens, stop, samples, quantize } = options;
  validateSampler(sampler);
  const prompt = given === "-" ? await readStandardInput("continue") : given;
  // before the device is opened, as a wrong name is the likeliest mistake
  const source = await findNamedModel(options), { tokenizer, config: { contextLength } } = source;
  giveBack(...HUB, "write");
  const device = await openGpu(options);
  const promptTokens = promptIdsOf(tokenizer, prompt).length;
  checkRoom(device, source, {
    ...{ quantize, promptTokens, maxNewTokens, sampler },
    completions: samples,
  });
  const { reason, load } = ["", "-"].includes(given) ? {} : placeAt(given) ?? {};
  if (load) {
    status(`the path is continued as a text, though ${reason}; to load it: ${commandLine(load)}`);
  }
  if (tokenizer.chatTemplate !== undefined) {
    const chat = taskCommand("chat", ...modelWords(options));
    status(`the model has a chat template; to talk with it: ${chat}`);
  }
  const unseen = windowStart(promptTokens, contextLength);
  if (unseen > 0) {
    status(
      `the prompt has ${promptTokens} tokens, of which the model reads the last ` +
        `${promptTokens - unseen}: its context has ${contextLength}`,
    );
  }
  const model = loadSource(device, source, { quantize });
  const requests = seedsFrom(options.seed ?? randomSeed(), samples)
    .map((seed) => ({ prompt, seed }));
  const pieces = generateBatch(model, { requests, maxNewTokens, stop, sampler });
  await (options.json ? printObjects : printTexts)(requests, pieces);
}

type Requests = readonly { prompt: string; seed: number }[];

/** Prints completions one after another, the first while it is generated. */
async function printTexts(requests: Requests, pieces: AsyncIterable<BatchPiece>): Promise<void> {
  const completions = requests.map(({ prompt }) => ({ unprinted: prompt, ended: false }));
  let turn = 0;
  const print = () => {
    for (let completion; (completion = completions[turn]); turn++) {
      if (!output(completion.unprinted)) return false;
      completion.unprinted = "";
      if (!completion.ended) return true;
      if (!output(turn + 1 < completions.length ? "\n\n" : "\n")) return false;
    }
    return true;
  };
  if (!print()) return;
  for await (const { index, text, result } of pieces) {
    const completion = completions[index]!;
    completion.unprinted += text;
    completion.ended = result !== undefined;
    if (!print()) return;
  }
}

/** Prints a JSON object per completion, in order. */
async function printObjects(requests: Requests, pieces: AsyncIterable<BatchPiece>): Promise<void> {
  const texts = requests.map(() => "");
  const results = new Map<number, GenerateResult>();
  let turn = 0;
  for await (const { index, text, result } of pieces) {
    texts[index] += text;
    if (result) results.set(index, result);
    for (; results.has(turn); turn++) {
      const { prompt, seed } = requests[turn]!;
      const completion = { prompt, text: texts[turn], seed, ...results.get(turn) };
      if (!output(`${JSON.stringify(completion)}\n`)) return;
    }
  }
}

await program.parseAsync();
