import { Random } from "../random.ts";

/**
 * The built-in stories. A grammar writes them, so that their entropy is known exactly, which is the least
 * loss that a model can reach.
 *
 * @module
 */

/**
 * The words that a slot of the grammar may hold, each with the same probability. A word begins with a
 * consonant if "a" may stand before it.
 */
const WORDS: Readonly<Record<string, readonly string[]>> = wordLists({
  girl: "Lily Mia Anna Lucy Emma Sara Amy Kate",
  boy: "Tom Ben Sam Max Tim Jack Leo Dan",
  kind: "little small young kind brave quiet clever happy shy gentle friendly polite curious " +
    "lovely good nice wise lazy busy silly",
  animal: "bird dog cat fox bear duck frog mouse rabbit horse",
  thing: "ball kite hat doll book boat drum bell ring key cup box",
  hue: "red blue green yellow pink white black brown purple golden",
  color: "red blue green yellow pink white black brown purple golden silver grey",
  place: "park forest garden beach river lake farm hill village school",
  home: "house hut tent cave tower cottage barn castle",
  food: "cake bread soup cheese honey fruit pie rice corn jam",
  look: "big tiny soft shiny strange pretty round heavy warm bright funny strong cold dark wet " +
    "dry thin thick smooth rough broken secret magic long wide dusty fancy plain rare simple",
  weather: "sunny rainy windy cold warm foggy snowy bright dark quiet",
  time: "morning day evening night afternoon spring winter summer",
  feeling: "happy proud glad calm safe lucky brave free warm strong grateful cheerful",
  sorrow: "sad lost tired scared hungry lonely worried cold sick bored hurt thirsty confused " +
    "nervous",
  way: "slowly quickly softly quietly carefully gently bravely happily loudly sadly proudly " +
    "kindly suddenly calmly silently patiently",
  cover: "tree rock bridge bush table leaf stone roof bed log wall fence chair tent gate bench",
  family: "mom dad sister brother grandma grandpa friend teacher",
  count: "two three four five six seven ten many",
  plant: "flower rose bean pumpkin berry carrot melon tree",
  sound: "laughed smiled danced sang jumped clapped cried waved whispered played rested shouted",
});

function wordLists(lists: Record<string, string>): Record<string, string[]> {
  return Object.fromEntries(Object.entries(lists).map(([slot, words]) => [slot, words.split(" ")]));
}

/** Slots that keep their word for the rest of the story; the word of any other slot is drawn each time. */
export const KEPT_SLOTS = new Set("hero animal thing place hue food family plant home".split(" "));

/** Pronouns, which follow the hero. */
const PRONOUNS: Readonly<Record<string, readonly [girl: string, boy: string]>> = {
  he: ["she", "he"],
  his: ["her", "his"],
  His: ["Her", "His"],
  him: ["her", "him"],
  child: ["girl", "boy"],
};

/** How every story begins: one of these. */
const OPENINGS = patterns(`
Once upon a time, there was a {kind} {child} named {hero}.
Once upon a time, there was a {kind} and {kind} {child} named {hero}.
Once upon a time, a {kind} {child} named {hero} lived in a {look} {color} {home}.
One {weather} {time}, a {kind} {child} named {hero} went {way} to the {place}.
`);

/** How every story ends: one of these. */
const ENDINGS = patterns(`
From that {weather} {time} on, {hero} and the {kind} {animal} {sound} together.
In the end, {hero} and the {animal} shared some {look} {food} and felt {feeling}.
So {hero} helped the {kind} {animal}, and they {sound} {way}.
{hero} never forgot the {look} {time} and the {kind} {animal}.
And so {hero} and the {kind} {animal} {sound} until the {time} was over.
`);

/**
 * The plots: what happens between opening and ending, under a title. A plot has two sentences, each one of several in
 * a paragraph. A sentence ends at a full stop, a question or an exclamation mark before a capital letter.
 */
