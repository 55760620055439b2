import assert from "node:assert/strict";
import type { Part } from "../../../data/text/blocks.ts";
import {
  arrayParts,
  cutPoint,
  lineParts,
  LONGEST_RECORD,
  textParts,
} from "../../../data/text/readers.ts";
import { Random } from "../../../data/random.ts";
import { gpt2Tokenizer } from "../../../data/tokenizer/tokenizer.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

const encode = (text: string) => new TextEncoder().encode(text);
const decode = (bytes: Uint8Array) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);

/** Bytes in chunks of random sizes. */
async function* inChunks(bytes: Uint8Array, random: Random, most: number) {
  for (let at = 0, length; at < bytes.length; at += length) {
    length = 1 + random.below(most);
    yield bytes.subarray(at, at + length);
  }
}

async function all(parts: AsyncIterable<Part[]>): Promise<Part[]> {
  const list: Part[] = [];
  for await (const some of parts) {
    list.push(...some.map((p) => ({ ...p, bytes: Uint8Array.from(p.bytes) })));
  }
  return list;
}

/** The documents of parts, as they come out in the end. */
function documentsOf(parts: readonly Part[]): string[] {
  const documents: string[] = [];
  let text = "";
  for (const { bytes, open } of parts) {
    text += decode(bytes);
    if (open) continue;
    documents.push(text.replaceAll("\r\n", "\n").trim());
    text = "";
  }
  assert.equal(text, "", "the last document does not end");
  return documents.filter((document) => document !== "");
}

/** The documents of a text, as the definition says. */
function documentsNaively(text: string): string[] {
  return text.replace(/^\ufeff/, "").replaceAll("\r\n", "\n").split("<|endoftext|>")
    .map((document) => document.trim()).filter((document) => document !== "");
}

const SEPARATORS = [
  "\n<|endoftext|>\n",
  "\r\n \t<|endoftext|>\t\r\n",
  ".<|endoftext|>",
  "<|endoftext|>He",
  " <|endoftext|> ",
  "<|endoftext|><|endoftext|>",
  "<|endoftext<|endoftext|>|>",
  "<|endoftext|",
];

Deno.test("textParts() gives the documents of a text, whatever its chunks and their lengths", async () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 400; round++) {
    let text = random.below(4) === 0 ? "\ufeff" : "";
    for (let i = random.below(12); i > 0; i--) {
      text += random.below(2) === 0
        ? oddText(random)
        : SEPARATORS[random.below(SEPARATORS.length)]!;
    }
    // without a limit that cuts, the documents are those of the definition
    const whole = await all(textParts(inChunks(encode(text), random, 300), { most: 5000 }));
    assert.deepEqual(documentsOf(whole), documentsNaively(text), `seed ${seed}, round ${round}`);
    assert.ok(whole.every(({ open }) => !open));
    // with one, parts are no longer than it is, whatever the chunks are
    const most = 40 + random.below(100);
    const one = await all(textParts(inChunks(encode(text), random, 1), { most }));
    const other = await all(textParts(inChunks(encode(text), random, 3000), { most }));
    assert.deepEqual(one, other, `seed ${seed}, round ${round}`);
    for (const { bytes, place } of one) {
      assert.ok(bytes.length <= most);
      assert.deepEqual(encode(text).subarray(place, place + bytes.length), bytes);
    }
  }
});

Deno.test("textParts() cuts long documents before words and loses nothing", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const words = Array.from({ length: 2000 }, () => "word,".slice(random.below(4)));
  const text = words.join(" ");
  const document = `  ${text}\n\n`;
  const source = encode(`${document}<|endoftext|>\n${document}`);
  const parts = await all(textParts(inChunks(source, random, 999), { most: 64 }));
  assert.deepEqual(documentsOf(parts), [text, text], `seed ${seed}`);
  assert.ok(parts.filter((_, i) => parts[i - 1]?.open).every(({ bytes }) => bytes[0] === 0x20));
});

Deno.test("textParts() skips white space before documents that is longer than a part", async () => {
  const text = `${" \n".repeat(500)}One.${"\n".repeat(30)}<|endoftext|>${" ".repeat(900)}\nTwo.`;
  const parts = await all(textParts(inChunks(encode(text), new Random(1), 50), { most: 64 }));
  assert.deepEqual(documentsOf(parts), ["One.", "Two."]);
});

