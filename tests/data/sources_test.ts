import assert from "node:assert/strict";
import { join, relative, resolve } from "node:path";
import { gzipSync } from "node:zlib";
import { parquetWriteBuffer } from "npm:hyparquet-writer@0.17.0";
import {
  asFound,
  fileSource,
  isSameData,
  openSources,
  parseDataSpec,
  type Source,
  type SourceOptions,
  textSource,
} from "../../data/sources.ts";
import { tokenizeSource } from "../../data/tokenize.ts";
import { gpt2Tokenizer } from "../../data/tokenizer.ts";
import { HubServer } from "./hub_server.ts";

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

function join2(...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  return new Uint8Array(parts.flatMap((part) => [...part]));
}

const tokenizer = await gpt2Tokenizer();

/** The documents of a source, as they are tokenized. */
async function documentsOf(source: Source): Promise<string[]> {
  const { text } = await tokenizeSource(source, { tokenizer, holdOut: false });
  return tokenizer.decode(text.read(0, text.length)).split("<|endoftext|>").slice(0, -1);
}

const read = async (data: string[], options: SourceOptions = {}) =>
  await documentsOf(await fileSource(data, options));

const STORIES = ["One.\nTwo — “dos”.", "Drei \0 🦖", "4"];
const TEXT = STORIES.join("\n<|endoftext|>\n");
const LINES = STORIES.map((text) => `${JSON.stringify({ id: 1, text, story: `${text}!` })}\n`).join(
  "",
);

Deno.test("fileSource() reads text, JSON lines, and both compressed", async () => {
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
      ["a.ndjson", LINES.replaceAll("\n", "\r\n\n")],
      ["a.json.gz", gzip(`\ufeff${LINES.trim()}`)],
    ] as const
  ) assert.deepEqual(await read([write(name, content)]), STORIES, name);
  const other = await read([join(directory, "a.jsonl")], { textField: "story" });
  assert.deepEqual(other, STORIES.map((text) => `${text}!`));
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

Deno.test("fileSource() reads a column of Parquet files", async () => {
  for (const codec of ["SNAPPY", "UNCOMPRESSED"] as const) {
    for (const rowGroupSize of [2, 100]) {
      const path = write("a.parquet", parquet(codec, rowGroupSize));
      assert.deepEqual(await read([path]), STORIES, `${codec} ${rowGroupSize}`);
      const again = [STORIES[0], "none", ...STORIES.slice(1)];
      assert.deepEqual(await read([path], { textField: "again" }), again);
    }
  }
});

Deno.test("fileSource() reads Parquet with repeated values, which are in a dictionary", async () => {
  const data = Array.from({ length: 5000 }, (_, i) => STORIES[i % 3]!);
  const file = parquetWriteBuffer({ columnData: [{ name: "text", data, type: "STRING" }] });
  assert.deepEqual(await read([write("d.parquet", new Uint8Array(file))]), data);
});

Deno.test("fileSource() takes patterns, in the order of names, and several files as one", async () => {
  const folder = join(directory, "books");
  Deno.mkdirSync(join(folder, "more"), { recursive: true });
  for (const name of ["c", "a", "b", "more/d"]) {
    Deno.writeTextFileSync(join(folder, `${name}.txt`), name.at(-1)!);
  }
  Deno.writeTextFileSync(join(folder, "x[1].txt"), "x");
  assert.deepEqual(await read([join(folder, "?.txt")]), ["a", "b", "c"]);
  assert.deepEqual(await read([join(folder, "**/*.txt")]), ["a", "b", "c", "d", "x"]);
  assert.deepEqual(await read([join(folder, "x[1].txt"), join(folder, "a.txt")]), ["x", "a"]);
  const source = await fileSource([join(folder, "**/*.txt")]);
  assert.equal(source.name, "a.txt, b.txt, c.txt and 2 more");
  await assert.rejects(read([join(folder, "*.md")]), {
    message: `Cannot read data files ${join(folder, "*.md")}: there are none`,
  });
});

