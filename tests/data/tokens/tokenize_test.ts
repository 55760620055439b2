import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Random } from "../../../data/random.ts";
import { fileSource, type Source, textSource } from "../../../data/text/sources.ts";
import { sampleStories } from "../../../data/text/stories.ts";
import { tokenizeSource } from "../../../data/tokens/tokenize.ts";
import {
  byteLevelTokenizer,
  gpt2Tokenizer,
  parseTokenizer,
  type Tokenizer,
} from "../../../data/tokenizer/tokenizer.ts";
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

/** A tokenizer that has no tables to share: it cuts words in a way of its own. */
const otherTokenizer = await (async () => {
  const file = JSON.parse(tokenizer.json);
  file.pre_tokenizer = {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex: " ?\\S+|\\s+" }, behavior: "Isolated", invert: false },
      { type: "ByteLevel", add_prefix_space: false, use_regex: false },
    ],
  };
  return await parseTokenizer(JSON.stringify(file));
})();

/** Tokens as the definition says: documents one after the other, each followed by end-of-text. */
function tokensOf(documents: readonly string[], tokenizer: Tokenizer): number[] {
  return documents.flatMap((text) => [...tokenizer.encodeDocument(text), tokenizer.endOfText]);
}

/** A source that is worth as many workers as are asked for. */
const large = (source: Source): Source => ({ ...source, bytes: 1e12 });

function randomDocuments(random: Random, count: number): string[] {
  const documents: string[] = [];
  while (documents.length < count) {
    const text = oddText(random).replaceAll(/\r+\n/g, "\n").trim();
    if (text !== "" && !text.includes("<|endoftext|>")) documents.push(text);
  }
  return documents;
}

for (const [what, tokens] of [["tables", tokenizer], ["none", otherTokenizer]] as const) {
  Deno.test(`tokenizeSource() gives the tokens of all documents with any workers, tokenizer with ${what}`, async () => {
    const seed = freshSeed(), random = new Random(seed);
    const odd = randomDocuments(random, 500);
    const documents = [...odd, ...sampleStories({ seed: random.below(1e6), count: 5000 }), ...odd];
    const expected = tokensOf(documents, tokens);
    for (const workers of [1, 2, 3]) {
      const { text, usedIds, textHash } = await tokenizeSource(large(textSource("x", documents)), {
        ...{ tokenizer: tokens, workers, holdOut: false },
      });
      assert.equal(text.documents, documents.length);
      assert.deepEqual([...text.read(0, text.length)], expected, `seed ${seed}`);
      assert.deepEqual(usedIds, [...new Set(expected)].sort((a, b) => a - b));
      assert.equal(textHash, textSource("x", documents).fingerprint);
    }
  });
}

Deno.test("tokenizeSource() holds every twentieth document out, the last of few, the end of one", async () => {
  const seed = freshSeed(), random = new Random(seed);
  for (const count of [1, 2, 3, 19, 20, 21, 39, 40, 41, 100]) {
    const documents = randomDocuments(random, count);
    const cacheDirectory = join(directory, `held-out-${count}`);
    for (const where of [{}, { cacheDirectory }]) {
      const source = textSource("x", documents);
      const result = await tokenizeSource(source, { tokenizer, holdOut: true, ...where });
      const text = [...result.text.read(0, result.text.length)];
      const heldOut = [...result.heldOut!.read(0, result.heldOut!.length)];
      const isHeldOut = (i: number) => i % 20 === Math.min(20, count) - 1;
      if (count === 1) {
        const all = tokensOf(documents, tokenizer), cut = Math.floor(all.length * (1 - 1 / 20));
        assert.deepEqual([text, heldOut], [all.slice(0, cut), all.slice(cut)]);
      } else {
        assert.deepEqual(text, tokensOf(documents.filter((_, i) => !isHeldOut(i)), tokenizer));
        assert.deepEqual(heldOut, tokensOf(documents.filter((_, i) => isHeldOut(i)), tokenizer));
        assert.equal(result.text.documents + result.heldOut!.documents, count);
      }
      assert.equal(result.textHash, source.fingerprint, `seed ${seed}`);
      result.text.close();
      result.heldOut!.close();
    }
  }
});

