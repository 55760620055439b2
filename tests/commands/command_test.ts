import assert from "node:assert/strict";
import { Command } from "@commander-js/extra-typings";
import {
  command,
  endHelp,
  helpLayout,
  listenForInterrupts,
  output,
  realNumber,
  wholeNumber,
} from "../../commands/command.ts";
import { commandLine } from "../../files/command_line.ts";
import { terminalText } from "../../files/printable.ts";
import { fromFileUrl } from "../paths.ts";

const child = fromFileUrl(new URL("printed.ts", import.meta.url));
const deno = ["run", "--no-prompt", "--no-check", child];

async function outputOf(command: string, args: string[]) {
  const { code, stdout, stderr } = await new Deno.Command(command, { args, stdin: "null" })
    .output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("status() and run() escape control characters, output() writes text to a pipe unchanged", async () => {
  const { stdout, stderr } = await outputOf(Deno.execPath(), deno);
  assert.equal(stdout, "a\x1b[2J text\n");
  const [line, error] = stderr.split("\n");
  assert.equal(line, "a \\u{1b}[31mline");
  assert.ok(error!.startsWith("Error: bad \\u{1b}]0;\\u{7} namename"), error);
  assert.ok(error!.length < 5000, `${error!.length}`);
});

Deno.test("helpLayout() puts descriptions beside options if there is room, and else below them", () => {
  const help = (columns: number) => {
    let text = "";
    const program = new Command().name("x").description("A command that is described by words.")
      .configureHelp(helpLayout(columns)).configureOutput({ writeOut: (part) => text += part })
      .option("--learning-rate <x>", "highest learning rate, reached at the end of the warm-up")
      .option("--on", "");
    endHelp(program, "Exit status: 0 if all is well,\n1 after an error, 2 in all other cases.");
    program.outputHelp();
    return text;
  };
  for (const columns of [30, 40, 80]) {
    const lines = help(columns).split("\n");
    for (const line of lines) assert.ok(line.length <= columns, line);
  }
  assert.match(help(80), /\n {2}--learning-rate <x> {2}highest learning rate, [^]*\n {2}--on\n/);
  assert.match(
    help(40),
    /\n {2}--learning-rate <x>\n {6}highest learning rate, reached at\n {6}the end/,
  );
});

Deno.test("run() prints a user's mistake as a sentence and a hint, and exits with 1", async () => {
  assert.deepEqual(await outputOf(Deno.execPath(), [...deno, "hint"]), {
    code: 1,
    stdout: "",
    stderr: "Error: Cannot print as it must be text: it is not\nChoose a text\n",
  });
});

Deno.test("run() prints a mistake in the program with its stack and what a report needs, and exits with 70", async () => {
  const { code, stderr } = await outputOf(Deno.execPath(), [...deno, "typo"]);
  assert.equal(code, 70);
  assert.match(stderr, /^TypeError: Cannot read properties of undefined \(reading '0'\)\n/);
  assert.match(stderr, /\n {4}at .*\/tests\/commands\/printed\.ts:\d+:\d+\)?\n/);
  assert.match(stderr, /\n {2}version {2}toy-transformer \d+\.\d+\.\d+, Deno \d+\.\d+\.\d+, \S+\n/);
  assert.match(stderr, /\n {2}command {2}commands\/printed\.ts typo\n$/);
});

Deno.test("command() refuses an empty value by the option's name", () => {
  let said = "";
  const program = command("example", "An example.")
    .option("--model <name>", "of any text")
    .option("--files <paths...>", "several")
    .exitOverride()
    .configureOutput({ writeErr: () => {}, outputError: (text) => said = text })
    .action(() => {});
  for (const flag of ["--model <name>", "--files <paths...>"]) {
    const [name] = flag.split(" ");
    assert.throws(() => program.parse([name!, ""], { from: "user" }), { name: "CommanderError" });
    assert.ok(said.startsWith(`error: option '${flag}' argument '' is invalid.`), said);
  }
  assert.equal(program.parse(["--model", "a"], { from: "user" }).opts().model, "a");
});

