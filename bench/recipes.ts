/**
 * Compares recipes: what a part of an architecture, an optimizer or a schedule gains over GPT-2 with AdamW, in
 * trainings of nano with several seeds, at equal steps and at equal time.
 *
 *     deno task bench:recipes time [TRAINING VALIDATION]    how long a step of each recipe takes on this machine
 *     deno task bench:recipes train [TRAINING VALIDATION]   trains all recipes
 *     deno task bench:recipes write                         writes the tables into docs/recipes.md
 *
 * Without files the text is the built-in stories; the files are those of the sample of TinyStories, see docs/recipes.md.
 *
 * Results are added to bench/recipes.json. So `train` resumes after an interruption, and may run on another machine
 * than `time`: the steps that take equal time are those of the machine that was timed.
 *
 * @module
 */
import { Argument } from "@commander-js/extra-typings";
import { command, runCommand } from "../commands/command.ts";
import {
  createGpt,
  createTrainStep,
  type Device,
  initializeParameters,
  judgeModel,
  loadModel,
  openDevice,
  train,
  type TrainOptions,
  UserError,
} from "../mod.ts";
import { median } from "../kernels/timing.ts";
import { resolvePrecision } from "../model/precision.ts";
import { newModel } from "../train/architecture.ts";
import { DEFAULT_OPTIONS } from "../train/options.ts";
import { presetDefaults, sizesOf } from "../train/resolve.ts";
import { type Markers, replaceSection, table } from "./markdown.ts";
import { sampleBatches } from "./text.ts";

/** What differs from the recipe that all are compared with. */
type Recipe = Partial<TrainOptions>;

/** The recipe that all are compared with, and its name. */
const FIRST = {
  arch: "gpt2",
  optimizer: "adamw",
  learningRate: 5e-3,
  minLearningRate: 5e-4,
  documents: "joined",
} as const satisfies Recipe;
const BASE = "GPT-2, AdamW";

const MUON: Recipe = { optimizer: "muon", muonLearningRate: 0.01 };

/** The recipes by name. */
const RECIPES: Readonly<Record<string, Recipe>> = {
  [BASE]: {},
  "rotary positions": { positions: "rotary" },
  "RMSNorm": { norm: "rmsnorm" },
  "SwiGLU": { mlp: "swiglu" },
  "ReLU²": { mlp: "relu2" },
  "QK-norm": { qkNorm: "on" },
  "zero-initialised projections": { zeroInit: "on" },
  "no biases": { biases: "off" },
  "WSD": { schedule: "wsd", minLearningRate: 0 },
  "Muon": MUON,
  "llama, AdamW": { arch: "llama" },
  "modern, AdamW": { arch: "modern" },
  "rotary positions, Muon": { ...MUON, positions: "rotary" },
  "llama with GELU, Muon": { ...MUON, arch: "llama", mlp: "gelu" },
  "llama, Muon": { ...MUON, arch: "llama" },
  "llama with QK-norm, Muon": { ...MUON, arch: "llama", qkNorm: "on" },
  "modern, Muon": { ...MUON, arch: "modern" },
  "Muon, WSD": { ...MUON, schedule: "wsd", minLearningRate: 0 },
};

/** Seeds per recipe. */
const SEEDS = [1, 2, 3, 4, 5];

/** Steps that are timed per turn, and turns. */
const TIMED_STEPS = 4, TURNS = 15;

/** One training. */
interface Run {
  /** Name of its text. */
  readonly text: string;
  readonly recipe: string;
  readonly seed: number;
  readonly steps: number;
  /** Validation loss after the last step, nats per token. */
  readonly loss: number;
  /** Of 24 stories each, how many keep their hero and their animal; only for the built-in stories. */
  readonly heroes?: number;
  readonly animals?: number;
}

/** All results. */
export interface Results {
  /** Milliseconds per step and turn, by text and recipe. */
  readonly stepMs: Record<string, Record<string, number[]>>;
  /** The machine on which steps were timed. */
  timedOn?: string;
  readonly runs: Run[];
}

const FILE = new URL("recipes.json", import.meta.url);
const PAGE = new URL("../docs/recipes.md", import.meta.url);

export function readResults(): Results {
  try {
    return JSON.parse(Deno.readTextFileSync(FILE));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return { stepMs: {}, runs: [] };
  }
}

function save(results: Results): void {
  Deno.writeTextFileSync(FILE, JSON.stringify(results, null, 2) + "\n");
}

/** The reports of a training that writes nothing but its last checkpoint. */
function trainingOf(recipe: Recipe, rest: Partial<TrainOptions>): ReturnType<typeof train> {
  return train({
    preset: "nano",
    tune: "off",
    tensorboard: false,
    sampleEvery: 0,
    saveEvery: 0,
    ...FIRST,
    ...recipe,
    ...rest,
  });
}

