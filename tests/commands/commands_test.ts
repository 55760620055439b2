import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { trainTokenizer } from "../../data/tokenizer/train.ts";
import { flagOf } from "../../files/command_line.ts";
import { DEFAULT_SLOTS } from "../../generate/engine.ts";
import { MODEL_NAMES } from "../../generate/source.ts";
import { listCheckpoints } from "../../model/files/checkpoint.ts";
import type { TrainEvent } from "../../train/events.ts";
import { OPTION_NAMES } from "../../train/options.ts";
import { DRAIN_SECONDS, QUEUE, REQUEST_SECONDS } from "../../serve/limits.ts";
import { Screen } from "./screen.ts";
import { HubServer } from "../data/hub/server.ts";
import { once } from "../once.ts";
import { root, task, taskOnTerminal, tasks } from "./task.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** A run of six steps. */
const out = join(directory, "run");
const trained = once(() =>
  task("train", [
    ..."--preset nano --steps 6 --batch-size 2 --context-length 16 --log-every 1".split(" "),
    ..."--eval-tokens 500 --sample-every 6".split(" "),
    "--out",
    out,
  ])
);

Deno.test("train prints its progress on stderr and its result on stdout", async () => {
  const { code, stdout, stderr } = await trained();
  assert.equal(code, 0, stderr);
  assert.equal(stdout, `${join(out, "checkpoints", "000006")}\n`);
  assert.match(stderr, /^preset nano, as asked; precision f\d\d on /);
  const named = [...stderr.matchAll(/^(?:options:| {2}) ?(--.*)$/gm)].flatMap(([, line]) =>
    [...line!.matchAll(/--([\w-]+)/g)].map(([flag]) => flag)
  );
  assert.ok(named.includes("--context-length"), stderr);
  const flags = OPTION_NAMES.map((name) => flagOf(name));
  assert.deepEqual(named.filter((flag) => !flags.includes(flag)), []);
  // on a GPU that has f16 also the loss scale, and steps that were skipped to find it
  const scaling = "( scale \\d+)?( skipped \\d+)?";
  const step = `step 6/6 epoch 0\\.\\d+ loss \\d\\.\\d{3} lr \\S+ muon \\S+ norm \\S+${scaling} ` +
    "\\d+ tok/s 0\\.0s left";
  assert.match(stderr, new RegExp(step));
  assert.match(
    stderr,
    /validation loss \S+ nats per token \(at best 0\.\d{3}, the entropy of the stories\)/,
  );
  const generate = `deno task generate --run ${out} 'One rainy afternoon'`;
  assert.ok(stderr.endsWith(`done: 6 steps; to generate text: ${generate}\n`), stderr);
  assert.ok(!stderr.includes("\x1b["), "terminal codes in a pipe");
  const lines = Deno.readTextFileSync(join(out, "metrics.jsonl")).trim().split("\n");
  assert.deepEqual(
    lines.map((line) => JSON.parse(line)).filter((line) => line.kind === "step").map((line) =>
      line.step
    ),
    [1, 2, 3, 4, 5, 6],
  );
  assert.match(Deno.readTextFileSync(join(out, "loss.svg")), /^<svg .*<\/svg>\s*$/s);
});

Deno.test("diagnose prints a table or JSON, shows its progress on a terminal, and its exit status says whether a model is sick", async () => {
  await trained();
  const sick = join(directory, "sick");
  cpSync(out, sick, { recursive: true });
  const step = { kind: "step", step: 6, loss: 3, lossScale: 0.5 };
  Deno.writeTextFileSync(join(sick, "metrics.jsonl"), `${JSON.stringify(step)}\n`, {
    append: true,
  });
  const table = await task("diagnose", [sick]);
  assert.equal(table.code, 2, table.stderr);
  assert.match(
    table.stdout,
    /^verdict +check +number +healthy +what is measured\nsick +overflowing-g/,
  );
  assert.match(table.stdout, /^ {4}Cure: Use a lower --learning-rate, or --precision f32\.$/m);
  assert.match(
    table.stderr,
    /^diagnosing .*000006\n(checking .*\n)*14 checks: 1 sick, \d unknown, \d+ ok$/m,
  );

  const healthy = await taskOnTerminal("diagnose", ["--run", out, "--json"]);
  assert.equal(healthy.code, 0, healthy.stderr);
  const percents = healthy.stderr.matchAll(/ checking \S+000006: (\d+) % of 14\s+checks/g);
  assert.deepEqual(Array.from(percents, ([, percent]) => percent).slice(-2), ["92", "100"]);
  const { model, step: done, checks } = JSON.parse(healthy.stdout);
  assert.deepEqual([model, done], [join(out, "checkpoints", "000006"), 6]);
  assert.equal(checks.length, 14);

  const absent = await task("diagnose", [join(directory, "absent")]);
  assert.deepEqual([absent.code, absent.stdout], [1, ""]);
  assert.match(absent.stderr, /^Error: Cannot .*\n/);
  for (const other of [["--model", "gpt2"], ["--run", "runs/b"]]) {
    const both = await task("diagnose", [out, ...other]);
    assert.equal(both.code, 1);
    assert.match(both.stderr, /only one must be given: both are given\n/);
  }
});

Deno.test("train --minutes prints one line of JSON with what it has reached", async () => {
  const { code, stdout, stderr } = await task("train", [
    ..."--minutes 1e4 --depth 1 --context-length 8 --steps 2 --eval-tokens 50".split(" "),
    ..."--sample-every 0 --tune off --out".split(" "),
    join(directory, "in time"),
  ]);
  assert.equal(code, 0, stderr);
  const { path, seconds, parameters, tokens, flops, loss, bitsPerByte, ...given } = JSON.parse(
    stdout,
  );
  assert.deepEqual(given, { minutes: 1e4, depth: 1, steps: 2 });
  assert.equal(path, join(directory, "in time", "checkpoints", "000002"));
  assert.ok(seconds > 0 && parameters > 12 * 32 ** 2 && tokens % 16 === 0);
  assert.ok(flops > 6 * tokens * 12 * 32 ** 2 && loss > bitsPerByte && bitsPerByte > 0);
});

Deno.test("train --json prints events on stdout, one per line, and nothing else there", async () => {
  const { code, stdout, stderr } = await task("train", [
    ..."--preset nano --steps 2 --batch-size 2 --context-length 16 --eval-tokens 500 --json".split(
      " ",
    ),
    ...["--out", join(directory, "json")],
  ]);
  assert.equal(code, 0, stderr);
  const events: TrainEvent[] = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
  const kinds = new Set(events.map(({ kind }) => kind));
  for (const kind of ["notice", "start", "step", "evaluation", "sample", "checkpoint"] as const) {
    assert.ok(kinds.has(kind), kind);
  }
  const steps = events.filter((event) => event.kind === "step");
  assert.deepEqual(steps.map(({ step }) => step), [1, 2]);
  assert.ok(steps.every(({ epoch, loss }) => epoch > 0 && loss > 0));
  const end = events.at(-1)!;
  assert.ok(end.kind === "end" && end.path === join(directory, "json", "checkpoints", "000002"));
  assert.match(stderr, /^done: 2 steps; to generate text: /m);
});

