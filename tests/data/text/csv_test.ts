import assert from "node:assert/strict";
import { csvParts } from "../../../data/text/csv.ts";
import type { Part } from "../../../data/text/blocks.ts";
import { Random } from "../../../data/random.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

async function read(
  text: string | Uint8Array,
  { column = "text", tabs = false, most = 1e6 } = {},
): Promise<[text: string, line: number][]> {
  const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
  const chunks = (async function* () {
    for (let at = 0; at < bytes.length; at += most) yield bytes.slice(at, at + most);
  })();
  const parts: Part[] = [];
  for await (const some of csvParts(chunks, { file: "x", field: column }, tabs ? "\t" : ",")) {
    parts.push(...some);
  }
  return parts.map(({ bytes, place }) => [
    new TextDecoder("utf-8", { ignoreBOM: true, fatal: true }).decode(bytes),
    place,
  ]);
}

Deno.test("csvParts() gives the fields of a column, whatever their quoting, line ends and chunks", async () => {
  const seed = freshSeed(), random = new Random(seed);
  for (let round = 0; round < 100; round++) {
    const tabs = round % 2 === 1, delimiter = tabs ? "\t" : ",";
    const end = ["\n", "\r\n"][random.below(2)]!;
    const rows = Array.from(
      { length: random.below(20) },
      () =>
        Array.from(
          { length: 3 },
          () =>
            random.below(4) === 0
              ? ""
              : `${oddText(random)}${[",", '"', "\n\n", '","', ""][random.below(5)]}`,
        ),
    );
    const written = [["id", 'the "text"', "more"], ...rows].map((fields) =>
      fields.map((field) =>
        /[",\t\r\n]/.test(field) || random.below(3) === 0
          ? `"${field.replaceAll('"', '""')}"`
          : field
      ).join(delimiter)
    );
    const text = `${random.below(2) === 0 ? "\ufeff" : ""}${written.join(end)}` +
      (random.below(2) === 0 ? end : "");
    const found = await read(text, {
      column: 'the "text"',
      tabs,
      most: [1, 7, 1e6][random.below(3)]!,
    });
    let line = 1;
    const expected = rows.map((fields) => {
      line += 1;
      for (const field of fields) line += field.split(/\r\n|\n|\r/).length - 1;
      return [fields[1]!.replaceAll("\r\n", "\n"), line];
    });
    assert.deepEqual(found, expected, `seed ${seed}, round ${round}`);
  }
});

Deno.test("csvParts() reads tables with carriage returns, with blank lines and without rows", async () => {
  assert.deepEqual(await read("text\rone\rtwo"), [["one", 2], ["two", 3]]);
  assert.deepEqual(await read("\n\ntext\n\none\n"), [["one", 5]]);
  assert.deepEqual(await read("text\n"), []);
  assert.deepEqual(await read(""), []);
});

Deno.test("csvParts() counts a line whose end is divided between two chunks once", async () => {
  const begins = 'text\r\n"';
  const long = "x".repeat(2 ** 20 - 1 - begins.length); // so that the return is the last byte of a MiB
  const found = await read(`${begins}${long}\r\ny"\r\nz\r\n`, { most: 2 ** 18 });
  assert.ok(found[0]![0] === `${long}\ny`);
  assert.deepEqual(found.map(([, line]) => line), [3, 4]);
});

Deno.test("csvParts() leaves quotes in TSV as text unless they enclose a field", async () => {
  const text = 'id\ttext\n1\the said "hi"\n2\t"Hello," she said\n3\t"a\tb ""c"""\n';
  assert.deepEqual(await read(text, { tabs: true }), [
    ['he said "hi"', 2],
    ['"Hello," she said', 3],
    ['a\tb "c"', 4],
  ]);
});

Deno.test("csvParts() refuses TSV with a quote that begins a field and is closed in another", async () => {
  const message =
    /x as TSV after line 1: a quote at the beginning of a field is not closed at its end$/;
  for (
    const text of [
      'id\ttext\n1\t"Come in.\n2\t"Hello," she said\n',
      'text\tid\n"Come in.\t1\nHello" she said\t2\n',
    ]
  ) await assert.rejects(read(text, { tabs: true }), message, text);
  const quoted = 'text\n"""Hello,""\nshe\tsaid"\n"Hello," she said\n';
  assert.deepEqual(await read(quoted, { tabs: true }), [
    ['"Hello,"\nshe\tsaid', 3],
    ['"Hello," she said', 4],
  ]);
});

Deno.test("csvParts() names the problem of a table and the line before it", async () => {
  const cases = [
    [
      "id,story\n1,a",
      "its first line must name one column text: it has id, story; choose with textField",
    ],
    [
      "text,text\n",
      "its first line must name one column text: it has text, text; choose with textField",
    ],
    [
      "id;text\n1;a\n",
      "its first line must name one column text: it has id;text; " +
      'the fields seem to be separated by ";"; only commas are read in CSV, tabs in TSV',
    ],
    [
      "t\x1b[2J\n",
      "its first line must name one column text: it has t\\u{1b}[2J; choose with textField",
    ],
    [
      'text,n\r\n"a\r\nb",1\r\nsay "x",2',
      "CSV after line 3: a quote is inside a field that has none around it",
    ],
    [
      'text\nok\n"a" b\n',
      "CSV after line 2: a field continues after its closing quote",
    ],
    ['text\nok\n"a b\n\n', "CSV after line 2: a quote is not closed"],
    [
      "id,text\n1,a\n2\n",
      "CSV after line 2: a row must have as many fields as the first line",
    ],
    [
      "id,text\n1,a,b\n",
      "CSV after line 1: a row must have as many fields as the first line",
    ],
  ] as const;
  for (const [text, reason] of cases) {
    for (const most of [1, 1e6]) {
      await assert.rejects(read(text, { most }), {
        message: `Cannot read data file x as ${reason}`,
      });
    }
  }
  const long = new Uint8Array(18 * 2 ** 20).fill(0x61);
  long.set(new TextEncoder().encode('text\n"'));
  await assert.rejects(read(long), {
    message:
      "Cannot read data file x as the row after line 1 must be at most 16 MiB long: it is longer",
  });
});
