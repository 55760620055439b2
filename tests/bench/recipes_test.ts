import assert from "node:assert/strict";
import { replaceSection } from "../../bench/markdown.ts";
import {
  MARKERS,
  missingRuns,
  readResults,
  type Results,
  sections,
  timeInTurns,
} from "../../bench/recipes.ts";

Deno.test("docs/recipes.md has the tables of bench/recipes.json", () => {
  const page = Deno.readTextFileSync(new URL("../../docs/recipes.md", import.meta.url));
  const results = readResults(), made = sections(results);
  assert.equal(replaceSection(page, made, "docs/recipes.md", MARKERS), page);
  for (const text of Object.keys(results.stepMs)) {
    assert.match(made, new RegExp(`^## On the ${text}$`, "m"));
  }
  assert.ok(made.split("\n").filter((line) => line.startsWith("| GPT-2, AdamW")).length > 1);
});

const STORIES = "built-in stories", BASE = "GPT-2, AdamW";

/** Muon's steps take two thirds of the base's time in the median of the turns. */
const stepMs = { [STORIES]: { [BASE]: [10, 12, 20], Muon: [5, 8, 20] } };

Deno.test("missingRuns() has the runs of all recipes and seeds, in equal steps and in equal time, that results lack", () => {
  const all = missingRuns({ runs: [], stepMs }, STORIES);
  const of = (recipe: string) => all.filter((run) => run.recipe === recipe);
  assert.deepEqual(
    of(BASE).map(({ seed, steps }) => [seed, steps]),
    [1, 2, 3, 4, 5].map((seed) => [
      ...[seed, 2000],
    ]),
  );
  assert.deepEqual(of("Muon").slice(0, 4).map(({ seed, steps }) => [seed, steps]), [
    ...[[1, 2000], [1, 3000], [2, 2000], [2, 3000]],
  ]);
  assert.equal(all.length, 5 * (new Set(all.map(({ recipe }) => recipe)).size + 1));
  const done = { text: STORIES, recipe: "Muon", seed: 2, steps: 3000, loss: 1 };
  const others = [
    ...[{ ...done, text: "another" }, { ...done, recipe: "another" }],
    ...[{ ...done, seed: 6 }, { ...done, steps: 2500 }],
  ];
  assert.deepEqual(missingRuns({ runs: others, stepMs }, STORIES), all);
  assert.deepEqual(
    missingRuns({ runs: [done], stepMs }, STORIES),
    all.filter(({ recipe, seed, steps }) => recipe !== "Muon" || seed !== 2 || steps !== 3000),
  );
});

Deno.test("sections() has a table per text that was trained on, with runs by their seeds", () => {
  const run = (recipe: string, seed: number, steps: number, loss: number, animals: number) => ({
    ...{ text: STORIES, recipe, seed, steps, loss, animals },
  });
  const results: Results = {
    stepMs,
    timedOn: "a GPU",
    runs: [
      ...[run(BASE, 2, 2000, 1.5, 12), run(BASE, 1, 2000, 1.25, 11), run(BASE, 3, 2000, 1, 13)],
      ...[
        run("Muon", 1, 2000, 1.125, 14),
        run("Muon", 2, 3000, 0.75, 16),
        run("Muon", 1, 3000, 1, 15),
      ],
      run("SwiGLU", 1, 2000, 1, 1), // was not timed
    ],
  };
  const rows = sections(results).split("\n").filter((line) => line.startsWith("| "))
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim())).slice(1);
  assert.deepEqual(rows.filter(([name]) => !name!.startsWith("--")), [
    [
      ...[BASE, "1.250 1.500 1.000", "1.250", "2000", "1.250 1.500 1.000", "1.250", "0.000"],
      "11 12 13",
    ],
    ["Muon", "1.125", "1.125", "3000", "1.000 0.750", "1.000", "0.250", "14 15 16"],
  ]);
  assert.deepEqual(sections(results).match(/^## .*$/gm), [`## On the ${STORIES}`]);
  assert.match(sections(results), /timed on a GPU\.$/);
});

Deno.test("timeInTurns() times four steps of each recipe in turn, after four that compile", async () => {
  const done: string[] = [], { now } = performance;
  let clock = 0;
  const stepsOf = (name: string, stepMs: number) => (count: number) => {
    done.push(name);
    clock += count * (stepMs + done.length / 100);
    return Promise.resolve();
  };
  performance.now = () => clock;
  try {
    const stepMs = await timeInTurns([["a", stepsOf("a", 5)], ["b", stepsOf("b", 7)]]);
    assert.deepEqual(stepMs, {
      a: Array.from({ length: 15 }, (_, turn) => Number((5 + (3 + 2 * turn) / 100).toFixed(2))),
      b: Array.from({ length: 15 }, (_, turn) => Number((7 + (4 + 2 * turn) / 100).toFixed(2))),
    });
  } finally {
    performance.now = now;
  }
  assert.deepEqual(done, Array.from({ length: 2 * 16 }, (_, i) => i % 2 === 0 ? "a" : "b"));
});
