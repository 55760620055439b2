/**
 * Trains models with the mistakes of the project that this one replaces, and writes what comes of each into
 * docs/collapse.md:
 *
 *     deno run --allow-read --allow-write docs/collapse.ts
 *
 * @module
 */
import {
  type Batch,
  Batches,
  type Corpus,
  createGpt,
  createTrainStep,
  type Device,
  diagnose,
  generateBatch,
  initializeParameters,
  loadCorpus,
  type LoadedModel,
  loadParameters,
  lossOf,
  meanRepetition,
  openDevice,
  PRESETS,
  type Repetition,
  type SamplerOptions,
  saveParameters,
  type TokenDataset,
  type TrainingMetric,
  UserError,
} from "../mod.ts";

/** A training: the default one of `nano`, with what differs from it. */
export interface Recipe {
  readonly steps: number;
  /** Stories of the training, all 19,000 by default. */
  readonly stories?: number;
  readonly learningRate?: number;
  readonly dropout?: number;
  readonly size?: { readonly width: number; readonly layers: number; readonly heads: number };
  /** Tokens that the model sees, 64 by default; a batch has 1,024. */
  readonly contextLength?: number;
  /** The mistake in the labels. */
  readonly change?: (batch: Batch) => Batch;
  /** Whether attention has no causal mask. */
  readonly isUnmasked?: boolean;
  /** A model to start from. */
  readonly start?: LoadedModel;
}

/** A trained model and its losses. */
interface Trained {
  readonly model: LoadedModel;
  /** Mean loss of the last ten steps. */
  readonly loss: number;
  /** Loss of held-out stories, with the mistakes of the training. */
  readonly validationLoss: number;
  readonly epochs: number;
  /** The lines that a record of the training would have. */
  readonly record: readonly TrainingMetric[];
}

/** The mistake of the labels: the target is the token that the model reads there, and not the one after it. */
export function unshifted(batch: Batch): Batch {
  return { ...batch, targets: batch.inputs };
}

/**
 * The mistake of the mask: on this device, attention sees later tokens. The kernels have no such option; the text of
 * those for CPUs is changed on its way to the device, which is enough for contexts of up to 64 tokens.
 *
 * @param device one that computes on a CPU and has not compiled kernels.
 * @throws {UserError} if it is a GPU, whose kernels have the mask in other words.
 */
export function withoutMask(device: Device): Device {
  if (!device.isCpu) {
    throw new UserError(
      `Cannot leave out the mask as the device must be a CPU: current one is ${device.name}`,
    );
  }
  const { gpu } = device, create = gpu.createShaderModule.bind(gpu);
  gpu.createShaderModule = ({ code, ...rest }) => {
    const open = code.replaceAll("t - s >= seen", "false").replaceAll("t - s < seen", "true")
      .replaceAll("min(firstLane + LANES, T)", "T"); // where the loop over the keys of a subgroup's queries ends
    return create({ ...rest, code: open });
  };
  return device;
}

/** Tokens of a batch. */
const BATCH_TOKENS = 1024;

/** Evaluations of a training, and batches of each. */
const EVALUATIONS = 10, EVALUATED = 2;

/** Trains a model. */
async function trainModel(device: Device, corpus: Corpus, recipe: Recipe): Promise<Trained> {
  const { steps, learningRate = 5e-3, dropout = 0, change = (batch) => batch } = recipe;
  const { tokenizer, entropyPerToken = 0 } = corpus, { endOfText, vocabularySize } = tokenizer;
  const { contextLength = PRESETS.nano.contextLength } = recipe;
  const config = { ...PRESETS.nano, ...recipe.size, contextLength, vocabularySize };
  const gpt = createGpt(device, config, { precision: "f32" });
  initializeParameters(gpt, { seed: 1 });
  if (recipe.start) loadParameters(gpt, await saveParameters(recipe.start.gpt), "the start");

  const batchSize = BATCH_TOKENS / contextLength, padding = endOfText;
  const cut = { batchSize, contextLength, padding, sequence: "packed", seed: 1 } as const;
  const batches = new Batches(first(corpus.training, recipe.stories ?? Infinity), cut);
  const heldOut = new Batches(corpus.validation, cut);
  using step = createTrainStep(gpt, { batchSize, sequenceLength: contextLength, dropout });
  // at a learning rate of 0 a step changes nothing, and measures the loss
  using evaluation = createTrainStep(gpt, {
    batchSize,
    sequenceLength: contextLength,
    gradientAccumulation: EVALUATED,
  });

  const options = { batchSize, contextLength, gradientAccumulation: 1 };
  const record: TrainingMetric[] = [{ kind: "start", step: 0, options }], losses: number[] = [];
  const every = Math.max(1, Math.floor(steps / EVALUATIONS));
  for (let i = 0; i < steps; i++) {
    const warmUp = (i + 1) / Math.ceil(steps / 20),
      decay = 0.55 + 0.45 * Math.cos(Math.PI * i / steps);
    await step.submit(i, [change(batches.at(i))], {
      learningRate: learningRate * Math.min(warmUp, decay),
    });
    if ((i + 1) % every > 0) continue;
    for (const { loss, lossScale } of await step.reports(every)) {
      losses.push(loss);
      record.push({ kind: "step", step: losses.length, loss, lossScale });
    }
    const evaluated = Array.from({ length: EVALUATED }, (_, j) => change(heldOut.at(j)));
    await evaluation.submit(0, evaluated, { learningRate: 0 });
    const loss = (await evaluation.reports(1))[0]!.loss;
    record.push({
      kind: "evaluation",
      step: i + 1,
      epoch: batches.epochsBefore(i + 1),
      loss,
      tokens: EVALUATED * BATCH_TOKENS,
      entropyPerToken,
    });
  }
  const last = losses.slice(-10);
  return {
    model: { gpt, tokenizer },
    loss: last.reduce((sum, loss) => sum + loss, 0) / last.length,
    validationLoss: record.at(-1)!.loss!,
    epochs: batches.epochsBefore(steps),
    record,
  };
}

