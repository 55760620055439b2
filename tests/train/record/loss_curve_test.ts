import assert from "node:assert/strict";
import { drawLoss, LossCurve } from "../../../train/record/loss_curve.ts";

Deno.test("drawLoss() draws training losses as a line, validation losses as dots, the least possible loss, and warnings", async () => {
  const losses = new LossCurve();
  const step = (step: number, loss: number | null) => losses.add({ kind: "step", step, loss });
  const evaluation = (step: number, loss: number) =>
    losses.add({ kind: "evaluation", step, loss, entropyPerToken: 0.625 });
  losses.add({ kind: "start", step: 0 });
  step(1, 9);
  step(2, 5);
  evaluation(2, 6.125);
  step(3, null); // not finite
  step(4, 3.5);
  evaluation(4, 4.25);
  assert.deepEqual(losses.training.points, [
    ...[{ step: 1, loss: 9 }, { step: 2, loss: 5 }, { step: 4, loss: 3.5 }],
  ]);
  assert.deepEqual(losses.validation.points, [{ step: 2, loss: 6.125 }, { step: 4, loss: 4.25 }]);
  for (const at of [3, 4]) losses.add({ kind: "warning", step: at, name: "over<fitting" });
  for (let i = 0; i < 99; i++) losses.add({ kind: "warning", step: 4, name: `warning ${i}` });
  assert.equal(losses.warnings.size, 8);
  const svg = await drawLoss(losses, { title: "a <b>" });
  assert.match(svg, /^<svg .*<\/svg>\s*$/s);
  assert.equal(svg.match(/<circle/g)!.length, 2);
  for (
    const text of [
      "<title>a &lt;b&gt;</title>",
      "training 3.500 at step 4",
      "validation 4.250 at step 4",
      "entropy of the text 0.625",
      "warning: over&lt;fitting at step 3",
    ]
  ) {
    assert.ok(svg.includes(text), text);
  }
  assert.ok(!svg.includes("NaN"));
});

Deno.test("drawLoss() draws an empty chart when a run has no losses yet", async () => {
  const svg = await drawLoss(new LossCurve(), { title: "a" });
  assert.match(svg, /^<svg .*<\/svg>\s*$/s);
  assert.doesNotMatch(svg, /<circle|entropy|NaN/);
});