const PLOTS: ReadonlyMap<string, readonly (readonly string[])[]> = sections(`
# something is lost and found
{hero} had a {look} {hue} {thing} that {he} took to a {look} {place} every {time}.
{hero} played {way} with a {look} {hue} {thing} from {his} {family}.
The most {look} thing {he} had was a {hue} {thing}.

"Have you seen my {look} {thing}?" {he} asked a {kind} {animal}.
{hero} asked a {kind} {animal} {way} to look under the {look} {cover}.
A {kind} {animal} saw that {hero} was {sorrow} and came {way} to help.

# food is shared
{His} {family} gave {him} {count} {look} pieces of {food}.
{hero} sat {way} under a {look} {cover} to eat some {look} {food}.

Then a {sorrow} {animal} came {way} out of a {look} {cover}.
A {kind} {animal} sat by the {look} {cover} and looked very {sorrow}.
On the {look} way {hero} met a {kind} {animal} with a {look} {color} tail.

# a storm
One {weather} {time}, a {look} {color} storm came {way} over the {place}.
The {time} became {weather} and {weather}, and a {look} wind blew over the {place}.

There {hero} met a {kind} {animal} that was {sorrow} too.
Behind the {look} {cover} sat a {sorrow} {animal} with a {look} {color} tail.

# a race
{hero} wanted to win the {look} race at the {look} {place}.
Every {weather} {time}, {he} ran {way} around the {place} {count} times.

A {kind} {animal} said {way}, "I can run to the {look} {cover} faster than you."
On the {weather} {time} of the race, {he} stood next to a {kind} {animal}.

# a seed grows
{His} {kind} {family} gave {him} {count} seeds of a {look} {plant}.
{hero} {way} found a {look} {plant} next to a {look} {cover}.

But a {sorrow} {animal} came {way} and wanted to eat the {plant}.
One {weather} {time}, a {kind} {animal} came {way} to see the {plant}.

# someone is stuck
On a {weather} {time}, {he} heard a {look} sound from a {look} {cover}.
{hero} walked {way} past the {look} {home} when {he} heard a {look} cry.

A {kind} {animal} was stuck {way} under a {look} {cover}.
It was a {sorrow} {animal}, and its {look} leg was caught in a {cover}.

# something is built
{hero} wanted to build a {look} and {look} {home} at the {place}.
{His} {look} dream was to live in a {look} {color} {home}.

A {kind} {animal} said {way}, "I will help you for some {look} {food}."
A {kind} {animal} watched {hero} {way} from behind a {look} {cover}.

# a surprise
It was the {weather} birthday of {his} {family}, and {he} had no {look} gift.
{hero} wanted to give {his} {kind} {family} a {look} gift.

"Take this {look} {hue} {thing}," said a {kind} {animal} {way}.
There {hero} saw a {kind} {animal} with a {look} {hue} {thing}.
`);

/** The paragraphs of a text, as lists of lines, by the titles above them. */
export function sections(text: string): Map<string, string[][]> {
  return new Map(
    text.split(/^# /m).slice(1).map((section) => {
      const [title, ...rest] = section.split("\n");
      return [title!, rest.join("\n").trim().split("\n\n").map(lines)];
    }),
  );
}

function lines(text: string): string[] {
  return text.trim().split("\n");
}

/** A pattern of a sentence: texts at even places, names of slots at odd places. */
export type Pattern = readonly string[];

/** The pattern of a sentence in which slots stand in braces. */
export function parsePattern(sentence: string): Pattern {
  return sentence.split(/\{(\w+)\}/);
}

function patterns(text: string): Pattern[] {
  return lines(text).map(parsePattern);
}

/** The plots with opening and ending: a list of sentences, and for each the patterns that it may have. */
export const STORIES: readonly (readonly (readonly Pattern[])[])[] = Array.from(
  PLOTS.values(),
  (plot) => [OPENINGS, ...plot.map((sentences) => sentences.map(parsePattern)), ENDINGS],
);

/** The titles of the plots of these stories. */
const TITLES = [...PLOTS.keys()];

/** Sexes of heroes. */
export const SEXES = ["girl", "boy"];

/** The words of slots so far, and the hero's sex. */
export type Bindings = ReadonlyMap<string, string>;

/** The words that a slot may hold after these bindings, each with the same probability. */
export function wordsFor(slot: string, bindings: Bindings): readonly string[] {
  const bound = bindings.get(slot);
  if (bound !== undefined) return [bound];
  const pronoun = PRONOUNS[slot];
  if (pronoun) return [pronoun[bindings.get("sex") === "girl" ? 0 : 1]];
  return WORDS[slot === "hero" ? bindings.get("sex")! : slot]!;
}

