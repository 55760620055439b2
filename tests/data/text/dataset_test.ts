import assert from "node:assert/strict";
import { basename, join, relative, resolve } from "node:path";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { parquetWriteBuffer } from "npm:hyparquet-writer@0.17.0";
import { asFound, type DataSpec, openDataset, parseDataSpec } from "../../../data/text/dataset.ts";
import type { DataOptions } from "../../../data/text/files.ts";
import { type Documents, documentsOf, readTexts } from "../../../data/text/documents.ts";
import { TO_UTF8 } from "../../../data/text/data_error.ts";
import { HubServer } from "../hub/server.ts";
import { sampleConversations } from "../../../data/text/story_questions.ts";
import { leftOpen } from "../../left_open.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

type Content = string | Uint8Array<ArrayBuffer>;
const bytesOf = (content: Content) =>
  typeof content === "string" ? new TextEncoder().encode(content) : content;

function write(name: string, content: Content): string {
  const path = join(directory, name);
  Deno.writeFileSync(path, bytesOf(content));
  return path;
}

const gzip = (content: Content) => new Uint8Array(gzipSync(bytesOf(content)));
const zstd = (content: Content) => new Uint8Array(zstdCompressSync(bytesOf(content)));

function join2(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(parts.flatMap((part) => [...part]));
}

/** Clean texts of short documents. */
const textsOf = (documents: Documents) => Array.fromAsync(readTexts(documents));

const openFiles = async (data: string[], options: DataOptions = {}) =>
  (await openDataset(data, options)).training;

const read = async (data: string[], options: DataOptions = {}) =>
  await textsOf(await openFiles(data, options));

const STORIES = ["One.\nTwo — “dos”.", "Drei \0 🦖", "4"];
const TEXT = STORIES.join("\n<|endoftext|>\n");
const LINES = STORIES.map((text) => `${JSON.stringify({ id: 1, text, story: `${text}!` })}\n`).join(
  "",
);

const ARRAY = JSON.stringify(STORIES.map((text) => ({ text, story: `${text}!` })), null, 2);
const table = (delimiter: string) =>
  `id${delimiter}text${delimiter}story\r\n` +
  STORIES.map((text, i) =>
    `${i}${delimiter}"${text}"${delimiter}${text.includes("\n") ? '"One.' : text}` +
    `${text.includes("\n") ? '\nTwo — “dos”."' : ""}\r\n`
  ).join("");

Deno.test("openDataset() reads text, JSON, CSV and TSV, packed and unpacked", async () => {
  for (
    const [name, content] of [
      ["a.txt", TEXT],
      ["noextension", `\ufeff${TEXT.replaceAll("\n", "\r\n")}`],
      ["a.txt.gz", gzip(TEXT)],
      ["inline.txt", STORIES.map((story) => `${story}<|endoftext|>\n`).join("")],
      ["inline.txt.gz", gzip(STORIES.join("<|endoftext|>"))],
      // as parallel packers write it
      ["parts.TXT.GZ", join2(gzip(TEXT.slice(0, 10)), gzip(""), gzip(TEXT.slice(10)))],
      ["a.jsonl", LINES],
      ["joined.jsonl", LINES.replaceAll(/^(?=.)/gm, "\ufeff")],
      ["a.ndjson", LINES.replaceAll("\n", "\r\n\n")],
      ["a.json.gz", gzip(`\ufeff${LINES.trim()}`)],
      ["a.json", ARRAY],
      ["array.jsonl.gz", gzip(`\ufeff ${ARRAY}\n`)],
      ["a.csv", table(",")],
      ["a.tsv.gz", gzip(table("\t"))],
      ["a.txt.zst", zstd(TEXT)],
      ["parts.jsonl.zst", join2(zstd(LINES.slice(0, 10)), zstd(LINES.slice(10)))],
      ["a.csv.zst", zstd(`\ufeff${table(",")}`)],
      ["notes.md", TEXT],
    ] as const
  ) assert.deepEqual(await read([write(name, content)]), STORIES, name);
  for (const name of ["a.jsonl", "a.json"]) {
    const other = await read([join(directory, name)], { textField: "story" });
    assert.deepEqual(other, STORIES.map((text) => `${text}!`));
  }
  const nested = STORIES.map((text) => JSON.stringify({ data: { text, "a.b": { c: text } } }));
  for (const textField of ["data.text", "data.a.b.c"]) {
    assert.deepEqual(await read([write("n.jsonl", nested.join("\n"))], { textField }), STORIES);
    assert.deepEqual(await read([write("n.json", `[${nested}]`)], { textField }), STORIES);
  }
});

