import assert from "node:assert/strict";
import { MOST_UNREAD_BYTES } from "../../serve/limits.ts";
import { pushedStream, textStream } from "../../serve/text_stream.ts";

/** Texts without end, and how many of them were asked for. */
function endless(text: string) {
  const state = { asked: 0, isEnded: false };
  const texts = (async function* () {
    try {
      for (;;) {
        state.asked++;
        await Promise.resolve();
        yield text;
      }
    } finally {
      state.isEnded = true;
    }
  })();
  return { state, texts };
}

const turn = (milliseconds = 20) => new Promise((resolve) => setTimeout(resolve, milliseconds));

Deno.test("textStream() sends texts, and ends with them", async () => {
  const texts = (async function* () {
    yield "a";
    await Promise.resolve();
    yield "é";
  })();
  const { readable, ended } = textStream(texts, () => assert.fail());
  assert.equal(await new Response(readable).text(), "aé");
  await ended;
});

Deno.test("textStream() asks for no more while many bytes wait for a slow reader", async () => {
  const { state, texts } = endless("x".repeat(1000));
  let left = 0;
  const { readable, ended } = textStream(texts, () => left++);
  await turn();
  const { asked } = state;
  assert.ok(asked <= MOST_UNREAD_BYTES / 1000 + 2, `${asked}`);
  await turn();
  assert.equal(state.asked, asked);
  const reader = readable.getReader();
  for (let i = 0; i < 100; i++) await reader.read();
  await turn();
  assert.ok(state.asked > asked);
  await reader.cancel();
  await ended;
  assert.deepEqual([left, state.isEnded], [1, true]);
});

Deno.test("textStream() waits for a reader anew each time that it takes something", async () => {
  const { setTimeout, clearTimeout } = globalThis, stalledMs = 12_345, waits = new Set<unknown>();
  globalThis.setTimeout = ((action: () => void, milliseconds?: number) => {
    const timer = setTimeout(action, milliseconds);
    if (milliseconds === stalledMs) waits.add(timer);
    return timer;
  }) as typeof setTimeout;
  globalThis.clearTimeout = (timer) => {
    waits.delete(timer);
    clearTimeout(timer);
  };
  try {
    const { texts } = endless("x".repeat(1000));
    const { readable, ended } = textStream(texts, () => {}, { stalledMs });
    const reader = readable.getReader();
    for (let i = 0; i < 3; i++) {
      await reader.read();
      await turn();
      assert.equal(waits.size, 1);
    }
    await reader.cancel();
    await ended;
    assert.equal(waits.size, 0);
  } finally {
    Object.assign(globalThis, { setTimeout, clearTimeout });
  }
});

Deno.test("textStream() lets other work proceed between long texts", async () => {
  const { texts } = endless("x".repeat(MOST_UNREAD_BYTES));
  const reader = textStream(texts, () => {}).readable.getReader();
  let hasProceeded = false;
  setTimeout(() => hasProceeded = true);
  for (let i = 0; i < 10; i++) await reader.read();
  await reader.cancel();
  assert.ok(hasProceeded);
});

Deno.test("textStream() takes a reader that reads nothing for gone", async () => {
  const { state, texts } = endless("x".repeat(1000));
  let left = 0;
  const { readable, ended } = textStream(texts, () => left++, { stalledMs: 30 });
  await ended;
  assert.deepEqual([left, state.isEnded], [1, true]);
  await assert.rejects(new Response(readable).text(), /takes nothing/);
});

Deno.test("textStream() passes a mistake of the generator on", async () => {
  // deno-lint-ignore require-yield
  const texts = (async function* (): AsyncGenerator<string, void> {
    await Promise.resolve();
    throw new TypeError("a mistake");
  })();
  const { readable, ended } = textStream(texts, () => {});
  await assert.rejects(new Response(readable).text(), /a mistake/);
  await assert.rejects(ended, /a mistake/);
});

Deno.test("pushedStream() sends texts as they come, until its reader leaves or takes nothing", async () => {
  let ends = 0, send = (_: string) => {};
  const open = () =>
    pushedStream((push) => {
      send = push;
      push("first ");
      return () => ends++;
    });
  const reader = open().getReader();
  send("second");
  const read = async () => new TextDecoder().decode((await reader.read()).value);
  assert.deepEqual([await read(), await read()], ["first ", "second"]);
  await reader.cancel();
  assert.equal(ends, 1);
  const stalled = open();
  for (let i = 0; ends === 1; i++) {
    assert.ok(i <= MOST_UNREAD_BYTES / 1000, "it ends by itself");
    send("x".repeat(1000));
  }
  assert.ok((await new Response(stalled).text()).startsWith("first xxx")); // what waited, to the end
});
