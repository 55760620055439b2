import { existsSync } from "node:fs";
import { join } from "node:path";
import { printable } from "../files/printable.ts";
import { fits, fitTable } from "../files/units.ts";
import { UserError } from "../files/user_error.ts";
import { findSource, loadSource } from "../generate/load.ts";
import { newestIn } from "../generate/source.ts";
import { copyingHeads } from "../inspect/copying_heads.ts";
import {
  ANSWER_FIGURES,
  beforeNames,
  judgeAnswers,
  JUDGED_QUESTIONS,
  JUDGED_STORIES,
  judgeModel,
  type Share,
  shareInterval,
  STORY_FIGURES,
} from "../inspect/judge.ts";
import { drawJudgements, type JudgedCheckpoint } from "../inspect/judge_chart.ts";
import type { Device } from "../kernels/device.ts";
import { type SamplerOptions, validateSampler } from "../kernels/sample/sample.ts";
import { isNameInRun, listCheckpoints, readTrainerState } from "../model/files/checkpoint.ts";
import { CheckpointError } from "../model/files/trainer_state.ts";
import { LossCurve } from "../train/loss_curve.ts";
import { METRICS_FILE, readMetrics } from "../train/metrics.ts";
import { placeInRun } from "../train/run_place.ts";
import { command, output, outputColumns, run, status, wholeNumber } from "./command.ts";
import { gpuOption, openGpu } from "./gpu.ts";
import { checkPlot, writePlot } from "./plot.ts";
import { ProgressBar } from "./progress.ts";
import { samplerOf, withSamplerOptions } from "./sampler_options.ts";

/** `judge`: how well the checkpoints of a run write the built-in stories, or answer questions about them. */
const program = withSamplerOptions(
  command(
    "judge",
    "Judge by their grammar how well a run continues the built-in stories, or, if it was trained " +
      "on conversations, answers questions about them.",
  )
    .addOption(gpuOption())
    .optionsGroup("Model:")
    .option("--run <directory>", "judge all checkpoints of this run", "runs/default")
    .option(
      "--checkpoint <which>",
      "judge one: best, latest, a number of steps, or a directory",
    )
    .optionsGroup("Stories:")
    .option(
      "--stories <n>",
      "beginnings that the model continues",
      wholeNumber(3, 100_000),
      JUDGED_STORIES,
    )
    .option(
      "--questions <n>",
      "questions that a model of conversations answers",
      wholeNumber(1, 100_000),
      JUDGED_QUESTIONS,
    )
    .option(
      "--seed <n>",
      "seed of the beginnings or questions and of the sampler",
      wholeNumber(),
      1,
    ),
)
  .optionsGroup("Output:")
  .option("--svg <file>", "draw the judgements below the run's loss curve")
  .option("--json", "one JSON object per checkpoint instead of tables")
  .action((options, command) =>
    run(() => main(options, (name) => command.getOptionValueSource(name) === "cli"))
  );

/** The options that were typed, and defaults. */
type JudgeCommandOptions = ReturnType<typeof program.opts>;

async function main(
  options: JudgeCommandOptions,
  isTyped: (name: keyof JudgeCommandOptions) => boolean,
): Promise<void> {
  validateSampler(options);
  if (options.svg !== undefined) checkPlot(options.svg);
  const { checkpoints, isAsked } = await checkpointsOf(options, isTyped), { length } = checkpoints;
  const run = runOf(options);
  const judged: JudgedCheckpoint[] = [];
  const device = await openGpu(options), bar = new ProgressBar();
  try {
    for (const [i, checkpoint] of checkpoints.entries()) {
      const place = `checkpoint ${i + 1} of ${length}`;
      const onProgress = (share: number) =>
        bar.update(i + share, length, `${place}: ${Math.floor(100 * share)} %`);
      const judgement = await attempt(
        () => judgeCheckpoint(device, checkpoint, { ...options, isAsked, onProgress }),
        {
          isOnly: length === 1,
          bar,
        },
      );
      if (!judgement) continue;
      judged.push(judgement);
      if (options.json) output(`${JSON.stringify(withIntervals(judgement))}\n`);
      else if (!bar.isVisible) status(`judged step ${judgement.step}, ${place}`);
    }
  } finally {
    bar.close();
  }
  const last = judged.at(-1);
  if (!last) {
    throw new CheckpointError(`Cannot judge ${run} as none of its checkpoints can be loaded`);
  }
  if (!options.json) {
    output(tables(judged, options));
    status(`docs/${isAsked ? "chat" : "judge"}.md says what is counted`);
    const [head] = last.heads ?? [];
    if (head) {
      status(
        `where the name of the hero comes again, head ${head.layer}.${head.head} gives it the most ` +
          `attention at step ${last.step}: ${
            (100 * head.weight).toFixed(0)
          } % (a head that copies the ` +
          "name gives it more than half)",
      );
    }
  }
  if (options.svg !== undefined) await draw(options.svg, judged, run);
}

