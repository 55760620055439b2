import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { type Format, formatOf, FORMATS, UNDERSTOOD } from "../../../data/text/formats.ts";
import { PACKINGS } from "../../../data/text/unpack.ts";
import { Random } from "../../../data/random.ts";
import { fromFileUrl } from "../../paths.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

Deno.test("formatOf() decides by the name, and for JSON by the first character", () => {
  const cases: [name: string, head: string | Uint8Array, format: Format][] = [
    ["a.txt", "One.", "text"],
    ["A.TXT.GZ", "One.", "text"],
    ["dir.csv/noextension", "One.", "text"],
    ["notes.md", "# One", "text"],
    ["a.txt", "", "text"],
    ["a.json", "", "lines"],
    ["a.jsonl.zst", '{"text":"["}', "lines"],
    ["a.json", '\ufeff \r\n[\n{"text"', "array"],
    ["a.jsonl", '[{"text"', "array"],
    ["a.csv", "text\n", "csv"],
    ["a.tsv.gz", "text\n", "tsv"],
    ["a.parquet", "PAR1\x15\0", "parquet"],
    ["a.parquet", "", "parquet"],
    ["a.txt", "Drei \0 🦖", "text"],
    ["a.txt", "\x1b[1mbold\x1b[0m", "text"],
    ["latin.txt", Buffer.from("Fl\xfcgel", "latin1"), "text"], // the reader says where
  ];
  for (const [name, head, format] of cases) {
    assert.equal(formatOf(name, Buffer.from(head as string)), format, name);
  }
});

Deno.test("formatOf() accepts text in every script, wherever its beginning is cut off", () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 300; round++) {
    const text = `${oddText(random)} and some words more, ${oddText(random)} and so on.`;
    const bytes = Buffer.from(text);
    const cut = bytes.subarray(0, 60 + random.below(bytes.length - 60 + 1));
    for (const name of ["a.txt", "a.md"]) {
      assert.equal(formatOf(name, cut), "text", `seed ${seed}, round ${round}`);
    }
  }
});

const NO_TEXT =
  "binary, or text that is not UTF-8; convert text of another encoding, for example with " +
  "iconv -f latin1 -t utf8";

const wide = (text: string, bits: 16 | 32, isLittle: boolean) => {
  const bytes = bits === 16
    ? Buffer.from(text, "utf16le")
    : Buffer.from(Uint32Array.from(text, (character) => character.codePointAt(0)!).buffer);
  return isLittle ? bytes : bits === 16 ? bytes.swap16() : bytes.swap32();
};

Deno.test("formatOf() names a format that is not supported, and those that are", () => {
  const texts = [
    "Tom had a ball.\n",
    "Дерево росло у реки. ",
    "从前，有一个小女孩。她很喜欢唱歌。",
  ];
  const encodings = texts.flatMap((text) =>
    ([16, 32] as const).flatMap((bits) =>
      [true, false].map((isLittle) =>
        ["a.md", wide(text.repeat(9), bits, isLittle), NO_TEXT] as const
      )
    )
  );
  const latin1 = (text: string) => Buffer.from(text, "latin1");
  const cases: (readonly [name: string, head: Uint8Array, what: string])[] = [
    ...encodings,
    ["a.csv", wide("\ufefftext\nOne two.\n", 32, true), NO_TEXT],
    ["a.txt", wide("\ufeffTom had a ball.\n", 16, true), NO_TEXT],
    ["a.txt", wide("Дерево росло у реки. ", 16, true), NO_TEXT],
    ["a.txt", gzipSync("One."), "packed with gzip; unpack it, or give it a name that ends in .gz"],
    [
      "a.csv",
      zstdCompressSync(Buffer.from("One.")),
      "packed with zstd; unpack it, or give it a name that ends in .zst",
    ],
    ["a.txt.gz", gzipSync("One."), "packed with gzip"], // twice
    ["a.txt.bz2", latin1("BZh91AY&SY"), "packed with bzip2; unpack it"],
    ["a.xz", latin1("\xfd7zXZ\0"), "packed with xz; unpack it"],
    [
      "a.docx",
      latin1("PK\x03\x04\x14\0"),
      "a zip archive, as documents of Office and EPUB are; extract its text",
    ],
    [
      "a.tar.gz",
      Buffer.concat([Buffer.alloc(257, "a"), latin1("ustar\x0000")]),
      "a tar archive; unpack it",
    ],
    ["a.pdf", latin1("%PDF-1.7\n"), "a PDF document; convert it to text"],
    ["a.txt", latin1("PAR1\x15\0"), "Parquet; give it a name that ends in .parquet"],
    ["a.rtf", latin1("{\\rtf1\\ansi One."), "an RTF document; convert it to text"],
    ["a.txt", latin1("\x89PNG\r\n\x1a\n\0\0"), NO_TEXT],
    ["a.txt", Buffer.alloc(5000), NO_TEXT],
    ["a.bin", Buffer.from([65, 66, 67, 1, 250, 251, 252, 253]), NO_TEXT],
    ["notes.md", latin1("Der Fl\xfcgel"), NO_TEXT],
  ];
  for (const [name, head, what] of cases) {
    assert.throws(() => formatOf(name, head), ({ message }: Error) => {
      const begins = `Cannot read data file ${name} as it must be ${UNDERSTOOD}: it is ${what}`;
      assert.equal(message.slice(0, begins.length), begins);
      return true;
    });
  }
  const instead: [head: string, what: string][] = [
    ["\n<!DOCTYPE html>\n<html>", "a web page and not the file itself: download the file again"],
    [
      "version https://git-lfs.github.com/spec/v1\noid",
      "a pointer of Git LFS and not the file itself: fetch the file with git lfs pull",
    ],
  ];
  for (const [head, what] of instead) {
    for (const name of ["a.json", "a.parquet"]) {
      const message = `Cannot read data file ${name} as it is ${what}`;
      assert.throws(() => formatOf(name, latin1(head)), { message });
    }
  }
  assert.equal(formatOf("a.txt", latin1("<?xml version='1.0'?>")), "text");
  assert.throws(() => formatOf("a.parquet.zst", Buffer.from("PAR1")), {
    message:
      "Cannot read data file a.parquet.zst as Parquet must not be compressed once more: unpack it",
  });
});

Deno.test("docs/data.md has the table of FORMATS", async () => {
  const page = await Deno.readTextFile(
    fromFileUrl(new URL("../../../docs/data.md", import.meta.url)),
  );
  const rows = page.split("\n").map((line) => line.replaceAll(/\s+/g, " "));
  for (const [format, endings] of Object.entries(FORMATS)) {
    const names = endings.map((ending) => `\`${ending}\``).join(", ");
    assert.ok(rows.some((row) => row.startsWith(`| ${format} | ${names} | `)), format);
  }
  for (const extension of Object.keys(PACKINGS)) assert.ok(page.includes(`(\`${extension}\`)`));
});
