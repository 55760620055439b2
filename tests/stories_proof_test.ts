import assert from "node:assert/strict";
import { loadModel } from "../generate/load.ts";
import { diagnoseRun } from "../inspect/diagnose_run.ts";
import { judgeModel } from "../inspect/judge.ts";
import { train } from "../train/train.ts";
import { device } from "./kernels/harness.ts";

/** Stories that the model continues. */
const STORIES = 60;

Deno.test("the nano preset learns the stories in 1,000 steps to 1.05 times their entropy, and tells its own, and nothing is wrong with it", async () => {
  const out = await Deno.makeTempDir();
  try {
    let ratio = Infinity;
    for await (
      const event of train({
        device,
        preset: "nano",
        steps: 1000, // of 1,700, to save a minute
        precision: "f32",
        out,
        sampleEvery: 0,
      })
    ) {
      if (event.kind === "evaluation") ratio = event.loss / event.entropyPerToken!;
    }
    assert.ok(ratio > 1 && ratio <= 1.05, `validation loss is ${ratio} times the entropy`);

    const model = await loadModel(device, { run: out });
    const { sentences, hero } = await judgeModel(model, { stories: STORIES });
    const share = sentences.count / sentences.of;
    console.log(
      `loss ${ratio.toFixed(3)} times the entropy; ${(100 * share).toFixed(1)} % of ` +
        `${sentences.of} sentences parse; ${hero.count} of ${hero.of} stories keep their hero`,
    );
    assert.ok(sentences.of >= 1.5 * STORIES, `only ${sentences.of} sentences`);
    assert.ok(share >= 0.9, `${share} of the sentences parse`);

    const { checks } = await diagnoseRun(device, { run: out });
    assert.deepEqual(checks.filter(({ verdict }) => verdict !== "ok"), []);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});
