import assert from "node:assert/strict";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { trainTokenizer } from "../data/tokenizer/train.ts";
import { listCheckpoints } from "../model/files/checkpoint.ts";
import { root, task } from "./commands/task.ts";

/**
 * Every command of the pages for newcomers is run, page by page and in its order, on small texts and with a small
 * model.
 */

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const PAGES = ["data", "checkpoints", "models", "inspect", "library", "performance"];

/** Parts of commands that are not run, and the reason. */
const LEFT_OUT: readonly [RegExp, string][] = [
  [/tinystories(\s|$)/, "downloads 2 GB; tests/commands/commands_test.ts runs it with a small hub"],
  [
    /(serve|script)\.ts/,
    "does not end, or is the reader's own; tests/docs_test.ts runs the server",
  ],
  [/hf:|distilgpt2|gpt2-medium|--model gpt2/, "downloads a model or a file of the hub"],
];

/** Steps of a page per step of its test. */
const SCALE = 400;

/** Lines of indented blocks that begin with a command. */
function commandsOf(page: string): string[] {
  const text = Deno.readTextFileSync(join(root, "docs", `${page}.md`));
  const lines = [...text.matchAll(/^ {4}(?:\$ )?((?:deno task|deno run|\.\/toy) .*)$/gm)];
  return [...new Set(lines.map(([, command]) => command!.replace(/ +# .*$/, "").trim()))];
}

/** The words of a command, of which some are between double quotes. */
function wordsOf(command: string): string[] {
  return [...command.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, word]) => quoted ?? word!);
}

/** The texts and the tokenizer that the pages name. */
async function writeTexts(folder: string): Promise<void> {
  const story = (i: number) => `Story ${i}: once upon a time, ${i * i} girls lived in a wood.`;
  const stories = Array.from({ length: 60 }, (_, i) => story(i)).join("\n<|endoftext|>\n");
  for (const name of ["stories", "first", "second", "last", "other", "other-book"]) {
    Deno.writeTextFileSync(join(folder, `${name}.txt`), stories.replaceAll("wood", name));
  }
  Deno.mkdirSync(join(folder, "books"));
  Deno.writeTextFileSync(join(folder, "books", "one.txt"), stories);
  Deno.writeFileSync(join(folder, "books", "two.txt.gz"), gzipSync(stories));
  Deno.writeTextFileSync(join(folder, "notes.jsonl"), `{"text":"A note."}\n`.repeat(9));
  const chat = `{"prompt":"Who is Tim?","completion":"Tim is a boy."}\n`.repeat(40);
  Deno.writeTextFileSync(join(folder, "chat.jsonl"), chat);
  const { json } = await trainTokenizer([stories], { vocabularySize: 300 });
  Deno.writeTextFileSync(join(folder, "own.json"), json);
  const [example] = /(?<=```ts\n)[^]*?(?=```)/.exec(
    Deno.readTextFileSync(join(root, "docs", "library.md")),
  )!;
  Deno.writeTextFileSync(
    join(folder, "additions.ts"),
    example.replace("../mod.ts", new URL("../mod.ts", import.meta.url).href),
  );
}

/** The arguments of a task, scaled down for a test. */
function scaled(name: string, args: readonly string[], folder: string): string[] {
  const words = args.map((word, i) => {
    if (/^--(steps|resume-from|cooldown)$/.test(args[i - 1] ?? "") && /^\d+$/.test(word)) {
      return `${Math.ceil(Number(word) / SCALE)}`;
    }
    if (/^--(width|hidden)$/.test(args[i - 1] ?? "")) return `${Number(word) / 4}`;
    if (args[i - 1] === "--preset") return "nano";
    const step = (_: string, digits: string) => `${Number(digits) / SCALE}`.padStart(6, "0");
    return word.replace(/(?<=checkpoints\/)(\d{6})/, step);
  });
  if (name === "tokenizer") return [...words, "--vocab-size", "300", "--force"];
  if (name === "generate") return [...words, "--max-new-tokens", "8"];
  if (name === "eval") return [...words, "--tokens", "100"];
  if (name !== "train") return words;
  const value = (flag: string) => words[words.indexOf(flag) + 1]!;
  const isNamed = words.includes("--out");
  const isResumed = words.includes("--resume-from") ||
    isNamed && listCheckpoints(join(folder, value("--out"))).length > 0;
  return [
    ...words,
    ..."--batch-size 2 --context-length 40 --eval-tokens 50 --sample-every 0".split(" "),
    ...(isResumed || words.includes("--data") ? [] : ["--data", "stories.txt"]),
    ...(isNamed ? [] : ["--fresh"]), // as pages train in runs/default with one text after the other
    ...(isResumed || words.includes("--steps") ? [] : ["--steps", "5"]),
    ...(isResumed || /--(init-from|preset)/.test(words.join(" ")) ? [] : ["--preset", "nano"]),
  ];
}

for (const page of PAGES) {
  Deno.test(`the commands of docs/${page}.md run in their order`, async () => {
    const folder = join(directory, page);
    Deno.mkdirSync(folder);
    await writeTexts(folder);
    let count = 0;
    for (const command of commandsOf(page)) {
      if (LEFT_OUT.some(([part]) => part.test(command))) continue;
      const [program, kind, ...words] = wordsOf(command);
      const [name, args] = program === "./toy" ? [kind!, words] : [words[0]!, words.slice(1)];
      const { code, stderr } = kind === "run"
        ? await script(words, folder)
        : await task(name, scaled(name, args, folder), { cwd: folder });
      assert.equal(code, 0, `${command}\n${stderr}`);
      count++;
    }
    assert.ok(count >= 3, `only ${count} commands were found`);
  });
}

/** Runs a script as `deno run` does, which needs no project. */
async function script(args: string[], cwd: string): Promise<{ code: number; stderr: string }> {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-check", "--no-prompt", ...args],
    cwd,
  }).output();
  return { code, stderr: new TextDecoder().decode(stderr) };
}

Deno.test("every reason to leave out a command applies to one", () => {
  const all = PAGES.flatMap(commandsOf);
  for (const [part, reason] of LEFT_OUT) assert.ok(all.some((line) => part.test(line)), reason);
  const left = all.filter((line) => LEFT_OUT.some(([part]) => part.test(line)));
  assert.ok(left.length < all.length / 3, `${left.length} of ${all.length} are left out`);
});
