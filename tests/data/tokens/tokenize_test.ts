import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../../data/random.ts";
import { openDataset } from "../../../data/text/dataset.ts";
import { conversationsOf, type Documents, documentsOf } from "../../../data/text/documents.ts";
import { sampleStories } from "../../../data/text/stories.ts";
import { createChatFormat, withChatFormat } from "../../../data/tokenizer/chat_format.ts";
import type { TokenizedDocuments } from "../../../data/tokens/token_file.ts";
import {
  openCached,
  tokenizeDocuments,
  type TokenizeOptions,
} from "../../../data/tokens/tokenize.ts";
import {
  byteLevelTokenizer,
  gpt2Tokenizer,
  parseTokenizer,
  type Tokenizer,
} from "../../../data/tokenizer/tokenizer.ts";
import { beginningWith } from "../../../data/tokenizer/tokenizer_file.ts";
import { once } from "../../once.ts";
import { fromFileUrl } from "../../paths.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** A tokenizer with GPT-2's first merges, which is made fast. */
const tokenizer = await (async () => {
  const { vocab, merges } = JSON.parse((await gpt2Tokenizer()).json).model;
  const tokens = Object.keys(vocab).sort((a, b) => vocab[a] - vocab[b]).slice(0, 756);
  return await byteLevelTokenizer({
    tokens,
    merges: merges.slice(0, 500).map((merge: string) => merge.split(" ")),
  });
})();

/** Tokens as the definition says: documents one after the other, each followed by end-of-text. */
function tokensOf(documents: readonly string[], tokenizer: Tokenizer): number[] {
  return documents.flatMap((text) => [...tokenizer.encodeDocument(text), tokenizer.endOfText]);
}

/** The documents of a file. */
const openFile = async (path: string) => (await openDataset([path])).training;

/** Documents that are worth as many workers as are asked for. */
const large = (documents: Documents): Documents => ({ ...documents, bytes: 1e12 });

function randomDocuments(random: Random, count: number): string[] {
  const documents: string[] = [];
  while (documents.length < count) {
    const text = oddText(random).replaceAll(/\r+\n/g, "\n").trim();
    if (text !== "" && !text.includes("<|endoftext|>")) documents.push(text);
  }
  return documents;
}

Deno.test("tokenizeDocuments() begins every document with the token that begins texts", async () => {
  const file = JSON.parse(tokenizer.json), id = tokenizer.vocabularySize;
  file.added_tokens.push({ id, content: "<s>", special: true });
  file.post_processor = beginningWith({ id, content: "<s>" });
  const begins = await parseTokenizer(JSON.stringify(file));
  assert.equal(begins.beginOfText, id);
  const story = sampleStories({ seed: 1, count: 4000 }).join("\n\n"); // nearly a block of 1 MiB
  const documents = ["One.", `${story} ${story} ${story}`, "Two <s> three."],
    path = join(directory, "begins.txt");
  Deno.writeTextFileSync(path, documents.join("\n<|endoftext|>\n"));
  const result = await tokenizeDocuments(await openFile(path), { tokenizer: begins, workers: 1 });
  const expected = documents.flatMap((text) => [id, ...tokensOf([text], tokenizer)]);
  assert.ok([...result.read(0, result.length)].join() === expected.join());
  const starts = documents.map((_, i) => result.documentStart(i));
  assert.deepEqual(starts.map((start) => result.read(start, start + 1)[0]), [id, id, id]);
});

Deno.test("tokenizeDocuments() gives the tokens of all documents with any workers", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const odd = randomDocuments(random, 500);
  const documents = [...odd, ...sampleStories({ seed: random.below(1e6), count: 5000 }), ...odd];
  const expected = tokensOf(documents, tokenizer);
  for (const workers of [1, 2, 3]) {
    const named = documentsOf("x", documents);
    const result = await tokenizeDocuments(large(named), { tokenizer, workers });
    assert.equal(result.documents, documents.length);
    assert.deepEqual([...result.read(0, result.length)], expected, `seed ${seed}`);
    assert.deepEqual(result.usedIds, [...new Set(expected)].sort((a, b) => a - b));
    assert.equal(result.hash, named.fingerprint);
    assert.equal(result.bytes, Buffer.byteLength(documents.join("")));
  }
});

Deno.test("tokenizeDocuments() gives long documents the tokens that they have as a whole", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const story = sampleStories({ seed: random.below(1e6), count: 4000 }).join("\n\n");
  const path = join(directory, "long.txt");
  const short = randomDocuments(random, 1)[0]!;
  Deno.writeTextFileSync(path, `\r\n${story}\n\n<|endoftext|>\n${short}\n<|endoftext|>\n${story} `);
  const lines = join(directory, "long.jsonl");
  Deno.writeTextFileSync(
    lines,
    [story, short, story].map((text) => JSON.stringify({ text })).join("\n"),
  );
  for (const file of [path, lines]) {
    const text = await tokenizeDocuments(await openFile(file), { tokenizer });
    const expected = tokensOf([story, short, story], tokenizer);
    assert.ok([...text.read(0, text.length)].join() === expected.join());
    assert.equal(text.documents, 3, `seed ${seed}`);
  }
});