Deno.test("tokenizeSource() gives a document of any length the tokens that it has as a whole", async () => {
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
    for (const one of [tokenizer, otherTokenizer]) {
      const { text } = await tokenizeSource(await fileSource([file]), {
        tokenizer: one,
        holdOut: false,
      });
      assert.ok(
        [...text.read(0, text.length)].join() === tokensOf([story, short, story], one).join(),
      );
      assert.equal(text.documents, 3, `seed ${seed}`);
    }
  }
});

Deno.test("tokenizeSource() holds out a document of several units whole, also if it is stopped within it", async () => {
  // units are of 1 MiB: the twentieth document, which is held out, begins in the first and ends in the fourth,
  // where the thirty-ninth begins, which is not
  const story = sampleStories({ seed: 5, count: 4000 }).join("\n\n");
  assert.ok(story.length > 0.9 * 2 ** 20 && story.length < 2 ** 20, `${story.length}`);
  const long = [`${story} ${story} ${story} ${story.slice(0, 3e5)}`, story];
  const documents = Array.from({ length: 41 }, (_, i) => `Story ${i}.`);
  documents[19] = long[0]!;
  documents[38] = long[1]!;
  const path = join(directory, "long-held-out.txt");
  Deno.writeTextFileSync(path, documents.join("\n<|endoftext|>\n"));
  const tokens = documents.map((text) => tokensOf([text], tokenizer));
  const isHeldOut = (_: unknown, i: number) => i % 20 === 19;
  const expected = [
    tokens.filter((_, i) => !isHeldOut(_, i)).flat(),
    tokens.filter(isHeldOut).flat(),
  ];
  const cacheDirectory = join(directory, "long-held-out");
  for (const where of [{}, { cacheDirectory }]) {
    const source = await fileSource([path]), options = { tokenizer, holdOut: true, ...where };
    if ("cacheDirectory" in where) {
      const controller = new AbortController(), { signal } = controller;
      const onProgress = () => controller.abort(); // at the first unit
      await assert.rejects(tokenizeSource(source, { ...options, signal, onProgress }));
      const units = recordedUnits(cacheDirectory);
      assert.ok(units >= 1 && units <= 3, `${units} units are done`); // within the held-out document
    }
    const { text, heldOut } = await tokenizeSource(source, options);
    const found = [text, heldOut!].map((part) => [...part.read(0, part.length)]);
    // a list of all differences would take minutes
    assert.ok(found[0]!.join() === expected[0]!.join(), "training text");
    assert.ok(found[1]!.join() === expected[1]!.join(), "held-out text");
    assert.deepEqual([text.documents, heldOut!.documents], [39, 2]);
    text.close();
    heldOut!.close();
  }
});

/** Hashes of all files below a directory, by path. */
function filesBelow(path: string): Map<string, string> {
  const files = readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ parentPath, name }) => join(parentPath, name));
  return new Map(files.map((file) => [
    file.slice(path.length),
    createHash("sha256").update(Deno.readFileSync(file)).digest("hex"),
  ]));
}

/** A file that takes several units of work. */
const stories = join(directory, "stories.txt");
Deno.writeTextFileSync(
  stories,
  sampleStories({ seed: 5, count: 6000 }).join("\n<|endoftext|>\n").repeat(8),
);

/** Tokenizes it into a cache; closes what it gets. */
async function tokenizeStories(
  cacheDirectory: string,
  options: Partial<Parameters<typeof tokenizeSource>[1]> = {},
): Promise<boolean> {
  const source = await fileSource([stories]);
  const { text, heldOut, cached } = await tokenizeSource(source, {
    ...{ tokenizer, cacheDirectory, holdOut: true, ...options },
  });
  text.close();
  heldOut!.close();
  return cached;
}