Deno.test("command() suggests options that mean the same, and those that name what was typed as an argument", () => {
  const said = (...args: string[]) => {
    let text = "";
    const program = command("example", "An example.", { "--resume": "type it again" })
      .option("--run <name>").option("--resume-from <name>").option("--learning-rate <x>")
      .option("--batch-size <n>").option("--max-new-tokens <n>").option("--steps <n>")
      .exitOverride().configureOutput({ writeErr: (line) => text += line }).action(() => {});
    assert.throws(() => program.parse(args, { from: "user" }), { name: "CommanderError" });
    return text.split("\n").slice(1, -2).join();
  };
  for (
    const [flag, known] of [
      ["--batch", "--batch-size"],
      ["--lr", "--learning-rate"],
      ["--max-tokens", "--max-new-tokens"],
      ["--max-steps", "--steps"],
      ["--stepz", "--steps"],
      ["--size-batch", undefined],
    ] as const
  ) {
    assert.equal(said(flag, "3"), known === undefined ? "" : `(Did you mean ${known}?)`);
  }
  assert.equal(said("--resume"), "(type it again)");
  assert.equal(said("--re"), "(Did you mean --resume-from?)");
  assert.equal(said("runs/a"), "Name a run with --run");
});

Deno.test("output() escapes control characters on a terminal, and mistakes wrap between words", {
  ignore: Deno.build.os !== "linux", // others' script(1) takes other arguments
}, async () => {
  const command = [Deno.execPath(), ...deno].map((word) => `'${word}'`).join(" ");
  const { stdout } = await outputOf("script", ["-qec", command, "/dev/null"]);
  const narrow = await outputOf("script", [
    "-qec",
    `stty rows 9 cols 40; ${command} hint`,
    "/dev/null",
  ]);
  assert.ok(
    narrow.stdout.includes("Error: Cannot print as it must be text:\r\nit is not\r\nChoose"),
  );
  assert.ok(stdout.includes("a\\u{1b}[2J text"), stdout);
  assert.ok(!stdout.includes("\x1b[2J"), stdout);
});

/** Starts a child that listens for signals, and waits until it does. */
async function interruptible(...args: string[]) {
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--no-check", "--allow-read", interrupted, ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const stdout = process.stdout.pipeThrough(new TextDecoderStream());
  for await (const text of stdout.values({ preventCancel: true })) if (text === "ready\n") break;
  return { process, stdout };
}

const interrupted = fromFileUrl(new URL("interrupted.ts", import.meta.url));
const ignore = Deno.build.os === "windows"; // a child cannot be sent Ctrl-C there

const codes = [
  ["SIGINT", 130],
  ["SIGTERM", 143],
  ["SIGHUP", 129],
  ["SIGUSR2", Deno.build.os === "darwin" ? 159 : 140],
] as const;
for (const [signal, expected] of codes) {
  Deno.test({
    name: `listenForInterrupts() aborts when ${signal} arrives and nobody reads stderr`,
    ignore,
    async fn() {
      const { process, stdout } = await interruptible();
      await process.stderr.cancel();
      process.kill(signal);
      assert.deepEqual(await Array.fromAsync(stdout), ["aborted\n"]);
      assert.equal((await process.status).code, expected);
    },
  });
}

Deno.test({
  name: "listenForInterrupts() lets a second signal end a process whose main thread is busy",
  ignore,
  async fn() {
    const { process, stdout } = await interruptible("blocked");
    process.kill("SIGINT");
    const stderr = process.stderr.getReader();
    const notice = new TextDecoder().decode((await stderr.read()).value);
    assert.equal(notice, "\nstopping\n"); // though the thread is busy
    const ended = process.status.then(() => "ended");
    const later = new Promise((resolve) => setTimeout(() => resolve("later"), 300));
    assert.equal(await Promise.race([ended, later]), "later");
    process.kill("SIGTERM");
    const { signal } = await process.status;
    assert.equal(signal, "SIGTERM");
    await Promise.all([stdout.cancel(), stderr.cancel()]);
  },
});

/** Workers of this thread so far: each has a module of its own. */
let workers = 0;