Deno.test("openDataset() reads JSON with NaN and Infinity, as Python writes it", async () => {
  const line = (text: string) => `{"a":NaN,"text":${text},"b":[-Infinity, Infinity]}`;
  const odd = 'NaN, "Infinity" and \\';
  const texts = [...STORIES, odd].map((text) => line(JSON.stringify(text)));
  const lines = write("nan.jsonl", [...texts, line("NaN")].join("\n"));
  assert.deepEqual(await read([lines]), [...STORIES, odd]);
  assert.deepEqual(await read([write("nan.json", `[${texts}]`)]), [...STORIES, odd]);
  const long = "\\".repeat(3e6);
  const source = await openFiles([write("nan.jsonl", line(JSON.stringify(long)))]);
  assert.deepEqual((await textsOf(source)).map(({ length }) => length), [long.length]);
  for (const text of ["NaNa", '"\\', '"', "NaN}"]) {
    await assert.rejects(read([write("nan.jsonl", line(text))]), /line 1 must be JSON/);
  }
});

/** A Parquet file with stories, nothing, a blank one, and a column beside. */
function parquet(codec: "SNAPPY" | "UNCOMPRESSED", rowGroupSize: number): Uint8Array<ArrayBuffer> {
  const data = [STORIES[0], null, STORIES[1], " ", STORIES[2]];
  const columns = [
    { name: "id", data: [1, 2, 3, 4, 5], type: "INT32" as const },
    { name: "text", data, type: "STRING" as const },
    { name: "again", data: data.map((text) => text ?? "none"), type: "STRING" as const },
  ];
  return new Uint8Array(parquetWriteBuffer({ columnData: columns, codec, rowGroupSize }));
}

Deno.test("openDataset() refuses a Parquet file with more rows per group than memory holds", async () => {
  const count = 2 ** 20, data = new Array(count).fill("x");
  const columnData = [{ name: "text", data, type: "STRING" as const }];
  const file = new Uint8Array(parquetWriteBuffer({ columnData, rowGroupSize: count }));
  for (let i = file.length - 400; i < file.length; i++) { // 2²⁰ as a varint of Thrift becomes 2²⁴
    if ([0x80, 0x80, 0x80, 0x01].every((byte, k) => file[i + k] === byte)) file[i + 3] = 0x10;
  }
  await assert.rejects(read([write("groups.parquet", file)]), {
    name: "DataError",
    message:
      /groups\.parquet as a row group may have at most 8388608 rows: current number is 16777216; write/,
  });
});

Deno.test("openDataset() reads a column of Parquet files", async () => {
  for (const codec of ["SNAPPY", "UNCOMPRESSED"] as const) {
    for (const rowGroupSize of [2, 100]) {
      const path = write("a.parquet", parquet(codec, rowGroupSize));
      assert.deepEqual(await read([path]), STORIES, `${codec} ${rowGroupSize}`);
      const again = [STORIES[0], "none", ...STORIES.slice(1)];
      assert.deepEqual(await read([path], { textField: "again" }), again);
    }
  }
});

/** LZ4 without anything repeated. */
function lz4(input: Uint8Array): Uint8Array {
  const more = input.length - 15;
  const length = more < 0 ? [] : [...new Array(Math.floor(more / 255)).fill(255), more % 255];
  return Uint8Array.from([Math.min(input.length, 15) << 4, ...length, ...input]);
}

Deno.test("openDataset() reads Parquet that is packed with LZ4", async () => {
  const data = STORIES.map((text) => text.repeat(30));
  for (const codec of ["LZ4", "LZ4_RAW"] as const) {
    const columnData = [{ name: "text", data, type: "STRING" as const }];
    const file = parquetWriteBuffer({ columnData, codec, compressors: { [codec]: lz4 } });
    assert.deepEqual(await read([write("lz4.parquet", new Uint8Array(file))]), data);
  }
});

