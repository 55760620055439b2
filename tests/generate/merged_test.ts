import assert from "node:assert/strict";
import { merged } from "../../generate/merged.ts";

/** Yields what `give()` is called with, until that is undefined; throws an error. */
function source() {
  const state = { ended: false };
  let given = Promise.withResolvers<string | Error | undefined>();
  async function* items() {
    try {
      for (let item; (item = await given.promise) !== undefined;) {
        if (item instanceof Error) throw item;
        given = Promise.withResolvers();
        yield item;
      }
    } finally {
      state.ended = true;
    }
  }
  return { items: items(), state, give: (item?: string | Error) => given.resolve(item) };
}

const turn = () => new Promise((resolve) => setTimeout(resolve));

Deno.test("merged() yields the items of all generators in the order in which they come", async () => {
  const [a, b] = [source(), source()], all = merged([a.items, b.items]);
  const next = async () => (await all.next()).value;
  b.give("b1");
  assert.deepEqual(await next(), { index: 1, piece: "b1" });
  a.give("a1");
  assert.deepEqual(await next(), { index: 0, piece: "a1" });
  a.give();
  b.give("b2");
  assert.deepEqual(await next(), { index: 1, piece: "b2" });
  const last = next(); // of the only generator that is left
  await turn();
  b.give("b3");
  assert.deepEqual(await last, { index: 1, piece: "b3" });
  b.give();
  assert.equal(await next(), undefined);
  assert.deepEqual(await Array.fromAsync(merged([])), []);
});

Deno.test("merged() ends all generators when its reader leaves, or when one of them throws", async () => {
  for (const item of ["a1", new Error("broken")]) {
    const [a, b] = [source(), source()], all = merged([a.items, b.items]);
    let isAsked = false; // to end
    const end = b.items.return.bind(b.items);
    b.items.return = (value) => {
      isAsked = true;
      return end(value);
    };
    const first = all.next();
    first.catch(() => {}); // awaited below
    await turn();
    a.give(item);
    if (!(item instanceof Error)) await first;
    const left = all.return();
    await turn();
    assert.ok(isAsked);
    b.give(); // a generator that waits ends once its promise does
    if (item instanceof Error) await assert.rejects(first, item);
    await left;
    assert.ok(a.state.ended && b.state.ended);
  }
});
