import assert from "node:assert/strict";
import { replaceSection } from "../../bench/markdown.ts";
import { MARKERS, readResults, sections } from "../../bench/recipes.ts";

Deno.test("docs/recipes.md has the tables of bench/recipes.json", () => {
  const page = Deno.readTextFileSync(new URL("../../docs/recipes.md", import.meta.url));
  const results = readResults(), made = sections(results);
  assert.equal(replaceSection(page, made, "docs/recipes.md", MARKERS), page);
  for (const text of Object.keys(results.stepMs)) {
    assert.match(made, new RegExp(`^## On the ${text}$`, "m"));
  }
  assert.ok(made.split("\n").filter((line) => line.startsWith("| GPT-2, AdamW")).length > 1);
});