Deno.test("train, prepare and eval validate with the text of --validation-data", async () => {
  const home = join(directory, "validated");
  Deno.mkdirSync(home);
  const stories = Array.from({ length: 30 }, (_, i) => `Story ${i} has an end.`);
  Deno.writeTextFileSync(join(home, "a.txt"), stories.join("\n<|endoftext|>\n"));
  Deno.writeTextFileSync(join(home, "v.txt"), "A story.");
  const run = async (name: string, ...args: string[]) => {
    const { code, stdout, stderr } = await task(name, args, { cwd: home });
    assert.equal(code, 0, stderr);
    return { stdout, stderr };
  };
  const data = ["--validation-data", "v.txt"];
  const { stdout: prepared } = await run("prepare", "a.txt", ...data);
  assert.match(prepared, /^a\.txt: 31 documents, \d+ tokens$/m);
  const shape = "--preset nano --steps 1 --batch-size 1 --context-length 8".split(" ");
  const { stderr } = await run("train", "--data", "a.txt", ...data, ...shape);
  assert.match(stderr, /^reading a\.txt, v\.txt$/m);
  assert.match(stderr, /tokens to train on, 4 to validate with; .*; found in the cache$/m);
  const { stdout } = await run("eval", "--json");
  const { data: evaluated, tokens, loss } = JSON.parse(stdout);
  assert.deepEqual([evaluated, tokens], [Deno.realPathSync(join(home, "v.txt")), 4]);
  assert.equal(JSON.parse((await run("eval", "--json", "--data", "v.txt")).stdout).loss, loss);
});

/** Columns of terminals: fewer than most lines have, the usual number, and more than most lines have. */
const WIDTHS = [40, 80, 200];

Deno.test({
  name:
    "train leaves on terminals of three widths the lines of its log, whole and without its steps",
  ignore: Deno.build.os !== "linux", // others' script(1) takes other arguments
  async fn() {
    const words = (tasks.train.command as string).replace("deno", Deno.execPath());
    const shape = "--preset nano --steps 2 --batch-size 1 --context-length 16 --tune off";
    const run = async (columns?: number) => {
      const user = join(directory, `columns-${columns ?? "no"}`.padEnd(12, "-"));
      Deno.mkdirSync(user);
      Deno.writeTextFileSync(join(user, "tales.txt"), "One day, Tom went far away.\n".repeat(50));
      const line = `${words} ${shape} --data tales.txt --sample-every 0 --out run 2>&1`;
      const { stdout } = await new Deno.Command(columns === undefined ? "sh" : "script", {
        args: columns === undefined
          ? ["-c", line]
          : ["-qec", `stty rows 24 cols ${columns}; ${line}`, "/dev/null"],
        cwd: root,
        env: { TERM: "xterm", NO_COLOR: "", CI: "", INIT_CWD: user, TOY_COMMAND: "" },
        stdin: "null",
      }).output();
      const text = new TextDecoder().decode(stdout).replaceAll("\r\n", "\n");
      return text.slice(text.indexOf("preset nano")).replaceAll(user, "");
    };
    /**
     * Without the speed, which differs, the first step, which only a log has, what is said of a machine that is slow, and
     * the line breaks of the options, which depend on the width.
     */
    const lasting = (lines: string[]) =>
      lines.join("\n").replaceAll("\n   --", " --").split("\n")
        .filter((line) => !/^(step 1\/2|the first step took) | % of .*\/s\b/.test(line))
        .map((line) =>
          line.replace(/ \d+ tok\/s .* left$| in \S+s; the steps alone: \d+ tokens per second$/, "")
        );
    const [log, ...texts] = await Promise.all([undefined, ...WIDTHS].map(run));
    assert.match(log!, /\nstep 1\/2 .*\nstep 1: validation loss (.*\n)*done: 2 steps/);
    const expected = lasting(log!.trimEnd().split("\n"));
    for (const [i, text] of texts.entries()) {
      const screen = new Screen(WIDTHS[i]!);
      screen.write(text);
      assert.deepEqual(lasting(await screen.lines()), expected);
    }
  },
});

Deno.test("train --dry-run prints what the training would need, and makes no file", async () => {
  const user = join(directory, "dry");
  Deno.mkdirSync(user);
  Deno.writeTextFileSync(join(user, "tales.txt"), "One day, Tom went far away.\n".repeat(50));
  const shape = "--preset nano --steps 9 --batch-size 1 --context-length 8 --data tales.txt";
  const { code, stdout, stderr } = await task("train", [...shape.split(" "), "--dry-run"], {
    cwd: user,
  });
  assert.equal(code, 0, stderr);
  assert.match(
    stdout,
    /^parameters +\d+, all trained\nmemory +\S+ .B on .*\n[^]*\ntime +\S+s for 9 steps of \S+( m|)s\n/,
  );
  assert.match(
    stderr,
    /\noptions: --preset nano, [^]*\ndry run, training \d+ parameters for 9 steps/,
  );
  assert.match(stderr, /\nnothing was changed; to train, repeat the command without --dry-run\n$/);
  assert.deepEqual([...Deno.readDirSync(user)].map(({ name }) => name), ["tales.txt"]);
});

Deno.test("train --patience names the best checkpoint when the validation loss has not become better", async () => {
  const path = join(directory, "patience");
  const shape = "--preset nano --steps 9 --batch-size 1 --context-length 8 --eval-tokens 50";
  const { code, stdout, stderr } = await task("train", [
    ...`${shape} --eval-every 1 --sample-every 0 --learning-rate 0 --muon-learning-rate 0 --patience 2 --out`
      .split(" "),
    path,
  ]);
  assert.equal(code, 0, stderr);
  const [best, last] = ["000001", "000003"].map((step) => join(path, "checkpoints", step));
  assert.equal(stdout, `${last}\n`);
  const end =
    "ended after step 3, as 2 evaluations found no better validation loss (--patience; 0 " +
    `continues); the best checkpoint is ${best}; to generate text: ` +
    `deno task generate --run ${path} --checkpoint best 'One rainy afternoon'\n`;
  assert.ok(stderr.endsWith(end), stderr);
});

Deno.test("train says what continues a run that has done its steps, and leaves it as it is", async () => {
  await trained();
  const resumed = join(directory, "resumed"), path = join(resumed, "checkpoints", "000006");
  cpSync(out, resumed, { recursive: true });
  for (const steps of [[], ["--steps", "6"], ["--steps", "3"]]) {
    const { code, stdout, stderr } = await task("train", ["--out", resumed, ...steps]);
    assert.equal(code, 0, stderr);
    assert.equal(stdout, `${path}\n`);
    assert.match(stderr, /resumed has done 6 steps already: give --steps above 6 to continue\n/);
    assert.doesNotMatch(stderr, /resuming/);
  }
  const starts = Deno.readTextFileSync(join(resumed, "metrics.jsonl")).split("\n")
    .filter((line) => line.includes('"start"'));
  assert.equal(JSON.parse(starts.at(-1)!).options.steps, 6); // as lists of runs say
  const { code, stderr } = await task("train", ["--out", resumed, "--steps", "7"]);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /\nresuming from step 6: \d+ parameters for 7 steps, .* into /);
});

Deno.test("train draws samples from --sample-prompt, and ends with a command that has it", async () => {
  const run = join(directory, "prompted"), prompt = "-- It's";
  const shape = "--preset nano --steps 1 --batch-size 1 --context-length 8 --sample-every 1";
  const { code, stderr } = await task("train", [
    ...[...shape.split(" "), "--eval-tokens", "100", "--out", run, `--sample-prompt=${prompt}`],
  ]);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /\n\n-- It's/);
  const [, command] = /to generate text: (.*)\n$/.exec(stderr)!;
  assert.equal(command, `deno task generate --run ${run} -- '-- It'\\''s'`);
});

Deno.test("generate prints the same completion for the same seed", async () => {
  await trained();
  const args = ["--run", out, "--seed", "3", "--max-new-tokens", "12"];
  const first = await task("generate", ["Once upon a time", ...args]);
  assert.equal(first.code, 0, first.stderr);
  assert.match(first.stdout, /^Once upon a time.+\n$/s);
  const second = await task("generate", ["-", ...args], { input: "Once upon a time\n" });
  assert.equal(second.stdout, first.stdout);
});

