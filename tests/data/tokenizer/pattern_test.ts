import assert from "node:assert/strict";
import { createPattern, type Span, UnboundedPattern } from "../../../data/tokenizer/pattern.ts";
import { Random } from "../../../data/random.ts";
import { parseTokenizer } from "../../../data/tokenizer/tokenizer.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

const found = (source: string, text: string, flags = "gu") =>
  createPattern(new RegExp(source, flags)).matches(text);

/** What JavaScript's own matcher finds, but for matches inside a pair of surrogates, which it finds at times. */
function expected(source: string, text: string, flags = "gu"): Span[] {
  return Array.from(
    text.matchAll(new RegExp(source, flags)),
    ({ index, 0: { length } }) => [index, index + length] as Span,
  )
    .filter(([start]) => start === 0 || text.codePointAt(start - 1)! <= 0xffff);
}

const UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const SPACES = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** Patterns of tokenizers that are in use. */
const IN_USE: Record<string, string> = {
  "GPT-2": "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  "Llama 3":
    `${CONTRACTION}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|` +
    SPACES,
  "Qwen 2": `${CONTRACTION}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|` +
    SPACES,
  "o200k": `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+${CONTRACTION}?|` +
    `[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*${CONTRACTION}?|\\p{N}{1,3}|` +
    ` ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${SPACES}`,
  "DeepSeek V3": "[!\"#$%&'()*+,\\-.\\/:;<=>?@\\[\\\\\\]^_`\\{\\|\\}~][A-Za-z]+|" +
    "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|" + SPACES,
  "CLIP": "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|" +
    "[^\\s\\p{L}\\p{N}]+",
  "digits from the right": "\\d{1,3}(?=(?:\\d{3})*(?!\\d))",
  "BLOOM": " ?[^\\s.,!?…。，、।۔،()\\[|\\]]+",
};

for (const [name, source] of Object.entries(IN_USE)) {
  Deno.test(`createPattern() matches what JavaScript does with the pattern of ${name}`, () => {
    const seed = freshSeed(), random = new Random(seed);
    for (let round = 0; round < 60; round++) {
      const text = `${oddText(random)} it'LL 12345 ${oddText(random)}`;
      const where = `seed ${seed}: ${JSON.stringify(text)}`;
      assert.deepEqual(found(source, text), expected(source, text), where);
    }
  });
}

Deno.test("createPattern() matches what JavaScript does with random patterns", () => {
  const seed = freshSeed(), random = new Random(seed);
  const pick = <T>(...values: T[]): T => values[random.below(values.length)]!;
  const part = (depth: number): string => {
    if (depth === 0 || random.below(4) === 0) {
      return pick("a", "b", "🦖", "\\p{L}", "[ab]", "[^a]", "\\s", ".", "\\u{1F996}", "é", "\\.");
    }
    const inner = () => part(depth - 1);
    switch (random.below(8)) {
      case 0:
      case 1:
        return inner() + inner();
      case 2:
        return `(${pick("", "?:")}${inner()}|${inner()})`;
      case 3:
      case 4:
        return `(?:${inner()})${
          pick("*", "+", "?", "{2}", "{1,3}", "{2,}", "*?", "+?", "??", "{0,2}?")
        }`;
      case 5:
        return `(${pick("?=", "?!", "?<=", "?<!")}${inner()})`;
      case 6:
        return `${inner()}|${inner()}`;
      default:
        return pick("^", "$", `${inner()}${inner()}`);
    }
  };
  let compared = 0;
  for (let round = 0; round < 3000; round++) {
    const source = part(4), flags = pick("gu", "giu", "gsu");
    const text = Array.from(
      { length: random.below(10) },
      () => pick("a", "b", "A", "\n", "🦖", "é", "1", ".", " "),
    ).join("");
    try {
      const where = `seed ${seed}: /${source}/${flags} in ${JSON.stringify(text)}`;
      assert.deepEqual(found(source, text, flags), expected(source, text, flags), where);
      compared++;
    } catch (error) {
      if (!(error instanceof UnboundedPattern)) throw error;
    }
  }
  assert.ok(compared > 2000, `seed ${seed}: only ${compared} patterns were compared`);
});