Deno.test("openDataset() reads columns of Parquet that are in groups", async () => {
  const text = { type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "OPTIONAL" } as const;
  const group = { name: "data", num_children: 2 };
  const values = [...STORIES.map((text) => ({ text, n: 1 })), { n: 2 }];
  for (const repetition_type of ["OPTIONAL", "REQUIRED"] as const) {
    const file = (name: string) =>
      write(
        "groups.parquet",
        new Uint8Array(parquetWriteBuffer({
          schema: [
            { name: "root", num_children: 2 },
            { ...group, repetition_type },
            { name: "text", ...text },
            { name: "n", type: "INT32", repetition_type: "OPTIONAL" },
            { name, ...text },
          ],
          columnData: [
            { name: "data", data: repetition_type === "OPTIONAL" ? [...values, null] : values },
            {
              name,
              data: repetition_type === "OPTIONAL" ? Array(5).fill("x") : Array(4).fill("x"),
            },
          ],
        })),
      );
    assert.deepEqual(await read([file("other")], { textField: "data.text" }), STORIES);
    // a column of just that name goes first
    const literal = await read([file("data.text")], { textField: "data.text" });
    assert.deepEqual(literal, Array(repetition_type === "OPTIONAL" ? 5 : 4).fill("x"));
    await assert.rejects(read([file("other")]), {
      message: `Cannot read data file ${join(directory, "groups.parquet")} as it must have the ` +
        "column text: its columns are data.text, data.n, other; choose with textField",
    });
  }
});

Deno.test("readTexts() skips rows that are null or blank, and counts them equally in all formats", async () => {
  const values = ["One.", null, "Two.", " ", "", null];
  const objects = values.map((text) => JSON.stringify({ text, n: 1 }));
  const column = { name: "text", data: values, type: "STRING" as const };
  const files = [
    write("nulls.jsonl", objects.join("\n")),
    write("nulls.json", `[${objects}]`),
    write("nulls.csv", `text,n\n${values.map((text) => `${text ?? ""},1\n`).join("")}`),
    write("nulls.tsv", `n\ttext\n${values.map((text) => `1\t${text ?? ""}\n`).join("")}`),
    write("nulls.parquet", new Uint8Array(parquetWriteBuffer({ columnData: [column] }))),
  ];
  for (const file of files) {
    const notices: string[] = [];
    const options = { onNotice: (s: string) => void notices.push(s) };
    const texts = await Array.fromAsync(readTexts(await openFiles([file]), options));
    assert.deepEqual(texts, ["One.", "Two."], file);
    assert.deepEqual(notices, [
      `skipped 4 of 6 rows of ${basename(file)}: their text is null or blank`,
    ]);
  }
  const none = write("none.jsonl", '{"text":null}\n{"text":""}\n');
  await assert.rejects(read([none]), {
    message:
      "Cannot use none.jsonl as data must hold text: the text of all its 2 rows is null or blank",
  });
});

Deno.test("readTexts() tells that a text file of many lines is one document", async () => {
  const notices: string[] = [];
  const noticesOf = async (name: string, content: string) => {
    const documents = await openFiles([write(name, content)]);
    notices.length = 0;
    await Array.fromAsync(readTexts(documents, { onNotice: (s) => void notices.push(s) }));
    return notices;
  };
  const lines = "A line.\n".repeat(101);
  assert.deepEqual(await noticesOf("lines.txt", lines), [
    "lines.txt is one document: if it holds several, put <|endoftext|> between them",
  ]);
  assert.deepEqual(await noticesOf("few.txt", lines.slice(8)), []);
  assert.deepEqual(await noticesOf("marked.txt", lines + "<|endoftext|>" + lines), []);
  assert.deepEqual(await noticesOf("one.jsonl", "\n".repeat(101) + '{"text":"One."}'), []);
});

Deno.test("openDataset() reads a file once if it is named twice, also by other names", async () => {
  const folder = join(directory, "twice");
  Deno.mkdirSync(folder);
  for (const name of ["a", "b"]) Deno.writeTextFileSync(join(folder, `${name}.txt`), name);
  if (Deno.build.os !== "windows") Deno.symlinkSync("a.txt", join(folder, "c.txt"));
  const notices: string[] = [];
  const source = await openFiles([join(folder, "b.txt"), join(folder, "*.txt")], {
    onNotice: (sentence) => notices.push(sentence),
  });
  assert.deepEqual(await textsOf(source), ["b", "a"]);
  const again = Deno.build.os === "windows" ? "b.txt" : "b.txt, c.txt";
  assert.deepEqual(notices, [`named more than once, but read once: ${again}`]);
  const one = join(folder, "a.txt");
  const twice = await openFiles([one, one], { onNotice: (sentence) => notices.push(sentence) });
  assert.deepEqual(await textsOf(twice), ["a"]);
  assert.deepEqual(notices.slice(1), ["named more than once, but read once: a.txt"]);
});