/** Times the steps of all recipes. */
async function timeSteps(results: Results, files: readonly string[]): Promise<void> {
  const device = await openDevice();
  const { text, data } = textOf(files), vocabularySize = await vocabularyOf(data);
  const recipes = Object.entries(RECIPES).map(([name, recipe]) =>
    [name, createSteps(device, { ...recipe, vocabularySize })] as const
  );
  const stepMs = await timeInTurns(recipes);
  results.timedOn = device.name;
  results.stepMs[text] = stepMs;
  save(results);
  for (const [name, ms] of Object.entries(stepMs)) console.error(`${name}: ${median(ms)} ms`);
}

/** Does steps; the promise waits for them. */
type Steps = (count: number) => Promise<void>;

/**
 * Milliseconds per step and turn, by name: in each turn all do a few steps, so that a change of the machine's speed meets
 * all of them.
 */
export async function timeInTurns(
  recipes: readonly (readonly [name: string, steps: Steps])[],
): Promise<Record<string, number[]>> {
  for (const [, steps] of recipes) await steps(TIMED_STEPS); // compiles the kernels
  const stepMs: Record<string, number[]> = {};
  for (let turn = 0; turn < TURNS; turn++) {
    for (const [name, steps] of recipes) {
      const since = performance.now();
      await steps(TIMED_STEPS);
      const ms = (performance.now() - since) / TIMED_STEPS;
      (stepMs[name] ??= []).push(Number(ms.toFixed(2)));
    }
  }
  return stepMs;
}

/** Number of tokens that a text has, which the head of a model must tell apart. */
async function vocabularyOf(data: Recipe): Promise<number> {
  const out = Deno.makeTempDirSync();
  for await (const event of trainingOf(data, { steps: 1, evalEvery: 0, out })) {
    if (event.kind === "start") return event.corpus.vocabularySize;
  }
  throw new Error("a training begins with a start");
}

/** Does steps of nano, changed by a recipe, on random tokens; the promise waits for the device. */
function createSteps(
  device: Device,
  { vocabularySize, ...changes }: Recipe & { vocabularySize: number },
): Steps {
  const options = { ...DEFAULT_OPTIONS, ...FIRST, ...changes };
  const sizes = sizesOf(options, presetDefaults("nano"));
  const config = newModel({ ...options, ...sizes, vocabularySize });
  const shape = { batchSize: sizes.batchSize, sequenceLength: sizes.contextLength };
  const gpt = createGpt(device, config, { precision: resolvePrecision(device, "auto") });
  initializeParameters(gpt, { seed: 1 });
  const { optimizer = FIRST.optimizer, documents } = options;
  const trainStep = createTrainStep(gpt, { ...shape, optimizer, documents });
  const batches = sampleBatches({ ...shape, vocabularySize });
  let index = 0;
  return async (count) => {
    const rates = { learningRate: 1e-4, muonLearningRate: 1e-4 };
    for (const end = index + count; index < end; index++) {
      await trainStep.submit(index, [batches.at(index)], rates);
    }
    await trainStep.reports(count);
  };
}

/** Names of the texts: the built-in stories, and that of the files that are given. */
const STORIES = "built-in stories", GIVEN = "sample of TinyStories";

/**
 * Steps of a training of the base recipe, by text. More on the files would be more than five passes over such little
 * text, and would compare how well each recipe learns it by heart.
 */
const STEPS: Readonly<Record<string, number>> = { [STORIES]: 2000, [GIVEN]: 600 };

/** The text in the files for training and for validation, or the built-in stories. */
function textOf(files: readonly string[]): { text: string; data: Recipe } {
  return files.length === 0
    ? { text: STORIES, data: { data: "sample" } }
    : { text: GIVEN, data: { data: [files[0]!], validationData: [files[1]!] } };
}

/**
 * Steps of a recipe in the time that the base recipe needs for its own, by the ratio of their times in each turn; in
 * multiples of a fortieth of these, as the times are not more exact. Undefined if the recipe was not timed.
 */
function equalTimeSteps(
  { stepMs }: Pick<Results, "stepMs">,
  text: string,
  recipe: string,
): number | undefined {
  const base = stepMs[text]?.[BASE], own = stepMs[text]?.[recipe];
  if (!base || !own) return undefined;
  const ratio = median(base.map((ms, turn) => ms / own[turn]!));
  return STEPS[text]! / 40 * Math.round(40 * ratio);
}

/**
 * The runs that results lack on a text: all recipes with all seeds, for equal steps and, if the recipe was timed, for
 * equal time.
 */
export function missingRuns(
  { runs, stepMs }: Pick<Results, "runs" | "stepMs">,
  text: string,
): Pick<Run, "recipe" | "seed" | "steps">[] {
  const equal = STEPS[text]!;
  const wanted = SEEDS.flatMap((seed) =>
    Object.keys(RECIPES).flatMap((recipe) =>
      [...new Set([equal, equalTimeSteps({ stepMs }, text, recipe) ?? equal])]
        .map((steps) => ({ recipe, seed, steps }))
    )
  );
  return wanted.filter(({ recipe, seed, steps }) =>
    !runs.some((run) =>
      run.text === text && run.recipe === recipe && run.seed === seed && run.steps === steps
    )
  );
}

