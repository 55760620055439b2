import { hash, Random } from "../random.ts";
import type { Conversation, Message } from "./conversations.ts";
import { type Bindings, drawStory, parsePattern, sections, textOf } from "./stories.ts";

/**
 * The built-in conversations: questions about the built-in stories, and their answers. The grammar of the stories writes
 * them too, so that every question has one right answer, which the story says.
 *
 * @module
 */

/** What a question asks for. */
export type QuestionKind = typeof QUESTION_KINDS[number];

/** All kinds of questions. */
export const QUESTION_KINDS = [
  "hero",
  "animal",
  "place",
  "thing",
  "color",
  "food",
  "family",
  "plant",
  "home",
] as const;

/**
 * The questions by when they are asked: of all stories, of those with this plot, after another question, or right after
 * a question of the kind `thing`. A line has a kind, a question and its answer.
 */
const QUESTIONS = sections(`
# all stories
hero: Who is the story about? It is about {hero}.
hero: What is the name of the {child}? {His} name is {hero}.
animal: What animal did {hero} meet? {hero} met a {animal}.
animal: Which animal is in the story? There is a {animal} in it.
place: Where was {hero}? {hero} was at the {place}.
thing: Which thing is in the story? There is a {thing} in it.
color: What color was the {thing}? The {thing} was {hue}.
food: Which food is in the story? There is {food} in it.
family: Who else is in the story? {His} {family} is in it.
plant: Which plant is in the story? There is a {plant} in it.
home: Which home is in the story? There is a {home} in it.

# something is lost and found
thing: What did {hero} lose? {hero} lost a {hue} {thing}.
animal: Who helped {hero}? A {animal} helped {hero}.

# food is shared
food: What did {hero} eat? {hero} ate {food}.

# a race
animal: Who raced with {hero}? A {animal} raced with {hero}.

# a seed grows
plant: What grew? A {plant} grew.

# someone is stuck
animal: Who was stuck? A {animal} was stuck.

# something is built
home: What did {hero} want? {hero} wanted a {home}.

# a surprise
thing: What was the gift? The gift was a {hue} {thing}.

# after another question
hero: And {his} name? {His} name is {hero}.
animal: And the animal? It is a {animal}.
place: And where was it? It was at the {place}.

# after a thing
color: What color was it? It was {hue}.
`);

/** What the user says, what the assistant says, and what was asked for, which is absent if it is a story. */
interface Turn {
  readonly question: string;
  readonly answer: string;
  readonly kind?: QuestionKind;
}

/** The questions under a title that a story answers: those for whose slots it has words. */
function turnsUnder(title: string, story: Bindings): Turn[] {
  const [lines = []] = QUESTIONS.get(title) ?? [];
  return lines.flatMap((line) => {
    const text = textOf(parsePattern(line), story);
    if (text === undefined) return [];
    const [, kind, question, answer] = /^(\w+): (.*\?) (.*)$/.exec(text)!;
    return { kind: kind as QuestionKind, question: question!, answer: answer! };
  });
}

/** Questions per conversation; a story with fewer kinds of answers is asked fewer. */
const MOST_QUESTIONS = 3;

/** What the user asks for in a conversation in which the assistant tells the story: one of `REQUESTED` conversations. */
const REQUEST = "Tell me a story.", REQUESTED = 8;

/** Stories per unseen one, about which no conversation of a training is. */
const UNSEEN = 10;

/** Whether no conversation of a training is about a story. */
function isUnseen(story: string): boolean {
  return hash(...new TextEncoder().encode(story)) % UNSEEN === 0;
}

/** Conversations about stories that are all unseen or all not. Kinds of questions that were asked least are preferred. */
function* drawConversations(
  random: Random,
  { unseen }: { unseen: boolean },
): Generator<readonly Turn[], never> {
  const pick = <T>(list: readonly T[]) => list[random.below(list.length)]!;
  const asked = new Map<QuestionKind, number>(QUESTION_KINDS.map((kind) => [kind, 0]));
  for (;;) {
    const story = drawStory(random), text = story.sentences.join("");
    if (isUnseen(text) !== unseen) continue;
    const always = [
      ...turnsUnder("all stories", story.bindings),
      ...turnsUnder(story.plot, story.bindings),
    ];
    const open = new Set(always.map(({ kind }) => kind!));
    const kinds: QuestionKind[] = []; // of the questions, in a random order
    while (kinds.length < MOST_QUESTIONS && open.size > 0) {
      const least = Math.min(...Array.from(open, (kind) => asked.get(kind)!));
      const kind = pick([...open].filter((kind) => asked.get(kind) === least));
      asked.set(kind, least + 1);
      open.delete(kind);
      kinds.splice(random.below(kinds.length + 1), 0, kind);
    }
    const turns = kinds.map((kind, i) =>
      pick([
        ...always,
        ...(i > 0 ? turnsUnder("after another question", story.bindings) : []),
        ...(kinds[i - 1] === "thing" ? turnsUnder("after a thing", story.bindings) : []),
      ].filter((turn) => turn.kind === kind))
    );
    if (random.below(REQUESTED) === 0) yield [{ question: REQUEST, answer: text }, ...turns];
    else {
      const [first, ...others] = turns;
      yield [{ ...first!, question: `${text}\n\n${first!.question}` }, ...others];
    }
  }
}

function messagesOf({ question, answer }: Turn): Message[] {
  return [{ role: "user", content: question }, { role: "assistant", content: answer }];
}

/** How to write conversations. */
export interface SampleConversationsOptions {
  /** The same seed gives the same conversations. */
  seed: number;
  /** How many. */
  count: number;
  /** Whether they are about stories of which no conversation without this option is; false by default. */
  unseen?: boolean;
}

/**
 * Conversations of up to three questions about a story of the grammar. In most of them the story stands in the first
 * message of the user, before the first question; in one of eight the user asks for a story first.
 *
 * @returns `count` conversations, the same for the same seed.
 */
export function sampleConversations(
  { seed, count, unseen = false }: SampleConversationsOptions,
): Conversation[] {
  return drawConversations(new Random(seed), { unseen }).take(count)
    .map((turns) => turns.flatMap(messagesOf)).toArray();
}

/** A question of a conversation, with all that was said before. */
export interface StoryQuestion {
  /** What it asks for. */
  readonly kind: QuestionKind;
  /** The conversation up to the question. */
  readonly messages: Conversation;
  /** The right answer. */
  readonly answer: string;
}

/**
 * Questions about unseen stories, of all kinds in turn. Each is the first to the last question of a conversation that
 * `sampleConversations()` may write.
 *
 * @returns `count` questions, the same for the same seed.
 */
export function storyQuestions({ seed, count }: { seed: number; count: number }): StoryQuestion[] {
  const conversations = drawConversations(new Random(seed), { unseen: true });
  return Array.from({ length: count }, (_, i) => {
    const kind = QUESTION_KINDS[i % QUESTION_KINDS.length]!;
    for (;;) {
      const turns = conversations.next().value;
      const messages = turns.slice(0, 1 + turns.findIndex((turn) => turn.kind === kind))
        .flatMap(messagesOf);
      const answer = messages.pop();
      if (answer) return { kind, messages, answer: answer.content };
    }
  });
}