Deno.test("fileSource() knows files by what is in them", async () => {
  const fingerprint = async (path: string, options: SourceOptions = {}) =>
    (await fileSource([path], options)).fingerprint;
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
  large[large.length - 1] = 0x62;
  assert.notEqual(await fingerprint(write("large.txt", large)), whole);
});

Deno.test("fileSource() says in a sentence what is wrong with a file, and where", async () => {
  const good = parquet("SNAPPY", 100), packed = gzip(TEXT.repeat(100));
  const line = (text: string) => `${LINES}${text}\n`;
  const cases: [name: string, content: Content, reason: string | RegExp][] = [
    [
      "bad.txt",
      join2(bytesOf("ab"), Uint8Array.of(0xc3, 0x28)),
      "it must be UTF-8: the first byte that is not is at 3",
    ],
    [
      "cut.txt",
      join2(bytesOf(`a\n<|endoftext|>\nb`), Uint8Array.of(0xe2, 0x82)),
      "it must be UTF-8: the first byte that is not is at 19",
    ],
    ["cut.txt.gz", packed.slice(0, 90), "it must be whole gzip: unexpected end of file"],
    [
      "flip.txt.gz",
      packed.map((byte, i) => i === 60 ? byte ^ 255 : byte),
      /it must be whole gzip: /,
    ],
    ["plain.txt.gz", bytesOf(TEXT), "it must be whole gzip: incorrect header check"],
    ["a.jsonl", line("{"), /^line 4 must be JSON: /],
    ["b.jsonl", line("[1]"), "line 4 must be a JSON object: current value is [1]"],
    [
      "c.jsonl",
      line('{"story":"x","n":1}'),
      "line 4 must hold a string in its field text: its fields are story, n; choose with --text-field",
    ],
    [
      "d.jsonl",
      join2(bytesOf(line('{"text":"')).slice(0, -1), Uint8Array.of(0xff), bytesOf('"}')),
      "line 4 must be UTF-8: it is not",
    ],
    ["a.parquet", good.slice(0, -9), /^Parquet behind row 0: /],
    ["b.parquet", bytesOf(TEXT), /^Parquet behind row 0: /],
    [
      "c.parquet",
      good.map((byte, i) => i >= 10 && i < 400 ? 0xff : byte),
      /^Parquet behind row \d: /,
    ],
    [
      "d.parquet",
      new Uint8Array(parquetWriteBuffer({ columnData: [{ name: "n", data: [1], type: "INT32" }] })),
      "it must have the column text: it has n; choose with --text-field",
    ],
    [
      "e.parquet",
      new Uint8Array(
        parquetWriteBuffer({ columnData: [{ name: "text", data: [1], type: "INT32" }] }),
      ),
      "its column text must hold strings: it holds INT32",
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

Deno.test("fileSource() names the place of what is wrong in a long file", async () => {
  const text = bytesOf("word ".repeat(300_000)), at = 1_234_567;
  text[at] = 0xff;
  await assert.rejects(read([write("long.txt", text)]), {
    message: `Cannot read data file ${join(directory, "long.txt")} as it must be UTF-8: ` +
      `the first byte that is not is at ${at}`,
  });
  const lines = Array.from(
    { length: 30_000 },
    (_, i) => `{"text":"story number ${i} is this one"}`,
  );
  lines[25_000] = "oops";
  await assert.rejects(read([write("long.jsonl", lines.join("\n"))]), /line 25001 must be JSON/);
});

Deno.test("textSource() gives documents, and is known by them", async () => {
  const source = textSource("mine", STORIES);
  assert.deepEqual(await documentsOf(source), STORIES);
  assert.notEqual(textSource("mine", STORIES.slice(1)).fingerprint, source.fingerprint);
});

/** A hub that has files, and options that find it. */
function hubWith(repo: string, files: Record<string, Content>) {
  const server = new HubServer(`datasets/${repo}`);
  for (const [path, content] of Object.entries(files)) server.publish(path, bytesOf(content));
  const home = Deno.makeTempDirSync({ dir: directory });
  const environment = { HF_HOME: home, HF_ENDPOINT: server.endpoint };
  return { server, options: { environment } };
}

Deno.test("openSources() takes files of the hub, and says at which commit", async () => {
  const { server, options } = hubWith("tiny/stories", { "data/a.jsonl.gz": gzip(LINES) });
  await using _ = server;
  const commit = server.main;
  const { training, validation, data } = await openSources(
    ["hf:tiny/stories/data/a.jsonl.gz"],
    options,
  );
  assert.deepEqual(await documentsOf(training), STORIES);
  assert.equal(validation, undefined);
  assert.deepEqual(data, [`hf:tiny/stories/data/a.jsonl.gz@${commit}`]);
  // what was is found again when main has moved on, without a question
  server.publish("data/a.jsonl.gz", gzip(LINES.replace("4", "5")));
  const before = server.seen.length;
  const again = await openSources(data, options);
  assert.equal(again.training.fingerprint, training.fingerprint);
  assert.equal(server.seen.length, before);
  const moved = await openSources(["hf:tiny/stories/data/a.jsonl.gz"], options);
  assert.notEqual(moved.training.fingerprint, training.fingerprint);
});

Deno.test("openSources() takes TinyStories with its own validation text", async () => {
  const { server, options } = hubWith("roneneldan/TinyStories", {
    "TinyStoriesV2-GPT4-train.txt": TEXT,
    "TinyStoriesV2-GPT4-valid.txt": "Valid.",
    "TinyStories-train.txt": "Old.",
    "TinyStories-valid.txt": "Old and valid.",
  });
  await using _ = server;
  const seen: string[] = [];
  const second = await openSources("tinystories", {
    ...options,
    onProgress: ({ stage, name }) => seen.push(`${stage} ${name}`),
  });
  assert.deepEqual(await documentsOf(second.training), STORIES);
  assert.deepEqual(await documentsOf(second.validation!), ["Valid."]);
  assert.deepEqual([second.training.name, second.data], [
    "tinystories",
    `tinystories@${server.main}`,
  ]);
  assert.ok(seen.includes("downloading TinyStoriesV2-GPT4-train.txt"));
  const first = await openSources("tinystories", { ...options, dataVersion: "v1" });
  assert.deepEqual(await documentsOf(first.training), ["Old."]);
  assert.deepEqual(await documentsOf(first.validation!), ["Old and valid."]);
  const pinned = await openSources(second.data, options);
  assert.equal(pinned.training.fingerprint, second.training.fingerprint);
});

Deno.test("openSources() wants a file of a repository", async () => {
  await assert.rejects(openSources(["hf:tiny/stories"]), {
    message: "Cannot use hf:tiny/stories as data as it must name a file: hf:OWNER/NAME/FILE",
  });
});

Deno.test("asFound() takes over what means the same, revisions and paths, and leaves the rest", () => {
  const found = ["hf:o/n/f@abc", resolve("x/a.txt"), resolve("b.txt")];
  assert.deepEqual(
    asFound(["hf:o/n/f", "./x/a.txt", "moved/b.txt"], found),
    [found[0], found[1], "moved/b.txt"],
  );
  assert.deepEqual(asFound(["hf:o/n/f@abd"], found), ["hf:o/n/f@abd"]);
  assert.equal(asFound("tinystories", "tinystories@abc"), "tinystories@abc");
  assert.equal(asFound("sample", found), "sample");
  assert.deepEqual(asFound(["tinystories"], "tinystories"), ["tinystories"]);
});

Deno.test("openSources() notes files by paths that mean the same in any working directory", async () => {
  const path = join(directory, "noted.txt");
  Deno.writeTextFileSync(path, "A cat.");
  const typed = relative(Deno.cwd(), path);
  assert.deepEqual((await openSources([`./${typed}`])).data, [path]);
  const pattern = relative(Deno.cwd(), join(directory, "note?.txt"));
  assert.deepEqual((await openSources([pattern])).data, [join(directory, "note?.txt")]);
});

Deno.test("parseDataSpec() tells data sets from files, isSameData() revisions left open from others", () => {
  assert.equal(parseDataSpec(["sample"]), "sample");
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
