import { refuseOthers } from "../files/option_names.ts";
import {
  QUESTION_KINDS,
  type QuestionKind,
  type StoryQuestion,
  storyQuestions,
} from "../data/text/story_questions.ts";
import { createChatFormat } from "../data/tokenizer/chat_format.ts";
import { generateBatch } from "../generate/generate.ts";
import type { CompletionRequest } from "../generate/request.ts";
import type { SamplerOptions } from "../kernels/sample/sample.ts";
import type { LoadedModel } from "../generate/load.ts";
import type { BeforeCopy } from "./copying_heads.ts";
import {
  type Beginning,
  judgeStory,
  STORY_ROLES,
  storyBeginnings,
  type StoryRole,
} from "./story_judge.ts";

/**
 * How well a model has learned the built-in stories: it continues beginnings of stories of the grammar, and its
 * continuations are judged.
 *
 * - sentences: of the whole sentences that end in the continuations, those that the grammar can write, each judged
 *   alone.
 * - hero, animal, thing: of the stories whose beginning names one that the rest of such a story names again, those
 *   whose continuation names it, and whose whole text names no other.
 *
 * A story ends where the model ends it. A story that has a quarter more tokens than any of the grammar would have is cut
 * off and judged as far as it goes: its unfinished sentence does not count, and a hero that was not named again is not
 * kept.
 *
 * A model of conversations answers questions about stories on which none was trained. An answer is right if it is that
 * of the grammar, letter by letter.
 *
 * @module
 */

/** How many of some sentences, stories or answers pass a judgement. */
export interface Share {
  /** Those that pass. */
  readonly count: number;
  /** All that were judged. */
  readonly of: number;
}

/** What is judged of stories. */
export type StoryFigure = "sentences" | StoryRole;

/** The figures of stories in the order in which they are shown. */
export const STORY_FIGURES: readonly StoryFigure[] = ["sentences", ...STORY_ROLES];

/** The figures of a model's stories; `of` is 0 if there was nothing to count. */
export type StoryShares = Readonly<Record<StoryFigure, Share>>;

/** What is judged of answers: all of them, and those to each kind of question. */
export type AnswerFigure = "all" | QuestionKind;

/** The figures of answers in the order in which they are shown. */
export const ANSWER_FIGURES: readonly AnswerFigure[] = ["all", ...QUESTION_KINDS];

/** The right answers of a model. */
export type AnswerShares = Readonly<Record<AnswerFigure, Share>>;

/** How to judge a model. */
export interface JudgeOptions {
  /** Stories that the model continues, 120 by default. */
  stories?: number;
  /** Seed of what the model reads and of the sampler, 1 by default; with the same one, all models read the same. */
  seed?: number;
  /** How tokens are drawn; `DEFAULT_SAMPLER` has the values that are absent. */
  sampler?: Partial<SamplerOptions>;
  /** Is called with the number of stories or answers that are complete. */
  onProgress?: (done: number) => void;
}

/** How to judge the answers of a model. */
export interface JudgeAnswersOptions extends Omit<JudgeOptions, "stories"> {
  /** Questions that the model answers, 200 by default. */
  questions?: number;
}

/** Stories that are judged by default: a share of 50 % is then known to 9 %, with 95 % confidence. */
export const JUDGED_STORIES = 120;

/** Questions that are asked by default: a share of 90 % is then known to 4 %, with 95 % confidence. */
export const JUDGED_QUESTIONS = 200;

/** Tokens that a model may add, per token of the longest rest of the grammar's stories, or of its longest answer. */
const ROOM = 1.25;

/**
 * Judges how a model continues stories.
 *
 * @throws {UserError} as `generateBatch()` does.
 *
 * @example Judge the last checkpoint of a run
 * ```ts
 * import { judgeModel, loadModel, openDevice, shareInterval } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const { sentences, hero } = await judgeModel(model, { stories: 12, sampler: { temperature: 0 } });
 * console.log(`${sentences.count} of ${sentences.of} sentences are those of the grammar`);
 * console.log("share of stories that keep their hero, 95 % interval:", shareInterval(hero));
 * ```
 */
export async function judgeModel(
  model: LoadedModel,
  { stories = JUDGED_STORIES, seed = 1, sampler = {}, onProgress, ...others }: JudgeOptions = {},
): Promise<StoryShares> {
  refuseOthers("judge a model", "judgeModel()", others);
  const beginnings = storyBeginnings({ seed, count: stories });
  const continuations = beginnings.map(() => "");
  let done = 0;
  // one batch per kind of beginning, as a batch takes as long as its longest story
  for (let kind = 0; kind < STORY_ROLES.length; kind++) {
    const places = [...beginnings.keys()].filter((i) => i % STORY_ROLES.length === kind);
    const texts = await complete(model, {
      requests: places.map((i) => ({ prompt: beginnings[i]!.text, seed: seed + i })),
      rests: places.map((i) => beginnings[i]!.rest),
      sampler,
      onDone: () => onProgress?.(++done),
    });
    places.forEach((place, i) => continuations[place] = texts[i]!);
  }
  return sharesOf(beginnings, continuations);
}

