import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { loadCorpus, loadWhole } from "../../data/corpus.ts";
import { readTokenFile, writeTokenFile } from "../../data/token_file.ts";
import { gpt2Tokenizer } from "../../data/tokenizer.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

function write(name: string, content: string | Uint8Array): string {
  const path = join(directory, name);
  Deno.writeFileSync(
    path,
    typeof content === "string" ? new TextEncoder().encode(content) : content,
  );
  return path;
}

const documents = Array.from({ length: 45 }, (_, i) => `Story number ${i}.\nIt ends.`);
const file = write("stories.txt", documents.join("\n<|endoftext|>\n"));

Deno.test("loadCorpus() divides by document and loses nothing", async () => {
  const { training, validation, tokenizer, vocabulary } = await loadCorpus({ data: [file] });
  assert.equal(vocabulary, "compact");
  const split = (tokens: Iterable<number>) =>
    tokenizer.decode(tokens).split("<|endoftext|>").slice(0, -1);
  const [first, second] = [split(training.tokens), split(validation.tokens)];
  assert.deepEqual(second, [documents[19], documents[39]]);
  assert.deepEqual([...first, ...second].sort(), documents.toSorted());
  assert.equal(training.documentStarts.length, 43);
  for (const start of training.documentStarts) {
    assert.ok(start === 0 || training.tokens[start - 1] === tokenizer.endOfText);
  }
});

Deno.test("loadCorpus() keeps the full vocabulary when asked, with OpenAI's ids", async () => {
  const { tokenizer, training } = await loadCorpus({ data: [file], vocabulary: "full" });
  assert.equal(tokenizer.vocabularySize, 50257);
  assert.deepEqual([...training.tokens.slice(0, 3)], [11605, 1271, 657]);
});

Deno.test("loadCorpus() takes tokens from the cache, and makes damaged ones anew", async () => {
  const cacheDirectory = join(directory, "cache");
  const first = await loadCorpus({ data: [file], cacheDirectory });
  const second = await loadCorpus({ data: [file], cacheDirectory });
  assert.deepEqual([first.cached, second.cached], [false, true]);
  assert.deepEqual(second.training, first.training);
  const [name] = readdirSync(cacheDirectory);
  const path = join(cacheDirectory, name!);
  const bytes = Deno.readFileSync(path);
  bytes[300]! ^= 1;
  Deno.writeFileSync(path, bytes);
  const third = await loadCorpus({ data: [file], cacheDirectory });
  assert.equal(third.cached, false);
  assert.deepEqual(third.training, first.training);
});

Deno.test("loadCorpus() reads files with CRLF and a byte order mark", async () => {
  const path = write("windows.txt", "\ufeffOne.\r\nTwo.\r\n<|endoftext|>\r\nThree.\r\n");
  const { training, validation, tokenizer } = await loadCorpus({ data: [path] });
  assert.equal(tokenizer.decode(training.tokens), "One.\nTwo.<|endoftext|>");
  assert.equal(tokenizer.decode(validation.tokens), "Three.<|endoftext|>");
});

Deno.test("loadCorpus() cuts a text of one document by position", async () => {
  const path = write("one.txt", "word ".repeat(200));
  const { training, validation } = await loadCorpus({ data: [path] });
  assert.equal(training.tokens.length + validation.tokens.length, 201); // and end-of-text
  assert.ok(validation.tokens.length >= 10);
});

Deno.test("loadCorpus() says in a sentence what is wrong with a file", async () => {
  const absent = join(directory, "absent.txt"), empty = write("empty.txt", " \n<|endoftext|>\n");
  const binary = write("binary.txt", Uint8Array.of(0x61, 0x62, 0xc3, 0x28));
  const cases = [
    [absent, `Cannot read data file ${absent}: there is no such file`],
    [directory, `Cannot read data file ${directory}: it is a directory`],
    [empty, `Cannot use ${empty} as data must hold text: it is empty`],
    [
      binary,
      `Cannot read data file ${binary} as it must be UTF-8: the first byte that is not is at 3`,
    ],
  ] as const;
  for (const [path, message] of cases) {
    await assert.rejects(loadCorpus({ data: [path] }), { message });
  }
});

Deno.test("loadCorpus() knows the entropy of the sample", async () => {
  const { entropyPerToken, tokenizer } = await loadCorpus({ data: "sample" });
  assert.ok(entropyPerToken! > 0.5 && entropyPerToken! < 1.5);
  assert.ok(tokenizer.vocabularySize < 2000);
});

Deno.test("loadWhole() holds nothing back", async () => {
  const tokenizer = await gpt2Tokenizer();
  const { tokens, bytes } = loadWhole({ data: [file], tokenizer });
  assert.equal(tokenizer.decode(tokens), documents.map((text) => `${text}<|endoftext|>`).join(""));
  assert.equal(bytes, documents.join("").length);
});

const origin = { textHash: "ab".repeat(32), tokenizerHash: "cd".repeat(32) };

for (const Tokens of [Uint16Array, Uint32Array]) {
  Deno.test(`readTokenFile() gives back what was written as ${Tokens.name}`, () => {
    const path = join(directory, `${Tokens.name}.tokens`);
    const text = { tokens: Tokens.of(1, 2, 65535), documentStarts: Uint32Array.of(0, 2), bytes: 9 };
    writeTokenFile(path, text, origin);
    assert.deepEqual(readTokenFile(path, origin), text);
    assert.deepEqual(readdirSync(directory).filter((name) => name.includes(".tmp")), []);
  });
}

Deno.test("readTokenFile() refuses what is not whole, newer or of another origin", () => {
  const path = join(directory, "good.tokens");
  const text = { tokens: Uint16Array.of(1, 2), documentStarts: Uint32Array.of(0), bytes: 2 };
  writeTokenFile(path, text, origin);
  const good = Deno.readFileSync(path);
  const changed = (at: number) => good.map((byte, i) => i === at ? byte ^ 1 : byte);
  const cases: [Uint8Array<ArrayBuffer>, RegExp][] = [
    [good.slice(0, 4), /must begin with TOYTOKEN/],
    [changed(0), /must begin with TOYTOKEN/],
    [good.slice(0, 100), /header is cut off after 100 bytes/],
    [good.slice(0, -1), /must be 264 bytes long: current length is 263/],
    [changed(8), /version must be 1: current version is 0/],
    [changed(good.length - 1), /checksum does not match/],
    [changed(40), /another text or tokenizer/],
  ];
  for (const [bytes, message] of cases) {
    Deno.writeFileSync(path, bytes);
    assert.throws(() => readTokenFile(path, origin), message);
  }
});
