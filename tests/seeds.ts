/**
 * A seed for what a test draws: a fresh one, so that inputs differ from run to run, or the one behind `--` in
 * `deno task test FILE -- SEED`, which repeats a run. A test that draws names its seed when it fails.
 */
export function freshSeed(): number {
  const [given] = Deno.args;
  return given === undefined ? crypto.getRandomValues(new Uint32Array(1))[0]! : Number(given) >>> 0;
}
