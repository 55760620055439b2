import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import {
  command,
  listenForInterrupts,
  output,
  run,
  status,
  wholeNumber,
} from "../../commands/command.ts";
import { Random } from "../../data/random.ts";
import { fromFileUrl } from "../paths.ts";
import { type Mutant, mutantsOf, mutate, type Operator } from "./mutants.ts";

/**
 * `deno task mutate`: how many single mistakes the tests find.
 *
 * Each mistake is made in a copy of the project. The test files that reach the changed file run one after the
 * other, the nearest first, until one fails; a mistake that no test finds but the type checker does counts as
 * found, too. A test file that fails without a mistake finds none. What is left are the survivors: behaviour
 * that no test holds, or code that means the same.
 *
 * Stryker does not drive `deno test`, and knows no WGSL.
 *
 * @module
 */

const root = dirname(dirname(dirname(fromFileUrl(import.meta.url))));

/** Milliseconds after which a test file is taken to hang, as some mistakes make it do; the longest needs one minute. */
const PATIENCE_MS = 300_000;

/** A mistake in a file of the project. */
interface Place extends Mutant {
  readonly path: string;
  readonly text: string;
}

/** What became of a mistake: who found it, if anybody did. */
interface Verdict {
  readonly place: Place;
  readonly foundBy: string | undefined;
}

const program = command("mutate", "Count the single mistakes in the code that the tests find.")
  .argument("[filter]", "only in files whose path contains this", "")
  .requiredOption("--seed <n>", "seed of the draw", wholeNumber())
  .option("--count <n>", "mistakes to make", wholeNumber(1), 20)
  .option(
    "--jobs <n>",
    "mistakes at a time (default: one for each core)",
    wholeNumber(1),
    availableParallelism(),
  )
  .action((filter, { seed, count, jobs }) =>
    run(async () => {
      const places = draw(await sources(filter), { seed, count });
      const noticing = await testsOf();
      const interrupts = await listenForInterrupts("stopping; once more to quit at once");
      const verdicts = await tryAll(places, noticing, { jobs, signal: interrupts.signal });
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
async function tracked(): Promise<string[]> {
  const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  const { stdout } = await new Deno.Command("git", { args, cwd: root }).output();
  const paths = new TextDecoder().decode(stdout).split("\0").filter((path) => path !== "");
  return paths.filter((path) => exists(join(root, path))); // not those that were just removed
}

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
      mutantsOf(text, replacedIn(path)).map((mutant): Place => ({ ...mutant, path, text }))
    ),
    ({ operator }): Operator => operator,
  );
  const places: Place[] = [];
  while (places.length < count && byOperator.size > 0) {
    const operator = [...byOperator.keys()][random.below(byOperator.size)]!;
    const left = byOperator.get(operator)!;
    places.push(...left.splice(random.below(left.length), 1));
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
  const paths = (await tracked()).filter((path) => path.endsWith(".ts"));
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
  const tests = new Map<string, string[]>();
  for (const file of importers.keys()) {
    const reached = new Set([file]); // in the order of their distance, as a set keeps it
    for (const at of reached) for (const importer of importers.get(at) ?? []) reached.add(importer);
    tests.set(file, [...reached].filter((path) => path.endsWith("_test.ts")));
  }
  return tests;
}

/** Tries all mistakes, several at a time, each in a copy of the project. */
async function tryAll(
  places: readonly Place[],
  noticing: ReadonlyMap<string, readonly string[]>,
  { jobs, signal }: { jobs: number; signal: AbortSignal },
): Promise<Verdict[]> {
  const verdicts: Verdict[] = [], waiting = [...places];
  const sound = new Map<string, Promise<boolean>>(); // whether a test file passes without a mistake
  const worker = async () => {
    const copy = await Deno.makeTempDir();
    try {
      for (const path of await tracked()) {
        await Deno.mkdir(join(copy, dirname(path)), { recursive: true });
        await Deno.copyFile(join(root, path), join(copy, path));
      }
      for (let place; !signal.aborted && (place = waiting.shift());) {
        const foundBy = await finder(copy, place, noticing.get(place.path) ?? [], sound, signal);
        if (signal.aborted) return;
        verdicts.push({ place, foundBy });
        status(`${verdicts.length}/${places.length} ${describe(place)}: ${foundBy ?? "SURVIVED"}`);
      }
    } finally {
      await Deno.remove(copy, { recursive: true });
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, places.length) }, worker));
  for (const [path, passed] of sound) {
    if (!await passed) status(`${path} fails without a mistake: it found none`);
  }
  return verdicts;
}

/** What finds a mistake: a test file, or the type checker. */
async function finder(
  copy: string,
  place: Place,
  tests: readonly string[],
  sound: Map<string, Promise<boolean>>,
  signal: AbortSignal,
): Promise<string | undefined> {
  const file = join(copy, place.path);
  const passesTest = (path: string) =>
    passes(copy, ["task", "test", "--no-check", "--fail-fast", path], [
      signal,
      AbortSignal.timeout(PATIENCE_MS),
    ]);
  try {
    await Deno.writeTextFile(file, mutate(place.text, place));
    for (const [i, path] of tests.entries()) {
      const fails = !await passesTest(path);
      if (signal.aborted) return undefined;
      if (fails) {
        await Deno.writeTextFile(file, place.text);
        if (!sound.has(path)) sound.set(path, passesTest(path));
        if (await sound.get(path)) return path;
        await Deno.writeTextFile(file, mutate(place.text, place));
      }
      // cheaper than the tests that are far from the file
      if (i === 0 && place.path.endsWith(".ts")) {
        if (!await passes(copy, ["check", place.path], [signal])) return "deno check";
      }
    }
    return undefined;
  } finally {
    await Deno.writeTextFile(file, place.text);
  }
}

/** Whether Deno ends well; a child that is still there at a signal is ended. */
async function passes(
  cwd: string,
  args: readonly string[],
  signals: readonly AbortSignal[],
): Promise<boolean> {
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd,
    stdin: "null",
    stdout: "null",
    stderr: "null",
    signal: AbortSignal.any([...signals]),
  }).output();
  return success;
}

/** A mistake as one line: where, and what became of what. */
function describe({ path, text, start, end, replacement, operator }: Place): string {
  const line = text.slice(0, start).split("\n").length;
  const short = (code: string) => code.replaceAll(/\s+/g, " ").slice(0, 60);
  return `${path}:${line} ${operator} "${short(text.slice(start, end))}" -> "${
    short(replacement)
  }"`;
}

function report(verdicts: readonly Verdict[], drawn: number): void {
  const survivors = verdicts.filter(({ foundBy }) => foundBy === undefined);
  const found = verdicts.length - survivors.length;
  for (const { place } of survivors) output(`survived: ${describe(place)}\n`);
  const untried = drawn - verdicts.length;
  output(
    `${found} of ${verdicts.length} mistakes found` +
      ` (${(100 * found / Math.max(verdicts.length, 1)).toFixed(0)} %)` +
      (untried > 0 ? `, ${untried} not tried\n` : "\n"),
  );
}

await program.parseAsync();
