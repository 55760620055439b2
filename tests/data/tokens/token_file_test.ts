import assert from "node:assert/strict";
import { join } from "node:path";
import { Random } from "../../../data/random.ts";
import {
  MemorySink,
  renumbered,
  textOf,
  TokenFile,
  TokenFileWriter,
  type TokenizedText,
  type TokenSink,
} from "../../../data/tokens/token_file.ts";
import { freshSeed } from "../../seeds.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const ORIGIN = { fingerprint: "ab".repeat(32), tokenizerHash: "cd".repeat(32) };
const TEXT_HASH = "ef".repeat(32);

/** Documents of random tokens. */
function randomDocuments(random: Random, vocabularySize: number): Uint32Array[] {
  return Array.from(
    { length: 1 + random.below(20) },
    () => Uint32Array.from({ length: 1 + random.below(50) }, () => random.below(vocabularySize)),
  );
}

/** Appends documents in stretches that have nothing to do with where they begin. */
function append(sink: TokenSink, documents: readonly Uint32Array[], random: Random, V: number) {
  const Tokens = V <= 2 ** 16 ? Uint16Array : Uint32Array;
  const all = Tokens.from(documents.flatMap((tokens) => [...tokens]));
  const starts = startsOf(documents);
  for (let at = 0, length; at < all.length; at += length) {
    length = 1 + random.below(60);
    sink.append(
      all.slice(at, at + length),
      starts.filter((start) => start >= at && start < at + length).map((start) => start - at),
    );
  }
}

function startsOf(documents: readonly Uint32Array[]): number[] {
  let at = 0;
  return documents.map(({ length }) => (at += length) - length);
}

/** Whether a text is what documents come to, read in any stretches. */
function check(text: TokenizedText, documents: readonly Uint32Array[], random: Random): void {
  const all = documents.flatMap((tokens) => [...tokens]);
  assert.deepEqual([text.length, text.documents], [all.length, documents.length]);
  assert.deepEqual([...text.read(0, all.length)], all);
  for (let i = 0; i < 20; i++) {
    const start = random.below(all.length + 1), end = start + random.below(all.length);
    assert.deepEqual([...text.read(start, end)], all.slice(start, end));
  }
  const starts = Array.from({ length: documents.length }, (_, i) => text.documentStart(i));
  assert.deepEqual(starts, startsOf(documents));
  assert.equal(text.documentStart(documents.length), all.length);
}

function writerOf(name: string, V: number, { length = 0, documents = 0 } = {}): TokenFileWriter {
  const path = join(directory, name);
  return new TokenFileWriter(path, `${path}.starts`, { vocabularySize: V, length, documents });
}

async function write(name: string, documents: readonly Uint32Array[], V: number): Promise<string> {
  const writer = writerOf(name, V);
  append(writer, documents, new Random(1), V);
  await writer.finish({ ...ORIGIN, textHash: TEXT_HASH, bytes: 99 });
  writer.close();
  return join(directory, name);
}

for (const V of [300, 2 ** 16, 2 ** 16 + 1]) {
  Deno.test(`TokenFile gives back what was written of a vocabulary of ${V}`, async () => {
    const seed = freshSeed(), random = new Random(seed);
    const documents = [...randomDocuments(random, V), Uint32Array.of(V - 1)];
    const file = new TokenFile(await write(`${V}`, documents, V), ORIGIN);
    check(file, documents, random);
    assert.deepEqual([file.bytes, file.textHash], [99, TEXT_HASH]);
    const used = new Set(documents.flatMap((tokens) => [...tokens]));
    assert.deepEqual(file.usedIds(), [...used].sort((a, b) => a - b), `seed ${seed}`);
    file.close();
  });
}

Deno.test("TokenFileWriter goes on with what is known to be written, to the same bytes", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const V = 1000, documents = randomDocuments(random, V), more = randomDocuments(random, V);
  const whole = Deno.readFileSync(await write("whole", [...documents, ...more], V));
  let writer = writerOf("parts", V);
  append(writer, documents, random, V);
  const { length, documents: count } = writer;
  append(writer, randomDocuments(random, V), random, V); // nobody has noted these
  await writer.finish({ ...ORIGIN, textHash: TEXT_HASH, bytes: 1 });
  writer.close();
  writer = writerOf("parts", V, { length, documents: count });
  assert.deepEqual([...writer.read(0, length)], documents.flatMap((tokens) => [...tokens]));
  append(writer, more, random, V);
  await writer.finish({ ...ORIGIN, textHash: TEXT_HASH, bytes: 99 });
  writer.close();
  assert.deepEqual(Deno.readFileSync(join(directory, "parts")), whole, `seed ${seed}`);
  assert.throws(() => writerOf("parts", V, { length: 1e6, documents: 1 }), /it is shorter/);
});

