import assert from "node:assert/strict";
import { ProgressBar, ProgressDisplay } from "../../commands/progress.ts";
import { fromFileUrl } from "../paths.ts";
import { Screen } from "./screen.ts";

const WIDTHS = [40, 80, 200];

/** Lines that are shorter than a terminal, as wide, wider, and with characters of two columns. */
const LINES = [
  "short",
  "x".repeat(40),
  "y".repeat(80),
  "One day, ".repeat(30),
  "漢字🦆".repeat(50),
];

for (const width of WIDTHS) {
  Deno.test(`ProgressBar keeps whole what is printed above it on ${width} columns`, async () => {
    const screen = new Screen(width), bar = new ProgressBar(screen);
    for (const [i, line] of LINES.entries()) {
      bar.update(i, LINES.length, `step ${i}, loss 1.234`);
      bar.print(line);
      const lines = await screen.lines();
      assert.deepEqual(lines.slice(0, -1), LINES.slice(0, i + 1));
      assert.match(lines.at(-1)!, new RegExp(`^=*-* step ${i}, loss 1.234$`));
    }
    bar.close();
    bar.update(5, 5, "late");
    bar.print("end");
    assert.deepEqual(await screen.lines(), [...LINES, "end"]);
    assert.ok(!screen.written.includes("\x1b[?25l"), "the cursor is hidden");
  });

  Deno.test(`ProgressBar shows all of a long report on ${width} columns, and removes it`, async () => {
    const screen = new Screen(width), bar = new ProgressBar(screen);
    const words = Array.from({ length: 30 }, (_, i) => `word${i}`);
    const report = [...words, "x".repeat(250)].join(" ");
    bar.print("above");
    bar.update(1, 2, report);
    const [first, ...rows] = await screen.lines();
    assert.equal(first, "above");
    assert.ok(rows.every((row) => row.length <= width));
    const bare = (text: string) => text.replaceAll(" ", "");
    assert.equal(bare(rows.join("")), bare(`======------ ${report}`));
    bar.clear();
    assert.deepEqual(await screen.lines(), ["above"]);
  });
}

/** Runs with a clock that stands still but for what `pass()` adds to it. */
async function withClock(body: (pass: (ms: number) => void) => Promise<void> | void) {
  const { now } = performance;
  let time = Math.ceil(now.call(performance)); // whole, so that sums are exact
  performance.now = () => time;
  try {
    await body((ms) => time += ms);
  } finally {
    performance.now = now;
  }
}

/** A report of work on 1 kB of a file whose name takes two columns per character. */
const reading = (doneBytes: number) => ({
  ...{ stage: "reading" as const, name: "物語".repeat(8), doneBytes, totalBytes: 1000 },
});
const READING = `reading ${reading(0).name}: 50 % of 1.00 kB, 250 bytes/s, 2.0s left`;

for (const width of WIDTHS) {
  Deno.test(`ProgressDisplay shows work that lasts on ${width} columns, and leaves nothing`, () =>
    withClock(async (pass) => {
      const screen = new Screen(width), display = new ProgressDisplay(new ProgressBar(screen));
      display.show(reading(0));
      assert.deepEqual(await screen.lines(), []);
      pass(2000);
      display.show(reading(500));
      display.callbacks.onNotice("a notice");
      const [notice, ...rows] = await screen.lines();
      assert.equal(notice, "a notice");
      assert.equal(rows.join(" ").replaceAll(/\s+/g, " "), `======------ ${READING}`);
      display.close();
      assert.deepEqual(await screen.lines(), ["a notice"]);
    }));
}

Deno.test("ProgressDisplay writes a line per ten seconds where there is no terminal", () =>
  withClock((pass) => {
    let written = "";
    const display = new ProgressDisplay(
      new ProgressBar({ write: (text) => written += text, size: () => undefined }),
    );
    for (let seconds = 0; seconds < 25; seconds++) {
      display.show(reading(250 * seconds));
      pass(1000);
    }
    display.close();
    const lines = written.trimEnd().split("\n");
    assert.equal(lines.length, 3, written);
    assert.match(lines[0]!, /: 25 % of 1\.00 kB, 250 bytes\/s, 3\.0s left$/);

    const check = { stage: "checking", name: "a model", counted: "checks", totalBytes: 14 };
    display.show({ ...check, doneBytes: 5 });
    pass(40_000);
    display.show({ ...check, doneBytes: 7 });
    assert.match(written, /\nchecking a model: 50 % of 14 checks, 0\.05 checks\/s, 2m20s left\n$/);
  }));

