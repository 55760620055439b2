import { availableParallelism } from "node:os";
import { dirname, join, relative } from "node:path";
import {
  command,
  listenForInterrupts,
  output,
  runCommand,
  status,
  wholeNumber,
} from "../../commands/command.ts";
import { Random } from "../../data/random.ts";
import { once } from "../once.ts";
import { fromFileUrl } from "../paths.ts";
import { type Mutant, mutantsOf, mutate } from "./mutants.ts";

/**
 * `deno task mutate`: how many single mistakes the tests find.
 *
 * Each mistake is made in a copy of the project. Of the 25 test files that are nearest to it by imports, those
 * that execute its line run one after the other until one fails. A mistake that no test finds but the type
 * checker does counts as found, too. What is left are the survivors: behaviour that no near test holds, or code
 * that means the same.
 *
 * Which lines a test file executes, also in the processes that it starts, is learned when it is first needed:
 * by running it without a mistake. One that fails then, or takes longer than four minutes, is left out.
 *
 * Stryker does not drive `deno test`, and knows no WGSL.
 *
 * @module
 */

const root = dirname(dirname(dirname(fromFileUrl(import.meta.url))));

/** Test files that may find a mistake: so many that are nearest to it by imports. */
const NEAREST = 25;

/** The module that reads all shaders, which it finds by their folders. */
const SHADER_READER = "bench/wgsl_files.ts";

/** Milliseconds within which a test file must pass without a mistake. */
const PATIENCE_MS = 240_000;

/** A mistake in a file of the project. */
interface Place extends Mutant {
  /** Its number in the draw, from 1. */
  readonly number: number;
  readonly path: string;
  readonly text: string;
}

/** What became of a mistake: who found it, if anybody did. */
interface Verdict {
  readonly place: Place;
  readonly foundBy: string | undefined;
  /** Test files that execute the mistake and pass. */
  readonly passed: number;
}

/** What a test file does without a mistake. */
interface Baseline {
  readonly elapsedMs: number;
  /** The lines of each file that it executes, from 1. */
  readonly executed: ReadonlyMap<string, ReadonlySet<number>>;
}

const program = command("mutate", "Count the single mistakes in the code that the tests find.")
  .argument("[filter]", "only in files whose path contains this", "")
  .requiredOption("--seed <n>", "seed of the draw", wholeNumber())
  .option("--count <n>", "mistakes to draw", wholeNumber(1), 20)
  .option("--from <n>", "number in the draw of the first one to make", wholeNumber(1), 1)
  .option(
    "--jobs <n>",
    "mistakes at a time (default: one for each core)",
    wholeNumber(1),
    availableParallelism(),
  )
  .action((filter, { seed, count, from, jobs }) =>
    runCommand(async () => {
      const places = draw(await sources(filter), { seed, count }).slice(from - 1);
      const reach = await testsOf();
      const interrupts = await listenForInterrupts("stopping; once more to quit at once");
      const verdicts = await tryAll(places, reach, { jobs, signal: interrupts.signal });
      report(verdicts, places.length);
      return interrupts.signal.aborted ? interrupts.exitCode : 0;
    })
  );

/** The texts in which mistakes are made: what Git tracks or would, but for tests. */
async function sources(filter: string): Promise<Map<string, string>> {
  const paths = (await tracked()).filter((path) =>
    /\.(ts|wgsl)$/.test(path) && !path.startsWith("tests/") && path.includes(filter)
  );
  return new Map(paths.map((path) => [path, Deno.readTextFileSync(join(root, path))]));
}