Deno.test("textParts() gives no part for an empty document, also after one of several parts", async () => {
  const text = `${"word ".repeat(40)}<|endoftext|><|endoftext|>Two.<|endoftext|><|endoftext|>`;
  const parts = await all(textParts(inChunks(encode(text), new Random(1), 50), { most: 64 }));
  assert.deepEqual(documentsOf(parts).length, 2);
  assert.ok(parts.every(({ bytes }, i) => bytes.length > 0 || parts[i - 1]?.open));
});

Deno.test("textParts() finds separators at all places relative to cuts and chunks", async () => {
  const most = 40;
  for (let before = 0; before < 3 * most; before++) {
    const text = `${"word ".repeat(30).slice(0, before)}x<|endoftext|>${"y".repeat(before)}`;
    for (const chunk of [1, 7, 13, 1000]) {
      const chunks = (async function* () {
        for (let at = 0; at < text.length; at += chunk) yield encode(text.slice(at, at + chunk));
      })();
      const documents = documentsOf(await all(textParts(chunks, { most })));
      assert.deepEqual(
        documents,
        documentsNaively(text),
        `${before} bytes before, chunks of ${chunk}`,
      );
    }
  }
});

Deno.test("cutPoint() divides a text so that both sides together have its tokens", async () => {
  const tokenizer = await gpt2Tokenizer();
  const seed = freshSeed(), random = new Random(seed);
  let cuts = 0;
  for (let round = 0; round < 500; round++) {
    const text = oddText(random) + oddText(random), bytes = encode(text);
    if (bytes.length < 10) continue;
    const end = 5 + random.below(bytes.length - 5);
    const cut = cutPoint(bytes, 0, end);
    assert.ok(cut > 0 && cut <= end);
    const [left, right] = [decode(bytes.subarray(0, cut)), decode(bytes.subarray(cut))];
    assert.equal(left + right, text, `seed ${seed}: in a character`);
    if (!/^[ \n\r]/.test(right) || /[\p{White_Space}\ufeff]$/u.test(left)) continue; // no better place
    cuts++;
    assert.deepEqual(
      [...tokenizer.encodeDocument(left), ...tokenizer.encodeDocument(right)],
      tokenizer.encodeDocument(text),
      `seed ${seed}: ${JSON.stringify(text)} at ${cut}`,
    );
  }
  assert.ok(cuts > 100);
});

Deno.test("cutPoint() cuts before a blank or a line end that follows no white space, else between characters", () => {
  // what precedes a blank is a character of one to four bytes, at the start of the bytes or later
  for (
    const [text, end, left] of [
      ["a b", 3, "a"],
      ["\u00e9 b", 4, "\u00e9"],
      ["\u65e5 b", 5, "\u65e5"],
      ["\ud83d\ude00 b", 6, "\ud83d\ude00"],
      ["a\u00e9 b", 5, "a\u00e9"],
      ["a b c", 5, "a b"],
      ["a b c", 3, "a b"],
      ["a b", 1, "a"],
      ["a  b", 4, "a"],
      ["a\n b", 4, "a"],
      ["a\u00a0 b", 5, "a\u00a0 b"],
      ["a\u3000 b", 6, "a\u3000 b"],
      ["a\ufeff b", 6, "a\ufeff b"],
      ["ab\ncd", 5, "ab"],
      ["ab\rcd", 5, "ab"],
      ["ab\r\ncd", 5, "ab"],
      ["\u00e9\n\nb", 5, "\u00e9"],
      ["\n\r\nb", 2, "\n"],
      ["ab\u65e5\u65e5", 4, "ab"],
      ["ab\u65e5\u65e5", 5, "ab\u65e5"],
    ] as const
  ) {
    const bytes = encode(text), cut = cutPoint(bytes, 0, end);
    assert.equal(decode(bytes.subarray(0, cut)), left, JSON.stringify([text, end]));
  }
  assert.equal(cutPoint(encode("a b"), 1, 3), 3, "a part is not empty");
});

Deno.test("lineParts() gives the lines that are not blank, with their numbers", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const text = '\ufeff{"a":1}\r\n\n  \n{"b":2}\n\n{"c":"\u2028"}';
  const parts = await all(lineParts(inChunks(encode(text), random, 4), { file: "x" }));
  assert.deepEqual(
    parts.map(({ bytes, place }) => [decode(bytes).trim(), place]),
    [['{"a":1}', 1], ['{"b":2}', 4], ['{"c":"\u2028"}', 6]],
    `seed ${seed}`,
  );
});

