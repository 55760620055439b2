import assert from "node:assert/strict";
import { checkFields, type FieldKind } from "../../files/json.ts";

/** Each kind, its name in messages, values of this kind, and values of others. */
const KINDS: readonly [kind: FieldKind, words: string, fitting: unknown[], others: unknown[]][] = [
  ["text", "a text", ["", "a"], [1, ["a"]]],
  ["texts", "a list of texts", [[], ["a", ""]], ["a", ["a", 1]]],
  ["number", "a number", [0, -1.5, 1e300], ["1", true]],
  ["whole", "a whole number", [0, -3, 2 ** 53 - 1], [0.5, 2 ** 53, "1"]],
  ["count", "a non-negative integer", [0, 3], [-1, 0.5, "1"]],
  ["boolean", "true or false", [true, false], [0, "true"]],
  ["list", "a list", [[], [1, "a"]], [{}, "a"]],
  ["objects", "a list of objects", [[], [{}, { a: 1 }]], [{}, [{}, []], [null]]],
  ["object", "an object", [{}, { a: [] }], [[], "a"]],
];

Deno.test("checkFields() takes values of each kind, none if it is optional, and refuses others by name", () => {
  const refuse = (requirement: string, value: unknown) => new Error(`${requirement}: ${value}`);
  const check = (kind: FieldKind, value: unknown) =>
    checkFields({ field: value, other: 1 }, { field: kind }, refuse);
  for (const [kind, words, fitting, others] of KINDS) {
    const optional = `${kind}?` as FieldKind;
    for (const value of fitting) {
      check(kind, value);
      check(optional, value);
    }
    for (const none of [null, undefined]) {
      check(optional, none);
      assert.throws(() => check(kind, none), { message: `field must be ${words}: ${none}` });
    }
    for (const value of others) {
      const message = `field must be ${words}: ${value}`;
      assert.throws(() => check(kind, value), { message });
      assert.throws(() => check(optional, value), { message });
    }
  }
});
