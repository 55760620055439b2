import { Random } from "../random.ts";

/**
 * The words that a slot of the grammar may hold, each with the same probability. A word begins with a
 * consonant where "a" may stand before it.
 */
const WORDS: Readonly<Record<string, readonly string[]>> = {
  girl: ["Lily", "Mia", "Anna", "Lucy", "Emma", "Sara", "Amy", "Kate"],
  boy: ["Tom", "Ben", "Sam", "Max", "Tim", "Jack", "Leo", "Dan"],
  kind: [
    "little",
    "small",
    "young",
    "kind",
    "brave",
    "quiet",
    "clever",
    "happy",
    "shy",
    "gentle",
    "friendly",
    "polite",
    "curious",
    "lovely",
    "good",
    "nice",
    "wise",
    "lazy",
    "busy",
    "silly",
  ],
  animal: ["bird", "dog", "cat", "fox", "bear", "duck", "frog", "mouse", "rabbit", "horse"],
  thing: [
    "ball",
    "kite",
    "hat",
    "doll",
    "book",
    "boat",
    "drum",
    "bell",
    "ring",
    "key",
    "cup",
    "box",
  ],
  hue: ["red", "blue", "green", "yellow", "pink", "white", "black", "brown", "purple", "golden"],
  color: [
    "red",
    "blue",
    "green",
    "yellow",
    "pink",
    "white",
    "black",
    "brown",
    "purple",
    "golden",
    "silver",
    "grey",
  ],
  place: [
    "park",
    "forest",
    "garden",
    "beach",
    "river",
    "lake",
    "farm",
    "hill",
    "village",
    "school",
  ],
  home: ["house", "hut", "tent", "cave", "tower", "cottage", "barn", "castle"],
  food: ["cake", "bread", "soup", "cheese", "honey", "fruit", "pie", "rice", "corn", "jam"],
  look: [
    "big",
    "tiny",
    "soft",
    "shiny",
    "strange",
    "pretty",
    "round",
    "heavy",
    "warm",
    "bright",
    "funny",
    "strong",
    "cold",
    "dark",
    "wet",
    "dry",
    "thin",
    "thick",
    "smooth",
    "rough",
    "broken",
    "secret",
    "magic",
    "long",
    "wide",
    "dusty",
    "fancy",
    "plain",
    "rare",
    "simple",
  ],
  weather: ["sunny", "rainy", "windy", "cold", "warm", "foggy", "snowy", "bright", "dark", "quiet"],
  time: ["morning", "day", "evening", "night", "afternoon", "spring", "winter", "summer"],
  feeling: [
    "happy",
    "proud",
    "glad",
    "calm",
    "safe",
    "lucky",
    "brave",
    "free",
    "warm",
    "strong",
    "grateful",
    "cheerful",
  ],
  sorrow: [
    "sad",
    "lost",
    "tired",
    "scared",
    "hungry",
    "lonely",
    "worried",
    "cold",
    "sick",
    "bored",
    "hurt",
    "thirsty",
    "confused",
    "nervous",
  ],
  way: [
    "slowly",
    "quickly",
    "softly",
    "quietly",
    "carefully",
    "gently",
    "bravely",
    "happily",
    "loudly",
    "sadly",
    "proudly",
    "kindly",
    "suddenly",
    "calmly",
    "silently",
    "patiently",
  ],
  cover: [
    "tree",
    "rock",
    "bridge",
    "bush",
    "table",
    "leaf",
    "stone",
    "roof",
    "bed",
    "log",
    "wall",
    "fence",
    "chair",
    "tent",
    "gate",
    "bench",
  ],
  family: ["mom", "dad", "sister", "brother", "grandma", "grandpa", "friend", "teacher"],
  count: ["two", "three", "four", "five", "six", "seven", "ten", "many"],
  plant: ["flower", "rose", "bean", "pumpkin", "berry", "carrot", "melon", "tree"],
  sound: [
    "laughed",
    "smiled",
    "danced",
    "sang",
    "jumped",
    "clapped",
    "cried",
    "waved",
    "whispered",
    "played",
    "rested",
    "shouted",
  ],
};

/** Slots whose word stays the same for the rest of the story; all others are drawn anew each time. */
const REMEMBERED = new Set([
  "hero",
  "animal",
  "thing",
  "place",
  "hue",
  "food",
  "family",
  "plant",
  "home",
]);

/** Pronouns, which follow the hero. */
const PRONOUNS: Readonly<Record<string, readonly [girl: string, boy: string]>> = {
  he: ["she", "he"],
  his: ["her", "his"],
  His: ["Her", "His"],
  him: ["her", "him"],
  child: ["girl", "boy"],
};