const undisturbed = once(async () => {
  const cacheDirectory = join(directory, "undisturbed");
  await tokenizeStories(cacheDirectory);
  return cacheDirectory;
});

Deno.test("tokenizeSource() leaves two files in the cache, and finds them", async () => {
  const cacheDirectory = await undisturbed();
  assert.deepEqual([...filesBelow(cacheDirectory).keys()].map((path) => path.split("/").at(-1)), [
    "held-out.tokens",
    "text.tokens",
  ]);
  assert.equal(await tokenizeStories(cacheDirectory), true);
});

Deno.test("tokenizeSource() goes on where it was stopped, and comes to the same bytes", async () => {
  const cacheDirectory = join(directory, "stopped");
  const stages: string[] = [];
  for (let stopAt = 2;; stopAt++) {
    const controller = new AbortController();
    let reports = 0, first: number | undefined;
    try {
      await tokenizeStories(cacheDirectory, {
        signal: controller.signal,
        onProgress({ stage }) {
          stages.push(stage);
          first ??= recordedUnits(cacheDirectory);
          if (++reports === stopAt) controller.abort();
        },
      });
      break;
    } catch (error) {
      assert.equal((error as Error).name, "AbortError");
      // it has what was reported, or all, and nothing that was there before is lost
      const units = recordedUnits(cacheDirectory);
      assert.ok(units >= Math.min(stopAt, 5) - 1 && units >= first!, `${units} of ${stopAt}`);
    }
  }
  assert.ok(stages.includes("finishing"));
  assert.deepEqual(filesBelow(cacheDirectory), filesBelow(await undisturbed()));
});

function recordedUnits(cacheDirectory: string): number {
  const [partial] = readdirSync(cacheDirectory);
  const record = join(cacheDirectory, partial!, "record.json");
  return existsSync(record) ? JSON.parse(Deno.readTextFileSync(record)).units : 0;
}

Deno.test("tokenizeSource() that is killed at ten random moments comes to the same bytes", async () => {
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
    assert.equal((await output.read()).value, "ready\n");
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

Deno.test("tokenizeSource() starts over what an interrupted run has left damaged", async () => {
  const cacheDirectory = join(directory, "damaged");
  const controller = new AbortController();
  await assert.rejects(tokenizeStories(cacheDirectory, {
    signal: controller.signal,
    onProgress: () => controller.abort(),
  }));
  const [partial] = readdirSync(cacheDirectory);
  Deno.truncateSync(join(cacheDirectory, partial!, "finished", "text.tokens"), 1000);
  await tokenizeStories(cacheDirectory);
  assert.deepEqual(filesBelow(cacheDirectory), filesBelow(await undisturbed()));
});

Deno.test("tokenizeSource() says what stands in its way", async () => {
  const cacheDirectory = join(directory, "refused");
  await assert.rejects(tokenizeStories(cacheDirectory, { freeBytes: () => 1e6 }), {
    message: `Cannot tokenize stories.txt as about 8.25 MB must be free in ${cacheDirectory}: ` +
      "current space is 1.00 MB; make room, or put the run and its cache elsewhere",
  });
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

Deno.test("tokenizeSource() ends its workers and tells the reason when one fails", async () => {
  const path = join(directory, "bad.jsonl");
  const lines = Array.from(
    { length: 60_000 },
    (_, i) => JSON.stringify({ text: `story number ${i}` }),
  );
  lines[50_000] = "oops";
  Deno.writeTextFileSync(path, lines.join("\n"));
  const source = large(await fileSource([path]));
  await assert.rejects(tokenizeSource(source, { tokenizer, holdOut: true, workers: 2 }), {
    name: "DataError",
    message: /^Cannot read data file .*bad.jsonl as line 50001 must be JSON: /,
  });
});