/** Files of the project, by path from its root. */
const tracked = once(async () => {
  const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  const { stdout } = await new Deno.Command("git", { args, cwd: root }).output();
  const paths = new TextDecoder().decode(stdout).split("\0").filter((path) => path !== "");
  return paths.filter((path) => exists(join(root, path))); // not those that were just removed
});

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** Draws mistakes without repetition: first an operator, all alike, then one of its places. */
function draw(
  texts: ReadonlyMap<string, string>,
  { seed, count }: { seed: number; count: number },
): Place[] {
  const random = new Random(seed);
  const byOperator = Map.groupBy(
    [...texts].flatMap(([path, text]) =>
      mutantsOf(text, replacedIn(path)).map((mutant) => ({ ...mutant, path, text }))
    ),
    ({ operator }) => operator,
  );
  const places: Place[] = [];
  while (places.length < count && byOperator.size > 0) {
    const operator = [...byOperator.keys()][random.below(byOperator.size)]!;
    const left = byOperator.get(operator)!;
    const [place] = left.splice(random.below(left.length), 1);
    places.push({ ...place!, number: places.length + 1 });
    if (left.length === 0) byOperator.delete(operator);
  }
  return places;
}

/** Constants of a shader whose values its op chooses: those that are named by the TypeScript beside it. */
function replacedIn(path: string): Set<string> {
  if (!path.endsWith(".wgsl")) return new Set();
  const folder = join(root, dirname(path));
  const scripts = [...Deno.readDirSync(folder)].filter(({ name }) => name.endsWith(".ts"));
  const names = scripts.flatMap(({ name }) =>
    Deno.readTextFileSync(join(folder, name)).match(/\b[A-Z][A-Z0-9_]*\b/g) ?? []
  );
  return new Set(names);
}

/** For each file the test files that reach it by imports, the nearest first. */
async function testsOf(): Promise<Map<string, string[]>> {
  const files = await tracked(), paths = files.filter((path) => path.endsWith(".ts"));
  const importers = new Map<string, Set<string>>();
  const add = (target: string, importer: string) =>
    importers.set(target, (importers.get(target) ?? new Set()).add(importer));
  for (const path of paths) {
    const text = Deno.readTextFileSync(join(root, path));
    // what is imported, and what is run as a worker or another process
    const names = text.matchAll(/"(\.{1,2}\/[^"\s]+\.(?:ts|wgsl))"/g);
    for (const [, name] of names) add(join(dirname(path), name!), path);
    // tests of the commands run what the tasks name
    if (path.startsWith("tests/") && text.includes(`"deno.json"`)) {
      for (const target of paths) if (/^(commands|bench)\//.test(target)) add(target, path);
    }
  }
  for (const path of files) if (path.endsWith(".wgsl")) add(path, SHADER_READER);
  const tests = new Map<string, string[]>();
  for (const file of importers.keys()) {
    const distances = new Map([[file, 0]]);
    for (const [at, distance] of distances) {
      for (const importer of importers.get(at) ?? []) {
        if (!distances.has(importer)) distances.set(importer, distance + 1);
      }
    }
    // at one distance that which mirrors the file first: tests/kernels/sum_test.ts for kernels/sum/forward.wgsl
    const alike = (path: string) =>
      [...path].findIndex((letter, i) => letter !== `tests/${file}`[i]);
    tests.set(
      file,
      [...distances.keys()].filter((path) => path.endsWith("_test.ts")).sort((a, b) =>
        distances.get(a)! - distances.get(b)! || alike(b) - alike(a)
      ).slice(0, NEAREST),
    );
  }
  return tests;
}

/** Tries all mistakes, several at a time, each in a copy of the project. */
async function tryAll(
  places: readonly Place[],
  reach: ReadonlyMap<string, readonly string[]>,
  { jobs, signal }: { jobs: number; signal: AbortSignal },
): Promise<Verdict[]> {
  const verdicts: Verdict[] = [], waiting = [...places];
  const sound = await copyProject();
  const baselines = new Baselines(sound, signal);
  const worker = async () => {
    const copy = await copyProject();
    try {
      for (let place; !signal.aborted && (place = waiting.shift());) {
        const begin = performance.now();
        const verdict = await judge(copy, place, reach.get(place.path) ?? [], baselines, signal);
        if (signal.aborted) return;
        verdicts.push(verdict);
        const seconds = ((performance.now() - begin) / 1000).toFixed(0);
        status(`${verdicts.length}/${places.length} ${describe(verdict)} (${seconds} s)`);
      }
    } finally {
      await discard(copy);
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(jobs, places.length) }, worker));
  } finally {
    await discard(sound);
  }
  for (const test of baselines.failed) {
    status(`${test} fails or takes long without a mistake: it found none`);
  }
  return verdicts;
}

