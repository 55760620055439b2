import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { BYTE_ALPHABET } from "../../../data/tokenizer/byte_level.ts";
import { type CorpusOptions, loadCorpus } from "../../../data/tokens/corpus.ts";
import { documentsOf } from "../../../data/text/documents.ts";
import { storyEntropy } from "../../../data/text/stories.ts";
import type { TokenDataset } from "../../../data/tokens/token_dataset.ts";
import { byteLevelTokenizer, gpt2Tokenizer } from "../../../data/tokenizer/tokenizer.ts";
import { HubServer } from "../hub/server.ts";
import { leftOpen } from "../../left_open.ts";

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

const bytesTokenizer = () => byteLevelTokenizer({ tokens: [...BYTE_ALPHABET], merges: [] });

const all = (text: TokenDataset) => [...text.read(0, text.length)];

const documents = Array.from({ length: 45 }, (_, i) => `Story number ${i}.\nIt ends.`);
const file = write("stories.txt", documents.join("\n<|endoftext|>\n"));

Deno.test("loadCorpus() divides by document and loses nothing", async () => {
  const { training, validation, tokenizer, vocabulary } = await loadCorpus({ data: [file] });
  assert.equal(vocabulary, "compact");
  const split = (tokens: Iterable<number>) =>
    tokenizer.decode(tokens).split("<|endoftext|>").slice(0, -1);
  const [first, second] = [split(all(training)), split(all(validation))];
  assert.deepEqual(second, [documents[19], documents[39]]);
  assert.deepEqual([...first, ...second].sort(), documents.toSorted());
  assert.equal(training.documents, 43);
  for (let i = 1; i < training.documents; i++) {
    const start = training.documentStart(i);
    assert.deepEqual([...training.read(start - 1, start)], [tokenizer.endOfText]);
  }
});

Deno.test("loadCorpus() chooses the compact vocabulary if less than a fifth of GPT-2's tokens occur", async () => {
  const { vocab } = JSON.parse((await gpt2Tokenizer()).json).model;
  const words = Object.keys(vocab).filter((token) => /^\u0120[a-z]+$/.test(token));
  for (const [count, expected] of [[9_900, "compact"], [10_200, "full"]] as const) {
    // a document of words each of which is one token
    const document = words.slice(0, count).map((token) => ` ${token.slice(1)}`).join("");
    const path = write(`${count}.txt`, `A.\n<|endoftext|>\nB${document}`);
    const { vocabulary, tokenizer, training, validation, close } = await loadCorpus({
      data: [path],
    });
    close();
    assert.ok(Math.abs(training.length + validation.length - count - 5) <= 1);
    assert.equal(vocabulary, expected);
    assert.ok(tokenizer.vocabularySize >= count && tokenizer.vocabularySize <= 50257);
  }
});

Deno.test("loadCorpus() keeps the full vocabulary with OpenAI's ids if it is asked to", async () => {
  const { tokenizer, training } = await loadCorpus({ data: [file], vocabulary: "full" });
  assert.equal(tokenizer.vocabularySize, 50257);
  assert.deepEqual([...training.read(0, 3)], [11605, 1271, 657]);
});

Deno.test("loadCorpus() reads tokens from the cache, and makes damaged ones anew", async () => {
  const cacheDirectory = join(directory, "cache");
  const load = async () => {
    const { training, validation, cached, close } = await loadCorpus({
      data: [file],
      cacheDirectory,
    });
    const texts = [all(training), all(validation)];
    close();
    return { texts, cached };
  };
  const first = await load(), second = await load();
  assert.deepEqual([first.cached, second.cached], [false, true]);
  assert.deepEqual(second.texts, first.texts);
  const [name] = readdirSync(cacheDirectory);
  for (const part of ["tokens.bin", "documents.bin", "meta.json"]) {
    const path = join(cacheDirectory, name!, part);
    const bytes = Deno.readFileSync(path);
    bytes[100]! ^= 1;
    Deno.writeFileSync(path, bytes);
    const third = await load();
    assert.equal(third.cached, false);
    assert.deepEqual(third.texts, first.texts);
  }
});

Deno.test("loadCorpus() gives the ids of a model's tokenizer, also from cached tokens of the whole one", async () => {
  const cacheDirectory = join(directory, "compact");
  const first = await loadCorpus({ data: [file], cacheDirectory });
  const { tokenizer } = first;
  for (const again of [{ cacheDirectory }, {}]) {
    const second = await loadCorpus({ data: [file], tokenizer, ...again });
    assert.equal(second.cached, "cacheDirectory" in again);
    assert.deepEqual(
      [second.tokenizer.hash, second.vocabulary, second.hash],
      [tokenizer.hash, undefined, first.hash],
    );
    assert.deepEqual(all(second.training), all(first.training));
    assert.deepEqual(all(second.validation), all(first.validation));
    second.close();
  }
  first.close();
  assert.equal(readdirSync(cacheDirectory).length, 1);
});