/**
 * The directories of the checkpoints to judge, oldest first, and whether they answer questions.
 *
 * @throws {CheckpointError} if there is none; {UserError} if an option of the other kind of judgement was typed.
 */
async function checkpointsOf(
  { run, checkpoint }: JudgeCommandOptions,
  isTyped: (name: keyof JudgeCommandOptions) => boolean,
): Promise<{ checkpoints: string[]; isAsked: boolean }> {
  const onWarning = (sentence: string) => status(`Warning: ${sentence}`);
  const newest = checkpoint === undefined
    ? newestIn(run, onWarning)
    : (await findSource({ run, checkpoint, onWarning })).checkpoint!;
  const { data } = readTrainerState(newest), isAsked = data.name === "conversations";
  const unused = isAsked ? "stories" : "questions";
  if (isTyped(unused)) {
    throw new UserError(
      `Cannot judge with --${unused} as it is for models ${
        isAsked ? "of texts" : "of --data conversations"
      }: ` +
        `this one was trained on ${printable(data.name)}`,
      { hint: `Leave it out, or choose --${isAsked ? "questions" : "stories"}` },
    );
  }
  if (!isAsked && data.name !== "sample") {
    onWarning(
      `the model was trained on ${printable(data.name)}, and the grammar is that of the built-in ` +
        "stories alone",
    );
  }
  const checkpoints = checkpoint !== undefined
    ? [newest]
    : listCheckpoints(run).map(({ path }) => path).reverse();
  return { checkpoints, isAsked };
}

/** The run whose losses are drawn: the one of the options, or the one that holds the directory of a checkpoint. */
function runOf({ run, checkpoint = "latest" }: JudgeCommandOptions): string {
  const isDirectory = checkpoint !== "latest" && !isNameInRun(checkpoint);
  return isDirectory ? placeInRun(checkpoint)?.run ?? run : run;
}

/** The result of an action; undefined, with a warning, if it fails by a user's mistake and is not the only one. */
async function attempt<T>(
  action: () => Promise<T>,
  { isOnly, bar }: { isOnly: boolean; bar: ProgressBar },
): Promise<T | undefined> {
  try {
    return await action();
  } catch (error) {
    if (isOnly || !(error instanceof UserError)) throw error;
    bar.print(`Warning: ${error.sentence}`);
    return undefined;
  }
}

/** Texts in which a head is looked for that copies the name. */
const COPIES = 24;

/** Judges a checkpoint, greedily and with the sampler. */
async function judgeCheckpoint(
  device: Device,
  checkpoint: string,
  { stories, questions, seed, isAsked, onProgress, ...options }: JudgeCommandOptions & {
    isAsked: boolean;
    onProgress: (share: number) => void;
  },
): Promise<JudgedCheckpoint> {
  const { step } = readTrainerState(checkpoint);
  const model = loadSource(device, await findSource({ checkpoint }));
  using _ = model.gpt;
  const sampler = samplerOf(options);
  const isSampled = sampler.temperature > 0, parts = isSampled ? 2 : 1;
  const judge = (temperature: number, part: number) => {
    const common = {
      seed,
      sampler: { ...sampler, temperature },
      onProgress: (done: number) =>
        onProgress((part + done / (isAsked ? questions : stories)) / parts),
    };
    return isAsked
      ? judgeAnswers(model, { questions, ...common })
      : judgeModel(model, { stories, ...common });
  };
  onProgress(0);
  const { tokenizer, gpt: { config: { contextLength } } } = model;
  const texts = beforeNames({ seed, count: isAsked ? 0 : COPIES })
    .filter(({ text }) => tokenizer.encode(text).length < contextLength);
  return {
    step,
    greedy: await judge(0, 0),
    ...(isSampled ? { sampled: await judge(sampler.temperature, 1) } : {}),
    heads: texts.length === 0 ? [] : await copyingHeads(model, texts),
  };
}

