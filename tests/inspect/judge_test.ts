import assert from "node:assert/strict";
import { QUESTION_KINDS, storyQuestions } from "../../data/text/story_questions.ts";
import {
  answerSharesOf,
  beforeNames,
  judgeAnswers,
  judgeModel,
  shareInterval,
  sharesOf,
  STORY_FIGURES,
} from "../../inspect/judge.ts";
import { drawJudgements } from "../../inspect/judge_chart.ts";
import { type Beginning, judgeStory, storyBeginnings } from "../../inspect/story_judge.ts";
import { LossCurve } from "../../train/record/loss_curve.ts";
import { byteTokenizer, randomModel } from "../generate/models.ts";
import { device } from "../kernels/harness.ts";

const beginnings = storyBeginnings({ seed: 1, count: 12 });
const rests = beginnings.map(({ rest }) => rest);

/** Counts by figure: sentences, hero, animal, thing. */
function counted(continuations: readonly string[], of: readonly Beginning[] = beginnings) {
  const shares = sharesOf(of, continuations);
  return STORY_FIGURES.map((figure) => `${shares[figure].count} of ${shares[figure].of}`);
}

Deno.test("sharesOf() counts everything when a story continues as the grammar does", () => {
  assert.deepEqual(counted(rests), ["24 of 24", "12 of 12", "4 of 4", "4 of 4"]);
});

Deno.test("sharesOf() counts each of hero, animal and thing by itself", () => {
  const change = (role: "hero" | "animal" | "thing", to: string) =>
    rests.map((rest, i) => rest.replaceAll(beginnings[i]!.kept[role] ?? "—", to));
  assert.deepEqual(counted(change("animal", "elephant")).slice(1), [
    "12 of 12",
    "0 of 4",
    "4 of 4",
  ]);
  assert.deepEqual(counted(change("thing", "anvil")).slice(1), ["12 of 12", "4 of 4", "0 of 4"]);
  assert.deepEqual(counted(change("hero", "Zoe")).slice(1), ["0 of 12", "4 of 4", "4 of 4"]);
});

Deno.test("sharesOf() counts a hero as lost when another is named beside it, or none", () => {
  const [first] = beginnings, { hero } = first!.kept, other = hero === "Tom" ? "Ben" : "Tom";
  const shares = (text: string) => sharesOf([first!], [text]);
  assert.equal(shares(`\n${hero} sang.`).hero.count, 1);
  assert.equal(shares(`\n${hero} sang and ${other} danced.`).hero.count, 0);
  assert.equal(shares("\nSomebody sang.").hero.count, 0);
  assert.equal(shares("").hero.count, 0);
});

Deno.test("sharesOf() counts whole sentences of the continuation when a story is cut off", () => {
  const [first] = beginnings;
  const whole = first!.rest, cut = whole.slice(0, whole.lastIndexOf("\n") + 10);
  assert.deepEqual(counted([whole], [first!])[0], "3 of 3");
  assert.deepEqual(counted([cut], [first!])[0], "2 of 2");
  assert.deepEqual(counted([" time time time."], [first!])[0], "0 of 1");
});

Deno.test("answerSharesOf() counts an answer as right if it is that of the grammar to the letter", () => {
  const asked = storyQuestions({ seed: 1, count: 18 }), right = asked.map(({ answer }) => answer);
  const { all, ...kinds } = answerSharesOf(asked, right);
  assert.deepEqual(all, { count: 18, of: 18 });
  assert.deepEqual(Object.keys(kinds), [...QUESTION_KINDS]);
  for (const share of Object.values(kinds)) assert.deepEqual(share, { count: 2, of: 2 });
  const others = [
    right.map((answer) => `${answer} `),
    right.map((answer) => answer.slice(0, -1)),
    right.map((answer) => `${answer} ${answer}`),
    right.map(() => ""),
  ];
  for (const answers of others) assert.equal(answerSharesOf(asked, answers).all.count, 0);
  const one = right.with(3, "No.");
  assert.deepEqual(answerSharesOf(asked, one)[asked[3]!.kind], { count: 1, of: 2 });
  assert.deepEqual(answerSharesOf(asked, one).all, { count: 17, of: 18 });
});

Deno.test("shareInterval() is Wilson's interval, also when all or nothing was counted", () => {
  const percent = (count: number, of: number) =>
    shareInterval({ count, of }).map((value) => (100 * value).toFixed(1));
  assert.deepEqual(percent(0, 10), ["0.0", "27.8"]);
  assert.deepEqual(percent(10, 10), ["72.2", "100.0"]);
  assert.deepEqual(percent(1, 29), ["0.6", "17.2"]); // Newcombe 1998, table I
  assert.deepEqual(percent(81, 263), ["25.5", "36.6"]);
  assert.deepEqual(shareInterval({ count: 0, of: 0 }), [0, 1]);
  assert.equal(shareInterval({ count: 24, of: 24 })[1], 1);
});