Deno.test("openDataset() reports the bytes read of all files", async () => {
  const plain = write("plain.txt", TEXT), packed = write("packed.txt.gz", gzip(TEXT));
  const columnData = [{ name: "text", data: STORIES, type: "STRING" as const }];
  const table = write("table.parquet", new Uint8Array(parquetWriteBuffer({ columnData })));
  const sizes = [plain, packed, table].map((path) => Deno.statSync(path).size);
  const source = await openFiles([plain, packed, table]);
  const [a, b, c] = sizes as [number, number, number];
  assert.equal(source.bytes, a + b + c);
  const ends = new Map<string, number>();
  for await (const { file, bytesRead } of source.read()) ends.set(file, bytesRead);
  const [first, second, third] = [...ends.values()];
  assert.deepEqual([first, second], [a, a + b]);
  assert.ok(third! > a + b && third! <= a + b + c, `${third}`); // of a table the column is read
});

Deno.test({
  name: "openDataset() names a link to itself, also among the files of a pattern",
  ignore: Deno.build.os === "windows",
  async fn() {
    const folder = join(directory, "links"), link = join(folder, "a.txt");
    Deno.mkdirSync(folder);
    Deno.symlinkSync("a.txt", link); // to itself
    for (const spec of [link, join(folder, "*.txt")]) {
      await assert.rejects(
        openFiles([spec]),
        (error: Error) => error.message.startsWith(`Cannot read data file ${link}: ELOOP`),
      );
    }
  },
});

Deno.test("openDataset() refuses directories and devices, and says what to type for a directory", async () => {
  const folder = join(directory, "a folder");
  Deno.mkdirSync(join(folder, "more"), { recursive: true });
  await assert.rejects(read([folder]), {
    message: `Cannot read data file ${folder}: it is a directory; name its files, such as ` +
      JSON.stringify(join(folder, "*.txt")),
  });
  await assert.rejects(read(["-"]), {
    message:
      "Cannot read data file -: standard input cannot be data, as data is read more than once",
  });
  if (Deno.build.os === "windows") return;
  await assert.rejects(read(["/dev/null"]), {
    message:
      "Cannot read data file /dev/null: it must be a regular file, as it is read more than once",
  });
});

Deno.test("openDataset() reads Parquet whose values are in a dictionary", async () => {
  const data = Array.from({ length: 5000 }, (_, i) => STORIES[i % 3]!);
  const file = parquetWriteBuffer({ columnData: [{ name: "text", data, type: "STRING" }] });
  assert.deepEqual(await read([write("d.parquet", new Uint8Array(file))]), data);
});

Deno.test("openDataset() reads the files of a pattern, sorted, as one data set", async () => {
  const folder = join(directory, "books");
  Deno.mkdirSync(join(folder, "more"), { recursive: true });
  for (const name of ["c", "a", "b", "more/d"]) {
    Deno.writeTextFileSync(join(folder, `${name}.txt`), name.at(-1)!);
  }
  Deno.writeTextFileSync(join(folder, "x[1].txt"), "x");
  assert.deepEqual(await read([join(folder, "?.txt")]), ["a", "b", "c"]);
  assert.deepEqual(await read([join(folder, "**/*.txt")]), ["a", "b", "c", "d", "x"]);
  assert.deepEqual(await read([join(folder, "x[1].txt"), join(folder, "a.txt")]), ["x", "a"]);
  const source = await openFiles([join(folder, "**/*.txt")]);
  assert.equal(source.name, "a.txt, b.txt, c.txt and 2 more");
  const four = await openFiles(
    ["a", "b", "c", "more/d"].map((name) => join(folder, `${name}.txt`)),
  );
  assert.equal(four.name, "a.txt, b.txt, c.txt, d.txt"); // "and 1 more" would be longer
  Deno.mkdirSync(join(folder, "folder.txt"));
  assert.deepEqual(await read([join(folder, "*.txt")]), ["a", "b", "c", "x"]);
  await assert.rejects(read([join(folder, "*.md")]), {
    message: `Cannot read data file ${join(folder, "*.md")}: no file matches it`,
  });
  await assert.rejects(read([join(folder, "x[.txt")]), {
    message: `Cannot read data file ${join(folder, "x[.txt")}: there is no such file`,
  });
});

