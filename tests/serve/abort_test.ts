import assert from "node:assert/strict";
import { LinkedAbort, unlessAborted } from "../../serve/abort.ts";

Deno.test("LinkedAbort aborts with the first of others, by itself, or after a time", async () => {
  const [a, b] = [new AbortController(), new AbortController()];
  using linked = new LinkedAbort(a.signal, b.signal);
  assert.equal(linked.signal.aborted, false);
  b.abort("b");
  a.abort("a");
  assert.equal(linked.signal.reason, "b");
  using own = new LinkedAbort();
  own.abort("own");
  assert.equal(own.signal.reason, "own");
  using late = new LinkedAbort();
  late.after(5, () => new Error("late"));
  await new Promise((resolve) => late.signal.addEventListener("abort", resolve));
  assert.equal(late.signal.reason.message, "late");
  using never = new LinkedAbort();
  never.after(Infinity, () => new Error("too early"));
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(never.signal.aborted, false);
  assert.equal(new LinkedAbort(a.signal, b.signal).signal.reason, "a");
});

Deno.test("LinkedAbort lets go of the others when it is disposed", async () => {
  const source = new AbortController();
  const linked = new LinkedAbort(source.signal);
  linked.after(5, () => new Error("late"));
  linked[Symbol.dispose]();
  source.abort();
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(linked.signal.aborted, false);
});

Deno.test("unlessAborted() waits for a promise, but not beyond its signal", async () => {
  const abort = new AbortController();
  assert.equal(await unlessAborted(Promise.resolve(7), abort.signal), 7);
  const waiting = unlessAborted(new Promise(() => {}), abort.signal);
  abort.abort("enough");
  await assert.rejects(waiting, (reason) => reason === "enough");
  for (const late of [Promise.resolve(7), Promise.reject(new Error("of which nobody learns"))]) {
    await assert.rejects(unlessAborted(late, abort.signal), (reason) => reason === "enough");
  }
});