/** Copies the project into a temporary directory. */
async function copyProject(): Promise<string> {
  const copy = await Deno.makeTempDir();
  for (const path of await tracked()) {
    await Deno.mkdir(join(copy, dirname(path)), { recursive: true });
    await Deno.copyFile(join(root, path), join(copy, path));
  }
  return copy;
}

/** Removes a directory, unless a process that a stopped test file has left behind still writes there. */
async function discard(directory: string): Promise<void> {
  await Deno.remove(directory, { recursive: true }).catch(() => {});
}

/** What test files do without a mistake, each learned when it is first needed. */
class Baselines {
  readonly #all = new Map<string, Promise<Baseline | undefined>>();
  readonly #pending = new Set<string>();
  readonly #copy: string;
  readonly #signal: AbortSignal;
  /** Test files that fail or take long. */
  readonly failed: string[] = [];

  constructor(copy: string, signal: AbortSignal) {
    this.#copy = copy;
    this.#signal = signal;
  }

  of(test: string): Promise<Baseline | undefined> {
    if (!this.#all.has(test)) this.#all.set(test, this.#learn(test));
    return this.#all.get(test)!;
  }

  /** The next of some test files to run: the first one for which nobody waits. */
  next(tests: readonly string[]): string | undefined {
    return tests.find((test) => !this.#pending.has(test)) ?? tests[0];
  }

  async #learn(test: string): Promise<Baseline | undefined> {
    this.#pending.add(test);
    const facts = await baseline(this.#copy, test, this.#signal);
    this.#pending.delete(test);
    if (!facts && !this.#signal.aborted) this.failed.push(test);
    return facts;
  }
}

/** Runs a test file without a mistake; undefined if it fails or takes long. */
async function baseline(
  copy: string,
  test: string,
  signal: AbortSignal,
): Promise<Baseline | undefined> {
  const coverage = await Deno.makeTempDir();
  try {
    const begin = performance.now();
    if (!await passes(copy, test, { signal, patienceMs: PATIENCE_MS, coverage })) return undefined;
    const elapsedMs = performance.now() - begin;
    const lcov = await deno(copy, ["coverage", "--lcov", coverage], { signal });
    const executed = new Map<string, Set<number>>();
    for (const record of lcov.stdout.split("end_of_record")) {
      const [, url] = /^SF:(.+)$/m.exec(record) ?? [];
      if (!url) continue;
      const counts = [...record.matchAll(/^DA:(\d+),(\d+)$/gm)];
      const lines = counts.filter(([, , count]) => count !== "0").map(([, line]) => Number(line));
      executed.set(relative(copy, url), new Set(lines));
    }
    return { elapsedMs, executed };
  } finally {
    await discard(coverage);
  }
}

/** Makes a mistake, and lets the tests and the type checker find it. */
async function judge(
  copy: string,
  place: Place,
  tests: readonly string[],
  baselines: Baselines,
  signal: AbortSignal,
): Promise<Verdict> {
  const file = join(copy, place.path), lines = await linesOf(copy, place);
  const left = new Set(tests);
  let passed = 0, checked = !place.path.endsWith(".ts");
  const typeChecker = async () => {
    if (checked) return undefined;
    checked = true;
    const { success } = await deno(copy, ["check", place.path], { signal });
    return success ? undefined : "deno check";
  };
  const finder = async () => {
    for (let test; (test = baselines.next([...left])); left.delete(test)) {
      const facts = await baselines.of(test);
      if (signal.aborted) return undefined;
      if (!facts || !lines.some((line) => executes(facts, line))) continue;
      // several times its time, as other processes may need the cores
      const patienceMs = 4 * facts.elapsedMs + 20_000;
      if (!await passes(copy, test, { signal, patienceMs })) return test;
      passed++;
      const foundBy = await typeChecker(); // cheaper than the tests that are far from the file
      if (foundBy) return foundBy;
    }
    return await typeChecker();
  };
  try {
    await Deno.writeTextFile(file, mutate(place.text, place));
    return { place, foundBy: await finder(), passed };
  } finally {
    await Deno.writeTextFile(file, place.text);
  }
}

/** The lines of scripts that show that a mistake is executed: its own, or those that name the text of its shader. */
async function linesOf(
  copy: string,
  { path, text, start }: Place,
): Promise<{ path: string; line: number }[]> {
  if (path.endsWith(".ts")) return [{ path, line: lineAt(text, start) }];
  const scripts = (await tracked()).filter((script) => script.endsWith(".ts"));
  return scripts.flatMap((script) => {
    const text = Deno.readTextFileSync(join(copy, script));
    const imports = [...text.matchAll(/^import (\w+) from "(.+\.wgsl)"/gm)];
    const name = script === SHADER_READER
      ? "readTextFileSync"
      : imports.find(([, , file]) => join(dirname(script), file!) === path)?.[1];
    if (!name) return [];
    const uses = [...text.matchAll(new RegExp(`(?<!^import )\\b${name}\\b`, "gm"))];
    return uses.map(({ index }) => ({ path: script, line: lineAt(text, index) }));
  });
}

/** The line of a place in a text, from 1. */
function lineAt(text: string, at: number): number {
  return text.slice(0, at).split("\n").length;
}

/** Whether a line is executed, or one beside it: lcov counts a line that is executed in part as not executed. */
function executes(
  { executed }: Baseline,
  { path, line }: { path: string; line: number },
): boolean {
  const lines = executed.get(path);
  return [line - 1, line, line + 1].some((near) => lines?.has(near));
}

/** Whether a test file passes in a copy of the project, within a time. */
async function passes(
  copy: string,
  test: string,
  { signal, patienceMs, coverage }: { signal: AbortSignal; patienceMs: number; coverage?: string },
): Promise<boolean> {
  const { success } = await deno(copy, ["task", "test", "--no-check", "--fail-fast", test], {
    signal: AbortSignal.any([signal, AbortSignal.timeout(patienceMs)]),
    env: coverage ? { DENO_COVERAGE_DIR: coverage } : {}, // also of the processes that it starts
  });
  return success;
}

/** Runs Deno in a copy of the project; a child that is still there at a signal is ended. */
async function deno(
  cwd: string,
  args: readonly string[],
  { signal, env = {} }: { signal: AbortSignal; env?: Record<string, string> },
): Promise<{ success: boolean; stdout: string }> {
  const { success, stdout } = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd,
    env,
    stdin: "null",
    stdout: "piped",
    stderr: "null",
    signal,
  }).output();
  return { success, stdout: new TextDecoder().decode(stdout) };
}

/** A mistake as one line: where, what became of what, and who found it. */
function describe({ place, foundBy, passed }: Verdict): string {
  const { number, path, text, start, end, replacement, operator } = place;
  const short = (code: string) => code.replaceAll(/\s+/g, " ").slice(0, 60);
  const column = start - text.lastIndexOf("\n", start - 1);
  return `#${number} ${path}:${lineAt(text, start)}:${column} ${operator} ` +
    `"${short(text.slice(start, end))}" -> "${short(replacement)}": ` +
    (foundBy ?? `survived ${passed} test file${passed === 1 ? "" : "s"}`);
}

function report(verdicts: readonly Verdict[], drawn: number): void {
  const survivors = verdicts.filter(({ foundBy }) => foundBy === undefined);
  const found = verdicts.length - survivors.length;
  for (const survivor of survivors) output(`${describe(survivor)}\n`);
  const untried = drawn - verdicts.length;
  output(
    `${found} of ${verdicts.length} mistakes found` +
      ` (${(100 * found / Math.max(verdicts.length, 1)).toFixed(0)} %)` +
      (untried > 0 ? `, ${untried} not tried\n` : "\n"),
  );
}

await program.parseAsync();