Deno.test("openDataset() gives a fingerprint that depends on the content and its format", async () => {
  const fingerprint = async (path: string, options: DataOptions = {}) =>
    (await openFiles([path], options)).fingerprint;
  const path = write("f.txt", TEXT);
  const first = await fingerprint(path);
  assert.equal(await fingerprint(write("g.txt", TEXT)), first);
  assert.notEqual(await fingerprint(write("f.txt", TEXT.replace("4", "5"))), first);
  assert.notEqual(await fingerprint(write("f.jsonl", TEXT)), first);
  const lines = write("l.jsonl", LINES);
  assert.notEqual(await fingerprint(lines), await fingerprint(lines, { textField: "story" }));
  // large ones not as a whole
  const large = new Uint8Array(17 * 2 ** 20).fill(0x61);
  const whole = await fingerprint(write("large.txt", large));
  assert.equal(await fingerprint(join(directory, "large.txt")), whole);
  const place = join(directory, "large.txt"), { mtime, atime } = Deno.statSync(place);
  large[large.length - 1] = 0x62;
  write("large.txt", large);
  Deno.utimeSync(place, atime!, mtime!); // only its end differs
  const changed = await fingerprint(place);
  assert.notEqual(changed, whole);
  Deno.utimeSync(place, atime!, new Date(mtime!.getTime() + 5000)); // only its time
  assert.notEqual(await fingerprint(place), changed);
});

Deno.test("openDataset() names the problem of a file and its place in one sentence", async () => {
  const good = parquet("SNAPPY", 100), packed = gzip(TEXT.repeat(100));
  const line = (text: string) => `${LINES}${text}\n`;
  const cases: [name: string, content: Content, reason: string | RegExp][] = [
    [
      "bad.txt",
      join2(bytesOf("ab"), Uint8Array.of(0xc3, 0x28)),
      `it must be UTF-8: the first byte that is not is at 2; ${TO_UTF8}`,
    ],
    [
      "cut.txt",
      join2(bytesOf(`a\n<|endoftext|>\nb`), Uint8Array.of(0xe2, 0x82)),
      `it must be UTF-8: the first byte that is not is at 17; ${TO_UTF8}`,
    ],
    ["cut.txt.gz", packed.slice(0, 90), "it must be whole gzip: it breaks off, at byte 90"],
    [
      "flip.txt.gz",
      packed.map((byte, i) => i === 60 ? byte ^ 255 : byte),
      /^it must be whole gzip: .*, at byte \d+$/,
    ],
    ["plain.txt.gz", bytesOf(TEXT), /^it must be whole gzip: incorrect header check, at byte /],
    ["cut.txt.zst", zstd(TEXT).slice(0, 30), "it must be whole zstd: it breaks off, at byte 30"],
    [
      "zeros.txt",
      join2(bytesOf("word ".repeat(20_000)), new Uint8Array(20), bytesOf("more")),
      "it must be text, not bytes of 0: the first byte that is not is at 100000",
    ],
    [
      "zeros.jsonl",
      line(JSON.stringify({ text: "\0".repeat(20) })),
      "line 4 must be text, not bytes of 0: it is not",
    ],
    [
      "image.txt",
      Uint8Array.of(0xff, 0xd8, 0xff, 0xe0),
      `it must be UTF-8: the first byte that is not is at 0; ${TO_UTF8}`,
    ],
    [
      "bad.csv",
      join2(bytesOf("text\nok\n"), Uint8Array.of(0xff), bytesOf("\n")),
      `line 3 must be UTF-8: it is not; ${TO_UTF8}`,
    ],
    [
      "head.csv",
      "id,story\n",
      "its first line must name one column text: it has id, story; choose with textField",
    ],
    [
      "one.json",
      '{\n "text": "x"}',
      /^line 1 must be JSON: .*; objects must be one per line, or all in one array$/,
    ],
    ["cut.json", '[{"text":"x"},', "its JSON array must end with ]: it breaks off in element 2"],
    ["comma.json", '[{"text":"x"},]', /^element 2 must be JSON: /],
    ["strings.json", '["x"]', 'element 1 must be a JSON object: current value is "x"'],
    [
      "type.json",
      '[{"text":["x"],"data":{"story":"y"}}]',
      'element 1 must hold a string in its field text: current value is ["x"]; ' +
      "its fields are text, data.story; choose with textField",
    ],
    ["a.jsonl", line("{"), /^line 4 must be JSON: /],
    ["b.jsonl", line("[1]"), "line 4 must be a JSON object: current value is [1]"],
    [
      "c.jsonl",
      line('{"story":"x","n":1}'),
      "line 4 must hold a string in its field text: its fields are story, n; choose with textField",
    ],
    [
      "d.jsonl",
      join2(bytesOf(line('{"text":"')).slice(0, -1), Uint8Array.of(0xff), bytesOf('"}')),
      `line 4 must be UTF-8: it is not; ${TO_UTF8}`,
    ],
    ["a.parquet", good.slice(0, -9), /^Parquet after row 0: /],
    ["b.parquet", bytesOf(TEXT), /^Parquet after row 0: /],
    ["empty.parquet", bytesOf("PAR1\0\x01\0\0\0PAR1"), "Parquet after row 0: it is damaged"],
    [
      "c.parquet",
      good.map((byte, i) => i >= 10 && i < 400 ? 0xff : byte),
      /^Parquet after row \d: /,
    ],
    [
      "d.parquet",
      new Uint8Array(parquetWriteBuffer({ columnData: [{ name: "n", data: [1], type: "INT32" }] })),
      "it must have the column text: its columns are n; choose with textField",
    ],
    [
      "e.parquet",
      new Uint8Array(
        parquetWriteBuffer({ columnData: [{ name: "text", data: [1], type: "INT32" }] }),
      ),
      "row 1 must hold a string in the column text: its columns are text; choose with textField",
    ],
    ["a.parquet.gz", gzip(good), "Parquet must not be compressed once more: unpack it"],
    ["blank.txt", " \n<|endoftext|>\n\n", /^data must hold text: it is empty$/],
  ];
  for (const [name, content, reason] of cases) {
    await assert.rejects(read([write(name, content)]), ({ message }: Error) => {
      const [, file, said] = /^Cannot (?:read data file|use) (\S+) as (.*)$/s.exec(message) ?? [];
      assert.ok(file?.endsWith(name), message);
      if (typeof reason === "string") assert.equal(said, reason, name);
      else assert.match(said!, reason, name);
      return true;
    });
  }
});

