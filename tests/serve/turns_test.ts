import assert from "node:assert/strict";
import { Turns } from "../../serve/turns.ts";

Deno.test("Turns runs one action at a time, in the order of the calls, without those that leave", async () => {
  const turns = new Turns(), leaving = new AbortController(), log: string[] = [];
  const run = async (name: string, { signal } = new AbortController()) => {
    using _turn = await turns.take(signal);
    log.push(`${name} begins`);
    await new Promise((resolve) => setTimeout(resolve, 1));
    log.push(`${name} ends`);
  };
  const first = run("first"), second = run("second", leaving), third = run("third");
  leaving.abort(new Error("it has left"));
  await assert.rejects(second, /it has left/);
  await turns.end();
  assert.deepEqual(log, ["first begins", "first ends", "third begins", "third ends"]);
  await Promise.all([first, third]);
});
