import assert from "node:assert/strict";
import { LossWatch } from "../../train/loss_watch.ts";

/** What a watch says of evaluations, by their number; each comes after a step with its training loss. */
function saidOf(
  validation: readonly number[],
  training: (i: number) => number,
  entropy?: { entropyPerToken: number; tokens: number },
): [number, string][] {
  const watch = new LossWatch(), said: [number, string][] = [];
  for (const [i, loss] of validation.entries()) {
    assert.equal(watch.add({ kind: "step", step: i + 1, loss: training(i) }), undefined);
    const sentence = watch.add({ kind: "evaluation", step: i + 1, loss, ...entropy });
    if (sentence !== undefined) said.push([i, sentence]);
  }
  return said;
}

const falling = (i: number) => 4 - i / 10;

Deno.test("LossWatch says once per rise that a model learns its text by heart", () => {
  const [[at, sentence], ...more] = saidOf(
    [4, 3, 3.2, 3.3, 3.4, 3.5, 2.9, 3, 3, 2.92, 3, 3, 3],
    falling,
  ) as [[number, string], [number, string]];
  assert.equal(at, 4);
  assert.match(
    sentence,
    /^the validation loss has been rising: .* above the best, 3\.000 at step 2,/,
  );
  assert.match(sentence, /learns its text by heart\. Use more text, --dropout or fewer --steps/);
  assert.match(sentence, /--checkpoint best/);
  // 2.92 is above the best by no more than noise
  assert.deepEqual(more.map(([at]) => at), [12]);
});

Deno.test("LossWatch says nothing of single rises, of noise and of losses that are not finite", () => {
  for (
    const losses of [[3, 3.2, 3.2, 2.9, 3.2, 3.2], [3, 3.02, 3.02, 3.02, 3.02], [3, NaN, NaN, NaN]]
  ) {
    assert.deepEqual(saidOf(losses, falling), []);
  }
});

Deno.test("LossWatch names the learning rate when the training loss has risen, too", () => {
  const [[at, sentence]] = saidOf([4, 3, 3.2, 3.3, 3.4], (i) => 3 + i) as [[number, string]];
  assert.equal(at, 4);
  assert.match(sentence, /and the training loss does not fall: use a lower --learning-rate$/);
});

Deno.test("LossWatch says once that a loss is below the entropy by more than chance", () => {
  const of = (losses: number[], tokens: number) =>
    saidOf(losses, falling, { entropyPerToken: 0.85, tokens });
  assert.deepEqual(of([0.9, 0.85, 0.83], 20_000), []);
  assert.deepEqual(of([0.7], 400), []);
  const [[at, sentence], ...more] = of([0.9, 0.81, 0.05], 20_000) as [[number, string]];
  assert.equal(at, 1);
  assert.match(
    sentence,
    /0\.810, is below the entropy of the text, 0\.850, .* Are the labels shifted/,
  );
  assert.deepEqual(more, []);
  assert.equal(of([0.05], 400).length, 1);
});