Deno.test("train and generate name the flag to lower when the device is too small", async () => {
  await trained();
  const large = "--preset nano --batch-size 16384 --context-length 32768 --out".split(" ");
  const { code, stderr } = await task("train", [...large, join(directory, "large")]);
  assert.equal(code, 1);
  assert.match(
    stderr,
    /\nError: Cannot train as --batch-size must be at most \d+ with --context-length 32768 on .*; --batch-size \d+ --gradient-accumulation \d+ trains on the same rows\n$/,
  );
  const many = await task("generate", ["Once", "--run", out, "--max-new-tokens", "2000000000"]);
  assert.equal(many.code, 1);
  assert.match(
    many.stderr,
    /^Error: Cannot generate as --max-new-tokens must be at most \d+ after a prompt of \d+ tokens? on [^\n]*: current value is 2000000000 \([^\n]*\)\n$/,
  );
});

Deno.test("generate says how much of a prompt the model reads if its context is shorter", async () => {
  await trained();
  const args = ["--run", out, "--seed", "3", "--max-new-tokens", "1", "a b ".repeat(10).trim()];
  const { code, stdout, stderr } = await task("generate", args);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^(a b ){9}a b/);
  assert.match(
    stderr,
    /^the prompt has 20 tokens, of which the model reads the last 12: its context has 16\n$/,
  );
});

Deno.test("generate --json writes one object per completion", async () => {
  await trained();
  const args = ["--run", out, ..."--json --samples 2 --seed 1 --max-new-tokens 3".split(" ")];
  const { stdout, stderr } = await task("generate", [out, ...args]);
  const sentence = "the path is continued as a text, though it is a run; to load it: --run";
  assert.match(stderr, new RegExp(`^${sentence} ${RegExp.escape(out)}\n`));
  const stories = stdout.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(stories.map(({ prompt, seed }) => [prompt, seed]), [[out, 1], [out, 2]]);
  assert.ok(
    stories.every(({ text, reason, tokens }) => typeof text === "string" && reason && tokens <= 3),
  );
});

Deno.test("generate --stop needs one text, may be repeated, and ignores the prompt", async () => {
  await trained();
  const args = ["--run", out, "--seed", "3", "--max-new-tokens", "12"];
  const prompt = "-5 degrees";
  const { stdout: whole } = await task("generate", [...args, "--", prompt]);
  const story = whole.slice(prompt.length, -1),
    [early, late] = [story.slice(2, 4), story.slice(6, 8)];
  const stops = ["--stop", late, "--stop", early];
  const { stdout, stderr } = await task("generate", [...args, ...stops, "--", prompt]);
  const ends = [early, late].map((text) => story.indexOf(text));
  assert.equal(stdout, `${prompt}${story.slice(0, Math.min(...ends))}\n`, stderr);
});

Deno.test("eval measures a checkpoint on the answers of conversations, and counts them", async () => {
  await trained();
  const data = join(directory, "chats.jsonl");
  const messages = [{ role: "user", content: "Who?" }, { role: "assistant", content: "Tim." }];
  Deno.writeTextFileSync(data, `${JSON.stringify({ messages })}\n`.repeat(20));
  const evaluate = (...words: string[]) =>
    task("eval", ["--run", out, "--data", data, "--json", ...words]);
  const { code, stdout, stderr } = await evaluate();
  assert.equal(code, 0, stderr);
  const { loss, perplexity, bitsPerByte, tokens } = JSON.parse(stdout);
  assert.ok(Math.abs(perplexity - Math.exp(loss)) < 1e-9 * perplexity && bitsPerByte > 0);
  assert.match(stderr, new RegExp(`^evaluating \\S+ on ${tokens} tokens in answers$`, "m"));
  const some = await evaluate("--tokens", "33");
  const on = `on the first 33 of ${tokens} tokens in answers, rounded up to whole batches`;
  assert.match(some.stderr, new RegExp(`^evaluating \\S+ ${on}$`, "m"));
  const { tokens: first } = JSON.parse(some.stdout);
  assert.ok(first >= 33 && first < tokens, `${first}`);
});

Deno.test("eval measures another model on the text that a run holds out", async () => {
  await trained();
  const model = join(directory, "whole-copy");
  cpSync(join(out, "checkpoints", "000006"), model, { recursive: true });
  Deno.removeSync(join(model, "trainer_state.json"));
  const measure = async (...args: string[]) =>
    JSON.parse((await task("eval", [...args, "--tokens", "100", "--json"])).stdout);
  const { loss, data } = await measure("--run", out);
  const other = await measure("--model", model, "--held-out-of", out);
  assert.equal(other.data, data);
  assert.ok(Math.abs(other.loss - loss) < 1e-4, `${other.loss} is not ${loss}`); // other batches
});

Deno.test("eval and train find a run's text from any directory, and recognize it by its content", async () => {
  const home = join(directory, "home"), away = join(directory, "away");
  for (const path of [home, away]) Deno.mkdirSync(path);
  const stories = Array.from({ length: 40 }, (_, i) => `Story ${i}: a girl named Lily.`);
  const text = stories.join("\n<|endoftext|>\n");
  Deno.writeTextFileSync(join(home, "lily.txt"), text);
  const shape = "--preset nano --steps 1 --batch-size 1 --context-length 8 --eval-every 0".split(
    " ",
  );
  const training = await task("train", ["--data", "lily.txt", "--out", "run", ...shape], {
    cwd: home,
  });
  assert.equal(training.code, 0, training.stderr);

  const run = ["--run", join("..", "home", "run")];
  const measure = async (...args: string[]) => {
    const { code, stdout, stderr } = await task("eval", [...run, "--json", ...args], { cwd: away });
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout);
  };
  const heldOut = await measure();
  assert.equal(heldOut.data, "held out of lily.txt");
  Deno.renameSync(join(home, "lily.txt"), join(away, "moved.txt"));
  assert.deepEqual(await measure("--data", "./moved.txt"), {
    ...heldOut,
    data: "held out of moved.txt",
  });

  const gone = await task("eval", run, { cwd: away });
  assert.equal(gone.code, 1);
  assert.match(
    gone.stderr,
    /its data must be readable: \S+lily\.txt: there is no such file; give the present path .* --data\n$/,
  );
  Deno.writeTextFileSync(join(home, "lily.txt"), text.replace("Story 3", "Story 4"));
  const changed = await task("eval", run, { cwd: away });
  assert.equal(changed.code, 1);
  assert.match(
    changed.stderr,
    /must be unchanged: lily\.txt has changed since; give the present path/,
  );
  const out = ["--out", join("..", "home", "run"), "--steps", "2"];
  const refused = await task("train", out, { cwd: away });
  assert.equal(refused.code, 1);
  assert.match(
    refused.stderr,
    /lily\.txt has changed since\nFor another model choose --out .* with --data/,
  );
  const resumed = await task("train", [...out, "--data", "moved.txt"], { cwd: away });
  assert.equal(resumed.code, 0, resumed.stderr);
});

Deno.test("generate, eval and export use the checkpoint of a run that is named by its steps or as the best", async () => {
  await trained();
  const generate = (...args: string[]) =>
    task("generate", [
      "--run",
      out,
      "--max-new-tokens",
      "3",
      "--temperature",
      "0",
      ...args,
      "Once",
    ]);
  const newest = await generate();
  assert.deepEqual([newest.code, newest.stderr], [0, ""]); // the newest is the best
  for (const name of ["6", "best", "latest", join(out, "checkpoints/000006")]) {
    assert.equal((await generate("--checkpoint", name)).stdout, newest.stdout, name);
  }
  const earlier = await generate("--checkpoint", "99");
  assert.match(earlier.stderr, /^Error: Cannot find checkpoint "99" of .*: its checkpoints are /);
  assert.equal(earlier.code, 1);
  const copy = join(directory, "not-best");
  cpSync(out, copy, { recursive: true });
  const [, second] = listCheckpoints(copy);
  Deno.writeTextFileSync(join(copy, "best"), `${second!.path.slice(-6)}\n`);
  const { stderr } = await task("generate", ["--run", copy, "--max-new-tokens", "3", "Once"]);
  assert.match(stderr, /^using the newest checkpoint of .*, after 6 steps; .* --checkpoint best$/m);
});

