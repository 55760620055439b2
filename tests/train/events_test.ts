import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { reporting } from "../../train/events.ts";

Deno.test("reporting() yields every report, also those made while its reader is busy", async () => {
  const work = reporting(async ({ onNotice }) => {
    onNotice("first");
    await Promise.resolve();
    onNotice("last");
    return 7;
  }, undefined);
  assert.deepEqual((await work.next()).value, { kind: "notice", message: "first" });
  await sleep(10); // the work ends meanwhile
  assert.deepEqual(await work.next(), { done: false, value: { kind: "notice", message: "last" } });
  assert.deepEqual(await work.next(), { done: true, value: 7 });
});