Deno.test("openDataset() names the place of a problem in a long file", async () => {
  const text = bytesOf("word ".repeat(300_000)), at = 1_234_567;
  text[at] = 0xff;
  await assert.rejects(read([write("long.txt", text)]), {
    message: `Cannot read data file ${join(directory, "long.txt")} as it must be UTF-8: ` +
      `the first byte that is not is at ${at}; ${TO_UTF8}`,
  });
  const lines = Array.from(
    { length: 30_000 },
    (_, i) => `{"text":"story number ${i} is this one"}`,
  );
  lines[25_000] = "oops";
  await assert.rejects(read([write("long.jsonl", lines.join("\n"))]), /line 25001 must be JSON/);
});

Deno.test("documentsOf() gives documents with a fingerprint of their content", async () => {
  const source = documentsOf("mine", STORIES);
  assert.deepEqual(await textsOf(source), STORIES);
  assert.notEqual(documentsOf("mine", STORIES.slice(1)).fingerprint, source.fingerprint);
});

/** A hub that has files, and options that find it. */
function hubWith(repo: string, files: Record<string, Content>) {
  const server = new HubServer(`datasets/${repo}`);
  for (const [path, content] of Object.entries(files)) server.publish(path, bytesOf(content));
  const home = Deno.makeTempDirSync({ dir: directory });
  const environment = { HF_HOME: home, HF_ENDPOINT: server.endpoint };
  return { server, options: { environment } };
}

Deno.test("openDataset() reads files of the hub and names their commit", async () => {
  const { server, options } = hubWith("tiny/stories", { "data/a.jsonl.gz": gzip(LINES) });
  await using _ = server;
  const commit = server.main;
  const { training, validation, data } = await openDataset(
    ["hf:tiny/stories/data/a.jsonl.gz"],
    options,
  );
  assert.deepEqual(await textsOf(training), STORIES);
  assert.equal(validation, undefined);
  assert.deepEqual(data, [`hf:tiny/stories/data/a.jsonl.gz@${commit}`]);
  // what was is found again when main has moved on, without a question
  server.publish("data/a.jsonl.gz", gzip(LINES.replace("4", "5")));
  const before = server.seen.length;
  const again = await openDataset(data, options);
  assert.equal(again.training.fingerprint, training.fingerprint);
  assert.equal(server.seen.length, before);
  const moved = await openDataset(["hf:tiny/stories/data/a.jsonl.gz"], options);
  assert.notEqual(moved.training.fingerprint, training.fingerprint);
});

