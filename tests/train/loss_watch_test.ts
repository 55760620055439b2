import assert from "node:assert/strict";
import { LossWatch } from "../../train/loss_watch.ts";

/** What a watch says of evaluations, by their number; each comes after a step with its training loss. */
function saidOf(
  validation: readonly number[],
  training: (i: number) => number,
  entropy?: { entropyPerToken: number; tokens: number },
): [number, name: string, message: string][] {
  const watch = new LossWatch();
  return validation.flatMap((loss, i) => {
    assert.deepEqual(watch.add({ kind: "step", step: i + 1, loss: training(i) }), []);
    const warnings = watch.add({ kind: "evaluation", step: i + 1, loss, ...entropy });
    return warnings.map(({ name, message }) => [i, name, message] as [number, string, string]);
  });
}

const falling = (i: number) => 4 - i / 10;

Deno.test("LossWatch says once per rise that a model learns its text by heart", () => {
  const [first, ...more] = saidOf(
    [4, 3, 3.2, 3.3, 3.4, 3.5, 2.9, 3, 3, 2.92, 3, 3, 3],
    falling,
  );
  const [at, name, sentence] = first!;
  assert.deepEqual([at, name], [4, "overfitting"]);
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
  const [[at, name, sentence]] = saidOf([4, 3, 3.2, 3.3, 3.4], (i) => 3 + i) as [
    [number, string, string],
  ];
  assert.deepEqual([at, name], [4, "diverging"]);
  assert.match(sentence, /and the training loss does not fall: use a lower --learning-rate$/);
});

Deno.test("LossWatch says once that a loss is below the entropy by more than chance", () => {
  const of = (losses: number[], tokens: number) =>
    saidOf(losses, falling, { entropyPerToken: 0.85, tokens });
  assert.deepEqual(of([0.9, 0.85, 0.83], 20_000), []);
  assert.deepEqual(of([0.7], 400), []);
  const [[at, name, sentence], ...more] = of([0.9, 0.81, 0.05], 20_000) as [
    [number, string, string],
  ];
  assert.deepEqual([at, name], [1, "below-entropy"]);
  assert.match(
    sentence,
    /0\.810, is below the entropy of the text, 0\.850, .* Are the labels shifted/,
  );
  assert.deepEqual(more, []);
  assert.equal(of([0.05], 400).length, 1);
});

Deno.test("LossWatch says once per fall that the loss scale is below 1", () => {
  const watch = new LossWatch();
  const said = [4, 0.5, 0.25, 1, 0.5, 4].map((lossScale, i) => (
    watch.add({ kind: "step", step: i + 1, loss: i === 1 ? null : 3, lossScale })
  ));
  const falls = {
    name: "low-loss-scale",
    message: "the loss scale fell to 0.5: gradients overflow f16",
  };
  assert.deepEqual(said, [[], [falls], [], [], [falls], []]);
});