/** What a test has in place of the system: signals arrive and time passes as it says, and the worker is in this thread. */
async function withSignals(
  action: (system: {
    listeners: ReadonlyMap<Deno.Signal, () => void>;
    /** Lets time pass, in which timers run, or in which the process is stopped. */
    pass(ms: number, options?: { isStopped?: boolean }): void;
    /** What was written to stderr. */
    written(): string;
  }) => Promise<void>,
): Promise<void> {
  const { setInterval, setTimeout, Worker } = globalThis, { now } = performance;
  const { addSignalListener, removeSignalListener } = Deno, { writeSync } = Deno.stderr;
  const listeners = new Map<Deno.Signal, () => void>();
  let clock = 1000, written = "", look = () => {};
  const timers: { at: number; action: () => void }[] = [];
  class ThisThread {
    onmessage = (_: object) => {};
    readonly #module: Promise<unknown>;

    constructor(module: URL) {
      Object.assign(globalThis, { postMessage: (data: unknown) => this.onmessage({ data }) });
      this.#module = import(`${module.href}?${workers++}`);
    }

    async postMessage(data: object) {
      await this.#module;
      (self as unknown as { onmessage: (event: object) => void }).onmessage({ data });
    }
  }
  performance.now = () => clock;
  Deno.addSignalListener = (signal, listener) => void listeners.set(signal, listener);
  Deno.removeSignalListener = (signal) => void listeners.delete(signal);
  Deno.stderr.writeSync = (bytes) => {
    written += new TextDecoder().decode(bytes);
    return bytes.length;
  };
  Object.assign(globalThis, {
    Worker: ThisThread,
    setInterval: (action: () => void) => look = action, // the clock is read every 50 ms
    setTimeout: (action: () => void, ms: number) => timers.push({ at: clock + ms, action }),
  });
  try {
    await action({
      listeners,
      pass(ms, { isStopped = false } = {}) {
        for (const end = clock + ms; clock < end;) {
          clock = isStopped ? end : Math.min(end, clock + 50);
          if (isStopped) return;
          look();
          const due = timers.filter(({ at }) => at <= clock);
          for (const { action } of timers.splice(0, due.length)) action(); // which are in order
        }
      },
      written: () => written,
    });
  } finally {
    Object.assign(globalThis, { setInterval, setTimeout, Worker });
    for (const name of ["postMessage", "onmessage"]) Reflect.deleteProperty(globalThis, name);
    Object.assign(performance, { now });
    Object.assign(Deno, { addSignalListener, removeSignalListener });
    Object.assign(Deno.stderr, { writeSync });
  }
}

Deno.test({
  name:
    "listenForInterrupts() takes signals within 100 ms for one, and then leaves them to the system",
  ignore,
  async fn() {
    await withSignals(async ({ listeners, pass, written }) => {
      const interrupts = await listenForInterrupts("stopping");
      // SIGHUP may be ignored, under nohup
      const signals = ["SIGINT", "SIGTERM", "SIGUSR2"] as const;
      const heard = () => signals.filter((signal) => listeners.has(signal));
      assert.deepEqual(heard(), signals);
      pass(1000);
      assert.equal(interrupts.signal.aborted, false);
      listeners.get("SIGINT")!();
      for (const ms of [0, 99]) {
        pass(ms);
        listeners.get("SIGINT")!();
        listeners.get("SIGTERM")!();
        assert.deepEqual([interrupts.signal.aborted, interrupts.exitCode], [true, 130]);
      }
      assert.equal(written(), "");
      pass(1);
      assert.deepEqual([heard(), written()], [[], "\nstopping\n"]);
      pass(1000);
      assert.equal(written(), "\nstopping\n");
    });
  },
});

Deno.test("listenForInterrupts() takes the SIGCONT of mpirun for SIGTERM unless the rank was stopped", async () => {
  await withSignals(async ({ listeners, pass }) => {
    const interrupts = await listenForInterrupts("", { isRank: true });
    const resume = listeners.get("SIGCONT")!;
    pass(1000);
    pass(300, { isStopped: true });
    resume();
    assert.equal(interrupts.signal.aborted, false);
    pass(300);
    resume();
    assert.deepEqual([interrupts.signal.aborted, interrupts.exitCode], [true, 143]);
  });
});

