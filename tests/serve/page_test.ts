import assert from "node:assert/strict";
import { join } from "node:path";
import { root } from "../commands/task.ts";

/** The page in a browser, in a process with the permissions that a browser needs. */

const FILES = ["page_browser.ts", "playground_browser.ts"];

Deno.test("the dashboard's page works in a browser (tests/serve/*_browser.ts)", async () => {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    // deno.lock would make every user download what only these tests need
    args: [
      "test",
      "-A",
      "--no-lock",
      "--no-check",
      ...FILES.map((name) => join("tests", "serve", name)),
    ],
    cwd: root,
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder();
  assert.equal(
    code,
    0,
    `${text.decode(stdout)}${text.decode(stderr)}\n` +
      "Without Chromium or Chrome, all other tests run with: deno task test --ignore=tests/serve/page_test.ts",
  );
});
