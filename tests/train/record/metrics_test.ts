import assert from "node:assert/strict";
import { join } from "node:path";
import { readLines, readMetrics } from "../../../train/record/metrics.ts";
import { directory } from "../../checkpoints.ts";

function write(name: string, lines: string[], end = "\n"): string {
  const path = join(directory, name);
  Deno.writeTextFileSync(path, lines.join("\n") + end);
  return path;
}

const step = (step: number, loss = step) => JSON.stringify({ kind: "step", step, loss });
const evaluation = (step: number, loss = step) =>
  JSON.stringify({ kind: "evaluation", step, loss });
const start = (step: number) => JSON.stringify({ kind: "start", step });

/** What a record says, as "step 2", and what it warns of. */
function read(path: string): { said: string[]; warnings: string[] } {
  const warnings: string[] = [];
  const metrics = [...readMetrics(path, (sentence) => warnings.push(sentence))];
  return { said: metrics.map(({ kind, step, loss }) => `${kind} ${step} ${loss}`), warnings };
}

Deno.test("readMetrics() skips lines that are not whole, and gives their numbers", () => {
  const path = write("damaged.jsonl", [
    '{"kind":"step","step":1,"loss":2.5}',
    '{"kind":"step","st{"kind":"start","step":1}',
    "",
    "null",
    '{"kind":"evaluation","step":2,"loss":null}',
    '{"kind":"step","step":"3"}',
    '{"kind":"sample","step":3,"prompt":"a"}',
    '{"kind":"sample","step":3,"prompt":"a","text":"b"}',
    '{"kind":"toString","step":3,"name":1}',
    '{"kind":"step","step":3,"gradientNorm":"x"}',
    '{"kind":"evaluation","step":3,"loss":2,"epoch":null}',
    '{"kind":"evaluation","step":3,"loss":2,"entropyPerToken":null}',
    '{"kind":"step","step":4',
  ], "");
  const { said, warnings } = read(path);
  assert.deepEqual(said, [
    ...["step 1 2.5", "evaluation 2 null", "sample 3 undefined", "toString 3 undefined"],
  ]);
  assert.deepEqual(warnings, [
    `${path} is damaged in line 2, 4, 6, 7, 10 and 3 more, which is skipped`,
  ]);
});

Deno.test("readMetrics() names few of many damaged lines", () => {
  const path = write("worse.jsonl", Array.from({ length: 5000 }, () => "x"));
  assert.deepEqual(read(path).warnings, [
    `${path} is damaged in line 1, 2, 3, 4, 5 and 4995 more, which is skipped`,
  ]);
});

Deno.test("readMetrics() skips the steps that a resumed training repeated", () => {
  const path = write("again.jsonl", [
    start(0),
    step(1),
    step(2),
    evaluation(2),
    step(3),
    step(4),
    evaluation(4),
    start(2),
    step(3, 30),
    start(2),
    step(3, 31),
    step(4, 41),
    evaluation(4, 42),
    start(4),
    step(5),
    step(6),
    // an earlier version lost a start whose line a torn one swallowed
    step(6, 60),
  ]);
  assert.deepEqual(read(path), {
    said: [
      "start 0 undefined",
      "step 1 1",
      "step 2 2",
      "evaluation 2 2",
      "start 2 undefined",
      "start 2 undefined",
      "step 3 31",
      "step 4 41",
      "evaluation 4 42",
      "start 4 undefined",
      "step 5 5",
      "step 6 60",
    ],
    warnings: [],
  });
});

Deno.test("readLines() gives the bytes of every line, also across the ends of what it reads at once", () => {
  const lines = Array.from({ length: 40_000 }, (_, i) => step(i + 1, Math.sqrt(i)));
  lines[20_000] = "x".repeat(2_500_000); // longer than what is read at once
  const path = write("long.jsonl", lines, "");
  const hash: string[] = [], damaged: number[] = [];
  let last = 0;
  for (const { number, bytes, metric } of readLines(path)) {
    hash.push(new TextDecoder().decode(bytes));
    if (!metric) damaged.push(number);
    else assert.equal(metric.step, number);
    last = number;
  }
  assert.equal(hash.join(""), lines.join("\n"));
  assert.equal(last, lines.length);
  assert.deepEqual([...new Set(damaged)], [20_001]);
});

Deno.test("readMetrics() reads a file that is too long for a string", () => {
  const path = join(directory, "large.jsonl");
  const first = new TextEncoder().encode(`${step(1)}\n`), last = `\n${step(2)}\n`;
  using file = Deno.openSync(path, { create: true, write: true });
  file.writeSync(first);
  file.truncateSync(2 ** 29); // a hole, which takes no room
  file.seekSync(0, Deno.SeekMode.End);
  file.writeSync(new TextEncoder().encode(last));
  assert.deepEqual(read(path), {
    said: ["step 1 1", "step 2 2"],
    warnings: [`${path} is damaged in line 2, which is skipped`],
  });
  Deno.removeSync(path);
});

Deno.test({
  name: "readMetrics() throws when the file is a device",
  ignore: Deno.build.os === "windows",
  fn: () => assert.throws(() => read("/dev/zero"), { message: "it is no file" }),
});