Deno.test("runs lists the runs of a folder, as a table or as JSON", async () => {
  await trained();
  const { code, stdout } = await task("runs", [out]);
  assert.equal(code, 0);
  assert.match(stdout, /^run +steps .*\n.*\/run +6\/6 +\d+ k +\d\.\d{3} /);
  const [run] = JSON.parse((await task("runs", [out, "--json"])).stdout);
  assert.deepEqual([run.step, run.steps, run.data], [6, 6, "sample"]);
  const none = await task("runs", [directory + "-none"]);
  assert.deepEqual([none.code, none.stdout], [1, ""]);
  assert.match(none.stderr, /^Error: Cannot list the runs in .* as there is no such directory$/m);
});

Deno.test("compare writes a table to stdout and a plot to a file", async () => {
  await trained();
  const svg = join(directory, "compare.svg");
  const { code, stdout, stderr } = await task("compare", [out, "--svg", svg]);
  assert.equal(code, 0, stderr);
  const [head, line, ...rest] = stdout.split("\n");
  assert.match(
    head!,
    /^run +params +steps +tokens +time +FLOPs +loss +bits\/byte +best loss +at tokens$/,
  );
  assert.match(line!, /^\S+run +[\d.]+ k +6 +192 +\S+s +\d\.\de\d +\d\.\d{3} +\d\.\d{3} /);
  assert.deepEqual(rest, [""]);
  assert.equal(stderr, `drawn in ${svg}\n`);
  assert.match(Deno.readTextFileSync(svg), /^<svg .*<\/svg>\s*$/s);
});

Deno.test("inspect prints what a model computes of a text, as a table, JSON and a picture", async () => {
  await trained();
  const inspect = (...args: string[]) =>
    task("inspect", ["--run", out, ...args], { input: "Once\n" });
  const { stdout, stderr } = await inspect("-", "--top", "3");
  assert.match(
    stdout,
    /^token +prob +rank +alternatives\n.*\n"Once" +\S+ % +\d+ .*\nnext /,
    stderr,
  );
  const svg = join(directory, "attention.svg");
  const drawn = await inspect("Once", "--attention", "1.0", "--svg", svg, "--json");
  assert.equal(drawn.stderr, `drawn in ${svg}\n`);
  assert.match(Deno.readTextFileSync(svg), /^<svg .*Attention of head 1\.0 of .*<\/svg>\s*$/s);
  const [first] = JSON.parse(drawn.stdout).weights as number[][];
  assert.deepEqual(first!.map((weight) => Number(weight.toFixed(6))), [1, 0]); // softmax rounds
});

Deno.test("shapes lists the tensors of a run's training, as a table, JSON and a picture", async () => {
  await trained();
  const { stdout, stderr } = await task("shapes", ["--run", out]);
  const [, precision] = /^preset nano, as in the checkpoint; precision (f\d\d) on /.exec(stderr)!;
  const size = precision === "f16" ? "12\\.3" : "24\\.6"; // a GPU may train in f16
  const qkv = `\nactivations +qkv 1 +32 × 192 +${precision} +${size} kB +\\d+–\\d+\n`;
  assert.match(stdout, new RegExp(`^memory [^]*${qkv}`));
  const svg = join(directory, "shapes.svg");
  const drawn = await task("shapes", ["--run", out, "--svg", svg, "--json"]);
  assert.ok(drawn.stderr.endsWith(`\ndrawn in ${svg}\n`), drawn.stderr);
  const { tensors, memory } = JSON.parse(drawn.stdout);
  assert.equal(
    tensors.reduce((sum: number, { bytes }: { bytes: number }) => sum + bytes, 0),
    memory.total,
  );
  assert.match(Deno.readTextFileSync(svg), /^<svg .*<\/svg>\s*$/s);
});

Deno.test("compare skips what is no run, and fails if nothing is left or a path does not exist", async () => {
  await trained();
  const svg = join(directory, "skipped.svg"), cache = join(directory, "cached");
  const file = join(directory, "skipped.txt");
  Deno.mkdirSync(cache);
  Deno.writeTextFileSync(file, "");
  const compare = (...paths: string[]) => task("compare", [...paths, "--svg", svg]);
  const { code, stdout, stderr } = await compare(cache, out, file);
  assert.equal(code, 0, stderr);
  assert.equal(stdout.split("\n").length, 3, "one run");
  const notices = `skipping ${cache} as it is no run\n` +
    `skipping ${file} as it is a file, and a run is a directory\n`;
  assert.equal(stderr, `${notices}drawn in ${svg}\n`);
  const nothing = await compare(cache, file);
  assert.equal(nothing.code, 1);
  assert.equal(
    nothing.stderr,
    `${notices}Error: Cannot compare as a path must be a run with an evaluation: none is\n`,
  );
  const absent = await compare(out, join(out, "000006")); // its checkpoint is in checkpoints/
  assert.equal(absent.code, 1);
  assert.match(
    absent.stderr,
    /000006 as there is no such run\nA run is at \S+run; to list all: deno task runs \S+\n$/,
  );
});

Deno.test("compare reads a run once, also by its checkpoint, and draws a single one only when asked to", async () => {
  await trained();
  const checkpoint = join(out, "checkpoints", "000006");
  const { code, stdout, stderr } = await task("compare", [out, `${out}/.`, checkpoint]);
  assert.equal(code, 0, stderr);
  assert.equal(stdout.split("\n").length, 3, "one run");
  assert.match(stderr, /^\S+000006 is in \S+run, which is compared\n$/);
});

Deno.test("compare and bench replace only what they could have written", async () => {
  const text = join(directory, "thesis.svg"), plot = join(directory, "old.svg");
  Deno.writeTextFileSync(text, "My thesis");
  Deno.writeTextFileSync(plot, '<?xml version="1.0"?>\n<!-- old -->\n<svg></svg>');
  await trained();
  assert.equal((await task("compare", [out, "--svg", plot])).code, 0);
  assert.match(Deno.readTextFileSync(plot), /^<svg xmlns/);
  const refused = await task("compare", [out, "--svg", text]);
  assert.match(
    refused.stderr,
    /^Error: Cannot write \S+ as --svg replaces only an SVG file: .*; choose another --svg\n$/,
  );
  const report = await task("bench", ["--json", text]);
  assert.match(report.stderr, /^Error: Cannot write \S+ as --json replaces only an older report: /);
  assert.equal(Deno.readTextFileSync(text), "My thesis");
});

Deno.test("prepare caches tokens, so that a second run finds them", async () => {
  const text = join(directory, "stories.txt"), cache = join(directory, "cache");
  await Deno.writeTextFile(text, "One.\n<|endoftext|>\nTwo.\n");
  const first = await task("prepare", [text, "--cache", cache]);
  assert.equal(first.stdout, "stories.txt: 2 documents, 6 tokens\n");
  assert.match(
    first.stderr,
    /written to .*cache: 8 bytes of text in \S+s, \S+ (bytes|kB|MB)\/s\n/i,
  );
  assert.match((await task("prepare", [text, "--cache", cache])).stderr, /found in/);
  const steps = ["--steps", "1", "--batch-size", "1", "--context-length", "4", "--preset", "nano"];
  const { stderr } = await task("train", [
    "--data",
    text,
    "--out",
    join(directory, "prepared"),
    "--sequence",
    "padded",
    ...steps,
  ]);
  assert.match(stderr, /; found in the cache\n/); // beside the run, as the command's default is
});

/** Runs with the hub's place in the environment; tests of commands share one cache and one hub. */
const hub = new HubServer("datasets/roneneldan/TinyStories");
globalThis.addEventListener("unload", () => hub[Symbol.asyncDispose]());
const encode = (text: string) => new TextEncoder().encode(text);
const hubEnvironment = { HF_HOME: join(directory, "hub"), HF_ENDPOINT: hub.endpoint };
const story = (i: number) => `Story ${i}: once upon a time, there was a girl named Lily.`;