Deno.test("loadCorpus() gives the same hash in any format, from the cache or not, and if nothing is held out", async () => {
  const cacheDirectory = join(directory, "hashed");
  const { tokenizer, hash, close } = await loadCorpus({ data: [file], cacheDirectory });
  close();
  const lines = write("stories.jsonl", documents.map((t) => JSON.stringify({ t })).join("\n"));
  const less = write("fewer.txt", documents.slice(1).join("\n<|endoftext|>\n"));
  const hashOf = async (options: Omit<CorpusOptions, "tokenizer">) => {
    const corpus = await loadCorpus({ ...options, tokenizer });
    corpus.close();
    return corpus.hash;
  };
  assert.equal(await hashOf({ data: [file], cacheDirectory }), hash);
  assert.equal(await hashOf({ data: [file], whole: true }), hash);
  assert.equal(await hashOf({ data: [lines], textField: "t" }), hash);
  assert.notEqual(await hashOf({ data: [less] }), hash);
  assert.equal(readdirSync(cacheDirectory).length, 1, "something was tokenized");
});

Deno.test("loadCorpus() keeps another tokenizer whole unless the compact vocabulary is asked for", async () => {
  const { vocab, merges } = JSON.parse((await gpt2Tokenizer()).json).model;
  const baseTokenizer = await byteLevelTokenizer({
    tokens: Object.keys(vocab).sort((a, b) => vocab[a] - vocab[b]).slice(0, 300),
    merges: merges.slice(0, 44).map((merge: string) => merge.split(" ")),
  });
  const whole = await loadCorpus({ data: [file], baseTokenizer });
  assert.deepEqual([whole.vocabulary, whole.tokenizer.hash], ["full", baseTokenizer.hash]);
  const compact = await loadCorpus({ data: [file], baseTokenizer, vocabulary: "compact" });
  assert.equal(compact.vocabulary, "compact");
  assert.ok(compact.tokenizer.vocabularySize < 301);
  const decoded = [whole, compact].map(({ tokenizer, training }) =>
    tokenizer.decode(all(training))
  );
  assert.equal(decoded[0], decoded[1]);
});

Deno.test("loadCorpus() uses the validation text of a data set", async () => {
  const server = new HubServer("datasets/roneneldan/TinyStories");
  await using _ = server;
  const train = "One.\n<|endoftext|>\nTwo.", valid = "Three.";
  for (const [name, text] of [["train", train], ["valid", valid]]) {
    server.publish(`TinyStoriesV2-GPT4-${name}.txt`, new TextEncoder().encode(text));
  }
  const options = {
    data: "tinystories" as const,
    cacheDirectory: join(directory, "tiny"),
    environment: { HF_HOME: join(directory, "hub"), HF_ENDPOINT: server.endpoint },
  };
  const { training, validation, tokenizer, validationHash, name, data, hash, close } =
    await loadCorpus(options);
  assert.equal(tokenizer.decode(all(training)), "One.<|endoftext|>Two.<|endoftext|>");
  assert.equal(tokenizer.decode(all(validation)), "Three.<|endoftext|>");
  const whole = await loadCorpus({ ...options, tokenizer, whole: true });
  assert.equal(whole.hash, hash);
  whole.close();
  assert.deepEqual([validationHash?.length, name, data], [
    64,
    "tinystories",
    `tinystories@${server.main}`,
  ]);
  close();
  const again = await loadCorpus({ ...options, data });
  assert.deepEqual([again.cached, again.hash], [true, hash]);
  again.close();
});

Deno.test("loadCorpus() holds nothing out of the training text when there is a text to validate with", async () => {
  const valid = write("valid.jsonl", `{"text":"Four."}\n{"text":"Five."}\n`),
    notices: string[] = [];
  const options = {
    ...{ data: [file], vocabulary: "full" as const, baseTokenizer: await bytesTokenizer() },
    onNotice: (sentence: string) => notices.push(sentence),
  };
  const corpus = await loadCorpus({ ...options, validationData: [valid] });
  const { training, validation, tokenizer, validationHash, data, validationData, hash } = corpus;
  assert.equal(training.documents, documents.length);
  assert.equal(tokenizer.decode(all(validation)), "Four.<|endoftext|>Five.<|endoftext|>");
  assert.deepEqual([validationHash?.length, data, validationData], [64, [file], [valid]]);
  assert.equal((await loadCorpus({ ...options, validationData: [valid], tokenizer })).hash, hash);
  const [alone, held] = [
    await loadCorpus({ ...options, data: [valid] }),
    await loadCorpus(options),
  ];
  assert.deepEqual([corpus.validationHash, held.validationHash], [alone.hash, undefined]);
  assert.notEqual(held.hash, hash);
  assert.deepEqual(notices, []);

  const same = await loadCorpus({ ...options, validationData: documentsOf("all", documents) });
  assert.deepEqual(same.validationData, ["all"]);
  assert.match(notices.join(), /^the text to validate with is that of the training/);
});

