import { existsSync } from "node:fs";
import { join } from "node:path";
import { printable } from "../files/printable.ts";
import { UserError } from "../files/user_error.ts";
import { findSource, loadSource } from "../generate/load.ts";
import { newestIn } from "../generate/source.ts";
import { copyingHeads } from "../inspect/copying_heads.ts";
import {
  beforeNames,
  judgeAnswers,
  JUDGED_QUESTIONS,
  JUDGED_STORIES,
  judgeModel,
} from "../inspect/judge.ts";
import { drawJudgements, type JudgedCheckpoint } from "../inspect/judge_chart.ts";
import { judgementTables, withIntervals } from "../inspect/judge_table.ts";
import type { Device } from "../kernels/device.ts";
import { validateSampler } from "../kernels/sample/sample.ts";
import { isNameInRun, listCheckpoints, readTrainerState } from "../model/files/checkpoint.ts";
import { CheckpointError } from "../model/files/trainer_state.ts";
import { LossCurve } from "../train/record/loss_curve.ts";
import { METRICS_FILE, readMetrics } from "../train/record/metrics.ts";
import { placeInRun } from "../train/directory/run_place.ts";
import {
  command,
  output,
  outputColumns,
  runCommand,
  status,
  warn,
  wholeNumber,
} from "./command.ts";
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
      "judge this one alone: best, latest, a number of steps, or a directory",
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
    runCommand(() => main(options, (name) => command.getOptionValueSource(name) === "cli"))
  );

/** The options that were typed, and defaults. */
type JudgeCommandOptions = ReturnType<typeof program.opts>;

async function main(
  options: JudgeCommandOptions,
  isTyped: (name: keyof JudgeCommandOptions) => boolean,
): Promise<void> {
  validateSampler(options);
  if (options.svg !== undefined) checkPlot(options.svg);
  const chosen = await chooseCheckpoints(options, isTyped), judgedRun = runOfJudged(options);
  const judged = await judgeAll(chosen, options), last = judged.at(-1);
  if (!last) {
    throw new CheckpointError(`Cannot judge ${judgedRun} as none of its checkpoints can be loaded`);
  }
  if (!options.json) {
    output(judgementTables(judged, options, outputColumns()));
    status(`docs/${chosen.answerQuestions ? "chat" : "judge"}.md says what is counted`);
    reportCopying(last);
  }
  if (options.svg !== undefined) await draw(options.svg, judged, judgedRun);
}

/** The checkpoints that are judged. */
interface ChosenCheckpoints {
  /** Their directories, the oldest first. */
  readonly paths: readonly string[];
  /** Whether they answer questions; otherwise they continue stories. */
  readonly answerQuestions: boolean;
}

/**
 * Chooses the checkpoints that the options name.
 *
 * @throws {CheckpointError} if there is none; {UserError} if an option of the other kind of judgement was typed.
 */
async function chooseCheckpoints(
  { run, checkpoint }: JudgeCommandOptions,
  isTyped: (name: keyof JudgeCommandOptions) => boolean,
): Promise<ChosenCheckpoints> {
  const newest = checkpoint === undefined
    ? newestIn(run, warn)
    : (await findSource({ run, checkpoint, onWarning: warn })).checkpoint!;
  const { data } = readTrainerState(newest), answerQuestions = data.name === "conversations";
  const [used, unused, others] = answerQuestions
    ? ["questions", "stories", "of texts"] as const
    : ["stories", "questions", "of --data conversations"] as const;
  if (isTyped(unused)) {
    throw new UserError(
      `Cannot judge with --${unused} as it is for models ${others}: ` +
        `this one was trained on ${printable(data.name)}`,
      { hint: `Leave it out, or choose --${used}` },
    );
  }
  if (!answerQuestions && data.name !== "sample") {
    warn(
      `the model was trained on ${printable(data.name)}, and the grammar is that of the built-in ` +
        "stories alone",
    );
  }
  const paths = checkpoint !== undefined
    ? [newest]
    : listCheckpoints(run).map(({ path }) => path).reverse();
  return { paths, answerQuestions };
}

/** The run of the judged checkpoints: that of the options, or the one that holds the directory of a checkpoint. */
function runOfJudged({ run, checkpoint = "latest" }: JudgeCommandOptions): string {
  const isDirectory = checkpoint !== "latest" && !isNameInRun(checkpoint);
  return isDirectory ? placeInRun(checkpoint)?.run ?? run : run;
}

/** Judges the checkpoints one after another, shows the progress, and skips those that cannot be loaded. */
async function judgeAll(
  { paths, answerQuestions }: ChosenCheckpoints,
  options: JudgeCommandOptions,
): Promise<JudgedCheckpoint[]> {
  const judged: JudgedCheckpoint[] = [], { length } = paths;
  const device = await openGpu(options);
  using bar = new ProgressBar();
  for (const [i, path] of paths.entries()) {
    const place = `checkpoint ${i + 1} of ${length}`;
    const onProgress = (share: number) =>
      bar.update(i + share, length, `${place}: ${Math.floor(100 * share)} %`);
    const judgement = await attempt(
      () => judgeCheckpoint(device, path, { ...options, answerQuestions, onProgress }),
      { isOnly: length === 1, bar },
    );
    if (!judgement) continue;
    judged.push(judgement);
    if (options.json) output(`${JSON.stringify(withIntervals(judgement))}\n`);
    else if (!bar.isVisible) status(`judged step ${judgement.step}, ${place}`);
  }
  return judged;
}

/** Reports the head that attends most to the name of the hero. */
function reportCopying({ step, heads: [first] = [] }: JudgedCheckpoint): void {
  if (!first) return;
  const { layer, head, weight } = first, percent = (100 * weight).toFixed(0);
  status(
    `where the name of the hero comes again, head ${layer}.${head} gives it the most attention ` +
      `at step ${step}: ${percent} % (a head that copies the name gives it more than half)`,
  );
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

/** Texts by which the heads are found that copy the name of the hero. */
const COPIED_NAMES = 24;

/** Judges a checkpoint, greedily and with the sampler. */
async function judgeCheckpoint(
  device: Device,
  checkpoint: string,
  { stories, questions, seed, answerQuestions, onProgress, ...options }: JudgeCommandOptions & {
    answerQuestions: boolean;
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
        onProgress((part + done / (answerQuestions ? questions : stories)) / parts),
    };
    return answerQuestions
      ? judgeAnswers(model, { questions, ...common })
      : judgeModel(model, { stories, ...common });
  };
  onProgress(0);
  const { tokenizer, gpt: { config: { contextLength } } } = model;
  const texts = beforeNames({ seed, count: answerQuestions ? 0 : COPIED_NAMES })
    .filter(({ text }) => tokenizer.encode(text).length < contextLength);
  return {
    step,
    greedy: await judge(0, 0),
    ...(isSampled ? { sampled: await judge(sampler.temperature, 1) } : {}),
    heads: texts.length === 0 ? [] : await copyingHeads(model, texts),
  };
}

/** Draws the judgements below the loss curve of the run, if the run has a record. */
async function draw(
  svg: string,
  judged: readonly JudgedCheckpoint[],
  judgedRun: string,
): Promise<void> {
  const losses = new LossCurve(), record = join(judgedRun, METRICS_FILE);
  if (existsSync(record)) {
    for (const metric of readMetrics(record, warn)) losses.add(metric);
  }
  writePlot(svg, await drawJudgements(judged, { title: `What ${judgedRun} has learned`, losses }));
}

await program.parseAsync();
