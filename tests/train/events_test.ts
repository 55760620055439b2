import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { reporting, type TrainEvent } from "../../train/events.ts";

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

Deno.test("docs/checkpoints.md names every kind of event", () => {
  // a kind that is missing here, or that does not exist, is an error of types
  const kinds: Record<TrainEvent["kind"], true> = {
    notice: true,
    preparing: true,
    start: true,
    tuning: true,
    step: true,
    evaluation: true,
    sample: true,
    histogram: true,
    warning: true,
    estimate: true,
    checkpoint: true,
    end: true,
  };
  const page = Deno.readTextFileSync(new URL("../../docs/checkpoints.md", import.meta.url));
  const rows = [...page.matchAll(/^\| `(\w+)` +\| `/gm)].map(([, kind]) => kind!);
  assert.deepEqual(rows.sort(), Object.keys(kinds).sort());
});
