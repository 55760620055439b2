import assert from "node:assert/strict";
import { judgeStory } from "../data/text/stories.ts";
import { generateBatch } from "../generate/generate.ts";
import { loadModel } from "../generate/load.ts";
import { train } from "../train/train.ts";
import { device } from "./kernels/harness.ts";

/** Stories that are told and judged. */
const STORIES = 40;

Deno.test("the nano preset learns the stories to 1.10 times their entropy, and tells its own", async () => {
  const out = await Deno.makeTempDir();
  try {
    let ratio = Infinity;
    for await (
      const event of train({ device, preset: "nano", precision: "f32", out, sampleEvery: 0 })
    ) {
      if (event.kind === "evaluation") ratio = event.loss / event.entropyPerToken!;
    }
    assert.ok(ratio > 1 && ratio <= 1.1, `validation loss is ${ratio} times the entropy`);

    const model = await loadModel(device, { run: out });
    const streams = Array.from(
      { length: STORIES },
      (_, seed) => ({ prompt: "Once upon a time", seed }),
    );
    const stories = streams.map(({ prompt }) => prompt);
    for await (const { stream, text } of generateBatch(model, { streams, maxNewTokens: 100 })) {
      stories[stream] += text;
    }
    let sentences = 0, accepted = 0, keepsHero = 0;
    for (const judgement of stories.map(judgeStory)) {
      sentences += judgement.sentences;
      accepted += judgement.accepted;
      keepsHero += Number(judgement.keepsHero);
    }
    const share = accepted / sentences;
    console.log(
      `loss ${ratio.toFixed(3)} times the entropy; ${(100 * share).toFixed(1)} % of ${sentences} ` +
        `sentences parse; ${keepsHero} of ${STORIES} stories keep their hero`,
    );
    assert.ok(sentences >= 3 * STORIES, `only ${sentences} sentences`);
    assert.ok(share >= 0.9, `${share} of the sentences parse`);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});