Deno.test("openDataset() writes the built-in conversations, with unseen stories to validate with", async () => {
  const { training, validation, data } = await openDataset("conversations");
  assert.deepEqual(
    [data, training.name, validation!.name],
    ["conversations", "conversations", "conversations, validation"],
  );
  assert.ok(training.areConversations);
  const texts = sampleConversations({ seed: 1, count: 1000, unseen: true }).flat();
  assert.deepEqual(await textsOf(validation!), texts.map(({ content }) => content));
  const alone = await openDataset("sample", { validationData: "conversations" });
  assert.equal(alone.validation!.fingerprint, validation!.fingerprint);
});

Deno.test("openDataset() reads TinyStories and its validation text", async () => {
  const { server, options } = hubWith("roneneldan/TinyStories", {
    "TinyStoriesV2-GPT4-train.txt": TEXT,
    "TinyStoriesV2-GPT4-valid.txt": "Valid.",
    "TinyStories-train.txt": "Old.",
    "TinyStories-valid.txt": "Old and valid.",
  });
  await using _ = server;
  const seen: string[] = [];
  const second = await openDataset("tinystories", {
    ...options,
    onProgress: ({ stage, name }) => seen.push(`${stage} ${name}`),
  });
  assert.deepEqual(await textsOf(second.training), STORIES);
  assert.deepEqual(await textsOf(second.validation!), ["Valid."]);
  assert.deepEqual([second.training.name, second.data], [
    "tinystories",
    `tinystories@${server.main}`,
  ]);
  assert.ok(seen.includes("downloading TinyStoriesV2-GPT4-train.txt"));
  const first = await openDataset("tinystories", { ...options, dataVersion: "v1" });
  assert.deepEqual(await textsOf(first.training), ["Old."]);
  assert.deepEqual(await textsOf(first.validation!), ["Old and valid."]);
  const pinned = await openDataset(second.data, options);
  assert.equal(pinned.training.fingerprint, second.training.fingerprint);
});

Deno.test("openDataset() refuses a repository without a file", async () => {
  await assert.rejects(openDataset(["hf:tiny/stories"]), {
    message: "Cannot use hf:tiny/stories as data as it must name a file: hf:OWNER/NAME/FILE, " +
      "or a pattern such as hf:OWNER/NAME/data/*.parquet",
  });
});

Deno.test("openDataset() reads the files of a repository that match a pattern, at one commit", async () => {
  const { server, options } = hubWith("tiny/stories", {
    "data/b.txt": "b",
    "data/a.txt": "a",
    "data/more/c.txt": "c",
    "data/x[1].txt": "x",
    "README.md": "# Stories",
  });
  await using _ = server;
  const { main } = server;
  const notices: string[] = [];
  const open = (pattern: string) =>
    openDataset([`hf:tiny/stories/${pattern}`], { ...options, onNotice: (s) => notices.push(s) });
  const { training, data } = await open("data/?.txt");
  assert.deepEqual(await textsOf(training), ["a", "b"]);
  assert.deepEqual(data, [`hf:tiny/stories/data/?.txt@${main}`]);
  assert.ok(notices.includes("hf:tiny/stories/data/?.txt: 2 files"));
  // also where main moves on meanwhile
  const fault = server.fault;
  server.fault = (seen) => {
    if (seen.path.includes("/paths-info/")) server.publish("data/more/c.txt", bytesOf("other"));
    return fault(seen);
  };
  const all = (await open("**/*.txt")).training;
  server.fault = fault;
  assert.deepEqual(await textsOf(all), ["a", "b", "c", "x"]);
  assert.deepEqual(await textsOf((await open("data/x[1].txt")).training), ["x"]);
  await assert.rejects(open("*.parquet"), {
    message: "Cannot read data file hf:tiny/stories/*.parquet: no file matches it; " +
      "there are README.md, data/a.txt, data/b.txt, data/more/c.txt, data/x[1].txt",
  });
  // at the commit that was found, what has come since is none of it
  server.publish("data/d.txt", bytesOf("d"));
  const again = await openDataset(data, options);
  assert.equal(again.training.fingerprint, training.fingerprint);
  assert.deepEqual(again.data, data);
  assert.deepEqual(await textsOf((await open("data/?.txt")).training), ["a", "b", "d"]);
});

