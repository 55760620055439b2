import assert from "node:assert/strict";
import { createPattern, patternOf, replaceMatches } from "../../../data/tokenizer/pattern.ts";
import { parseTokenizer } from "../../../data/tokenizer/tokenizer.ts";
import { load } from "../../../files/packages.ts";

const library = await load("@huggingface/tokenizers");
const found = (Regex: string, text: string) =>
  patternOf({ Regex }, library)(text).map(([start, end]) => text.slice(start, end));

Deno.test("createPattern() finds no match inside a character", () => {
  assert.deepEqual(createPattern(/(?!🦖)/gu)("🦖b"), [[2, 2], [3, 3]]);
  assert.deepEqual(createPattern(/(?<!a)/gu)("a🦖b"), [[0, 0], [3, 3], [4, 4]]);
  assert.deepEqual(createPattern(/(?!🦖)[^]/gu)("🦖🦖b"), [[4, 5]]);
});

Deno.test("replaceMatches() takes the replacement as it is", () => {
  assert.equal(replaceMatches("a-b--", createPattern(/-/gu), "$&$1"), "a$&$1b$&$1$&$1");
  assert.equal(replaceMatches("ab", createPattern(/(?=b)|$/gu), "|"), "a|b|");
});

Deno.test("patternOf() reads patterns in Ruby's syntax and Unicode's classes", () => {
  assert.deepEqual(patternOf({ String: ".+" }, library)("a.+.+"), [[1, 3], [3, 5]]);
  assert.deepEqual(found("\\d{1,3}(?=(?:\\d{3})*\\b)", "1234567 1é1٣"), [
    "1",
    "234",
    "567",
    "1٣",
  ]);
  assert.deepEqual(found("^.", "ab\ncd"), ["a", "c"]);
  assert.deepEqual(found("(?i:LL)|\\s+", "ll\u0085\ufeff"), ["ll", "\u0085"]);
  assert.deepEqual(found("(.)\\1", "aabcc"), ["aa", "cc"]);
});

Deno.test("patternOf() refuses what JavaScript cannot match or reads otherwise", () => {
  const refused = (pattern: unknown) => {
    try {
      patternOf(pattern, library);
      return undefined;
    } catch (error) {
      return (error as Error).message;
    }
  };
  for (const Regex of ["\\s++$|\\s", "a*+b", "[ab]?+c", "(?>a+)b", "(?m:.)", "(?im-x:.)"]) {
    assert.equal(
      refused({ Regex }),
      "its patterns must have no possessive quantifiers, atomic groups or modifier m: " +
        `current value is ${JSON.stringify(Regex)}`,
    );
  }
  // in Ruby's syntax the last one repeats a repetition
  for (const Regex of ["\\++", "[*+]+", "[(?>]", "\\(?m", "\\p{N}{1,3}+"]) {
    assert.equal(refused({ Regex }), undefined, Regex);
  }
  const unreadable = /^its patterns must be ones that JavaScript can match: current value is "\(a/;
  for (const Regex of ["(a", "(a\u001b", `(${"a".repeat(1_000_000)})`]) {
    assert.match(refused({ Regex })!, unreadable);
  }
  for (const pattern of [null, {}, { String: "" }, { Regex: 5 }]) {
    assert.match(refused(pattern)!, /^its patterns must be texts that are not empty: /);
  }
});

Deno.test("patternOf() makes patterns that end, whatever the text", () => {
  const since = performance.now();
  const letters = "a".repeat(50);
  assert.throws(() => found("(a+)+$", `${letters}b`), {
    name: "UserError",
    message: 'Cannot match the tokenizer\'s pattern "(a+)+$" as it must backtrack less: ' +
      "on a text of 51 characters it takes more than 1006 ms",
  });
  const seconds = (performance.now() - since) / 1000;
  assert.ok(seconds < 60, `it took ${seconds} s`);
  assert.deepEqual(found("(a+)+$", letters), [letters]);
  assert.throws(() => found("\\p{L}+", "日".repeat(10_000_000)), {
    name: "UserError",
    message: /a text of 10000000 characters it takes more memory than JavaScript allows$/,
  });
});

Deno.test("parseTokenizer() names a pattern that it refuses, in every part of a file", async () => {
  const golden = JSON.parse(
    await Deno.readTextFile(new URL("../../golden/tokenizers.json", import.meta.url)),
  );
  const { file } = golden.tokenizers.find(({ name }: { name: string }) => name === "Llama 3");
  const parts = (Regex: string) => {
    const replace = { type: "Replace", pattern: { Regex }, content: "$&" };
    const split = { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false };
    const bytes = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
    return Object.entries({
      normalizer: replace,
      pre_tokenizer: { type: "Sequence", pretokenizers: [split, bytes] },
      decoder: { type: "Sequence", decoders: [replace, { type: "Fuse" }] },
    });
  };
  const parse = (part: [string, unknown]) =>
    parseTokenizer(JSON.stringify({ ...file, ...Object.fromEntries([part]) }), "t.json");
  for (const part of parts("(a+)+$|[\\s\\S]")) {
    const { encode, decode } = await parse(part);
    assert.equal(decode(encode("ab")), part[0] === "pre_tokenizer" ? "ab" : "$&$&", part[0]);
  }
  for (const part of parts("a++\u001b")) {
    await assert.rejects(parse(part), {
      name: "UserError",
      message: /^Cannot use t\.json as its patterns must .* current value is "a\+\+\\u001b"$/,
    });
  }
});