Deno.test("tokenizeDocuments() resumes within a document of several blocks", async () => {
  // blocks are of 1 MiB: the second document begins in the first block and ends in the fourth
  const story = sampleStories({ seed: 5, count: 4000 }).join("\n\n");
  assert.ok(story.length > 0.9 * 2 ** 20 && story.length < 2 ** 20, `${story.length}`);
  const documents = [
    "A story.",
    `${story} ${story} ${story} ${story.slice(0, 3e5)}`,
    story,
    "End.",
  ];
  const path = join(directory, "long-resumed.txt");
  Deno.writeTextFileSync(path, documents.join("\n<|endoftext|>\n"));
  const expected = tokensOf(documents, tokenizer).join();
  const cacheDirectory = join(directory, "long-resumed"), controller = new AbortController();
  const onProgress = () => controller.abort(); // at the first block
  const { signal } = controller;
  const options = { tokenizer, cacheDirectory };
  await assert.rejects(
    tokenizeDocuments(await openFile(path), { ...options, signal, onProgress }),
  );
  const blocks = recordedBlocks(cacheDirectory);
  assert.ok(blocks >= 1 && blocks <= 3, `${blocks} blocks are done`);
  for (const where of [options, { tokenizer }]) {
    const tokens = await tokenizeDocuments(await openFile(path), where);
    // a list of all differences would take minutes
    assert.ok(tokens.read(0, tokens.length).join() === expected);
    assert.equal(tokens.documents, 4);
    tokens.close();
  }
});

/** Hashes of all token files below a directory, by path; a process that was killed at its end may leave a lock, too. */
function filesBelow(path: string): Map<string, string> {
  const files = readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== "lock")
    .map(({ parentPath, name }) => join(parentPath, name));
  return new Map(files.map((file) => [
    file.slice(path.length),
    createHash("sha256").update(Deno.readFileSync(file)).digest("hex"),
  ]));
}

/** A file of several blocks. */
const stories = join(directory, "stories.txt");
Deno.writeTextFileSync(
  stories,
  sampleStories({ seed: 5, count: 6000 }).join("\n<|endoftext|>\n").repeat(8),
);

/** Tokenizes it into a cache and closes the files. */
async function tokenizeStories(
  cacheDirectory: string,
  options: Partial<TokenizeOptions> = {},
): Promise<void> {
  const documents = await openFile(stories);
  (await tokenizeDocuments(documents, { ...{ tokenizer, cacheDirectory, ...options } })).close();
}

const undisturbed = once(async () => {
  const cacheDirectory = join(directory, "undisturbed");
  await tokenizeStories(cacheDirectory);
  return cacheDirectory;
});

Deno.test("tokenizeDocuments() gives conversations the tokens of their template, with any workers and resumed", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const roles = ["user", "assistant", "system", "assistant"];
  const conversations = Array.from(
    { length: 300 },
    (_, i) =>
      Array.from({ length: 1 + random.below(5) }, (_, turn) => ({
        role: i % 9 === 0 ? "user" : roles[turn % 4]!,
        content: i + turn === 1 ? "Once upon a time. ".repeat(60_000) : oddText(random),
      })),
  );
  const path = join(directory, "chat.jsonl");
  const rows = conversations.map((messages) => JSON.stringify({ messages }));
  Deno.writeTextFileSync(path, rows.join("\n"));
  const documents = await openFile(path), format = await createChatFormat(tokenizer);
  const answered = conversations.filter((all) => all.some(({ role }) => role === "assistant"));
  const encoded = answered.map((messages) => format.encode(messages));
  const written = answered.map((messages) =>
    `${JSON.stringify(messages.flatMap(({ role, content }) => [role, content]))}\0`
  );
  const hash = createHash("sha256").update(written.join("")).digest("hex");
  const notices: string[] = [], cacheDirectory = join(directory, "chat");
  const given = await withChatFormat(tokenizer);
  const check = (dataset: TokenizedDocuments) => {
    assert.equal(dataset.documents, encoded.length);
    encoded.forEach(({ ids, answers }, d) => {
      const start = dataset.documentStart(d);
      assert.deepEqual([...dataset.read(start, dataset.documentStart(d + 1))], ids, `seed ${seed}`);
      const moved = answers.map((span) => ({ start: start + span.start, end: start + span.end }));
      assert.deepEqual(dataset.answersOf!(d), moved, `seed ${seed}`);
    });
    assert.equal(dataset.hash, hash);
    dataset.close();
  };
  const onNotice = (notice: string) => notices.push(notice);
  check(await tokenizeDocuments(documents, { tokenizer: given, workers: 1, onNotice }));
  assert.match(
    notices.join(),
    /^left out \d+ of 300 conversations of chat\.jsonl: the assistant says nothing/,
  );
  const controller = new AbortController();
  let blocks = 0;
  await assert.rejects(tokenizeDocuments({ ...documents, bytes: 2 ** 26 }, {
    ...{ tokenizer: given, workers: 2, cacheDirectory, signal: controller.signal },
    onProgress: () => ++blocks === 2 && controller.abort(),
  }));
  check(await tokenizeDocuments(documents, { tokenizer: given, cacheDirectory }));
  const files = readdirSync(join(cacheDirectory, readdirSync(cacheDirectory)[0]!));
  assert.deepEqual(files.sort(), ["answers.bin", "documents.bin", "meta.json", "tokens.bin"]);
  const another = { ...given, chatTemplate: "{% for m in messages %}{{ m.content }}{% endfor %}" };
  assert.equal(openCached(documents, { tokenizer: another, cacheDirectory }), undefined);
});

