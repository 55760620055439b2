import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../../data/random.ts";
import { openTokenFiles, TokenFileWriter } from "../../../data/tokens/token_file.ts";
import { freshSeed } from "../../seeds.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const ORIGIN = { fingerprint: "ab".repeat(32), tokenizerHash: "cd".repeat(32) };
const ABOUT = { ...ORIGIN, hash: "ef".repeat(32), bytes: 99, unanswered: 0 };

/** Documents of random tokens. */
function randomDocuments(random: Random, vocabularySize: number): Uint32Array[] {
  return Array.from(
    { length: 1 + random.below(20) },
    () => Uint32Array.from({ length: 1 + random.below(50) }, () => random.below(vocabularySize)),
  );
}

/** Appends documents in stretches that have nothing to do with where they begin. */
function append(
  writer: TokenFileWriter,
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
      starts: starts.filter((start) => start >= at && start < at + length)
        .map((start) => start - at),
      answers: [],
    });
  }
}

function startsOf(documents: readonly Uint32Array[]): number[] {
  let at = 0;
  return documents.map(({ length }) => (at += length) - length);
}

function writerOf(name: string, V: number, { length = 0, documents = 0 } = {}): TokenFileWriter {
  const path = join(directory, name);
  mkdirSync(path, { recursive: true });
  return new TokenFileWriter(path, { vocabularySize: V, length, documents });
}

function write(name: string, documents: readonly Uint32Array[], V: number): string {
  const writer = writerOf(name, V);
  append(writer, documents, new Random(1), V);
  writer.finish(ABOUT);
  writer.close();
  return join(directory, name);
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
  const path = join(directory, "chat");
  mkdirSync(path, { recursive: true });
  const how = { vocabularySize: 300 }, tokens = Uint16Array.from({ length: 10 }, (_, i) => i);
  const append = (writer: TokenFileWriter) =>
    writer.append({ tokens, starts: [0, 5], answers: [1, 3, 3, 5, 6, 10] });
  const first = new TokenFileWriter(path, { ...how, length: 0, documents: 0, answers: 0 });
  append(first);
  append(first);
  first.close();
  const second = new TokenFileWriter(path, { ...how, length: 10, documents: 2, answers: 3 });
  append(second);
  second.finish({ ...ABOUT, unanswered: 4 });
  second.close();
  const files = openTokenFiles(path, ORIGIN);
  const spans = (...places: [number, number][]) => places.map(([start, end]) => ({ start, end }));
  assert.deepEqual([0, 1, 2, 3].map((d) => files.answersOf!(d)), [
    spans([1, 3], [3, 5]),
    spans([6, 10]),
    spans([11, 13], [13, 15]),
    spans([16, 20]),
  ]);
  assert.deepEqual([files.unanswered, files.fileBytes], [4, 2 * 20 + 8 * 4 + 16 * 6]);
  files.close();
  Deno.truncateSync(join(path, "answers.bin"), 90);
  assert.throws(
    () => openTokenFiles(path, ORIGIN),
    /answers\.bin as it does not match its checksum/,
  );
});

Deno.test("TokenFileWriter resumes after the recorded tokens, and writes the same bytes", () => {
  const seed = freshSeed(), random = new Random(seed);
  const V = 1000, documents = randomDocuments(random, V), more = randomDocuments(random, V);
  const whole = contentOf(write("whole", [...documents, ...more], V));
  let writer = writerOf("parts", V);
  append(writer, documents, random, V);
  const length = documents.reduce((sum, tokens) => sum + tokens.length, 0);
  append(writer, randomDocuments(random, V), random, V); // nothing recorded these
  writer.finish({ ...ABOUT, bytes: 1 });
  writer.close();
  writer = writerOf("parts", V, { length, documents: documents.length });
  append(writer, more, random, V);
  writer.finish(ABOUT);
  writer.close();
  assert.deepEqual(contentOf(join(directory, "parts")), whole, `seed ${seed}`);
  assert.throws(
    () => writerOf("parts", V, { length: 1e6, documents: 1 }),
    /must be at least 2000000 bytes long/,
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
    ["meta.json", json.replace('"tokens":3', '"tokens":4'), NOT_USABLE],
    ["meta.json", json.replace('"usedIds":[1,', '"usedIds":[0,'), NOT_USABLE],
    ["meta.json", json.replace('"version":4', '"version":3'), NOT_USABLE],
    ["tokens.bin", good.get("tokens.bin")!.slice(1), /must be 6 bytes long: current length is 5/],
    ["tokens.bin", changed("tokens.bin", 5), /bytes from 0 do not match their checksum: delete/],
    ["documents.bin", changed("documents.bin", 8), /documents.bin as it does not match its/],
    ["documents.bin", good.get("documents.bin")!.slice(8), /does not match its checksum/],
  ];
  for (const [name, content, message] of cases) {
    if (typeof content === "string") Deno.writeTextFileSync(at(name), content);
    else Deno.writeFileSync(at(name), content);
    assert.throws(() => openTokenFiles(path, ORIGIN), message);
    Deno.writeFileSync(at(name), good.get(name)!);
  }
  for (const other of [{ fingerprint: "00".repeat(32) }, { tokenizerHash: "00".repeat(32) }]) {
    assert.throws(() => openTokenFiles(path, { ...ORIGIN, ...other }), NOT_USABLE);
  }
  openTokenFiles(path, ORIGIN).close();
});

Deno.test("openTokenFiles() opens a large file at once, and read() refuses damaged tokens", () => {
  const V = 2 ** 20, megabytes = 66;
  const writer = writerOf("large", V);
  const tokens = new Uint32Array(2 ** 18);
  for (let i = 0; i < megabytes; i++) {
    writer.append({ tokens: tokens.fill(i), starts: [0], answers: [] });
  }
  writer.finish(ABOUT);
  writer.close();
  const path = join(directory, "large");
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
