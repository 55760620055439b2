import assert from "node:assert/strict";
import type { Conversation } from "../../../data/text/conversations.ts";
import {
  QUESTION_KINDS,
  sampleConversations,
  storyQuestions,
} from "../../../data/text/story_questions.ts";
import { judgeStory } from "../../../inspect/story_judge.ts";
import { freshSeed } from "../../seeds.ts";

const seed = freshSeed();
const conversations = sampleConversations({ seed, count: 600 });
const questions = storyQuestions({ seed, count: 180 });

/** The story of a conversation: the first answer if the user asks for one, or else what stands above the first question. */
function storyOf([first, second]: Conversation): string {
  return first!.content === "Tell me a story."
    ? second!.content
    : first!.content.slice(0, first!.content.lastIndexOf("\n\n"));
}

/** Questions and answers, without the story and the request for one. */
function questionsOf(messages: Conversation): { question: string; answer: string }[] {
  return messages.flatMap(({ role, content }, i) =>
    role === "assistant" && content !== storyOf(messages)
      ? { question: messages[i - 1]!.content.split("\n\n").at(-1)!, answer: content }
      : []
  );
}

Deno.test("sampleConversations() writes the same conversations for the same seed", () => {
  assert.deepEqual(sampleConversations({ seed, count: 20 }), conversations.slice(0, 20));
  assert.notDeepEqual(
    sampleConversations({ seed: seed + 1, count: 20 }),
    conversations.slice(0, 20),
  );
});

Deno.test("sampleConversations() writes user and assistant in turn, about a whole story, with up to three questions", () => {
  for (const messages of conversations) {
    assert.deepEqual(
      messages.map(({ role }) => role),
      messages.map((_, i) => i % 2 === 0 ? "user" : "assistant"),
    );
    const { sentences, accepted } = judgeStory(storyOf(messages));
    assert.ok(sentences >= 4 && accepted === sentences, `seed ${seed}: ${storyOf(messages)}`);
    const asked = questionsOf(messages);
    assert.ok(asked.length >= 2 && asked.length <= 3, `seed ${seed}: ${asked.length} questions`);
    for (const { question } of asked) assert.match(question, /^[A-Z].*\?$/);
  }
  // one of eight asks for a story; fewer than half as many do so by chance once in 10¹² runs
  const count = 1200, many = sampleConversations({ seed, count });
  const requested = many.filter(([first]) => first!.content === "Tell me a story.").length;
  assert.ok(requested > count / 16 && requested < count / 4, `seed ${seed}: ${requested} requests`);
});

Deno.test("sampleConversations() gives answers whose words the story has, with its hero, animal and thing alone", () => {
  const grammar =
    "It is about name lost met a was at the There in it ate else grew stuck wanted gift were not " +
    "The A His Her helped raced with";
  const others = new Set(grammar.split(" "));
  for (const messages of conversations) {
    const story = storyOf(messages),
      { named } = judgeStory(story),
      words = new Set(story.match(/\w+/g));
    for (const { question, answer } of questionsOf(messages)) {
      for (const word of answer.match(/\w+/g)!) {
        assert.ok(
          words.has(word) || others.has(word),
          `seed ${seed}: ${word} in ${answer} of ${story}`,
        );
      }
      const { named: said } = judgeStory(`${question} ${answer}`);
      for (const role of ["hero", "animal", "thing"] as const) {
        if (said[role].length > 0) assert.deepEqual(said[role], named[role], `seed ${seed}`);
      }
      assert.doesNotMatch(answer, /\ba [aeiou]/i);
    }
  }
});

Deno.test("sampleConversations() asks each of the 23 questions, none far more often than others", () => {
  const asked = new Map<string, number>();
  for (const messages of sampleConversations({ seed: 1, count: 1000 })) { // not for any seed
    const { hero: [hero], thing: [thing = "—"] } = judgeStory(storyOf(messages)).named;
    for (const { question } of questionsOf(messages)) {
      const pattern = question.replace(hero!, "HERO").replace(`${thing}?`, "THING?")
        .replace(/girl|boy/, "CHILD").replace(/her\b|his\b/, "HIS");
      asked.set(pattern, (asked.get(pattern) ?? 0) + 1);
    }
  }
  assert.equal(asked.size, 23, [...asked.keys()].join(" "));
  assert.ok(Math.max(...asked.values()) < 600, `${Math.max(...asked.values())}`);
});

Deno.test("sampleConversations() is about other stories if these must be unseen", () => {
  const seen = new Set(conversations.map(storyOf));
  const unseen = [
    ...sampleConversations({ seed, count: 300, unseen: true }).map(storyOf),
    ...questions.map(({ messages }) => storyOf(messages)),
  ];
  // another seed for the training draws none of them either: what is unseen depends on the story alone
  const drawn = sampleConversations({ seed: seed + 1, count: 600 }).map(storyOf);
  assert.deepEqual(unseen.filter((story) => seen.has(story) || drawn.includes(story)), []);
});

Deno.test("storyQuestions() asks of all kinds in turn what conversations ask, up to the question itself", () => {
  assert.deepEqual(
    questions.map(({ kind }) => kind),
    questions.map((_, i) => QUESTION_KINDS[i % QUESTION_KINDS.length]),
  );
  assert.deepEqual(storyQuestions({ seed, count: 5 }), questions.slice(0, 5));
  const turns = new Set<number>();
  for (const { kind, messages, answer } of questions) {
    turns.add(messages.length);
    const { role, content } = messages.at(-1)!;
    assert.equal(role, "user");
    assert.match(content, /\?$/);
    const { named } = judgeStory(storyOf([...messages, { role: "assistant", content: answer }]));
    const right = {
      hero: named.hero[0],
      animal: named.animal[0],
      thing: named.thing[0],
    }[kind as string];
    if (right) assert.ok(answer.includes(right), `seed ${seed}: ${answer}`);
    else assert.match(answer, /^[A-Z].*[a-z]\.$/);
  }
  for (const length of [1, 3, 5]) assert.ok(turns.has(length), `seed ${seed}`);
});

Deno.test("sampleConversations() writes the conversations on which published figures were measured", () => {
  const [first] = sampleConversations({ seed: 1, count: 1 });
  assert.deepEqual(first!.map(({ content }) => content), [
    "One warm spring, a small boy named Jack went calmly to the forest.\n" +
    "It was the rainy birthday of his grandpa, and he had no dusty gift. " +
    "There Jack saw a lovely mouse with a rare black key.\n" +
    "From that windy spring on, Jack and the quiet mouse jumped together.\n\n" +
    "What color was the key?",
    "The key was black.",
    "Who is the story about?",
    "It is about Jack.",
    "Which animal is in the story?",
    "There is a mouse in it.",
  ]);
});