Deno.test("MemorySink gives the text that was appended", () => {
  const seed = freshSeed(), random = new Random(seed);
  const documents = randomDocuments(random, 300);
  const sink = new MemorySink(300);
  append(sink, documents, random, 300);
  const { length, documents: count } = sink;
  append(sink, randomDocuments(random, 300), random, 300);
  sink.truncate({ length, documents: count });
  const { text, usedIds } = sink.finish(7);
  check(text, documents, random);
  const used = new Set(documents.flatMap((tokens) => [...tokens]));
  assert.deepEqual(usedIds, [...used].sort((a, b) => a - b), `seed ${seed}`);
});

Deno.test("renumbered() changes ids and nothing else", () => {
  const text = textOf({ tokens: Uint16Array.of(2, 0, 1, 2), documentStarts: [0, 3] });
  const other = renumbered(text, Uint32Array.of(7, 8, 9));
  check(other, [Uint32Array.of(9, 7, 8), Uint32Array.of(9)], new Random(1));
});

Deno.test("TokenFile refuses what is not whole, of another version or of another origin", async () => {
  const documents = [Uint32Array.of(1, 2), Uint32Array.of(3)];
  const path = await write("good", documents, 300);
  const good = Deno.readFileSync(path);
  const size = 256 + 3 * 2 + 2 * 8 + 38 + 32;
  assert.equal(good.length, size);
  const changed = (at: number) => good.map((byte, i) => i === at ? byte ^ 1 : byte);
  const cases: [Uint8Array<ArrayBuffer>, RegExp][] = [
    [good.slice(0, 4), /must begin with TOYTOKEN/],
    [changed(0), /must begin with TOYTOKEN/],
    [good.slice(0, 100), /header is cut off after 100 bytes/],
    [good.slice(0, -1), /must be 348 bytes long: current length is 347/],
    [changed(8), /version must be 3: current version is 2/],
    [changed(48), /checksum of its header does not match/],
    [changed(size - 1), /checksum of its header does not match/],
    [changed(256), /bytes from 256 on do not match their checksum: delete it/],
    [changed(256 + 6), /bytes from 256 on do not match/],
  ];
  for (const [bytes, message] of cases) {
    Deno.writeFileSync(path, bytes);
    assert.throws(() => new TokenFile(path, ORIGIN), message);
  }
  Deno.writeFileSync(path, good);
  for (const other of [{ fingerprint: "00".repeat(32) }, { tokenizerHash: "00".repeat(32) }]) {
    assert.throws(() => new TokenFile(path, { ...ORIGIN, ...other }), /another text or tokenizer/);
  }
});

Deno.test("TokenFile opens a large file at once, and refuses what is damaged when it is read", async () => {
  const V = 2 ** 20, megabytes = 66;
  const writer = writerOf("large", V);
  const tokens = new Uint32Array(2 ** 18);
  for (let i = 0; i < megabytes; i++) writer.append(tokens.fill(i), [0]);
  await writer.finish({ ...ORIGIN, textHash: TEXT_HASH, bytes: 1 });
  writer.close();
  const path = join(directory, "large");
  {
    using handle = Deno.openSync(path, { write: true });
    handle.seekSync(256 + 40 * 2 ** 20 + 123, Deno.SeekMode.Start);
    handle.writeSync(Uint8Array.of(255));
  }
  const file = new TokenFile(path, ORIGIN);
  const at = 40 * 2 ** 18;
  assert.deepEqual([...file.read(at - 2, at)], [39, 39]);
  assert.deepEqual([...file.read(at + 2 ** 18, at + 2 ** 18 + 1)], [41]);
  assert.equal(file.documentStart(65), 65 * 2 ** 18);
  assert.throws(() => file.read(at - 1, at + 1), /bytes from 41943296 on do not match/);
  file.close();
});
