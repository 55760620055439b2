import assert from "node:assert/strict";
import { fieldNames, fieldOf, listOfNames } from "../../../data/text/rows.ts";

Deno.test("fieldOf() finds a field by its whole name, or else by the parts between dots", () => {
  const value = JSON.parse(
    '{"a.b":1,"a":{"b":2,"c.d":3,"e":null,"f":[{"g":4}]},"a.h":{"i":5},"n":null,"__proto__":{"p":6}}',
  );
  const cases: [field: string, found: unknown][] = [
    ["a.b", 1],
    ["a.c.d", 3],
    ["a.h.i", 5],
    ["a.e", null],
    ["a.e.x", null],
    ["n.x.y", null],
    ["__proto__.p", 6],
    ["a.x", undefined],
    ["a.f.g", undefined],
    ["toString", undefined],
    ["a.b.length", undefined],
    ["", undefined],
  ];
  for (const [field, found] of cases) assert.equal(fieldOf(value, field), found, field);
  assert.deepEqual(fieldNames(value), [
    ...["a.b", "a.b", "a.c.d", "a.e", "a.f", "a.h.i", "n", "__proto__.p"],
  ]);
});

Deno.test("listOfNames() escapes names and bounds their number and length", () => {
  assert.equal(listOfNames(["a", "b\x1b[2J"]), "a, b\\u{1b}[2J");
  const names = Array.from({ length: 23 }, (_, i) => `n${i}`);
  assert.match(listOfNames(names), /^n0, n1, .*, n19 and 3 more$/);
  assert.equal(listOfNames(["a", "b", "c"], 2), "a, b, c");
  assert.ok(listOfNames(["x".repeat(1e6)]).length < 100);
});