Deno.test("tokenizeDocuments() names the row that a chat template refuses", async () => {
  const path = join(directory, "refused.jsonl"), messages = [{ role: "assistant", content: "a" }];
  Deno.writeTextFileSync(path, `\n${JSON.stringify({ messages })}`);
  const documents = await openFile(path);
  for (
    const [chatTemplate, reason] of [
      ["{{ raise_exception('no') }}", 'it must fit the chat template: it says "no"'],
      [
        "{% generation %}{% endgeneration %}",
        "it must have an answer: the chat template marks nothing",
      ],
    ] as const
  ) {
    await assert.rejects(
      tokenizeDocuments(documents, { tokenizer: { ...tokenizer, chatTemplate } }),
      ({ name, message }: Error) => {
        assert.equal(name, "DataError");
        assert.ok(
          message.startsWith(`Cannot read data file ${path}, line 2, as ${reason}`),
          message,
        );
        return true;
      },
    );
  }
});

Deno.test("tokenizeDocuments() leaves three plain files in the cache, and finds them", async () => {
  const cacheDirectory = await undisturbed();
  const [name, ...more] = readdirSync(cacheDirectory);
  assert.deepEqual(more, []);
  const path = join(cacheDirectory, name!);
  assert.deepEqual(readdirSync(path).sort(), ["documents.bin", "meta.json", "tokens.bin"]);
  const found = openCached(await openFile(stories), { tokenizer, cacheDirectory })!;
  const raw = new Uint16Array(Deno.readFileSync(join(path, "tokens.bin")).buffer);
  assert.ok(found.read(0, found.length).join() === raw.join());
  found.close();
  const onProgress = () => assert.fail("it is tokenized again");
  await tokenizeStories(cacheDirectory, { onProgress });
});

Deno.test("tokenizeDocuments() resumes where it was stopped, and writes the same bytes", async () => {
  const cacheDirectory = join(directory, "stopped");
  for (let stopAt = 2;; stopAt++) {
    const controller = new AbortController();
    let reports = 0, first: number | undefined;
    try {
      await tokenizeStories(cacheDirectory, {
        signal: controller.signal,
        onProgress() {
          first ??= recordedBlocks(cacheDirectory);
          if (++reports === stopAt) controller.abort();
        },
      });
      break;
    } catch (error) {
      assert.equal((error as Error).name, "AbortError");
      // it has what was reported, or all, and nothing that was there before is lost
      const blocks = recordedBlocks(cacheDirectory);
      assert.ok(blocks >= Math.min(stopAt, 5) - 1 && blocks >= first!, `${blocks} of ${stopAt}`);
    }
  }
  assert.deepEqual(filesBelow(cacheDirectory), filesBelow(await undisturbed()));
});

function recordedBlocks(cacheDirectory: string): number {
  const [name] = readdirSync(cacheDirectory), record = join(cacheDirectory, name!, "meta.json");
  return existsSync(record) ? JSON.parse(Deno.readTextFileSync(record)).blocks : 0;
}

