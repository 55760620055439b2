import assert from "node:assert/strict";
import { type Answer, answerWith } from "../../serve/answer.ts";
import type { Models } from "../../serve/models.ts";
import { RequestRecord } from "../../serve/request_record.ts";
import type { ServedModel } from "../../serve/served_model.ts";

/** A model of which nothing is asked. */
const room = () => new DisposableStack();
const model = { name: "m", admit: room, keepLogprobs: room } as unknown as ServedModel;
const models = {
  use: (_: string, signal: AbortSignal, work: (m: ServedModel, s: AbortSignal) => unknown) =>
    work(model, signal),
} as unknown as Models;

/** An answer without choices. */
const ANSWER = {
  choices: [],
  promptTokens: 0,
  head: { id: "a", created: 0, model: "m" },
  object: "whole",
  objectOfParts: "part",
} satisfies Answer;

Deno.test("answerWith() leaves nothing on the signal of its request once the answer has ended", async () => {
  const { signal } = new AbortController();
  let listeners = 0;
  const { addEventListener, removeEventListener } = signal;
  Object.assign(signal, {
    addEventListener(...args: Parameters<typeof addEventListener>) {
      listeners++;
      addEventListener.apply(signal, args);
    },
    removeEventListener(...args: Parameters<typeof removeEventListener>) {
      listeners--;
      removeEventListener.apply(signal, args);
    },
  });
  const record = new RequestRecord(new Request("http://x/"));
  const options = { model: "m", stream: false, stream_options: {}, count: 0 };
  const response = await answerWith(models, options, { signal, record }, () => ANSWER);
  assert.ok(listeners > 0);
  assert.equal((await response.json()).object, "whole");
  await record.body;
  assert.equal(listeners, 0);
});
