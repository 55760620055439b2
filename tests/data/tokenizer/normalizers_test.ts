import assert from "node:assert/strict";
import { createNormalizer } from "../../../data/tokenizer/normalizers.ts";

/** SentencePiece's table as base64: a double array of blocks of 256, whose offsets use the long form. */
function precompiled(replacements: Record<string, string>): string {
  const units: number[] = [], texts: number[] = [];
  const encoder = new TextEncoder();
  let blocks = 0;
  const fill = (entries: [Uint8Array, string][], depth: number, place: number, label: number) => {
    const block = ++blocks, base = block << 8 | place & 0xff;
    const ended = entries.find(([key]) => key.length === depth);
    units[place] = ((place >> 8 ^ block) << 10 | 0x200 | (ended ? 0x100 : 0) | label) >>> 0;
    if (ended) {
      units[base] = 0x80000000 + texts.length;
      texts.push(...encoder.encode(ended[1]), 0);
    }
    const longer = entries.filter(([key]) => key.length > depth);
    for (const byte of new Set(longer.map(([key]) => key[depth]!))) {
      fill(longer.filter(([key]) => key[depth] === byte), depth + 1, base ^ byte, byte);
    }
  };
  fill(
    Object.entries(replacements).map(([from, to]) => [encoder.encode(from), to]),
    0,
    0,
    0,
  );
  const trie = Uint32Array.from({ length: (blocks + 1) << 8 }, (_, i) => units[i] ?? 0);
  const bytes = new Uint8Array(4 + trie.byteLength + texts.length);
  new DataView(bytes.buffer).setUint32(0, trie.byteLength, true);
  bytes.set(new Uint8Array(trie.buffer), 4);
  bytes.set(texts, 4 + trie.byteLength);
  return bytes.toBase64();
}

const normalize = (replacements: Record<string, string>, text: string) =>
  createNormalizer(
    [{ type: "Precompiled", precompiled_charsmap: precompiled(replacements) }],
    undefined,
  )(text);

Deno.test("Precompiled replaces characters and short graphemes by SentencePiece's table", () => {
  const table = { "ﬁ": "fi", "\u3000": " ", "e\u0301\u0302": "E", "e\u0301": "é", "\t": "" };
  assert.equal(normalize(table, "ﬁsh\u3000\tx"), "fish x");
  assert.equal(normalize(table, "caf\u0065\u0301!"), "café!");
  // a grapheme of five bytes is looked up whole, of which the shortest entry that begins it is taken
  assert.equal(normalize({ "e\u0301\u0302": "E" }, "xe\u0301\u0302y"), "xEy");
  // of six bytes its characters are
  assert.equal(normalize({ "日": "N", "\u0301": "'" }, "日\u0301\u0301x"), "N''x");
  assert.equal(normalize({ "\r\n": "\n" }, "a\r\nb\n"), "a\nb\n");
  assert.equal(normalize({ "a": "b" }, ""), "");
});

Deno.test("Prepend leaves a text empty of which another normalizer has left nothing", () => {
  const remove = { type: "Replace", pattern: { String: " " }, content: "" } as const;
  const twice = createNormalizer([remove, { type: "Prepend", prepend: "▁" }], undefined);
  assert.deepEqual([twice(" "), twice(" a")], ["", "▁a"]);
});

Deno.test("Strip removes white space as Unicode defines it, at the ends that it names", () => {
  const strip = (left: boolean, right: boolean) =>
    createNormalizer([{ type: "Strip", strip_left: left, strip_right: right }], undefined);
  const text = "\u0085 \u3000\ufeffa b\ufeff\n\u0085";
  assert.equal(strip(true, true)(text), "\ufeffa b\ufeff");
  assert.equal(strip(true, false)(text), "\ufeffa b\ufeff\n\u0085");
  assert.equal(strip(false, true)(text), "\u0085 \u3000\ufeffa b\ufeff");
  assert.equal(strip(true, true)(" \n "), "");
});