/** How every story begins: one of these. */
const OPENINGS: readonly string[] = [
  "Once upon a time, there was a {kind} {child} named {hero}.",
  "Once upon a time, there was a {kind} and {kind} {child} named {hero}.",
  "Once upon a time, a {kind} {child} named {hero} lived in a {look} {color} {home}.",
  "One {weather} {time}, a {kind} {child} named {hero} went {way} to the {place}.",
];

/** How every story ends: one of these. */
const ENDINGS: readonly string[] = [
  "From that {weather} {time} on, {hero} and the {kind} {animal} {sound} together.",
  "In the end, {hero} and the {animal} shared some {look} {food} and felt {feeling}.",
  "So {hero} helped the {kind} {animal}, and they {sound} {way}.",
  "{hero} never forgot the {look} {time} and the {kind} {animal}.",
  "And so {hero} and the {kind} {animal} {sound} until the {time} was over.",
];

/**
 * The plots: what happens between opening and ending, sentence by sentence, each sentence one of
 * several. A sentence ends at a full stop, a question or an exclamation mark before a capital letter.
 */
const PLOTS: readonly (readonly (readonly string[])[])[] = [
  [ //something is lost and found
    [
      "{hero} had a {look} {hue} {thing} that {he} took to a {look} {place} every {time}.",
      "{hero} played {way} with a {look} {hue} {thing} from {his} {family}.",
      "The most {look} thing {he} had was a {hue} {thing}.",
    ],
    [
      '"Have you seen my {look} {thing}?" {he} asked a {kind} {animal}.',
      "{hero} asked a {kind} {animal} {way} to look under the {look} {cover}.",
      "A {kind} {animal} saw that {hero} was {sorrow} and came {way} to help.",
    ],
  ],
  [ //food is shared
    [
      "{His} {family} gave {him} {count} {look} pieces of {food}.",
      "{hero} sat {way} under a {look} {cover} to eat some {look} {food}.",
    ],
    [
      "Then a {sorrow} {animal} came {way} out of a {look} {cover}.",
      "A {kind} {animal} sat by the {look} {cover} and looked very {sorrow}.",
      "On the {look} way {hero} met a {kind} {animal} with a {look} {color} tail.",
    ],
  ],
  [ //a storm
    [
      "One {weather} {time}, a {look} {color} storm came {way} over the {place}.",
      "The {time} became {weather} and {weather}, and a {look} wind blew over the {place}.",
    ],
    [
      "There {hero} met a {kind} {animal} that was {sorrow} too.",
      "Behind the {look} {cover} sat a {sorrow} {animal} with a {look} {color} tail.",
    ],
  ],
  [ //a race
    [
      "{hero} wanted to win the {look} race at the {look} {place}.",
      "Every {weather} {time}, {he} ran {way} around the {place} {count} times.",
    ],
    [
      'A {kind} {animal} said {way}, "I can run to the {look} {cover} faster than you."',
      "On the {weather} {time} of the race, {he} stood next to a {kind} {animal}.",
    ],
  ],
  [ //a seed grows
    [
      "{His} {kind} {family} gave {him} {count} seeds of a {look} {plant}.",
      "{hero} {way} found a {look} {plant} next to a {look} {cover}.",
    ],
    [
      "But a {sorrow} {animal} came {way} and wanted to eat the {plant}.",
      "One {weather} {time}, a {kind} {animal} came {way} to see the {plant}.",
    ],
  ],
  [ //someone is stuck
    [
      "On a {weather} {time}, {he} heard a {look} sound from a {look} {cover}.",
      "{hero} walked {way} past the {look} {home} when {he} heard a {look} cry.",
    ],
    [
      "A {kind} {animal} was stuck {way} under a {look} {cover}.",
      "It was a {sorrow} {animal}, and its {look} leg was caught in a {cover}.",
    ],
  ],
  [ //something is built
    [
      "{hero} wanted to build a {look} and {look} {home} at the {place}.",
      "{His} {look} dream was to live in a {look} {color} {home}.",
    ],
    [
      'A {kind} {animal} said {way}, "I will help you for some {look} {food}."',
      "A {kind} {animal} watched {hero} {way} from behind a {look} {cover}.",
    ],
  ],
  [ //a surprise
    [
      "It was the {weather} birthday of {his} {family}, and {he} had no {look} gift.",
      "{hero} wanted to give {his} {kind} {family} a {look} gift.",
    ],
    [
      '"Take this {look} {hue} {thing}," said a {kind} {animal} {way}.',
      "There {hero} saw a {kind} {animal} with a {look} {hue} {thing}.",
    ],
  ],
];

/** A piece of a sentence: text, or a slot to fill. */
type Piece = { readonly text: string } | { readonly slot: string };

/** What the slots of a story hold so far, the hero's sex among them. */
type Bindings = ReadonlyMap<string, string>;

/** A sentence pattern cut into pieces. */
interface Sentence {
  readonly pieces: readonly Piece[];
}