/** The first documents of a data set. */
function first(dataset: TokenDataset, documents: number): TokenDataset {
  const count = Math.min(documents, dataset.documents);
  return {
    length: dataset.documentStart(count),
    documents: count,
    read: (start, end) => dataset.read(start, end),
    documentStart: (index) => dataset.documentStart(index),
  };
}

/** The texts of a model, and the repetition in them. */
interface Written {
  /** The greedy continuation of `PROMPTS[0]`, and a sampled one. */
  readonly greedyText: string;
  readonly sampledText: string;
  readonly greedy: Repetition;
  readonly sampled: Repetition;
}

/** Beginnings of stories that are continued, each in turn. */
const PROMPTS = ["Once upon a time", "One warm spring", "In the end", "Every sunny day"];

/** Texts that are generated, and tokens of each at most. */
const TEXTS = 16, TEXT_TOKENS = 64;

/** Lets a model write, greedily and with a sampler. */
async function write(model: LoadedModel, sampler: Partial<SamplerOptions> = {}): Promise<Written> {
  const requests = Array.from({ length: TEXTS }, (_, i) => (
    { prompt: PROMPTS[i % PROMPTS.length]!, seed: i }
  ));
  const generated = async (sampler: Partial<SamplerOptions>) => {
    const texts = requests.map(() => ({ text: "", ids: [] as number[] }));
    const options = { requests, sampler, maxNewTokens: TEXT_TOKENS };
    for await (const { index, text, ids } of generateBatch(model, options)) {
      texts[index]!.text += text;
      texts[index]!.ids.push(...ids);
    }
    return texts;
  };
  const greedy = await generated({ ...sampler, temperature: 0 }),
    sampled = await generated(sampler);
  return {
    greedyText: PROMPTS[0] + greedy[0]!.text,
    sampledText: PROMPTS[0] + sampled[0]!.text,
    greedy: meanRepetition(greedy.map(({ ids }) => ids)),
    sampled: meanRepetition(sampled.map(({ ids }) => ids)),
  };
}

/** Loss of the next token of held-out stories, with labels that are shifted and a causal mask. */
async function nextTokenLoss(
  device: Device,
  { gpt, tokenizer }: LoadedModel,
  { validation }: Corpus,
) {
  using masked = createGpt(device, gpt.config, { precision: "f32" });
  loadParameters(masked, await saveParameters(gpt), "the model");
  let sum = 0, count = 0;
  for (let i = 0; i < 16; i++) {
    const story = validation.read(validation.documentStart(i), validation.documentStart(i + 1));
    const ids = [tokenizer.endOfText, ...story].slice(0, gpt.config.contextLength);
    for (const loss of (await lossOf({ gpt: masked, tokenizer }, ids)).losses) {
      sum += loss;
      count++;
    }
  }
  return sum / count;
}

/** The mistakes, each with the training that makes it. */
const MISTAKES: Readonly<Record<string, Recipe>> = {
  "none": { steps: 200 },
  "labels not shifted": { steps: 60, stories: 900, change: unshifted },
  "no causal mask": { steps: 200, contextLength: 16, isUnmasked: true },
  "learning rate 0.5": { steps: 60, learningRate: 0.5 },
  "60 stories": { steps: 237, stories: 60 },
};

/** What the other project tried against its labels, as another sampler or another training. */
const CURES: Readonly<
  Record<string, { sampler?: Partial<SamplerOptions>; recipe?: Partial<Recipe> }>
> = {
  "none": {},
  "top-k 40": { sampler: { topK: 40 } },
  "temperature 1.5": { sampler: { temperature: 1.5 } },
  "repetition penalty 1.3": { sampler: { repetitionPenalty: 1.3 } },
  "dropout 0.3": { recipe: { dropout: 0.3 } },
  "a third of the steps": { recipe: { steps: 20 } },
  "more capacity: 4 layers of width 128": { recipe: { size: { layers: 4, width: 128, heads: 4 } } },
  "more text: 19,000 stories": { recipe: { stories: Infinity } },
};