Deno.test("prepare and train --data tinystories share download and tokens, and a resumed run keeps its revision", async () => {
  const stories = Array.from({ length: 50 }, (_, i) => story(i)).join("\n<|endoftext|>\n");
  hub.publish("TinyStoriesV2-GPT4-train.txt", encode(stories));
  hub.publish("TinyStoriesV2-GPT4-valid.txt", encode(story(51)));
  const commit = hub.main, runs = join(directory, "tiny");
  const env = hubEnvironment;
  const prepared = await task("prepare", ["tinystories", "--cache", join(runs, "cache")], { env });
  assert.equal(prepared.code, 0, prepared.stderr);
  assert.match(prepared.stdout, /^tinystories: 51 documents, \d+ tokens\n$/);
  assert.match(prepared.stderr, /download .*TinyStoriesV2-GPT4-train.txt/);
  const args = ["--data", "tinystories", "--out", join(runs, "run"), "--eval-tokens", "10"];
  const shape = "--preset nano --steps 2 --batch-size 1 --context-length 8".split(" ");
  const first = await task("train", [...args, ...shape], { env });
  assert.equal(first.code, 0, first.stderr);
  assert.match(
    first.stderr,
    /data tinystories: \d+ documents, \d+ tokens to train on, \d+ to validate with, of which 10 are evaluated; /,
  );
  assert.match(first.stderr, /; found in the cache\n/);
  assert.match(first.stderr, new RegExp(`options: .*data tinystories@${commit}`, "s"));
  assert.doesNotMatch(first.stderr, /download/);
  // the hub has moved on since
  hub.publish("TinyStoriesV2-GPT4-train.txt", encode(story(1)));
  const resumed = await task("train", [...args, "--steps", "3"], { env });
  assert.equal(resumed.code, 0, resumed.stderr);
  assert.match(resumed.stderr, /resuming from step 2:/);
  const { stdout } = await task("eval", ["--run", join(runs, "run"), "--json"], { env });
  assert.equal(JSON.parse(stdout).data, "validation text of tinystories");
});

Deno.test("train --init-from accepts a model of the hub, eval and generate --model that and the trained one", async () => {
  await trained();
  await using hub = new HubServer("tiny/model");
  const checkpoint = join(out, "checkpoints", "000006");
  for (const name of ["config.json", "tokenizer.json", "model.safetensors"]) {
    hub.publish(name, Deno.readFileSync(join(checkpoint, name)));
  }
  const env = { HF_HOME: join(directory, "models"), HF_ENDPOINT: hub.endpoint };
  const text = join(directory, "lily.txt"), tuned = join(directory, "tuned");
  Deno.writeTextFileSync(
    text,
    Array.from({ length: 40 }, (_, i) => story(i)).join("\n<|endoftext|>\n"),
  );
  const args =
    "--init-from hf:tiny/model --lora-rank 2 --steps 4 --batch-size 4 --learning-rate 0.02"
      .split(" ");
  const training = await task("train", [...args, "--data", text, "--out", tuned], { env });
  assert.equal(training.code, 0, training.stderr);
  const told = [
    /^looking for hf:tiny\/model\n/,
    /download tiny\/model\/model\.safetensors: /,
    new RegExp(`starting from hf:tiny/model@${hub.main}; precision`),
    /training \d+ of \d+ parameters for 4 steps/,
  ];
  for (const pattern of told) assert.match(training.stderr, pattern);
  const path = join(tuned, "checkpoints", "000004");
  const adapters = JSON.parse(Deno.readTextFileSync(join(path, "adapter_config.json")));
  assert.equal(adapters.base_model_name_or_path, "tiny/model");
  assert.equal(adapters.revision, hub.main);

  const offline = { env: { ...env, HF_HUB_OFFLINE: "1" } };
  const measure = async (model: string) =>
    JSON.parse(
      (await task("eval", ["--model", model, "--data", text, "--json"], offline)).stdout,
    );
  const [before, after] = [await measure("hf:tiny/model"), await measure(tuned)];
  assert.ok(after.loss < before.loss, `${after.loss} after ${before.loss}`);
  const generate = ["Story 1", "--model", tuned, "--seed", "3", "--max-new-tokens", "5"];
  const { stdout, stderr } = await task("generate", generate, offline);
  assert.match(stdout, /^Story 1.+\n$/s, stderr);
});

Deno.test("train, generate, eval and export name the missing base of adapters alike, and accept it as --base", async () => {
  await trained();
  const folder = join(directory, "beside"),
    base = join(folder, "base"),
    lora = join(folder, "lora");
  cpSync(join(out, "checkpoints", "000006"), base, { recursive: true });
  const text = join(directory, "beside.txt");
  Deno.writeTextFileSync(
    text,
    Array.from({ length: 9 }, (_, i) => story(i)).join("\n<|endoftext|>\n"),
  );
  const shape = "--lora-rank 1 --steps 1 --batch-size 1 --context-length 8".split(" ");
  const training = ["--init-from", base, ...shape, "--data", text, "--out", lora];
  assert.equal((await task("train", training)).code, 0);
  const moved = join(directory, "moved-base");
  Deno.renameSync(base, moved);
  const commands: [name: string, args: string[]][] = [
    ["train", ["--out", lora, "--steps", "2"]],
    ["generate", ["Story", "--run", lora, "--max-new-tokens", "2"]],
    ["eval", ["--model", lora, "--tokens", "20"]],
    ["export", ["--run", lora, "--out", join(folder, "exported")]],
  ];
  for (const [name, args] of commands) {
    const { code, stderr } = await task(name, args);
    assert.equal(code, 1, name);
    const sentence = new RegExp(
      `Error: Cannot load the adapters in ${
        join(lora, "checkpoints", "000001")
      } as their base must be ` +
        `found, which is ${base} with SHA-256 \\w{64}: there is no such directory; name it with --base\n$`,
    );
    assert.match(stderr, sentence);
  }
  for (const [name, args] of commands.toReversed()) {
    const { code, stderr } = await task(name, [...args, "--base", moved]);
    assert.equal(code, 0, stderr);
  }
});

Deno.test("prepare reads JSON lines, patterns and another tokenizer, and says which line is damaged", async () => {
  const folder = join(directory, "lines"), cache = join(folder, "cache");
  Deno.mkdirSync(folder);
  const line = JSON.stringify({ story: "A cat." });
  for (const name of ["a.jsonl", "b.jsonl"]) {
    Deno.writeTextFileSync(join(folder, name), `${line}\n`);
  }
  const args = [join(folder, "*.jsonl"), "--text-field", "story", "--cache", cache];
  const { stdout, stderr } = await task("prepare", args);
  assert.equal(stdout, "a.jsonl, b.jsonl: 2 documents, 8 tokens\n", stderr);
  const tokenizer = join(folder, "tokenizer.json");
  assert.equal(
    (await task("tokenizer", ["--out", tokenizer, "--vocab-size", "257", ...args.slice(0, 3)]))
      .code,
    0,
  );
  const other = await task("prepare", [...args, "--tokenizer", tokenizer]);
  assert.equal(other.stdout, "a.jsonl, b.jsonl: 2 documents, 14 tokens\n", other.stderr);
  Deno.writeTextFileSync(join(folder, "b.jsonl"), `${line}\n{"story":\n`);
  const damaged = await task("prepare", args);
  assert.equal(damaged.code, 1);
  assert.match(
    damaged.stderr,
    /^Error: Cannot read data file .*b\.jsonl as line 2 must be JSON: .*\n$/,
  );
});