function parsePattern(pattern: string): Sentence {
  const pieces = pattern.split(/(\{\w+\})/).filter((part) => part !== "").map((part): Piece =>
    part.startsWith("{") ? { slot: part.slice(1, -1) } : { text: part }
  );
  return { pieces };
}

/** Every plot as the list of its places, opening and ending included, each with its sentences. */
const STORIES: readonly (readonly (readonly Sentence[])[])[] = PLOTS.map((plot) =>
  [OPENINGS, ...plot, ENDINGS].map((alternatives) => alternatives.map(parsePattern))
);

const HEROES: readonly string[] = [...WORDS.girl!, ...WORDS.boy!];

/** What may stand in a slot, given what the story has bound so far; one option where it is fixed. */
function options(slot: string, bindings: Bindings): readonly string[] {
  const bound = bindings.get(slot);
  if (bound !== undefined) return [bound];
  const pronoun = PRONOUNS[slot];
  if (pronoun) return [pronoun[bindings.get("sex") === "girl" ? 0 : 1]];
  if (slot === "hero") return WORDS[bindings.get("sex")!]!;
  return WORDS[slot]!;
}

/** The bindings after a slot was filled. */
function bind(bindings: Bindings, slot: string, word: string): Bindings {
  if (!REMEMBERED.has(slot) || bindings.has(slot)) return bindings;
  return new Map(bindings).set(slot, word);
}

/** A paragraph ends after the opening and before the ending. */
function separator(place: number, places: number): string {
  return place === 0 ? "" : place === 1 || place === places - 1 ? "\n" : " ";
}

/** Number of documents in the data set `sample`. */
export const SAMPLE_COUNT = 20_000;

/**
 * Short stories from a grammar: a plot, a hero, and what they meet, drawn with equal probabilities.
 *
 * @returns `count` documents, the same for the same seed.
 */
export function sampleStories({ seed, count }: { seed: number; count: number }): string[] {
  const random = new Random(seed);
  const pick = <T>(list: readonly T[]) => list[random.below(list.length)]!;
  return Array.from({ length: count }, () => {
    const places = pick(STORIES);
    let bindings: Bindings = new Map([["sex", pick(["girl", "boy"])]]);
    let story = "";
    places.forEach((alternatives, place) => {
      story += separator(place, places.length);
      for (const piece of pick(alternatives).pieces) {
        if ("text" in piece) {
          story += piece.text;
          continue;
        }
        const word = pick(options(piece.slot, bindings));
        bindings = bind(bindings, piece.slot, word);
        story += word;
      }
    });
    return story;
  });
}

/**
 * Probability with which the grammar writes a story, as a natural logarithm; undefined if never.
 *
 * Different choices write different texts, so that this is the sum over the choices of one derivation;
 * were there several, their probabilities would add up.
 */
export function storyLogProbability(story: string): number | undefined {
  const derivations = storyDerivations(story);
  if (derivations.length === 0) return undefined;
  return Math.log(derivations.reduce((sum, logP) => sum + Math.exp(logP), 0));
}

/** Logarithmic probability of each way in which the grammar writes a story: one, or none. */
export function storyDerivations(story: string): number[] {
  const found: number[] = [];
  for (const places of STORIES) {
    for (const sex of ["girl", "boy"]) {
      const start = -Math.log(STORIES.length) - Math.log(2);
      const walk = (place: number, at: number, bindings: Bindings, logP: number): void => {
        if (place === places.length) {
          if (at === story.length) found.push(logP);
          return;
        }
        const between = separator(place, places.length);
        if (!story.startsWith(between, at)) return;
        const alternatives = places[place]!;
        for (const { pieces } of alternatives) {
          match(story, at + between.length, pieces, bindings, (end, next, ways) => {
            walk(place + 1, end, next, logP - Math.log(alternatives.length) - ways);
          });
        }
      };
      walk(0, 0, new Map([["sex", sex]]), start);
    }
  }
  return found;
}

/** Calls `then` for every way in which the pieces match the text from `at` on. */
function match(
  text: string,
  at: number,
  pieces: readonly Piece[],
  bindings: Bindings,
  then: (end: number, bindings: Bindings, logWays: number) => void,
  logWays = 0,
): void {
  const [piece, ...rest] = pieces;
  if (!piece) return then(at, bindings, logWays);
  if ("text" in piece) {
    if (text.startsWith(piece.text, at)) {
      match(text, at + piece.text.length, rest, bindings, then, logWays);
    }
    return;
  }
  const words = options(piece.slot, bindings);
  for (const word of words) {
    if (!text.startsWith(word, at)) continue;
    const next = bind(bindings, piece.slot, word);
    match(text, at + word.length, rest, next, then, logWays + Math.log(words.length));
  }
}