/**
 * Judges how a model answers questions about the built-in stories, as those of the conversations that it was trained
 * on; the stories are others. Every question comes with the right answers to those before it.
 *
 * @throws {UserError} as `generateBatch()` does, or if the model's chat template cannot write the conversations.
 *
 * @example Judge the answers of a run
 * ```ts
 * import { judgeAnswers, loadModel, openDevice } from "../mod.ts";
 *
 * const model = await loadModel(await openDevice(), { run: "runs/default" });
 * const { all, hero } = await judgeAnswers(model, { questions: 9, sampler: { temperature: 0 } });
 * console.log(`${all.count} of ${all.of} answers are right, ${hero.count} of ${hero.of} names`);
 * ```
 */
export async function judgeAnswers(
  model: LoadedModel,
  { questions = JUDGED_QUESTIONS, seed = 1, sampler = {}, onProgress, ...others }:
    JudgeAnswersOptions = {},
): Promise<AnswerShares> {
  refuseOthers("judge a model", "judgeAnswers()", others);
  const asked = storyQuestions({ seed, count: questions });
  const { promptIds, endIds } = await createChatFormat(model.tokenizer);
  let done = 0;
  const answers = await complete(model, {
    requests: asked.map(({ messages }, i) => ({
      promptIds: promptIds(messages),
      endIds,
      seed: seed + i,
    })),
    rests: asked.map(({ answer }) => answer),
    sampler,
    onDone: () => onProgress?.(++done),
  });
  return answerSharesOf(asked, answers);
}

/** What a model adds to each prompt; `rests` are what the grammar adds, which bound the length. */
async function complete(
  model: LoadedModel,
  { requests, rests, sampler, onDone }: {
    requests: readonly CompletionRequest[];
    rests: readonly string[];
    sampler: Partial<SamplerOptions>;
    onDone: () => void;
  },
): Promise<string[]> {
  const texts = requests.map(() => "");
  const lengths = rests.map((rest) => model.tokenizer.encode(rest).length);
  const maxNewTokens = Math.ceil(ROOM * Math.max(0, ...lengths));
  for await (
    const { index, text, result } of generateBatch(model, { requests, maxNewTokens, sampler })
  ) {
    texts[index] += text;
    if (result) onDone();
  }
  return texts;
}

/**
 * Stories up to the place where the name of the hero comes again, for `copyingHeads()`.
 *
 * @returns `count` texts, the same for the same seed.
 */
export function beforeNames({ seed, count }: { seed: number; count: number }): BeforeCopy[] {
  const openings = storyBeginnings({ seed, count: STORY_ROLES.length * count })
    .filter((_, i) => i % STORY_ROLES.length === 0);
  return openings.map(({ text, rest, kept: { hero } }) => ({
    text: text + rest.slice(0, rest.indexOf(hero!)).replace(/ $/, ""),
    word: ` ${hero}`,
  }));
}

/** The figures of continued beginnings. */
export function sharesOf(
  beginnings: readonly Beginning[],
  continuations: readonly string[],
): StoryShares {
  const shares = { sentences: zero(), hero: zero(), animal: zero(), thing: zero() };
  for (const [i, { text, kept }] of beginnings.entries()) {
    const whole = judgeStory(text + continuations[i]!, { from: text.length });
    const { named } = judgeStory(continuations[i]!);
    shares.sentences.of += whole.sentences;
    shares.sentences.count += whole.accepted;
    for (const role of STORY_ROLES) {
      if (kept[role] === undefined) continue;
      shares[role].of++;
      if (named[role].length > 0 && whole.named[role].length === 1) shares[role].count++;
    }
  }
  return shares;
}

/** How many of the answers are right. */
export function answerSharesOf(
  asked: readonly StoryQuestion[],
  answers: readonly string[],
): AnswerShares {
  const shares = Object.fromEntries(ANSWER_FIGURES.map((figure) => [figure, zero()]));
  asked.forEach(({ kind, answer }, i) => {
    for (const figure of ["all", kind]) {
      shares[figure]!.of++;
      if (answers[i] === answer) shares[figure]!.count++;
    }
  });
  return shares as AnswerShares;
}

/** A share before anything was judged. */
const zero = () => ({ count: 0, of: 0 });

/**
 * The 95 % confidence interval of the probability that a share estimates (Wilson 1927,
 * https://doi.org/10.1080/01621459.1927.10502953); from 0 to 1 if nothing was counted.
 */
export function shareInterval({ count, of }: Share): [low: number, high: number] {
  if (of === 0) return [0, 1];
  const z = 1.96, p = count / of, middle = p + z ** 2 / (2 * of);
  const half = z * Math.sqrt(p * (1 - p) / of + (z / (2 * of)) ** 2), scale = 1 + z ** 2 / of;
  return [
    count === 0 ? 0 : (middle - half) / scale, // without rounding errors
    count === of ? 1 : (middle + half) / scale,
  ];
}
