import assert from "node:assert/strict";
import { join } from "node:path";
import { directory } from "../checkpoints.ts";
import { start, step, writeRecord } from "../serve/records.ts";
import { root, task, tasks } from "./task.ts";

const run = join(directory, "runs", "one");
writeRecord(run, [start(2), step(1, 4.5), step(2, 3.25)]);

/** Begins the dashboard of a path by a program, which is Deno or runs it, and its arguments. */
async function begin(path: string, program = Deno.execPath(), args: readonly string[] = []) {
  const words = (tasks["dashboard"].command as string).split(" ").slice(1);
  const child = new Deno.Command(program, {
    args: [...args, ...words, path],
    cwd: root,
    env: { INIT_CWD: "", TOY_COMMAND: "" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const { value } = await child.stdout.pipeThrough(new TextDecoderStream()).getReader().read();
  return { child, address: value!.trim() };
}

Deno.test("dashboard prints its address, serves runs, and ends at once with Ctrl-C", async () => {
  const { child, address } = await begin(join(directory, "runs"));
  assert.match(address, /^http:\/\/127\.0\.0\.1:42\d\d\/$/);
  const rows = await (await fetch(`${address}api/runs`)).json();
  assert.deepEqual(rows.map(({ name, loss }: { name: string; loss: number }) => [name, loss]), [
    ["one", 3.25],
  ]);
  const { port } = new URL(address);
  const other = await task("dashboard", [run, "--port", port]);
  assert.equal(other.code, 1);
  assert.equal(
    other.stderr,
    `Error: Cannot serve the page as another program uses port ${port}\nChoose another --port\n`,
  );
  const events = await fetch(`${address}api/events`); // an open page does not hold it
  child.kill("SIGINT");
  assert.equal((await child.status).signal, "SIGINT");
  await events.body!.cancel().catch(() => {});
  const stderr = await new Response(child.stderr).text();
  assert.match(stderr, /Ctrl-C ends it\n/);
});

Deno.test("dashboard ends with a sentence if it can accept no more connections", {
  ignore: Deno.build.os === "windows", // which has no sh
}, async () => {
  const limited = ["-c", 'ulimit -n 64; exec "$@"', "sh", Deno.execPath()];
  const { child, address } = await begin(run, "sh", limited);
  const { hostname, port } = new URL(address), connections: Deno.Conn[] = [];
  try {
    while (connections.length < 64) {
      connections.push(await Deno.connect({ hostname, port: Number(port) }));
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.ConnectionRefused)) throw error; // it has ended already
  }
  const stderr = await new Response(child.stderr).text();
  assert.match(
    stderr,
    /\nError: Cannot serve any longer as the system accepts no more connections/,
  );
  assert.equal((await child.status).code, 1);
  for (const connection of connections) connection.close();
});

Deno.test("dashboard --save writes a page, and replaces nothing else", async () => {
  const file = join(directory, "page.html"), other = join(directory, "other.html");
  Deno.writeTextFileSync(other, "<!doctype html><title>mine</title>");
  for (let i = 0; i < 2; i++) {
    const { code, stderr } = await task("dashboard", [
      run,
      join(directory, "none"),
      "--save",
      file,
    ]);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, `saved 1 run in ${file}\n`);
  }
  const page = Deno.readTextFileSync(file);
  assert.match(page, /"value":\[4.5,3.25\]/);
  assert.doesNotMatch(page, /(src|href)="\//);
  const refused = await task("dashboard", [run, "--save", other]);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /^Error: Cannot write .* as --save replaces only a page that /);
  assert.match(Deno.readTextFileSync(other), /mine/);
});

Deno.test("dashboard says what it cannot show", async () => {
  const file = join(run, "metrics.jsonl");
  const wrong = await task("dashboard", [file]);
  assert.equal(wrong.code, 1);
  assert.match(wrong.stderr, /^Error: Cannot show .*metrics\.jsonl as it must be a folder/);
  const empty = await task("dashboard", [join(directory, "none"), "--save", "page.html"]);
  assert.equal(empty.code, 1);
  assert.match(
    empty.stderr,
    /^Error: Cannot save .*none as there is no such folder\n/,
  );
});