/** Entropy of a story in nats, exactly: the mean of −ln P over all that the grammar writes. */
export function storyEntropy(): number {
  return Math.log(STORIES.length) + Math.log(2) +
    expectation(
      (alternatives) => Math.log(alternatives.length),
      ({ choices }) => Math.log(choices),
    );
}

/**
 * Expected tokens of a story, exactly, without the token that ends it.
 *
 * @param countTokens tokens of a text; tokens must not reach across words, as GPT-2's do not.
 */
export function expectedTokens(countTokens: (text: string) => number): number {
  return expectation(
    () => 0,
    ({ piece, before, after, words }) => {
      if ("text" in piece) {
        // a text keeps the space before the next slot's word for that word
        const text = before + (after ? piece.text.replace(/ $/, "") : piece.text);
        return text === "" ? 0 : countTokens(text);
      }
      const between = /\s$/.exec(before)?.[0] ?? "";
      return words.reduce((sum, word) => sum + countTokens(between + word), 0) / words.length;
    },
  );
}

/** One piece of a sentence as `expectation()` sees it. */
interface PieceContext {
  piece: Piece;
  /** Number of words that may stand in the slot at this point; 1 for text. */
  choices: number;
  /** All words that the slot ever holds, each as likely as the others. */
  words: readonly string[];
  /** For a slot the text before it, for text the separator if it begins a sentence. */
  before: string;
  /** Whether a slot follows. */
  after: boolean;
}

/**
 * Sum over a story's choices, averaged over all stories. What a slot may hold depends on which slots
 * were bound before, not on how, so that the state is a set of slots.
 */
function expectation(
  ofPlace: (alternatives: readonly Sentence[]) => number,
  ofPiece: (context: PieceContext) => number,
): number {
  let total = 0;
  for (const places of STORIES) {
    for (const sex of ["girl", "boy"]) {
      const seen = new Map<string, number>();
      const walk = (place: number, bindings: Bindings): number => {
        const alternatives = places[place];
        if (!alternatives) return 0;
        const state = `${place} ${[...bindings.keys()].sort()}`;
        const known = seen.get(state);
        if (known !== undefined) return known;
        const between = separator(place, places.length);
        let sum = 0;
        for (const { pieces } of alternatives) {
          let next = bindings;
          pieces.forEach((piece, i) => {
            const after = i + 1 < pieces.length;
            if ("text" in piece) {
              const before = i === 0 ? between : "";
              sum += ofPiece({ piece, choices: 1, words: [], before, after });
              return;
            }
            const words = options(piece.slot, new Map([["sex", sex]]));
            const choices = options(piece.slot, next).length;
            const text = i === 0 ? between : (pieces[i - 1] as { text: string }).text;
            sum += ofPiece({ piece, choices, words, before: text, after });
            next = bind(next, piece.slot, words[0]!);
          });
          sum += walk(place + 1, next);
        }
        const mean = ofPlace(alternatives) + sum / alternatives.length;
        seen.set(state, mean);
        return mean;
      };
      total += walk(0, new Map([["sex", sex]]));
    }
  }
  return total / STORIES.length / 2;
}

/** How well a text keeps to the grammar. */
export interface Judgement {
  /** Whole sentences in the text. */
  sentences: number;
  /** Sentences that the grammar can write, each taken by itself. */
  accepted: number;
  /** Whether a hero is named. */
  namesHero: boolean;
  /** Whether a hero is named and no other hero is. */
  keepsHero: boolean;
}

const ALL_SENTENCES: readonly Sentence[] = [
  ...new Set([...OPENINGS, ...PLOTS.flat(2), ...ENDINGS]),
].map(parsePattern);

/** A sentence ends at a mark, perhaps in quotes, before a space and a capital letter or a quote. */
const SENTENCE_END = /(?<=[.?!]"?)\s+(?=["A-Z])/;

/** Judges a text by the grammar; an unfinished last sentence is not counted. */
export function judgeStory(text: string): Judgement {
  const sentences = text.trim().split(SENTENCE_END).filter((s) => /[.?!]"?$/.test(s));
  const named = new Set(text.match(/\b[A-Z][a-z]+\b/g)?.filter((word) => HEROES.includes(word)));
  return {
    sentences: sentences.length,
    accepted: sentences.filter(acceptsSentence).length,
    namesHero: named.size > 0,
    keepsHero: named.size === 1,
  };
}

/** Whether some pattern of the grammar writes this sentence, for some hero and some story so far. */
function acceptsSentence(sentence: string): boolean {
  return ["girl", "boy"].some((sex) =>
    ALL_SENTENCES.some(({ pieces }) => {
      let accepted = false;
      match(sentence, 0, pieces, new Map([["sex", sex]]), (end) => {
        accepted ||= end === sentence.length;
      });
      return accepted;
    })
  );
}