Deno.test("tokenizeDocuments() writes the same bytes after it was killed ten times", async () => {
  const seed = freshSeed(), random = new Random(seed);
  const tokenizerFile = join(directory, "tokenizer.json");
  Deno.writeTextFileSync(tokenizerFile, tokenizer.json);
  const child = fromFileUrl(new URL("./tokenize_child.ts", import.meta.url));

  /** Runs it and kills it so many milliseconds after it is ready; returns how long it took. */
  const run = async (cacheDirectory: string, killAfterMs: number): Promise<number> => {
    const process = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "--no-prompt",
        "-A",
        "--no-check",
        child,
        stories,
        tokenizerFile,
        cacheDirectory,
      ],
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const output = process.stdout.pipeThrough(new TextDecoderStream()).getReader();
    assert.match((await output.read()).value!, /^ready\n/);
    const start = performance.now();
    const kill = () => {
      try {
        process.kill("SIGKILL");
      } catch {
        // it has come to its end just before
      }
    };
    const timer = killAfterMs < Infinity ? setTimeout(kill, killAfterMs) : undefined;
    while (!(await output.read()).done);
    const elapsed = performance.now() - start;
    const { success } = await process.status;
    clearTimeout(timer);
    assert.ok(success || killAfterMs < Infinity, `seed ${seed}`);
    return elapsed;
  };

  const whole = await run(join(directory, "whole"), Infinity);
  const cacheDirectory = join(directory, "killed");
  for (let i = 0; i < 10; i++) await run(cacheDirectory, random.uniform() * whole);
  await run(cacheDirectory, Infinity);
  assert.deepEqual(filesBelow(cacheDirectory), filesBelow(await undisturbed()), `seed ${seed}`);
});

Deno.test("tokenizeDocuments() finds tokens in a cache that it may not write", async () => {
  const cacheDirectory = join(directory, "read-only");
  await tokenizeStories(cacheDirectory);
  const tokenizerFile = join(directory, "read-only.json");
  Deno.writeTextFileSync(tokenizerFile, tokenizer.json);
  const child = fromFileUrl(new URL("./tokenize_child.ts", import.meta.url));
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--no-check", "--allow-read", child]
      .concat(stories, tokenizerFile, cacheDirectory),
  }).output();
  assert.equal(new TextDecoder().decode(stdout), "ready\ndone\n", new TextDecoder().decode(stderr));
});

Deno.test("tokenizeDocuments() starts again if an interrupted run left damaged files", async () => {
  const cacheDirectory = join(directory, "damaged");
  const controller = new AbortController();
  await assert.rejects(tokenizeStories(cacheDirectory, {
    signal: controller.signal,
    onProgress: () => controller.abort(),
  }));
  const [name] = readdirSync(cacheDirectory);
  Deno.truncateSync(join(cacheDirectory, name!, "tokens.bin"), 1000);
  await tokenizeStories(cacheDirectory);
  assert.deepEqual(filesBelow(cacheDirectory), filesBelow(await undisturbed()));
});

Deno.test("tokenizeDocuments() ends if another process has just finished, and removed the lock", async () => {
  const cacheDirectory = join(directory, "finished");
  await tokenizeStories(cacheDirectory, {
    onProgress() {
      const [name] = readdirSync(cacheDirectory);
      rmSync(join(cacheDirectory, name!, "lock"), { force: true });
    },
  });
  assert.deepEqual(filesBelow(cacheDirectory), filesBelow(await undisturbed()));
});

Deno.test("tokenizeDocuments() names the reason if it cannot write", async () => {
  const cacheDirectory = join(directory, "refused");
  let second: Promise<void> | undefined;
  await tokenizeStories(cacheDirectory, {
    onProgress() {
      second ??= assert.rejects(tokenizeStories(cacheDirectory), {
        message: "Cannot tokenize stories.txt as another process is doing so: " +
          "wait until it has finished",
      });
    },
  });
  await second;
  const file = join(directory, "no-directory");
  Deno.writeTextFileSync(file, "");
  await assert.rejects(
    tokenizeStories(file),
    /^UserError: Cannot write token files into .*no-directory as a file is in its place; /,
  );
});

Deno.test("tokenizeDocuments() ends its workers and throws the error of one that fails", async () => {
  const path = join(directory, "bad.jsonl");
  const lines = Array.from(
    { length: 60_000 },
    (_, i) => JSON.stringify({ text: `story number ${i}` }),
  );
  lines[50_000] = "oops";
  Deno.writeTextFileSync(path, lines.join("\n"));
  const documents = large(await openFile(path));
  await assert.rejects(tokenizeDocuments(documents, { tokenizer, workers: 2 }), {
    name: "DataError",
    message: /^Cannot read data file .*bad.jsonl as line 50001 must be JSON: /,
  });
  const chats = large(conversationsOf("chats", [[{ role: "assistant", content: "a" }]]));
  await assert.rejects(
    tokenizeDocuments(chats, { tokenizer: { ...tokenizer, chatTemplate: "{% if" }, workers: 2 }),
    { name: "UserError", message: /^Cannot use a chat template as it must be Jinja: / },
  );
});
