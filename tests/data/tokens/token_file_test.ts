import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../../data/random.ts";
import { createTokenFiles, openTokenFiles } from "../../../data/tokens/token_file.ts";
import { temporaryBeside } from "../../../files/disk.ts";
import { freshSeed } from "../../seeds.ts";
import { leftOpen } from "../../left_open.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const ORIGIN = ["ab".repeat(32), "cd".repeat(32)] as const;
const ABOUT = { origin: ORIGIN, hash: "ef".repeat(32), bytes: 99 };

const NONE = new Uint32Array();

/** Documents of random tokens. */
function randomDocuments(random: Random, vocabularySize: number): Uint32Array[] {
  return Array.from(
    { length: 1 + random.below(20) },
    () => Uint32Array.from({ length: 1 + random.below(50) }, () => random.below(vocabularySize)),
  );
}

/** Appends documents in stretches that have nothing to do with where they begin. */
function append(
  writer: ReturnType<typeof createTokenFiles>,
  documents: readonly Uint32Array[],
  random: Random,
  V: number,
): void {
  const Tokens = V <= 2 ** 16 ? Uint16Array : Uint32Array;
  const all = Tokens.from(documents.flatMap((tokens) => [...tokens]));
  const starts = startsOf(documents);
  for (let at = 0, length; at < all.length; at += length) {
    length = 1 + random.below(60);
    writer.append({
      tokens: all.slice(at, at + length),
      starts: Uint32Array.from(
        starts.filter((start) => start >= at && start < at + length),
        (start) => start - at,
      ),
      answers: NONE,
    });
  }
}

function startsOf(documents: readonly Uint32Array[]): number[] {
  let at = 0;
  return documents.map(({ length }) => (at += length) - length);
}

const pathOf = (name: string) => join(directory, name);

function writerOf(name: string, V: number) {
  mkdirSync(pathOf(name), { recursive: true });
  return createTokenFiles(pathOf(name), { vocabularySize: V });
}

function write(name: string, documents: readonly Uint32Array[], V: number): string {
  using writer = writerOf(name, V);
  append(writer, documents, new Random(1), V);
  writer.finish(ABOUT);
  return pathOf(name);
}

const FILES = ["tokens.bin", "documents.bin", "meta.json"];
const contentOf = (path: string) => FILES.map((name) => Deno.readFileSync(join(path, name)));

for (const V of [300, 2 ** 16, 2 ** 16 + 1]) {
  Deno.test(`openTokenFiles() gives what was written of a vocabulary of ${V}`, () => {
    const seed = freshSeed(), random = new Random(seed);
    const documents = [...randomDocuments(random, V), Uint32Array.of(V - 1)];
    const file = openTokenFiles(write(`${V}`, documents, V), ORIGIN);
    const all = documents.flatMap((tokens) => [...tokens]);
    assert.deepEqual([file.length, file.documents], [all.length, documents.length]);
    assert.deepEqual([...file.read(0, all.length)], all);
    for (let i = 0; i < 20; i++) {
      const start = random.below(all.length + 1), end = start + random.below(all.length);
      assert.deepEqual([...file.read(start, end)], all.slice(start, end));
    }
    const starts = Array.from({ length: documents.length }, (_, i) => file.documentStart(i));
    assert.deepEqual(starts, startsOf(documents));
    assert.equal(file.documentStart(documents.length), all.length);
    assert.deepEqual([file.bytes, file.hash], [ABOUT.bytes, ABOUT.hash]);
    const used = new Set(all);
    assert.deepEqual(file.usedIds, [...used].sort((a, b) => a - b), `seed ${seed}`);
    file.close();
  });
}

Deno.test("openTokenFiles() gives the answers of conversations, also of a resumed writer", () => {
  const how = { vocabularySize: 300, areConversations: true };
  const tokens = Uint16Array.from({ length: 10 }, (_, i) => i);
  const starts = Uint32Array.of(0, 5), answers = Uint32Array.of(1, 3, 3, 5, 6, 10);
  const path = pathOf("chat");
  mkdirSync(path);
  {
    using first = createTokenFiles(path, how);
    first.append({ tokens, starts, answers });
    first.record();
    first.append({ tokens, starts, answers });
  }
  {
    using second = createTokenFiles(path, how);
    assert.equal(second.done, 1);
    second.append({ tokens, starts, answers });
    second.finish(ABOUT);
  }
  const files = openTokenFiles(path, ORIGIN);
  const spans = (...places: [number, number][]) => places.map(([start, end]) => ({ start, end }));
  assert.deepEqual([0, 1, 2, 3].map((d) => files.answersOf!(d)), [
    spans([1, 3], [3, 5]),
    spans([6, 10]),
    spans([11, 13], [13, 15]),
    spans([16, 20]),
  ]);
  assert.equal(files.fileBytes, 2 * 20 + 8 * 4 + 16 * 6);
  files.close();
  Deno.truncateSync(join(path, "answers.bin"), 90);
  assert.throws(
    () => openTokenFiles(path, ORIGIN),
    /answers\.bin as it must be 96 bytes long: current length is 90/,
  );
});