Deno.test("createPattern() takes linear time where backtracking would take hours", () => {
  const letters = "a".repeat(30_000), digits = "1".repeat(30_000);
  const cases: [source: string, text: string, matches: number][] = [
    ["(a+)+$", `${letters}b`, 0],
    ["(?:a|a)*c", letters, 0],
    ["(?:\\w|\\d)+!", digits, 0],
    ["(?:a{1,15}){1,15}c", letters.slice(0, 2000), 0],
    ["a+b|a", letters, 30_000],
    ["[\\s\\S]+\\0|[\\s\\S]", letters, 30_000],
    ["a*a*a*a*a*a*b|c", letters, 0],
    ["(?=.*b)a|.", `${letters}b`, 30_001],
    ["(?<=b.*)a|.", letters, 30_000],
    ["\\d{1,3}(?=(?:\\d{3})*(?!\\d))", digits, 10_000],
  ];
  const since = performance.now();
  for (const [source, text, matches] of cases) {
    assert.equal(found(source, text).length, matches, source);
  }
  const seconds = (performance.now() - since) / 1000;
  assert.ok(seconds < 30, `it took ${seconds} s`); // half a second; a square would be minutes
});

Deno.test("createPattern() refuses what it cannot match in linear time", () => {
  const cases: [string, RegExp][] = [
    ["(a)\\1", /^have no backreferences$/],
    ["(?<x>a)\\k<x>", /^have no backreferences$/],
    ["(a*)*", /^not repeat what may be empty$/],
    ["(?:a?){0,5}", /^not repeat what may be empty$/],
    ["a{9999}", /^come to at most 1000 steps$/],
    ["(?:a{99}){99}", /^come to at most 1000 steps$/],
    ["(".repeat(60) + "a" + ")".repeat(60), /^nest at most 50 deep$/],
  ];
  for (const [source, message] of cases) {
    assert.throws(() => found(source, "a"), (error) => {
      assert.ok(error instanceof UnboundedPattern, source);
      assert.match(error.message, message);
      return true;
    });
  }
  assert.deepEqual(found("(?:){9007199254740991}a", "a"), [[0, 1]]); // nothing, however often
});

Deno.test("parseTokenizer() bounds the patterns of every part of a file", async () => {
  const golden = JSON.parse(
    await Deno.readTextFile(new URL("../../golden/tokenizers.json", import.meta.url)),
  );
  const { file } = golden.tokenizers.find(({ name }: { name: string }) => name === "Llama 3");
  const Regex = "(a+)+$|[\\s\\S]";
  const replace = { type: "Replace", pattern: { Regex }, content: "$&" };
  const parts = {
    normalizer: replace,
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, use_regex: false },
      ],
    },
    decoder: { type: "Sequence", decoders: [replace, { type: "Fuse" }] },
  };
  const text = `${"a".repeat(50)}b`;
  for (const [name, part] of Object.entries(parts)) {
    const tokenizer = await parseTokenizer(JSON.stringify({ ...file, [name]: part }));
    const ids = tokenizer.encode(text);
    tokenizer.decode(ids);
    if (name === "normalizer") assert.equal(tokenizer.decode(ids), "$&".repeat(51));
    const refused = JSON.stringify({ ...file, [name]: part }).replaceAll(
      JSON.stringify(Regex),
      '"(a)\\\\1\\u001b"',
    );
    await assert.rejects(parseTokenizer(refused, "t.json"), {
      name: "UserError",
      message: "Cannot use t.json as its patterns must have no backreferences: " +
        'current value is "(a)\\\\1\\u001b"',
    });
  }
});

Deno.test("parseTokenizer() refuses patterns that never give back what they have matched", async () => {
  const golden = JSON.parse(
    await Deno.readTextFile(new URL("../../golden/tokenizers.json", import.meta.url)),
  );
  const { file } = golden.tokenizers.find(({ name }: { name: string }) => name === "Llama 3");
  const parse = (Regex: string) => {
    const split = { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false };
    const bytes = { type: "ByteLevel", add_prefix_space: false, use_regex: false };
    const pre_tokenizer = { type: "Sequence", pretokenizers: [split, bytes] };
    return parseTokenizer(JSON.stringify({ ...file, pre_tokenizer }), "t.json");
  };
  for (const pattern of ["\\s++$|\\s", "a*+b", "[ab]?+c", "(?>a+)b"]) {
    await assert.rejects(parse(pattern), {
      name: "UserError",
      message:
        "Cannot use t.json as its patterns must have no possessive quantifiers and no atomic " +
        `groups: current value is ${JSON.stringify(pattern)}`,
    });
  }
  // in Ruby's syntax, which the files are in, the last one repeats a repetition
  for (const pattern of ["\\++", "[*+]+", "[(?>]", "\\p{N}{1,3}+"]) await parse(pattern);
});