/** Trains what the results lack. */
async function trainAll(results: Results, files: readonly string[]): Promise<void> {
  const device = await openDevice();
  const { text, data } = textOf(files);
  for (const { recipe, seed, steps } of missingRuns(results, text)) {
    const out = Deno.makeTempDirSync();
    let loss = NaN;
    const options = { seed, steps, evalEvery: steps, out };
    for await (const event of trainingOf({ ...RECIPES[recipe], ...data }, options)) {
      if (event.kind === "evaluation") loss = event.loss;
    }
    const run: Run = { text, recipe, seed, steps, loss };
    results.runs.push(files.length > 0 ? run : { ...run, ...await storiesKept(device, out) });
    Deno.removeSync(out, { recursive: true });
    save(results);
    console.error(`${recipe}, seed ${seed}, ${steps} steps: ${loss.toFixed(4)}`);
  }
  console.error(`bench/recipes.json has all trainings on the ${text}`);
}

/** Stories that are judged: 24 begin with a hero, 24 with an animal, 24 with a thing. */
const JUDGED = 72; // the hero is counted in all of them, the animal in its 24

/** How many stories a run continues greedily with their hero, and how many with their animal. */
async function storiesKept(
  device: Device,
  run: string,
): Promise<Pick<Run, "heroes" | "animals">> {
  const model = await loadModel(device, { run });
  using _gpt = model.gpt;
  const { hero, animal } = await judgeModel(model, {
    stories: JUDGED,
    sampler: { temperature: 0 },
  });
  return { heroes: hero.count, animals: animal.count };
}

export const MARKERS: Markers = {
  begin: "<!-- begin: made by `deno task bench:recipes write` from bench/recipes.json -->",
  end: "<!-- end: made by `deno task bench:recipes write` -->",
};

/** A table per text, with a row per recipe that was timed and trained. */
export function sections({ runs, stepMs, timedOn }: Results): string {
  const texts = [STORIES, GIVEN].filter((text) => runs.some((run) => run.text === text));
  return texts.map((text) => {
    const runsOf = (recipe: string, steps: number) =>
      runs.filter((run) => run.text === text && run.recipe === recipe && run.steps === steps)
        .toSorted((a, b) => a.seed - b.seed);
    const medianOf = (found: readonly Run[]) => median(found.map(({ loss }) => loss));
    const losses = (found: readonly Run[]) => found.map(({ loss }) => loss.toFixed(3)).join(" ");
    const steps = STEPS[text]!, baseline = medianOf(runsOf(BASE, steps));
    const rows = Object.keys(RECIPES).flatMap((recipe) => {
      const timedSteps = equalTimeSteps({ stepMs }, text, recipe);
      if (timedSteps === undefined) return [];
      const atSteps = runsOf(recipe, steps), inTime = runsOf(recipe, timedSteps);
      if (atSteps.length === 0 || inTime.length === 0) return [];
      const kept = [...atSteps, ...(timedSteps === steps ? [] : inTime)];
      return [[
        recipe,
        losses(atSteps),
        medianOf(atSteps).toFixed(3),
        `${timedSteps}`,
        losses(inTime),
        medianOf(inTime).toFixed(3),
        (baseline - medianOf(inTime)).toFixed(3),
        ...(text === STORIES ? [kept.map(({ animals }) => animals).join(" ")] : []),
      ]];
    });
    const head = [
      ...["recipe", `${steps} steps, 5 seeds`, "median >", "steps in equal time >"],
      ...["losses in equal time", "median >", "gain >"],
      ...(text === STORIES ? ["animals of 24, all runs"] : []),
    ];
    const heading = `## On the ${text}`;
    return `${heading}\n\n${table(head, rows)}\n\nSteps were timed on ${timedOn}.`;
  }).join("\n\n");
}

/** Writes the tables into their page. */
function write(results: Results): void {
  const page = Deno.readTextFileSync(PAGE);
  Deno.writeTextFileSync(PAGE, replaceSection(page, sections(results), "docs/recipes.md", MARKERS));
}

/** What the command does. */
const MODES = ["time", "train", "write"] as const;

if (import.meta.main) {
  const program = command(
    "bench:recipes",
    "Compare architectures, optimizers and schedules at the size of nano.",
  )
    .addArgument(
      new Argument(
        "<mode>",
        "time the steps of each recipe, train those without a result, or write the page",
      )
        .choices(MODES),
    )
    .argument("[files...]", "two texts, to train on in place of the built-in stories")
    .action((mode, files) => runCommand(() => main(mode, files)));
  await program.parseAsync();
}

async function main(mode: typeof MODES[number], files: readonly string[]): Promise<void> {
  if (files.length > 0 && (mode === "write" || files.length !== 2)) {
    throw new UserError(
      `Cannot ${mode} recipes as ${
        mode === "write" ? "no file" : "none or two files"
      } must be given: ` +
        `current number is ${files.length}`,
    );
  }
  const results = readResults();
  if (mode === "write") return write(results);
  await (mode === "time" ? timeSteps : trainAll)(results, files);
}