Deno.test("ProgressBar takes no more rows than the terminal has", async () => {
  const screen = new Screen(10, 3), bar = new ProgressBar(screen);
  bar.print("above");
  for (let i = 0; i < 3; i++) bar.print(`line ${i}`), bar.update(1, 2, "word ".repeat(20));
  bar.close();
  assert.deepEqual(await screen.lines(), ["above", "line 0", "line 1", "line 2"]);
});

Deno.test("ProgressBar survives Ctrl-C on the terminal and a terminal that becomes narrower", async () => {
  const screen = new Screen(80, 6), bar = new ProgressBar(screen);
  const printed = Array.from({ length: 10 }, (_, i) => `line ${i}`);
  for (const line of printed) bar.print(line);
  bar.update(1, 2, "report ".repeat(8).trimEnd());
  for (const width of [30, 120, 17, 60]) {
    await screen.echo("^C");
    await screen.resize(width);
    bar.print("again");
    printed.push("again");
    assert.deepEqual((await screen.lines()).slice(0, printed.length), printed);
  }
  bar.close();
  assert.deepEqual(await screen.lines(), printed);
});

Deno.test("ProgressBar is drawn right before it hears of a resize", async () => {
  const screen = new Screen(80),
    bar = new ProgressBar({
      write: (text) => screen.write(text),
      size: () => ({ columns: 80, rows: 24 }),
    });
  bar.update(1, 2, "report ".repeat(8));
  await screen.resize(30);
  bar.print("a line");
  bar.print("another");
  bar.close();
  assert.deepEqual(await screen.lines(), ["a line", "another"]);
});

Deno.test("ProgressBar prints lines only if there is no size", () => {
  let written = "";
  const bar = new ProgressBar({ write: (text) => written += text, size: () => undefined });
  bar.update(1, 2, "report");
  bar.print("line \x1b[31m");
  bar.close();
  assert.equal(written, "line \\u{1b}[31m\n");
});

Deno.test(
  "ProgressBar sends escape sequences to a terminal alone, unless TERM, NO_COLOR or CI forbids it",
  {
    ignore: Deno.build.os !== "linux", // others' script(1) takes other arguments
  },
  async () => {
    const child = fromFileUrl(new URL("progressed.ts", import.meta.url));
    const words = [
      Deno.execPath(),
      "run",
      "--no-prompt",
      "--no-check",
      "--allow-env=TERM,CI",
      child,
    ];
    const command = words.map((word) => `'${word}'`).join(" ");
    const run = async (env: Record<string, string>, inTerminal = true, columns = 80) => {
      const line = `stty rows 24 cols ${columns}; ${command} 2>&1`;
      const args = inTerminal ? ["-qec", line, "/dev/null"] : ["-c", `${command} 2>&1`];
      const { stdout } = await new Deno.Command(inTerminal ? "script" : "sh", {
        args,
        env: { TERM: "xterm", NO_COLOR: "", CI: "", ...env },
        stdin: "null",
      }).output();
      const text = new TextDecoder().decode(stdout).replaceAll("\r\n", "\n");
      return text.slice(text.indexOf("begin")); // Deno itself may show that it loads modules
    };
    const plain = "begin\na line\nanother\n";
    const drawn = await run({});
    assert.notEqual(drawn, plain);
    const screen = new Screen(80);
    screen.write(drawn);
    assert.deepEqual(await screen.lines(), plain.trimEnd().split("\n"));
    assert.equal(await run({}, false), plain);
    assert.equal(await run({}, true, 0), plain);
    for (const env of [{ TERM: "dumb" }, { NO_COLOR: "1" }, { CI: "true" }]) {
      assert.equal(await run(env as Record<string, string>), plain, JSON.stringify(env));
    }
  },
);