Deno.test({
  name: "listenForInterrupts() ignores SIGHUP under nohup",
  ignore,
  async fn() {
    const words = [
      Deno.execPath(),
      "run",
      "--no-prompt",
      "--no-check",
      "--allow-read",
      interrupted,
    ];
    const process = new Deno.Command("sh", {
      // what nohup puts in place of a terminal: a file that can be written only
      args: ["-c", `exec ${words.map((word) => `'${word}'`).join(" ")} 0>/dev/null`],
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const stdout = process.stdout.pipeThrough(new TextDecoderStream());
    for await (const text of stdout.values({ preventCancel: true })) if (text === "ready\n") break;
    process.kill("SIGHUP");
    await new Promise((resolve) => setTimeout(resolve, 300));
    process.kill("SIGTERM");
    assert.deepEqual(await Array.fromAsync(stdout), ["aborted\n"]);
    assert.equal((await process.status).code, 143);
  },
});

Deno.test("output() waits while a pipe that does not block is full", () => {
  const { writeSync, isTerminal } = Deno.stdout;
  const full = [true, false, true, true, false, false, false];
  let written = "";
  try {
    Deno.stdout.isTerminal = () => false;
    Deno.stdout.writeSync = (bytes) => {
      if (full.shift()) throw new Deno.errors.WouldBlock("Resource temporarily unavailable");
      const some = bytes.subarray(0, 5);
      written += new TextDecoder().decode(some);
      return some.length;
    };
    assert.equal(output("twelve bytes"), true);
  } finally {
    Object.assign(Deno.stdout, { writeSync, isTerminal });
  }
  assert.equal(written, "twelve bytes");
});

Deno.test({
  name: "output() throws a sentence when the disk is full, status() does not throw",
  ignore: Deno.build.os !== "linux", // others have no /dev/full
  async fn() {
    const words = [Deno.execPath(), ...deno].map((word) => `'${word}'`).join(" ");
    const inShell = async (redirection: string) => {
      const { code, stderr } = await new Deno.Command("sh", {
        args: ["-c", `${words} ${redirection}`],
      }).output();
      return { code, stderr: new TextDecoder().decode(stderr) };
    };
    const { code, stderr } = await inShell(">/dev/full");
    assert.equal(code, 1);
    assert.match(stderr, /Error: Cannot write the result to stdout: No space left on device/);
    assert.doesNotMatch(stderr, /\n\s+at /);
    // it gets as far as its own error, whose exit status it is
    assert.equal((await inShell("2>/dev/full")).code, 1);
  },
});

const WORDS = [
  "",
  "plain/path.txt",
  "two words",
  "/x/$(touch touched).txt",
  "`touch touched`",
  "$HOME ${HOME}",
  "it's",
  "'; touch touched; '",
  'say "hi"',
  "a\nb\n",
  "tab\there",
  "bell\x07 escape\x1b[2J return\r",
  "\u202ereversed",
  "!! !x",
  "--out",
  "-5 degrees",
  "back\\slash\\",
  "\\n %s %d",
  "~",
  "~/x",
  "*.txt",
  "{a,b}",
  "#comment",
  "=ls",
  "a=b",
  "a&b|c;d<e>f",
  "größe 🦆",
];

Deno.test({
  name: "commandLine() quotes words so that POSIX shells pass them on unchanged and run nothing",
  ignore,
  async fn() {
    const cwd = Deno.makeTempDirSync();
    try {
      const line = commandLine(["printf", "%s\\0", ...WORDS], "linux");
      assert.equal(terminalText(line), line); // what is printed can be pasted
      const { stdout } = await new Deno.Command("sh", { args: ["-c", line], cwd }).output();
      assert.deepEqual(new TextDecoder().decode(stdout).split("\0").slice(0, -1), WORDS);
      assert.deepEqual([...Deno.readDirSync(cwd)], []);
    } finally {
      Deno.removeSync(cwd, { recursive: true });
    }
  },
});

Deno.test("commandLine() quotes words for PowerShell so that cmd runs nothing either", () => {
  const quoted: [word: string, expected: string][] = [
    ["runs\\my-run", "runs\\my-run"],
    ["--out", "--out"],
    ["--out=x.y", '"--out=x.y"'], // PowerShell would divide it
    ["", '""'],
    ["two words", '"two words"'],
    ["C:\\my runs\\", '"C:\\my runs\\\\"'],
    ["it's & calc", '"it\'s & calc"'],
    ["$(calc) `n", '"`$(calc) ``n"'],
    ['a" & calc', '"a$([char]34) & calc"'],
    ["a\u201d; calc", '"a`\u201d; calc"'],
    ["a\nb\x1b", '"a$([char]10)b$([char]27)"'],
    ["a,b", '"a,b"'],
    ["größe", '"größe"'],
  ];
  for (const [word, expected] of quoted) assert.equal(commandLine([word], "windows"), expected);
});

Deno.test("wholeNumber() and realNumber() take numbers in their range and name it otherwise", () => {
  const refusals: [
    parse: (text: string) => number,
    accepted: string[],
    refused: string[],
    RegExp,
  ][] = [
    [
      wholeNumber(),
      ["0", "7", "1e3"],
      ["-1", "0.5", "", " ", "x", "1e300"],
      / number of at least 0\.$/,
    ],
    [wholeNumber(2), ["2", "3"], ["1"], / number of at least 2\.$/],
    [wholeNumber(1, 5), ["1", "5"], ["0", "6"], / number from 1 to 5\.$/],
    [
      realNumber,
      ["-0.5", "1e-4", "0"],
      ["", " ", "x", "Infinity", "NaN"],
      /^It must be a number\.$/,
    ],
  ];
  for (const [parse, accepted, refused, message] of refusals) {
    for (const text of accepted) assert.equal(parse(text), Number(text), text);
    for (const text of refused) assert.throws(() => parse(text), { message }, JSON.stringify(text));
  }
});