/** Trains every model of the page, and makes its tables. */
async function sections(): Promise<Record<string, string>> {
  const device = await openDevice(), corpus = await loadCorpus({ data: "sample" });
  const failures: string[][] = [], diagnoses: string[][] = [], cures: string[][] = [];
  const { training, validation } = corpus, models: Trained[] = [];
  for (const [mistake, recipe] of Object.entries(MISTAKES)) {
    console.error(`training with the mistake: ${mistake}`);
    const where = recipe.isUnmasked ? withoutMask(await openDevice()) : device;
    const result = await trainModel(where, corpus, recipe), { model, record } = result;
    models.push(result);
    const written = await write(model);
    failures.push([
      mistake,
      `${recipe.steps}`,
      result.epochs.toFixed(1),
      result.loss.toFixed(3),
      result.validationLoss.toFixed(3),
      (await nextTokenLoss(device, model, corpus)).toFixed(3),
      code(written.greedyText),
    ]);
    const found = (await diagnose(model, { text: { training, validation }, record }))
      .filter(({ verdict }) => verdict === "sick");
    for (const { name, finding, cause } of found) diagnoses.push([mistake, name, finding, cause]);
    if (found.length === 0) diagnoses.push([mistake, "—", "no check is sick", "—"]);
  }
  const [healthy, sick] = models as [Trained, Trained], mistake = MISTAKES["labels not shifted"]!;
  const addCure = async (name: string, result: Trained, sampler: Partial<SamplerOptions> = {}) => {
    const { greedy, sampled, sampledText } = await write(result.model, sampler);
    cures.push([
      name,
      result.loss.toFixed(3),
      (await nextTokenLoss(device, result.model, corpus)).toFixed(2),
      percent(greedy.loopShare),
      percent(sampled.loopShare),
      sampled.distinct2.toFixed(2),
      sampled.longestRepeat.toFixed(0),
      code(sampledText),
    ]);
  };
  for (const [name, { sampler, recipe }] of Object.entries(CURES)) {
    console.error(`cure: ${name}`);
    const result = recipe ? await trainModel(device, corpus, { ...mistake, ...recipe }) : sick;
    await addCure(name, result, sampler);
  }
  const start = { ...mistake, start: healthy.model };
  await addCure("a pretrained start: 200 healthy steps", await trainModel(device, corpus, start));
  await addCure("shifted labels, 200 steps", healthy);
  corpus.close();
  return {
    mistakes: table(
      ["mistake", "steps >", "epochs >", "training >", "held out >", "next token >", "greedy text"],
      failures,
    ),
    diagnoses: table(["mistake", "check", "finding", "likely cause"], diagnoses),
    cures: table([
      "cure",
      ...["training >", "next token >", "loops, greedy >", "loops, sampled >", "distinct-2 >"],
      ...["longest repeat >", "sampled text"],
    ], cures),
  };
}

const percent = (share: number) => `${(100 * share).toFixed(0)} %`;

/** Characters of a text in a table. */
const SHOWN = 72;

/** The beginning of a text as code in a table. */
function code(text: string): string {
  const line = text.replaceAll(/\s*\n\s*/g, " / ").replaceAll(/[|`]/g, " ");
  return `\`${line.length > SHOWN ? `${line.slice(0, SHOWN - 1).trimEnd()}…` : line.trimEnd()}\``;
}

/** A table in Markdown, in the layout of `deno fmt`; a column whose title ends in > is aligned at the right. */
function table(head: readonly string[], rows: readonly string[][]): string {
  const right = head.map((title) => title.endsWith(" >"));
  const cells = [head.map((title) => title.replace(/ >$/, "")), ...rows];
  const widths = head.map((_, i) => Math.max(3, ...cells.map((row) => row[i]!.length)));
  const lines = cells.map((row) =>
    row.map((text, i) => right[i] ? text.padStart(widths[i]!) : text.padEnd(widths[i]!))
  );
  const rule = widths.map((width, i) => right[i] ? `${"-".repeat(width - 1)}:` : "-".repeat(width));
  return [lines[0]!, rule, ...lines.slice(1)].map((row) => `| ${row.join(" | ")} |`).join("\n");
}

/** Writes sections into the page, each between its markers. */
function writePage(page: URL, sections: Readonly<Record<string, string>>): void {
  let text = Deno.readTextFileSync(page);
  for (const [name, section] of Object.entries(sections)) {
    const begin = `<!-- begin: ${name}, made by docs/collapse.ts -->`,
      end = `<!-- end: ${name} -->`;
    const [before, rest] = text.split(begin), [, after] = rest?.split(end) ?? [];
    if (after === undefined) throw new Error(`Cannot find the markers of ${name} in ${page}`);
    text = `${before}${begin}\n\n${section}\n\n${end}${after}`;
  }
  Deno.writeTextFileSync(page, text);
}

if (import.meta.main) {
  writePage(new URL("collapse.md", import.meta.url), await sections());
  Deno.exit(0); // the devices keep the program running
}