/** A table of the greedy stories, and one of the sampled ones, as wide as the terminal allows. */
function tables(judged: readonly JudgedCheckpoint[], sampler: SamplerOptions): string {
  const width = outputColumns() ?? Infinity, figures = figuresOf(judged);
  const table = (
    temperature: number,
    of: (checkpoint: JudgedCheckpoint) => Shares,
    cell: Cell,
  ) =>
    `${samplerText({ ...sampler, temperature })}: ${CELLS.get(cell)}\n` + fitTable(
      {
        step: ({ step }: JudgedCheckpoint) => `${step}`,
        ...Object.fromEntries(figures.map((name) => [name, (one) => cell(of(one)[name]!)])),
      },
      judged,
      { spare: cell === percentOf ? figures.slice(1).reverse() : [], width },
    );
  const all = (cell: Cell) =>
    [
      table(0, ({ greedy }) => greedy, cell),
      ...(sampler.temperature > 0
        ? [table(sampler.temperature, ({ sampled }) => sampled!, cell)]
        : []),
    ].join("\n");
  const wide = all(withInterval);
  return fits(wide, width) ? wide : all(percentOf);
}

/** How tokens are drawn: the options that do something. */
function samplerText(sampler: SamplerOptions): string {
  const { temperature, topK, topP, minP, repetitionPenalty, repetitionWindow } = sampler;
  const { presencePenalty, frequencyPenalty } = sampler;
  const isSampled = temperature > 0; // a greedy sampler has one token to choose from
  return [
    isSampled ? `temperature ${temperature}` : "greedy",
    ...(isSampled && topK > 0 ? [`top-k ${topK}`] : []),
    ...(isSampled && topP < 1 ? [`top-p ${topP}`] : []),
    ...(isSampled && minP > 0 ? [`min-p ${minP}`] : []),
    ...(repetitionPenalty === 1 ? [] : [
      `repetition penalty ${repetitionPenalty} on ${
        repetitionWindow === 0 ? "all" : `the last ${repetitionWindow}`
      } tokens`,
    ]),
    ...(presencePenalty === 0 ? [] : [`presence penalty ${presencePenalty}`]),
    ...(frequencyPenalty === 0 ? [] : [`frequency penalty ${frequencyPenalty}`]),
  ].join(", ");
}

/** The judged figures by their names. */
type Shares = Readonly<Record<string, Share>>;

/** The figures of these judgements, in the order in which they are shown. */
function figuresOf([first]: readonly JudgedCheckpoint[]): readonly string[] {
  return "all" in first!.greedy ? ANSWER_FIGURES : STORY_FIGURES;
}

/** Makes a cell of a table. */
type Cell = (share: Share) => string;

const percentOf: Cell = ({ count, of }) => of === 0 ? "—" : (100 * count / of).toFixed(0);

const withInterval: Cell = (share) => {
  const [low, high] = shareInterval(share).map((value) => (100 * value).toFixed(0));
  return `${percentOf(share)} (${low}–${high}) of ${share.of}`;
};

/** What the cells of a table are. */
const CELLS = new Map([
  [percentOf, "%"],
  [withInterval, "% (95 % confidence interval) of how many"],
]);

/** A judgement for JSON: each share with its interval. */
function withIntervals({ step, heads, ...drawn }: JudgedCheckpoint): object {
  const shares = (of: Shares) =>
    Object.fromEntries(
      Object.entries(of).map(([figure, share]) => [
        figure,
        { ...share, interval: shareInterval(share) },
      ]),
    );
  return {
    step,
    ...Object.fromEntries(Object.entries(drawn).map(([how, of]) => [how, shares(of)])),
    heads,
  };
}

/** Draws the judgements below the loss curve of the run, as far as the run has a record. */
async function draw(
  svg: string,
  judged: readonly JudgedCheckpoint[],
  run: string,
): Promise<void> {
  const losses = new LossCurve(), record = join(run, METRICS_FILE);
  const onWarning = (sentence: string) => status(`Warning: ${sentence}`);
  if (existsSync(record)) {
    for (const metric of readMetrics(record, onWarning)) losses.add(metric);
  }
  writePlot(svg, await drawJudgements(judged, { title: `What ${run} has learned`, losses }));
}

await program.parseAsync();
