import assert from "node:assert/strict";
import { join } from "node:path";
import type { JsonObject } from "../../files/json.ts";
import { changeFields, readFields } from "../checkpoints.ts";
import { once } from "../once.ts";
import { task, taskOnTerminal } from "./task.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

const RUN = join(directory, "run");
const trained = once(() =>
  task("train", [
    ..."--preset nano --steps 2 --save-every 1 --batch-size 2 --context-length 16".split(" "),
    ..."--eval-tokens 50 --sample-every 0 --out".split(" "),
    RUN,
  ])
);

const judge = async (...args: string[]) => {
  assert.equal((await trained()).code, 0);
  return await task("judge", ["--stories", "3", "--run", RUN, ...args]);
};

Deno.test("judge prints a table per way to draw tokens, and draws the shares under the loss curve", async () => {
  const svg = join(directory, "judge.svg");
  const { code, stdout, stderr } = await judge("--svg", svg);
  assert.equal(code, 0, stderr);
  const [greedy, sampled] = stdout.split("\n\n");
  for (const [table, title] of [[greedy, "greedy"], [sampled, "temperature 0.8, top-p 0.95"]]) {
    const lines = table!.trimEnd().split("\n");
    assert.equal(lines[0], `${title}: % (95 % confidence interval) of how many`);
    assert.match(lines[1]!, /^step +sentences +hero +animal +thing$/);
    assert.match(lines[2]!, /^1 .* 0 \(0–\d+\) of 3 +0 \(0–\d+\) of 1 +0 \(0–\d+\) of 1$/);
    assert.match(lines[3]!, /^2 /);
    assert.equal(lines.length, 4);
  }
  assert.match(stderr, /^judged step 1, checkpoint 1 of 2\njudged step 2, checkpoint 2 of 2\n/);
  const picture = Deno.readTextFileSync(svg);
  assert.match(picture, /^<svg .*validation \d.*stories that keep their hero.*<\/svg>\s*$/s);
  assert.ok(picture.includes(`<title>What ${RUN} has learned</title>`));
});

Deno.test("judge --json prints an object per checkpoint, greedy alone at temperature 0", async () => {
  const { code, stdout, stderr } = await judge("--json", "--checkpoint", "2", "--temperature", "0");
  assert.equal(code, 0, stderr);
  const { greedy, heads, ...rest } = JSON.parse(stdout);
  assert.deepEqual(rest, { step: 2 });
  assert.equal(heads.length, 4);
  assert.deepEqual(Object.keys(heads[0]), ["layer", "head", "weight"]);
  assert.deepEqual(Object.keys(greedy), ["sentences", "hero", "animal", "thing"]);
  const { interval, ...hero } = greedy.hero;
  assert.deepEqual(hero, { count: 0, of: 3 });
  assert.ok(interval[0] === 0 && interval[1] > 0.5 && interval[1] < 0.6, `${interval}`);
});

Deno.test("judge asks a model of conversations questions", async () => {
  await trained();
  const copy = join(directory, "asked"), checkpoint = join(copy, "checkpoints", "000002");
  assert.equal((await new Deno.Command("cp", { args: ["-r", RUN, copy] }).output()).code, 0);
  const { data } = readFields(checkpoint);
  changeFields(checkpoint, { data: { ...(data as JsonObject), name: "conversations" } });
  const options = ["--checkpoint", checkpoint, "--questions", "10", "--temperature", "0"];
  const { code, stdout, stderr } = await task("judge", options);
  assert.equal(code, 0, stderr);
  assert.match(
    stdout.split("\n")[1]!,
    /^step +all +hero +animal +place +thing +color +food +family +plant +home$/,
  );
  assert.match(stdout, /^2 +0 \(0–28\) of 10 +0 \(0–66\) of 2 /m);
  assert.match(stderr, /^judged step 2, .*\ndocs\/chat.md says what is counted\n$/);

  // the number of the other kind is refused
  const [stories, questions] = await Promise.all([
    task("judge", ["--checkpoint", checkpoint, "--stories", "9"]),
    judge("--questions", "200"),
  ]);
  assert.match(
    stories.stderr,
    /^Error: Cannot judge with --stories as it is for models of texts: this one was trained on conversations\n/,
  );
  assert.match(
    questions.stderr,
    /^Error: Cannot judge with --questions as it is for models of --data conversations: this one was trained on sample\n/,
  );
});

Deno.test("judge draws the losses of the run in which a checkpoint is", async () => {
  await trained();
  const svg = join(directory, "other.svg"), checkpoint = join(RUN, "checkpoints", "000002");
  const options = ["--stories", "3", "--temperature", "0", "--checkpoint", checkpoint];
  const { code, stderr } = await task("judge", [...options, "--svg", svg], { cwd: directory });
  assert.equal(code, 0, stderr);
  assert.match(Deno.readTextFileSync(svg), /validation \d.*<\/svg>\s*$/s);
});

Deno.test("judge names the options of the sampler above its tables, and shows its progress on a terminal", async () => {
  await trained();
  const options = "--checkpoint 1 --top-k 9 --top-p 1 --repetition-penalty 1.5 --stories 4";
  const args = ["--run", RUN, ...options.split(" ")];
  const { code, stdout, stderr } = await taskOnTerminal("judge", args);
  assert.equal(code, 0, stderr);
  const titles = stdout.split("\n").filter((line) => /^[a-z].*,/.test(line));
  const penalty =
    "repetition penalty 1.5 on the last 64 tokens: % (95 % confidence interval) of how many";
  assert.deepEqual(titles, [`greedy, ${penalty}`, `temperature 0.8, top-k 9, ${penalty}`]);
  const bars = stderr.matchAll(/(=*)-* checkpoint 1 of 1: (\d+) %/g);
  assert.deepEqual(
    Array.from(bars, ([, full, percent]) => [full!.length, Number(percent)]),
    [0, 12.5, 25, 37.5, 50, 62.5, 75, 87.5, 100].map((percent) => [
      Math.round(12 * percent / 100),
      Math.floor(percent),
    ]),
  );
});

Deno.test("judge skips a damaged checkpoint, and refuses one that is named", async () => {
  const copy = join(directory, "copy");
  await trained();
  const { code: copied } = await new Deno.Command("cp", { args: ["-r", RUN, copy] }).output();
  assert.equal(copied, 0);
  Deno.writeTextFileSync(join(copy, "checkpoints/000001/model.safetensors"), "no weights");
  const { code, stdout, stderr } = await judge("--run", copy, "--json");
  assert.equal(code, 0, stderr);
  assert.match(stderr, /^Warning: Cannot load .*000001/m);
  assert.equal(JSON.parse(stdout).step, 2);
  const named = await judge("--run", copy, "--checkpoint", "1");
  assert.equal(named.code, 1);
  assert.match(named.stderr, /^Error: Cannot load .*000001/);
});

Deno.test("judge says what is wrong when there is no run, or no SVG to write", async () => {
  const missing = await judge("--run", join(directory, "no"));
  assert.equal(missing.code, 1);
  assert.match(
    missing.stderr,
    /^Error: Cannot load a model from .*no as there is no such directory/,
  );
  const file = join(directory, "a.txt");
  const { code, stderr } = await judge("--svg", file);
  assert.equal(code, 1);
  assert.match(
    stderr,
    /^Error: Cannot write .*a\.txt as --svg must name a file that ends in \.svg/,
  );
});