Deno.test("tokenizer and prepare count conversations and their answers, also from the cache", async () => {
  const folder = join(directory, "chats"), data = join(folder, "chat.jsonl");
  Deno.mkdirSync(folder);
  const row = JSON.stringify({ prompt: "Who?", completion: "Me." });
  Deno.writeTextFileSync(data, `${row}\n${row}\n{"messages":[],"prompt":"a","completion":null}\n`);
  const tokenizer = join(folder, "tokenizer.json");
  const made = await task("tokenizer", ["--out", tokenizer, "--vocab-size", "259", data]);
  assert.match(made.stdout, /tokenizer\.json: 259 tokens; to use it: /, made.stderr);
  const { added_tokens } = JSON.parse(Deno.readTextFileSync(tokenizer));
  assert.deepEqual(added_tokens.map(({ content }: { content: string }) => content), [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
  ]);
  for (const found of ["written to", "found in"]) {
    const args = [data, "--cache", join(folder, "cache"), "--tokenizer", tokenizer];
    const { stdout, stderr } = await task("prepare", args);
    assert.match(stderr, new RegExp(`^${found} `, "m"));
    // <|im_start|>user↵Who?<|im_end|>↵<|im_start|>assistant↵Me.<|im_end|>↵ in bytes
    assert.equal(stdout, "chat.jsonl: 2 conversations, 56 tokens, 10 of them in answers\n");
  }
});

Deno.test({
  name: "prepare says when it is stopped that the same command resumes, which it does",
  ignore: Deno.build.os === "windows", // a child cannot be sent Ctrl-C there
  async fn() {
    const text = join(directory, "large.txt"), cache = join(directory, "stopped");
    const stories = Array.from({ length: 2000 }, (_, i) => story(i)).join("\n<|endoftext|>\n");
    Deno.writeTextFileSync(text, `${stories}\n<|endoftext|>\n`.repeat(300));
    const [, ...words] = (tasks.prepare.command as string).split(" ");
    const child = new Deno.Command(Deno.execPath(), {
      args: [...words, text, "--cache", cache],
      cwd: root,
      stdout: "null",
      stderr: "piped",
    }).spawn();
    // it works on it once there is something in the cache
    const watcher = Deno.watchFs(directory);
    for await (const { paths } of watcher) {
      if (paths.some((path) => path.endsWith("tokens.bin"))) break;
    }
    child.kill("SIGINT");
    const { code, stderr } = await child.output();
    const said = new TextDecoder().decode(stderr);
    assert.equal(code, 130, said);
    assert.match(said, /stopped; the same command resumes here\n$/);
    const { stdout } = await task("prepare", [text, "--cache", cache]);
    assert.match(stdout, /^large\.txt: 600000 documents, /);
  },
});

Deno.test("doctor prints the adapter and what auto chooses", async () => {
  const { code, stdout } = await task("doctor", []);
  assert.equal(code, 0);
  assert.match(stdout, /^adapter +\S/m);
  assert.match(stdout, /^auto +preset (nano|mini)/m);
});

Deno.test("commands give back permissions that they no longer need", async () => {
  await trained();
  const text = join(directory, "permissions.txt"), run = ["--run", out];
  Deno.writeTextFileSync(text, `One.\n<|endoftext|>\nTwo.\n`);
  const copy = join(directory, "permitted");
  cpSync(out, copy, { recursive: true });
  const commands: [name: string, args: string[], permissions: string][] = [
    ["train", ["--out", copy], "read write"],
    ["generate", [...run, "--max-new-tokens", "2", "One"], "read"],
    ["eval", [...run, "--data", text], "read"],
    ["export", [...run, "--out", join(directory, "permitted-export")], "read write"],
    ["prepare", [text, "--cache", join(directory, "permitted-cache")], "read write"],
    ["prepare", ["hf:no/such/file.txt", "--cache", directory], "read write net env"],
    ["tokenizer", [text, "--out", join(directory, "permitted.json")], "read write"],
  ];
  const script = join(root, "tests", "commands", "permitted.ts");
  for (const [name, args, permissions] of commands) {
    const { stderr } = await task(name, [name, ...args], { script, env: { HF_HUB_OFFLINE: "1" } });
    assert.match(stderr, new RegExp(`^permissions: ${permissions}\n$`, "m"), `${name}: ${stderr}`);
  }
});

