import assert from "node:assert/strict";
import { evaluationBatches } from "../../../data/tokens/evaluation_batches.ts";
import { tokenDataset } from "../../../data/tokens/token_dataset.ts";
import { IGNORED } from "../../../files/ignored.ts";
import { CHATS, text } from "./token_texts.ts";

const OPTIONS = { batchSize: 3, contextLength: 4, padding: 9 };

Deno.test("evaluationBatches() makes every token of an answer a target once, after half a context", () => {
  for (const contextLength of [4, 5, 7, 12]) {
    const options = { batchSize: 2, contextLength, padding: 9 };
    const targets: number[] = [];
    for (const batch of evaluationBatches(CHATS, options)) {
      batch.targets.forEach((target, m) => {
        if (target === IGNORED) return;
        targets.push(target);
        assert.equal(batch.inputs[m], target - 1);
        const position = batch.positions![m]!, first = batch.inputs[m - position]!;
        const isBeginning = [100, 105, 114].includes(first);
        assert.ok(isBeginning || position >= Math.floor(contextLength / 2));
      });
      assert.equal(batch.counted, batch.targets.filter((target) => target !== IGNORED).length);
    }
    assert.deepEqual(targets, [102, 103, 107, 111, 112, 117, 118, 119]);
  }
});

Deno.test("evaluationBatches() leaves out rows of conversations without a target", () => {
  const long = tokenDataset(Uint32Array.from({ length: 60 }, (_, i) => i), [0], [1, 3, 57, 60]);
  const batches = [...evaluationBatches(long, { batchSize: 1, contextLength: 4, padding: 9 })];
  const counted = batches.map((batch) => batch.counted);
  assert.equal(counted.reduce((sum, count) => sum + count), 5);
  assert.ok(batches.length <= 3 && counted.every((count) => count > 0), `${counted}`);
});

Deno.test("evaluationBatches() makes every token a target exactly once, after half a context", () => {
  const source = text(37, 1, 4, 5, 22);
  const starts = [0, 37, 38, 42, 47];
  const seen: number[] = [];
  for (const { inputs, targets } of evaluationBatches(source, OPTIONS)) {
    targets.forEach((target, m) => {
      if (target === IGNORED) return;
      seen.push(target);
      const first = starts.includes(target - 100);
      assert.equal(inputs[m], first ? OPTIONS.padding : target - 1);
      const before = inputs.subarray(m - m % 4, m + 1);
      assert.ok(before.includes(OPTIONS.padding) || before.length > 2, `${target}: ${before}`);
    });
  }
  assert.deepEqual(seen, [...source.read(0, source.length)]);
});
