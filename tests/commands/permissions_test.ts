import assert from "node:assert/strict";
import { namesHub, permissionError, taskOf } from "../../commands/permissions.ts";

Deno.test("permissionError() names the missing permission and the task that has it, or the path that no task may use", () => {
  const of = (access: string) => {
    const message = `Requires ${access} access to "/x", run again with the --allow-${access} flag`;
    return permissionError(new Deno.errors.NotCapable(message));
  };
  const write = of("write");
  assert.match(
    write.message,
    /^Cannot continue as that needs write access: Requires write access to "\/x"$/,
  );
  assert.match(write.hint!, /: deno task \w+$/);
  const ffi = of("ffi");
  assert.match(ffi.message, /^Cannot use Dawn as that needs permission to load native code$/);
  assert.match(ffi.hint!, /: deno task \w+:ffi; --gpu native needs none$/);
  const all = of("all"); // of which no task has more
  assert.match(all.message, /^Cannot use "\/x" as a path must not be in \/dev, \/proc or \/sys$/);
  assert.match(all.hint!, /^Choose another path/);
});

Deno.test("taskOf() names the task of a module, which may have another name than its file", () => {
  const tasks = { train: "train", dawn_install: "dawn:install", dashboard: "dashboard" };
  for (const [name, task] of Object.entries(tasks)) {
    assert.equal(taskOf(`file:///somewhere/commands/${name}.ts`), task);
  }
  assert.equal(taskOf("file:///somewhere/bench/ranks.ts"), "bench:ranks");
  assert.equal(taskOf("file:///somewhere/tests/a_test.ts"), undefined);
});

Deno.test("namesHub() tells names of the hub from paths", () => {
  for (const name of ["hf:a/b", "tinystories", "tinystories@abc"]) {
    assert.ok(namesHub("x", name), name);
  }
  for (const name of ["tinystories.txt", "a/hf:b", "sample"]) assert.ok(!namesHub(name), name);
});