const MISTAKES: [name: string, args: string[], message: RegExp][] = [
  ...([
    ["--run", /--out names the run; --init-from names a model to start from/],
    ["--run=runs/a", /--out names the run; --init-from names a model to start from/],
    ["--checkpoint", /--resume-from names the checkpoint; .*/],
  ] as [string, RegExp][]).map(([flag, hint]): [string, string[], RegExp] => [
    "train",
    [flag, "x"],
    new RegExp(
      `^Error: unknown option '${flag}'\n\\(${hint.source}\\)\n\\(--help lists all options\\)\n$`,
    ),
  ]),
  ["train", ["--stepz", "3"], /unknown option '--stepz'\n\(Did you mean --steps\?\)/],
  ["train", ["extra"], /too many arguments.*\nName a text with --data\n\(--help/],
  [
    "train",
    ["--steps", "many"],
    /'--steps <n>' argument 'many' is invalid. It must be a whole number/,
  ],
  ["train", ["--preset", "huge"], /Allowed choices are auto, nano, mini/],
  [
    "train",
    ["--dropout", "2"],
    /^Error: Cannot train as --dropout must be a number from 0 to 0\.99/,
  ],
  ["train", ["--data", "/no/such.txt", "--out", join(directory, "none")], /there is no such file/],
  ["train", ["--out", out, "--batch-size", "3"], /--batch-size must stay 2: current value is 3\n/],
  [
    "generate",
    ["--run", join(directory, "none")],
    /none as there is no such directory\n(Train a model first: deno task train; .*|To use the newest .*)\n$/,
  ],
  [
    "generate",
    ["--run", join(out, "checkpoints", "000006")],
    /--run must be a run: it is a checkpoint\nTo load it: --checkpoint \S+\/000006\n$/,
  ],
  [
    "eval",
    ["--checkpoint", out],
    /must be a checkpoint: it is a run\nTo load it: --run \S+\/run\n$/,
  ],
  ["generate", ["--checkpoint", join(directory, "none")], /be a checkpoint: there is no such dir/],
  ["generate", ["--top-p", "0"], /--top-p must be above 0/],
  ["compare", ["a", ""], /argument '' of 'run' is invalid\. It must not be empty/],
  [
    "bench",
    ["--filter", "matmull"],
    /as --filter must be .*: current value is "matmull"\nThe names:\n {2}copy /,
  ],
  ["prepare", [""], /argument '' of 'data' is invalid/],
  ["dashboard", [""], /argument '' of 'runs' is invalid/],
  [
    "generate",
    ["-5 degrees"],
    /^Error: unknown option '-5 degrees'\nPut an argument .* --: deno task generate -- \S-5 degrees\S\n/,
  ],
  [
    "generate",
    ["Once", "upon"],
    /^Error: too many arguments.*\nPut a text of several words between/,
  ],
  [
    "chat",
    ["Hi there"],
    /^Error: too many arguments.*\nName a run with --run\n\(messages are typed/,
  ],
  ["runs", ["runs/a", "runs/b"], /^Error: too many arguments[^\n]*\n\(--help lists/],
  ["prepare", ["-x.txt"], / behind --: deno task prepare -- -x\.txt\n/],
  [
    "generate",
    ["--model", "gpt3"],
    /^Error: Cannot find the model "gpt3" as it must be a directory/,
  ],
  [
    "generate",
    ["--model", "gpt2", "--run", out],
    /'--model <name>' cannot be used with option '--run <directory>'/,
  ],
  [
    "train",
    ["--init-from", "/no/model", "--out", join(directory, "none")],
    /^looking for \/no\/model\nError: Cannot find the model .*there is no such directory\n$/,
  ],
  ["eval", ["--run", join(directory, "none", "none")], /deno task train/],
  [
    "eval",
    ["--model", join(directory, "bare")],
    /^Error: Cannot evaluate \S+bare as it records no text of its training: name a text with --data, /m,
  ],
  ["eval", ["--data", "x.txt", "--held-out-of", "runs/a"], /cannot be used with option '--data/],
  [
    "train",
    ["--preset", "nano", "--freeze", "foo"],
    /Cannot freeze "foo" as --freeze must name emb/,
  ],
  ["compare", [], /missing required argument 'run'/],
  [
    "compare",
    [directory],
    /as it is no run, but holds runs\nCompare them: deno task compare \S+\*\n$/,
  ],
  [
    "compare",
    [join(directory, "absent")],
    /^Error: Cannot compare \S+absent as there is no such run\n(A run is at .+\n)?$/,
  ],
  [
    "compare",
    [out, "--svg", join(directory, "plot.png")],
    /^Error: Cannot write \S+plot\.png as --svg must name a file that ends in \.svg\n$/,
  ],
  [
    "compare",
    [join(root, "deno.json", "run")],
    /^Error: Cannot compare \S+run as there is no such run\n$/,
  ],
  [
    "eval",
    ["--model", join(root, "deno.json", "model")],
    /^Error: Cannot find the model \S+model" as it must be .*: a file is in its place\n$/,
  ],
  [
    "bench",
    ["--compare", join(directory, "absent.json")],
    /^Error: Cannot read report \S+absent\.json: there is no such file\n$/,
  ],
  ["bench", ["--tolerance", "0.2"], /^Error: Cannot measure as --tolerance needs --compare: /],
  ["kernel", ["foo"], /^Error: Cannot print "foo" as it must be .*\nThe ops: adamw, .*, swiglu\n$/],
  [
    "kernel",
    ["layernorm", "f16"],
    /^Error: Cannot print .* as it must name a variant: .*\nThe variants .*:\nlayernorm "backward" f16 /,
  ],
  [
    "kernel",
    ["dropout", "dropout", "f16"],
    /^Error: Cannot print .* as dropout has no such kernel\nThe .*:\ndropout "dropout" f32 [^\n]*\n$/,
  ],
  ["prepare", [], /missing required argument 'data'/],
  [
    "prepare",
    ["/no/such.txt"],
    /^Error: Cannot read data file \/no\/such\.txt: there is no such file\n$/,
  ],
  [
    "prepare",
    ["hf:a/b"],
    /^Error: Cannot use hf:a\/b as data as it must name a file: hf:OWNER\/NAME\/FILE, or a pattern/,
  ],
  ["train", ["--data-version", "v3"], /Allowed choices are v1, v2/],
  ["export", ["--to", "onnx"], /Allowed choices are hf, gguf/],
  ["export", ["--out", directory], /^Error: Cannot write \S+ as it exists: .*--out\n$/],
  ["export", ["--run", join(directory, "none", "none")], /deno task train/],
  [
    "train",
    ["--out", join(out, "checkpoints", "000006")],
    /as it is in \S+000006: to resume that run use --out \S+run, to start from its model --init-from \S+000006 and another --out\n$/,
  ],
  [
    "train",
    ["--out", root],
    /must be a run or an empty directory: it holds \S+, \S+, \S+, …; choose/,
  ],
  ...([
    ["tokenizer", ["x.txt", "--out", directory]],
    ["compare", [out, "--svg", `${directory}/`]],
  ] as [string, string[]][]).map(([name, args]): [string, string[], RegExp] => [
    name,
    args,
    /^Error: Cannot .* as --\w+ must .*a file: it is a directory\n$/,
  ]),
  ...([
    ["train", ["--out", ""]],
    ["train", ["--out", "", "--fresh"]],
    ["train", ["--tokenizer", ""]],
    ["train", ["--data", "x.txt", ""]],
    ["generate", ["--model="]],
    ["export", ["--out", ""]],
    ["eval", ["--run", ""]],
    ["tokenizer", ["x.txt", "--out", ""]],
    ["compare", [out, "--svg", ""]],
    ["prepare", ["x.txt", "--cache", ""]],
    ["bench", ["--json", ""]],
  ] as [string, string[]][]).map(([name, args]): [string, string[], RegExp] => [
    name,
    args,
    /^Error: option '--[^']+' argument '' is invalid\. It must not be empty\.\n/,
  ]),
];

for (const [name, args, message] of MISTAKES) {
  const what = [name, ...args].join(" ").replaceAll(directory, "…"); // the same in every run
  Deno.test(`${what} gets a sentence, no stack trace, and exit status 1`, async () => {
    // in the run, or about the directory that holds it
    if (args.some((arg) => arg.startsWith(out) || arg === directory)) await trained();
    if (args.includes(join(directory, "bare"))) {
      await trained();
      const bare = join(directory, "bare");
      cpSync(join(out, "checkpoints", "000006"), bare, { recursive: true });
      Deno.removeSync(join(bare, "trainer_state.json"));
    }
    const { code, stdout, stderr } = await task(name, args);
    assert.equal(code, 1);
    assert.equal(stdout, "");
    assert.match(stderr, message);
    assert.doesNotMatch(stderr, /\n\s+at |Uncaught/);
  });
}

Deno.test("generate refuses a text on standard input that is not UTF-8", async () => {
  const input = Uint8Array.of(0xff, 0xfe, 0x4f, 0, 0x6e, 0); // UTF-16
  assert.deepEqual(await task("generate", ["-"], { input }), {
    code: 1,
    stdout: "",
    stderr: "Error: Cannot continue the text on standard input as it must be UTF-8\n",
  });
});

Deno.test("tokenizer trains on files without the marks between documents", async () => {
  const data = join(directory, "tale.txt"), file = join(directory, "tokens", "mine.json");
  const documents = ["One cat sat.", "Two cats sat and sat."];
  await Deno.writeTextFile(data, documents.join("<|endoftext|>\r\n") + "<|endoftext|>");
  const options = ["--vocab-size", "260", "--out", file];
  const { code, stdout, stderr } = await task("tokenizer", [...options, data]);
  assert.equal(code, 0, stderr);
  assert.equal(
    stdout,
    `${file}: 260 tokens; to use it: deno task train --data ${data} --tokenizer ${file} --out runs/mine\n`,
  );
  const expected = await trainTokenizer(documents, { vocabularySize: 260 });
  assert.equal(await Deno.readTextFile(file), expected.json);

  const again = await task("tokenizer", [...options, data]);
  assert.deepEqual([again.code, again.stdout], [1, ""]);
  assert.match(
    again.stderr,
    /^Error: Cannot write .*mine\.json as the file exists: .*--force/,
  );
  const forced = await task("tokenizer", [...options, "--force", "--min-frequency", "9", data]);
  assert.match(forced.stderr, /^only 257 of 260 tokens: no other pair occurs 9 times\n/);
});

Deno.test("export writes a run's model for other programs", async () => {
  await trained();
  const hf = join(directory, "exported"), gguf = join(directory, "exported.gguf");
  const first = await task("export", ["--run", out, "--out", hf, "--dtype", "f16"]);
  assert.deepEqual([first.code, first.stdout], [0, `${hf}\n`], first.stderr);
  assert.match(first.stderr, /^writing \d+ parameters of \S+000006 in f16\n$/);
  const told = await task("generate", ["--model", hf, "--max-new-tokens", "5", "Once"]);
  assert.equal(told.code, 0, told.stderr);
  const second = await task("export", ["--model", hf, "--to", "gguf", "--out", gguf]);
  assert.deepEqual([second.code, second.stdout], [0, `${gguf}\n`], second.stderr);
  assert.equal(new TextDecoder().decode(Deno.readFileSync(gguf).subarray(0, 4)), "GGUF");
});

Deno.test("a command that starts in the project reads and writes paths from where it was typed", async () => {
  const user = join(directory, "user");
  Deno.mkdirSync(user);
  Deno.writeTextFileSync(join(user, "tales.txt"), "One day.\n".repeat(100));
  const args = ["tales.txt", "--vocab-size", "257", "--out", "made.json"];
  const { code, stderr } = await task("tokenizer", args, { env: { INIT_CWD: user } });
  assert.equal(code, 0, stderr);
  assert.ok(Deno.statSync(join(user, "made.json")).isFile);
  // started elsewhere, as by a script that npm runs in the user's directory, it stays there
  const elsewhere = await task("tokenizer", [...args, "--force"], {
    cwd: user,
    env: { INIT_CWD: directory },
    script: join(root, "commands", "tokenizer.ts"),
  });
  assert.equal(elsewhere.code, 0, elsewhere.stderr);
});

Deno.test("hints and --help name ./toy if that is what was typed", async () => {
  const env = { TOY_COMMAND: "../a b/toy", HF_HUB_OFFLINE: "1" };
  const none = await task("generate", ["--run", join(directory, "none", "none")], { env });
  assert.ok(
    none.stderr.endsWith(
      "; one to chat with: '../a b/toy' train --data conversations --out runs/chat\n",
    ),
    none.stderr,
  );
  const late = await task("tokenizer", [
    join(root, "README.md"),
    "--out",
    join(directory, "t.json"),
  ], {
    env,
  });
  assert.match(late.stdout, /; to use it: '..\/a b\/toy' train --data \S+ --tokenizer /);
  const { stdout } = await task("doctor", ["--help"], { env });
  assert.match(stdout, /^Usage: '..\/a b\/toy' doctor/);
});

Deno.test("train --help is printed by one of several ranks", async () => {
  const ranks = { OMPI_COMM_WORLD_SIZE: "2", OMPI_COMM_WORLD_LOCAL_RANK: "1" };
  const env = { ...ranks, OMPI_COMM_WORLD_RANK: "1" };
  assert.deepEqual(await task("train", ["--help"], { env }), { code: 0, stdout: "", stderr: "" });
});

Deno.test("help lists the tasks with what they do, the version, and a task of a similar name", async () => {
  const env = { TOY_COMMAND: "./toy" };
  for (const args of [[], ["--help"]]) {
    const { code, stdout } = await task("help", args, { env });
    assert.equal(code, 0);
    assert.match(stdout, /^Usage: \.\/toy COMMAND/);
    assert.match(stdout, /\nCOMMAND:ffi may load Dawn/);
    for (const [name, { description }] of Object.entries<{ description: string }>(tasks)) {
      if (name.endsWith(":ffi")) {
        assert.ok(!stdout.includes(name));
        continue;
      }
      const words = `${name} ${description}`.split(" ");
      assert.match(stdout, new RegExp(words.map(RegExp.escape).join("\\s+")));
    }
  }
  const version = await task("help", ["--version"], { env });
  assert.match(version.stdout, /^toy-transformer \d+\.\d+\.\d+, Deno \d+\.\d+\.\d+\n$/);
  const ofOne = await task("help", ["runs"], { env });
  assert.match(ofOne.stdout, /^List trainings.*\nIts options: \.\/toy runs --help\n$/);
  const { code, stderr } = await task("help", ["trian"], { env });
  assert.equal(code, 1);
  assert.equal(
    stderr,
    "Error: unknown command 'trian'\n(Did you mean train?)\n(./toy help lists all commands)\n",
  );
});

const MODELS = Object.keys(MODEL_NAMES);

/** What commands say in `--help`, among others. */
const HELP: Readonly<Record<string, readonly string[]>> = {
  train: [
    " Optimization: ",
    " --weight-decay <x> AdamW's weight decay of matrices and embeddings (default: 0.1) ",
  ],
  generate: [` use another model: ${MODELS.slice(0, 3).join(", ")}, hf:OWNER/NAME, `],
  serve: [
    ` other models: ${MODELS.slice(0, 2).join(", ")}, hf:OWNER/NAME, `,
    ` (default: ${DEFAULT_SLOTS.gpu}; ${DEFAULT_SLOTS.cpu} on a CPU) `,
    ...[QUEUE, REQUEST_SECONDS, DRAIN_SECONDS].map((value) => ` (default: ${value}) `),
  ],
};

Deno.test("every command explains its options in --help", async () => {
  const others = "compare prepare tokenizer bench:recipes bench:dashboard".split(" ");
  for (const name of [...Object.keys(HELP), ...others]) {
    const { code, stdout } = await task(name, ["--help"]);
    assert.equal(code, 0);
    assert.match(stdout, new RegExp(`^Usage: deno task ${name}`));
    const text = stdout.replaceAll(/\s+/g, " ");
    for (const words of HELP[name] ?? []) assert.ok(text.includes(words), `${words}: ${stdout}`);
  }
});

Deno.test({
  name: "train saves and exits 130 on Ctrl-C, with the command that resumes",
  ignore: Deno.build.os === "windows", // a child cannot be sent Ctrl-C there
  async fn() {
    const path = join(directory, "interrupted");
    const [, ...words] = (tasks.train.command as string).split(" ");
    const child = new Deno.Command(Deno.execPath(), {
      args: [...words, "--preset", "nano", "--batch-size", "2", "--out", path],
      cwd: root,
      stdout: "null",
      stderr: "piped",
    }).spawn();
    let stderr = "";
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      if (!stderr.includes("step 1/") && (stderr + text).includes("step 1/")) child.kill("SIGINT");
      stderr += text;
    }
    assert.equal((await child.status).code, 130, stderr);
    assert.match(
      stderr,
      /stopped after step \d+; to resume: deno task train --preset nano --batch-size 2 --out /,
    );
    assert.match(stderr, /saved /);
  },
});

Deno.test({
  name:
    "train saves at SIGHUP after its readers have gone, and trains to its end on a full disk's log",
  ignore: Deno.build.os !== "linux", // others have no /dev/full
  async fn() {
    const path = join(directory, "unread");
    const [, ...words] = (tasks.train.command as string).split(" ");
    const shape = "--preset nano --batch-size 2 --context-length 16 --eval-tokens 20".split(" ");
    const args = [...words, ...shape, "--sample-every", "0", "--out", path];
    const child = new Deno.Command(Deno.execPath(), {
      args,
      cwd: root,
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    await child.stdout.cancel();
    let stderr = "";
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
      stderr += text;
      if (stderr.includes("step 1/")) break; // which closes the pipe
    }
    child.kill("SIGHUP");
    assert.equal((await child.status).code, 129, stderr);
    const { step } = listCheckpoints(path)[0]!;
    const command = [Deno.execPath(), ...args, "--steps", `${step + 2}`].map((word) => `'${word}'`);
    const { code } = await new Deno.Command("sh", {
      args: ["-c", `${command.join(" ")} >/dev/full 2>/dev/full`],
      cwd: root,
    }).output();
    assert.equal(code, 0);
    assert.equal(listCheckpoints(path)[0]!.step, step + 2);
  },
});

Deno.test({
  name: "generate and --help fail in a sentence when the result cannot be written",
  ignore: Deno.build.os !== "linux",
  async fn() {
    await trained();
    const command = (tasks.generate.command as string).replace("deno", Deno.execPath());
    for (const args of [`Hi --run '${out}' --max-new-tokens 3`, "--help"]) {
      const { code, stderr } = await new Deno.Command("sh", {
        args: ["-c", `${command} ${args} >/dev/full`],
        cwd: root,
      }).output();
      assert.equal(code, 1);
      const said = new TextDecoder().decode(stderr);
      assert.match(
        said,
        /^Error: Cannot write the result to stdout: No space left on device.*\n$/m,
      );
      assert.doesNotMatch(said, /\n\s+at |Uncaught/);
    }
  },
});

Deno.test({
  name: "generate exits without an error when its reader closes the pipe",
  ignore: Deno.build.os === "windows",
  async fn() {
    await trained();
    const command = (tasks.generate.command as string).replace("deno", Deno.execPath());
    const { stderr } = await new Deno.Command("sh", {
      args: [
        "-c",
        `{ ${command} Hi --run '${out}' --samples 50 --max-new-tokens 5; echo "code $?" >&2; } | head -c 3`,
      ],
      cwd: root,
    }).output();
    assert.match(new TextDecoder().decode(stderr), /^(error: XDG_RUNTIME_DIR.*\n)*code 0\n$/);
  },
});
