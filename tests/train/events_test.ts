import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { hasAborted, reporting, type TrainEvent } from "../../train/events.ts";

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
    time: true,
    checkpoint: true,
    end: true,
  };
  const page = Deno.readTextFileSync(new URL("../../docs/checkpoints.md", import.meta.url));
  const rows = [...page.matchAll(/^\| `(\w+)` +\| `/gm)].map(([, kind]) => kind!);
  assert.deepEqual(rows.sort(), Object.keys(kinds).sort());
});

Deno.test("hasAborted() hears of a signal that another thread sent while this one was busy", async () => {
  const code = `self.onmessage = ({ data }) => {
    Atomics.wait(data, 0, 0, 50);
    self.postMessage("a signal");
    Atomics.store(data, 1, 1);
  };`;
  const worker = new Worker(`data:text/javascript,${encodeURIComponent(code)}`, { type: "module" });
  try {
    const controller = new AbortController(), sent = new Int32Array(new SharedArrayBuffer(8));
    worker.onmessage = () => controller.abort();
    worker.postMessage(sent);
    while (Atomics.load(sent, 1) === 0);
    assert.equal(controller.signal.aborted, false);
    assert.equal(await hasAborted(controller.signal), true);
  } finally {
    worker.terminate();
  }
  assert.equal(await hasAborted(undefined), false);
  assert.equal(await hasAborted(new AbortController().signal), false);
});
