import assert from "node:assert/strict";
import { fromFileUrl } from "../paths.ts";

const child = fromFileUrl(new URL("printed.ts", import.meta.url));
const deno = ["run", "--no-prompt", "--no-check", child];

async function outputOf(command: string, args: string[]) {
  const { stdout, stderr } = await new Deno.Command(command, { args, stdin: "null" }).output();
  const decoder = new TextDecoder();
  return { stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

Deno.test("status() and run() escape control characters, output() gives a pipe the text as it is", async () => {
  const { stdout, stderr } = await outputOf(Deno.execPath(), deno);
  assert.equal(stdout, "a\x1b[2J text\n");
  const [line, error] = stderr.split("\n");
  assert.equal(line, "a \\u{1b}[31mline");
  assert.ok(error!.startsWith("Error: bad \\u{1b}]0;\\u{7} namename"), error);
  assert.ok(error!.length < 5000, `${error!.length}`);
});

Deno.test("output() escapes control characters on a terminal", {
  ignore: Deno.build.os !== "linux", // others' script(1) takes other arguments
}, async () => {
  const command = [Deno.execPath(), ...deno].map((word) => `'${word}'`).join(" ");
  const { stdout } = await outputOf("script", ["-qec", command, "/dev/null"]);
  assert.ok(stdout.includes("a\\u{1b}[2J text"), stdout);
  assert.ok(!stdout.includes("\x1b[2J"), stdout);
});
