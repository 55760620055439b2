import assert from "node:assert/strict";
import { Mutex } from "../../serve/mutex.ts";

Deno.test("Mutex has one holder at a time, in the order of the calls, without those that leave", async () => {
  const mutex = new Mutex(), leaving = new AbortController(), log: string[] = [];
  const run = async (name: string, { signal } = new AbortController()) => {
    using _lock = await mutex.acquire(signal);
    log.push(`${name} begins`);
    await new Promise((resolve) => setTimeout(resolve, 1));
    log.push(`${name} ends`);
  };
  const first = run("first"), second = run("second", leaving), third = run("third");
  leaving.abort(new Error("it has left"));
  await assert.rejects(second, /it has left/);
  await mutex.idle();
  assert.deepEqual(log, ["first begins", "first ends", "third begins", "third ends"]);
  await Promise.all([first, third]);
});