Deno.test("asFound() replaces names by equivalent ones that were found, and no others", () => {
  const found = ["hf:o/n/f@abc", resolve("x/a.txt"), resolve("b.txt")];
  assert.deepEqual(
    asFound(["hf:o/n/f", "./x/a.txt", "moved/b.txt"], found),
    [found[0], found[1], "moved/b.txt"],
  );
  assert.deepEqual(asFound(["hf:o/n/f@abd"], found), ["hf:o/n/f@abd"]);
  assert.deepEqual(asFound(["a.txt", "."], ["b.txt"]), ["a.txt", "."]);
  assert.equal(asFound("tinystories", "tinystories@abc"), "tinystories@abc");
  assert.equal(asFound("sample", found), "sample");
  assert.deepEqual(asFound(["tinystories"], "tinystories"), ["tinystories"]);
});

Deno.test("openDataset() returns absolute paths", async () => {
  const path = join(directory, "noted.txt");
  Deno.writeTextFileSync(path, "A cat.");
  const typed = relative(Deno.cwd(), path);
  assert.deepEqual((await openDataset([`./${typed}`])).data, [path]);
  const pattern = relative(Deno.cwd(), join(directory, "note?.txt"));
  assert.deepEqual((await openDataset([pattern])).data, [join(directory, "note?.txt")]);
});

Deno.test("parseDataSpec() distinguishes data sets from files, asFound() completes revisions and paths", () => {
  const isSameData = (asked: DataSpec, found: DataSpec) =>
    JSON.stringify(asFound(asked, found)) === JSON.stringify(found);
  assert.equal(parseDataSpec(["sample"]), "sample");
  assert.equal(parseDataSpec(["conversations"]), "conversations");
  assert.equal(parseDataSpec(["tinystories@abc"]), "tinystories@abc");
  assert.deepEqual(parseDataSpec(["./tinystories"]), ["./tinystories"]);
  assert.deepEqual(parseDataSpec(["sample", "a.txt"]), ["sample", "a.txt"]);
  assert.ok(isSameData("tinystories", "tinystories@abc"));
  assert.ok(isSameData(["a@1", "hf:o/n/f"], ["a@1", "hf:o/n/f@abc"]));
  assert.ok(!isSameData("tinystories@abd", "tinystories@abc"));
  assert.ok(!isSameData("tinystories", "sample"));
  assert.ok(!isSameData(["a"], ["a@1"]));
  assert.ok(!isSameData(["a"], ["a", "b"]));
  assert.ok(isSameData(["./b/../a*.txt"], [resolve("a*.txt")]));
  assert.ok(!isSameData(["sample"], "sample"));
});

Deno.test("openDataset() validates with the text that is named, of TinyStories with its validation text, and fetches no other", async () => {
  const server = new HubServer("datasets/roneneldan/TinyStories");
  await using _ = server;
  for (const name of ["train", "valid"]) {
    server.publish(`TinyStoriesV2-GPT4-${name}.txt`, bytesOf(`${name}.`));
  }
  const environment = (name: string) => ({
    environment: { HF_HOME: join(directory, name), HF_ENDPOINT: server.endpoint },
  });
  const own = [write("own.txt", "My own.")];
  const first = await openDataset(own, { validationData: "tinystories", ...environment("v") });
  assert.deepEqual(await textsOf(first.training), ["My own."]);
  assert.deepEqual(await textsOf(first.validation!), ["valid."]);
  assert.equal(first.validationData, `tinystories@${server.main}`);
  const second = await openDataset("tinystories", { validationData: own, ...environment("t") });
  assert.deepEqual(await textsOf(second.training), ["train."]);
  assert.deepEqual(await textsOf(second.validation!), ["My own."]);
  const paths = new Set(server.seen.map(({ path }) => /V2-GPT4-(\w+)/.exec(path)?.[1]));
  assert.deepEqual([...paths].filter(Boolean), ["valid", "train"]);
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