Deno.test("lineParts() refuses a line that is too long", async () => {
  // its end is in a later window than its 16 MiB, and in the same
  for (const length of [LONGEST_RECORD + 2 ** 21, LONGEST_RECORD + 1]) {
    const text = encode(`1\n${"x".repeat(length)}\n2\n`);
    await assert.rejects(
      all(lineParts(inChunks(text, new Random(1), 1e6), { file: "x" })),
      { message: "Cannot read data file x as line 2 must be at most 16 MiB long: it is longer" },
    );
  }
});

Deno.test("arrayParts() gives the elements of an array, whatever its white space and chunks", async () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 200; round++) {
    const elements = Array.from({ length: random.below(8) }, (_, i) => ({
      text: `${'[,\\"}]{'.repeat(random.below(3))}${oddText(random)}\\`,
      more: [{ id: i, "]": [] }, "\\\\", null],
    }));
    const space = ["", " ", "\r\n\t"][random.below(3)]!;
    const written = elements.map((element) => JSON.stringify(element, null, random.below(3)));
    const text = `${random.below(2) === 0 ? "\ufeff" : ""}${space}[${space}` +
      written.join(`${space},${space}`) + `${space}]${space}`;
    const parts = await all(
      arrayParts(inChunks(encode(text), random, random.below(2) === 0 ? 3 : 999), { file: "x" }),
    );
    assert.deepEqual(
      parts.map(({ bytes, place }) => [JSON.parse(decode(bytes)), place]),
      elements.map((element, i) => [element, i + 1]),
      `seed ${seed}, round ${round}`,
    );
  }
});

Deno.test("arrayParts() reads an array that is longer than its window", async () => {
  const elements = Array.from({ length: 60 }, (_, i) => ({ text: `"${i}\\"`.repeat(20_000) }));
  const parts = await all(
    arrayParts(inChunks(encode(JSON.stringify(elements)), new Random(1), 1e6), { file: "x" }),
  );
  assert.ok(parts.length === 60);
  assert.ok(parts.every(({ bytes }, i) => decode(bytes) === JSON.stringify(elements[i])));
});

Deno.test("arrayParts() finds the end of a string wherever a chunk ends", async () => {
  const MEBIBYTE = 2 ** 20; // of which the window grows at once
  for (let rest = 0; rest < 9; rest++) {
    const long = `${"x".repeat(MEBIBYTE - 2 - rest)}\\"\\`;
    const bytes = encode(JSON.stringify([long, "y", { z: "]" }]));
    const chunks = (async function* () {
      yield bytes.subarray(0, MEBIBYTE);
      yield bytes.subarray(MEBIBYTE);
    })();
    const elements = (await all(arrayParts(chunks, { file: "x" }))).map(({ bytes }) =>
      JSON.parse(decode(bytes))
    );
    assert.ok(elements[0] === long, `${rest} bytes before the end`);
    assert.deepEqual(elements.slice(1), ["y", { z: "]" }], `${rest} bytes before the end`);
  }
});

Deno.test("arrayParts() names the problem of an array", async () => {
  const cases = [
    ['[{"a":1},{"b":', "end with ]: it breaks off in element 2"],
    ['[1,"]', "end with ]: it breaks off in element 2"],
    ["[1] [2]", "be all that the file holds: there is more"],
    ["[1]]", "be all that the file holds: there is more"],
    ["[1] x", "be all that the file holds: there is more"],
  ] as const;
  for (const [text, reason] of cases) {
    await assert.rejects(
      all(arrayParts(inChunks(encode(text), new Random(1), 4), { file: "x" })),
      {
        name: "DataError",
        message: `Cannot read data file x as its JSON array must ${reason}`,
      },
    );
  }
  // its end is in a later window than its 16 MiB, and in the same
  for (const length of [LONGEST_RECORD + 2 ** 21, LONGEST_RECORD]) {
    const long = encode(`[1,"${"x".repeat(length)}"]`);
    await assert.rejects(
      all(arrayParts(inChunks(long, new Random(1), 1e6), { file: "x" })),
      {
        message: "Cannot read data file x as element 2 must be at most 16 MiB long: it is longer",
      },
    );
  }
});