Deno.test("beforeNames() are stories up to the place where the name comes again", () => {
  const texts = beforeNames({ seed: 4, count: 40 });
  for (const { text, word } of texts) {
    assert.equal(text.split(word).length, 2, text);
    assert.match(text, /[\w,.]$|\n$/);
    assert.deepEqual(judgeStory(text).named.hero, [word.trim()]);
  }
});

Deno.test("judgeModel() continues every beginning and reports each that is complete", async () => {
  const model = { gpt: randomModel(device, "f32"), tokenizer: byteTokenizer() };
  const done: number[] = [];
  const judge = (seed: number) =>
    judgeModel(model, { stories: 4, seed, onProgress: (count) => done.push(count) });
  const shares = await judge(3);
  assert.deepEqual(done, [1, 2, 3, 4]);
  assert.deepEqual(
    [shares.hero, shares.animal, shares.thing],
    [{ count: 0, of: 4 }, { count: 0, of: 1 }, { count: 0, of: 1 }],
  );
  assert.deepEqual(await judge(3), shares);
  await assert.rejects(judgeModel(model, { count: 4 } as never), {
    name: "TypeError",
    message: 'Cannot judge a model as every option must be one of judgeModel(): "count" is none',
  });
});

Deno.test("judgeAnswers() asks every question and reports each that is answered", async () => {
  const gpt = randomModel(device, "f32", { contextLength: 512 });
  const model = { gpt, tokenizer: byteTokenizer() };
  const done: number[] = [];
  const shares = await judgeAnswers(model, { questions: 3, onProgress: (n) => done.push(n) });
  assert.deepEqual(done, [1, 2, 3]);
  assert.deepEqual([shares.all, shares.hero, shares.home], [
    { count: 0, of: 3 },
    { count: 0, of: 1 },
    { count: 0, of: 0 },
  ]);
  await assert.rejects(judgeAnswers(model, { stories: 4 } as never), {
    name: "TypeError",
    message:
      'Cannot judge a model as every option must be one of judgeAnswers(): "stories" is none',
  });
});

Deno.test("drawJudgements() draws the share of all answers", async () => {
  const shares = (count: number) =>
    answerSharesOf(
      storyQuestions({ seed: 1, count: 9 }),
      storyQuestions({ seed: 1, count: count }).map(({ answer }) => answer),
    );
  const judged = [1, 2].map((step) => ({ step, greedy: shares(step), heads: [] }));
  const svg = await drawJudgements(judged, { title: "a" });
  assert.equal(svg.match(/<circle/g)!.length, 2);
  assert.ok(svg.includes("right answers") && !svg.includes("keep their hero"));
});

Deno.test("drawJudgements() draws shares under the losses, each with its interval", async () => {
  const share = (count: number, of = 10) => ({ count, of });
  const shares = (count: number) => ({
    sentences: share(count),
    hero: share(2 * count),
    animal: share(1),
    thing: share(0, 0),
  });
  const heads = [0.75, 0.25].map((weight, head) => ({ layer: 1, head, weight }));
  const judged = [1, 2].map((step) => (
    {
      step,
      greedy: shares(step),
      sampled: shares(step + 1),
      heads: step === 1 ? heads.toReversed() : heads,
    }
  ));
  const losses = new LossCurve();
  losses.add({ kind: "evaluation", step: 1, loss: 2, entropyPerToken: 0.5 });
  losses.add({ kind: "evaluation", step: 2, loss: 1 });
  const svg = await drawJudgements(judged, { title: "a <b>", losses });
  assert.match(svg, /^<svg .*<\/svg>\s*$/s);
  assert.doesNotMatch(svg, /NaN|undefined/);
  // two losses, and three figures of two checkpoints; nothing was counted of things
  assert.equal(svg.match(/<circle/g)!.length, 2 + 3 * 2);
  for (
    const text of ["a &lt;b&gt;", "validation 1.000 at step 2", "that keep their hero", "95 %"]
  ) {
    assert.ok(svg.includes(text), text);
  }
  const alone = await drawJudgements(judged.map(({ step, greedy }) => ({ step, greedy })), {
    title: "a",
  });
  assert.match(alone, /no points/); // there is no record of losses
  assert.equal(alone.match(/<circle/g)!.length, 3 * 2);
});