Deno.test("createTokenFiles() resumes after the recorded tokens, and writes the same bytes", () => {
  const seed = freshSeed(), random = new Random(seed);
  const V = 1000, documents = randomDocuments(random, V), more = randomDocuments(random, V);
  const whole = contentOf(write("whole", [...documents, ...more], V));
  {
    using writer = writerOf("parts", V);
    append(writer, documents, random, V);
    writer.record();
    append(writer, randomDocuments(random, V), random, V); // nothing recorded these
  }
  Deno.writeTextFileSync(temporaryBeside(join(pathOf("parts"), "meta.json")), "{"); // as if killed
  {
    using writer = writerOf("parts", V);
    assert.ok(writer.done > 0);
    append(writer, more, random, V);
    writer.record();
    writer.finish(ABOUT);
  }
  const path = pathOf("parts");
  assert.deepEqual(contentOf(path), whole, `seed ${seed}`);
  assert.equal([...Deno.readDirSync(path)].length, FILES.length);
  const read = openTokenFiles(path, ORIGIN), tokens = read.read(0, read.length);
  {
    using writer = writerOf("parts", V);
    assert.equal(writer.done, 0); // what is complete is written anew only if it is damaged
    append(writer, more, random, V);
    writer.record();
  }
  assert.deepEqual(
    read.read(0, read.length),
    tokens,
    "who has the old files open still reads them",
  );
  read.close();
  const record = Deno.readTextFileSync(join(path, "meta.json"));
  Deno.writeTextFileSync(join(path, "meta.json"), record.replace(/"blocks":\d+/, '"blocks":-1'));
  {
    using writer = writerOf("parts", V);
    assert.equal(writer.done, 0);
    append(writer, more, random, V);
    writer.record();
  }
  Deno.truncateSync(join(path, "tokens.bin"), 1); // less than is recorded
  using writer = writerOf("parts", V);
  assert.equal(writer.done, 0);
  assert.deepEqual(
    ["tokens.bin", "documents.bin"].map((name) => Deno.statSync(join(path, name)).size),
    [0, 0],
  );
});

Deno.test("openTokenFiles() refuses files that are damaged, of another version or of another origin", () => {
  const path = write("good", [Uint32Array.of(1, 2), Uint32Array.of(3)], 300);
  const at = (name: string) => join(path, name);
  const good = new Map(FILES.map((name) => [name, Deno.readFileSync(at(name))]));
  assert.deepEqual([good.get("tokens.bin")!.length, good.get("documents.bin")!.length], [6, 16]);
  const json = new TextDecoder().decode(good.get("meta.json"));
  const changed = (name: string, place: number) =>
    good.get(name)!.map((byte, i) => i === place ? byte ^ 1 : byte);
  const NOT_USABLE =
    /meta\.json as it must be whole and of this version, text and tokenizer: delete it/;
  const cases: [file: string, content: Uint8Array | string, message: RegExp][] = [
    ["meta.json", json.slice(0, 100), /JSON/],
    ["meta.json", json.replace('"bytesPerToken":2', '"bytesPerToken":4'), NOT_USABLE],
    ["meta.json", json.replace('"usedIds":[1,', '"usedIds":[0,'), NOT_USABLE],
    ["meta.json", json.replace('"version":5', '"version":4'), NOT_USABLE],
    ["tokens.bin", good.get("tokens.bin")!.slice(1), /must be 6 bytes long: current length is 5/],
    ["tokens.bin", changed("tokens.bin", 5), /bytes from 0 do not match their checksum: delete/],
    [
      "documents.bin",
      changed("documents.bin", 8),
      /documents.bin as its bytes from 0 do not match/,
    ],
    [
      "documents.bin",
      good.get("documents.bin")!.slice(8),
      /must be 16 bytes long: current length is 8/,
    ],
  ];
  for (const [name, content, message] of cases) {
    if (typeof content === "string") Deno.writeTextFileSync(at(name), content);
    else Deno.writeFileSync(at(name), content);
    assert.throws(() => openTokenFiles(path, ORIGIN), message);
    Deno.writeFileSync(at(name), good.get(name)!);
  }
  for (const other of [["00", ORIGIN[1]], [ORIGIN[0], "00"]] as const) {
    assert.throws(() => openTokenFiles(path, other), NOT_USABLE);
  }
  openTokenFiles(path, ORIGIN).close();
});

Deno.test("openTokenFiles() opens a large file at once, and read() refuses damaged tokens", () => {
  const V = 2 ** 20, megabytes = 66;
  const tokens = new Uint32Array(2 ** 18), path = pathOf("large");
  {
    using writer = writerOf("large", V);
    for (let i = 0; i < megabytes; i++) {
      writer.append({ tokens: tokens.fill(i), starts: Uint32Array.of(0), answers: NONE });
    }
    writer.finish(ABOUT);
  }
  {
    using handle = Deno.openSync(join(path, "tokens.bin"), { write: true });
    handle.seekSync(40 * 2 ** 20 + 123, Deno.SeekMode.Start);
    handle.writeSync(Uint8Array.of(255));
  }
  const file = openTokenFiles(path, ORIGIN);
  const at = 40 * 2 ** 18;
  assert.deepEqual([...file.read(at - 2, at)], [39, 39]);
  assert.deepEqual([...file.read(at + 2 ** 18, at + 2 ** 18 + 1)], [41]);
  assert.equal(file.documentStart(65), 65 * 2 ** 18);
  assert.throws(() => file.read(at - 1, at + 1), /bytes from 41943040 do not match/);
  file.close();
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