/** The text of a pattern; undefined if the bindings leave a choice of words. */
export function textOf(pattern: Pattern, bindings: Bindings): string | undefined {
  const parts = pattern.map((part, place) => place % 2 === 0 ? [part] : wordsFor(part, bindings));
  return parts.every(({ length }) => length === 1) ? parts.join("") : undefined;
}

/** The bindings after a slot was filled. */
export function bind(bindings: Bindings, slot: string, word: string): Bindings {
  if (!KEPT_SLOTS.has(slot) || bindings.has(slot)) return bindings;
  return new Map(bindings).set(slot, word);
}

/** White space before a sentence: a paragraph ends after the opening and before the ending. */
export function separator(sentence: number, sentences: number): string {
  return sentence === 0 ? "" : sentence === 1 || sentence === sentences - 1 ? "\n" : " ";
}

/** Number of documents in the data set `sample`. */
export const SAMPLE_COUNT = 20_000;

/** A story that was drawn. */
export interface Story {
  /** The title of its plot. */
  readonly plot: string;
  /** Its sentences, each with the white space before it. */
  readonly sentences: readonly string[];
  /** The words of its slots. */
  readonly bindings: Bindings;
}

/** Draws a story. */
export function drawStory(random: Random): Story {
  const pick = <T>(list: readonly T[]) => list[random.below(list.length)]!;
  const story = pick(STORIES), plot = TITLES[STORIES.indexOf(story)]!;
  let bindings: Bindings = new Map([["sex", pick(SEXES)]]);
  const sentences = story.map((patterns, i) => {
    const parts = pick(patterns).map((part, place) => {
      if (place % 2 === 0) return part;
      const word = pick(wordsFor(part, bindings));
      bindings = bind(bindings, part, word);
      return word;
    });
    return separator(i, story.length) + parts.join("");
  });
  return { plot, sentences, bindings };
}

/**
 * Short stories from a grammar, whose choices all have equal probabilities.
 *
 * @returns `count` documents, the same for the same seed.
 */
export function sampleStories({ seed, count }: { seed: number; count: number }): string[] {
  const random = new Random(seed);
  return Array.from({ length: count }, () => drawStory(random).sentences.join(""));
}

/**
 * Entropy of a story in nats, exactly: the mean of −ln P over all stories. The grammar is unambiguous, so
 * that P is the product of the probabilities of all choices.
 */
export function storyEntropy(): number {
  return Math.log(STORIES.length) + Math.log(SEXES.length) +
    expectation((choices) => Math.log(choices));
}

/**
 * Expected tokens of a story, exactly, without the token that ends it.
 *
 * @param countTokens counts the tokens of a text; no token may span two words, as none of GPT-2's does.
 */
export function expectedTokens(countTokens: (text: string) => number): number {
  const counts = new Map([["", 0]]);
  const count = (text: string) => counts.getOrInsertComputed(text, countTokens);
  return expectation((_, texts) =>
    texts.reduce((sum, text) => sum + count(text), 0) / texts.length
  );
}

/**
 * Sum of a value over the parts of a story, averaged over all stories. How many words a slot may hold depends
 * on which slots were bound before and not on their words, so that one word stands for all.
 *
 * @param valueOf is called with the number of choices for a part, and all texts that it ever is, each as
 * likely as the others. White space before a slot belongs to the words of the slot.
 */
function expectation(valueOf: (choices: number, texts: readonly string[]) => number): number {
  let total = 0;
  for (const story of STORIES) {
    for (const sex of SEXES) {
      const unbound: Bindings = new Map([["sex", sex]]);
      const walk = (sentence: number, bindings: Bindings): number => {
        const patterns = story[sentence];
        if (!patterns) return 0;
        let sum = 0;
        for (const pattern of patterns) {
          let next = bindings, space = "";
          pattern.forEach((part, place) => {
            if (place % 2 === 0) {
              const text = (place === 0 ? separator(sentence, story.length) : "") + part;
              space = place + 1 < pattern.length ? /\s?$/.exec(text)![0] : "";
              sum += valueOf(1, [text.slice(0, text.length - space.length)]);
            } else {
              const words = wordsFor(part, unbound);
              sum += valueOf(wordsFor(part, next).length, words.map((word) => space + word));
              next = bind(next, part, words[0]!);
            }
          });
          sum += walk(sentence + 1, next);
        }
        return valueOf(patterns.length, [""]) + sum / patterns.length;
      };
      total += walk(0, unbound);
    }
  }
  return total / STORIES.length / SEXES.length;
}