Deno.test("loadCorpus() knows the entropy when training and validation text are the stories", async () => {
  const entropyOf = async (options: Parameters<typeof loadCorpus>[0]) => {
    const corpus = await loadCorpus({ ...options, cacheDirectory, baseTokenizer });
    corpus.close();
    return corpus.entropyPerToken;
  };
  const cacheDirectory = join(directory, "entropies"), baseTokenizer = await bytesTokenizer();
  const known = await entropyOf({ data: "sample" });
  assert.equal(await entropyOf({ data: "sample", validationData: "sample" }), known);
  assert.equal(await entropyOf({ data: "sample", validationData: [file] }), undefined);
  assert.equal(await entropyOf({ data: [file], validationData: "sample" }), undefined);
});

Deno.test("loadCorpus() gives another hash when a document of training or validation text differs", async () => {
  const server = new HubServer("datasets/roneneldan/TinyStories");
  await using _ = server;
  const options = {
    data: "tinystories" as const,
    baseTokenizer: await bytesTokenizer(),
    environment: { HF_HOME: join(directory, "hub of hashes"), HF_ENDPOINT: server.endpoint },
  };
  const hashOf = async (train: string, valid: string) => {
    server.publish("TinyStoriesV2-GPT4-train.txt", new TextEncoder().encode(train));
    server.publish("TinyStoriesV2-GPT4-valid.txt", new TextEncoder().encode(valid));
    const { hash, close } = await loadCorpus(options);
    close();
    return hash;
  };
  const first = await hashOf("One. Two.", "Three.");
  const others = [
    await hashOf("One. Two.", "Threes"),
    await hashOf("One. Too.", "Three."),
    await hashOf("Three.", "One. Two."),
    await hashOf("One.\n<|endoftext|>\nTwo.", "Three."),
  ];
  assert.equal(new Set([first, ...others]).size, 5);
  assert.equal(await hashOf("One. Two.", "Three."), first);
});

Deno.test("loadCorpus() reads files with CRLF and a byte order mark", async () => {
  const path = write("windows.txt", "\ufeffOne.\r\nTwo.\r\n<|endoftext|>\r\nThree.\r\n");
  const { training, validation, tokenizer } = await loadCorpus({ data: [path] });
  assert.equal(tokenizer.decode(all(training)), "One.\nTwo.<|endoftext|>");
  assert.equal(tokenizer.decode(all(validation)), "Three.<|endoftext|>");
});

Deno.test("loadCorpus() holds out the end of a single document", async () => {
  const path = write("one.txt", "word ".repeat(200));
  const { training, validation } = await loadCorpus({ data: [path] });
  assert.equal(training.length + validation.length, 201); // and end-of-text
  assert.ok(validation.length >= 10);
});

Deno.test("loadCorpus() names the problem of a file in one sentence", async () => {
  const absent = join(directory, "absent.txt"), empty = write("empty.txt", " \n<|endoftext|>\n");
  const binary = write("binary.txt", Uint8Array.of(0x61, 0x62, 0xc3, 0x28));
  const cases = [
    [absent, `Cannot read data file ${absent}: there is no such file`],
    [
      directory,
      `Cannot read data file ${directory}: it is a directory; ` +
      `name its files, such as ${JSON.stringify(join(directory, "*.txt"))}`,
    ],
    [empty, "Cannot use empty.txt as data must hold text: it is empty"],
    [
      binary,
      `Cannot read data file ${binary} as it must be UTF-8: the first byte that is not is at 2; ` +
      "convert text of another encoding, for example with iconv -f latin1 -t utf8",
    ],
  ] as const;
  for (const [path, message] of cases) {
    await assert.rejects(loadCorpus({ data: [path] }), { message });
    const cacheDirectory = join(directory, "problems"), validationData = [path];
    const validated = loadCorpus({ data: [file], validationData, cacheDirectory });
    await assert.rejects(validated, { message });
  }
});

Deno.test("loadCorpus() knows the sample: its text, its tokens and its entropy", async () => {
  const { entropyPerToken, tokenizer, training, validation, hash } = await loadCorpus({
    data: "sample",
  });
  // of 20,000 stories: their entropy over their tokens, ends counted, to a five-hundredth
  const perToken = 20_000 * storyEntropy() / (training.length + validation.length);
  assert.ok(Math.abs(entropyPerToken! / perToken - 1) < 2e-3, `${entropyPerToken}, ${perToken}`);
  // checkpoints know it by these
  assert.equal(hash, "0628bab7fa6ce859e4f28ffb9f4fd3cce7b66f456838c43474543f47ce4be99b");
  assert.deepEqual(
    [tokenizer.vocabularySize, training.length, validation.length],
    [1048, 1_119_478, 58_678],
  );
});

Deno.test("loadCorpus() holds no document out of a whole text", async () => {
  const tokenizer = await gpt2Tokenizer();
  const { training, validation, bytes } = await loadCorpus({
    data: [file],
    tokenizer,
    whole: true,
  });
  assert.equal(
    tokenizer.decode(all(training)),
    documents.map((text) => `${text}<|endoftext|>`).join(""),
  );
  assert.equal(validation, training);
  assert.equal(bytes, documents.join("").length);
});

Deno.test("no test of this file leaves a file open", () => {
  assert.deepEqual(leftOpen(directory), []);
});
