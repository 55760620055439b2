import assert from "node:assert/strict";
import { join } from "node:path";
import { drawLosses, TrainSummary } from "../../commands/train_summary.ts";
import { LossCurve } from "../../train/record/loss_curve.ts";
import type { TrainEvent } from "../../train/train.ts";
import { directory } from "../checkpoints.ts";

/** A log. */
const LOG = { columns: undefined, isPlain: true };

/** The losses of a run that falls from 6 to about 1, with evaluations at every tenth of its steps. */
function curveOf(steps: number, { entropy = 0.8, from = 1 } = {}): LossCurve {
  const curve = new LossCurve();
  curve.add({ kind: "evaluation", step: 0, loss: 7 });
  for (let step = from; step <= steps; step++) {
    const loss = 1 + 5 * Math.exp(-step / 40);
    curve.add({ kind: "step", step, loss });
    if (step % Math.ceil(steps / 10) > 0) continue;
    curve.add({ kind: "evaluation", step, loss: loss + 0.1, entropyPerToken: entropy });
  }
  return curve;
}

Deno.test("drawLosses() fits terminals of any width", async () => {
  for (const columns of [40, 80, 200]) {
    for (const steps of [10, 11, 60, 3000, 1_000_000]) {
      const chart = await drawLosses(curveOf(steps), { columns, isPlain: false });
      const lines = chart.split("\n");
      assert.equal(lines[0], "", "a blank line separates it from the log");
      const rows = lines.slice(2); // the legend may be longer than the terminal is wide
      assert.ok(rows.every((row) => row.length <= Math.min(columns, 112)), `${columns}, ${steps}`);
      assert.ok(rows.length >= 10 && rows.length <= 14, `${rows.length} rows`);
      assert.match(rows.at(-1)!, new RegExp(` ${steps}$`));
      assert.match(rows.at(-1)!, /^[ \d]+$/, "steps are whole");
      assert.match(lines[1]!, /^loss in nats per token: ━ training, ● validation/);
      assert.ok(rows.some((row) => row.includes("●")) && rows.some((row) => row.includes("━")));
    }
  }
});

Deno.test("drawLosses() draws in ASCII for a log, with the floor if that is near", async () => {
  const near = await drawLosses(curveOf(300), LOG);
  assert.match(near, /^\n[\n -~]*$/);
  assert.match(near, /: \* training, o validation, \. entropy\n/);
  assert.match(near, /\n0\.80\+\.{9}/);
  assert.match(near, /\n {4}\|\n[4-6]\.\d\d\+\*/);
  const far = await drawLosses(curveOf(300, { entropy: 0.01 }), LOG);
  assert.match(far, /: \* training, o validation\n/);
  assert.doesNotMatch(far, /\.{9}/);
});

Deno.test("drawLosses() draws nothing of few steps, or on a narrow terminal", async () => {
  assert.equal(await drawLosses(curveOf(9), LOG), "");
  assert.equal(await drawLosses(curveOf(100), { ...LOG, columns: 29 }), "");
  assert.notEqual(await drawLosses(curveOf(100), { ...LOG, columns: 30 }), "");
  assert.notEqual(await drawLosses(curveOf(5010, { from: 5001 }), LOG), "");
});

Deno.test("drawLosses() draws losses that do not change, or are zero", async () => {
  for (const loss of [2, 0]) {
    const curve = new LossCurve();
    for (let step = 1; step <= 20; step++) curve.add({ kind: "step", step, loss });
    const chart = await drawLosses(curve, { columns: 60, isPlain: false });
    assert.ok(loss === 0 ? chart === "" : chart.includes("━"), chart);
  }
});

Deno.test("drawLosses() gives small losses a digit", async () => {
  const curve = new LossCurve();
  for (let step = 1; step <= 20; step++) curve.add({ kind: "step", step, loss: 7 / 1.41 ** step });
  assert.match((await drawLosses(curve, { columns: 60, isPlain: true }))!, /\b0\.007[+|]/);
});

/** The summary of a training with these steps and lines in its record. */
async function summaryOf(
  name: string,
  steps: readonly number[],
  lines: readonly object[],
  best: string,
  { warnings = [], ranks = 1 }: { warnings?: readonly string[]; ranks?: number } = {},
) {
  const out = join(directory, name);
  Deno.mkdirSync(out);
  Deno.writeTextFileSync(
    join(out, "metrics.jsonl"),
    lines.map((line) => `${JSON.stringify(line)}\n`).join(""),
  );
  const summary = new TrainSummary(), { now } = performance;
  let clock = 0;
  performance.now = () => clock;
  try {
    summary.add({ kind: "start", options: { out, ranks } } as unknown as TrainEvent);
    for (const step of steps) {
      const slow = { tokensPerSecond: 100, exchangeShare: 0.4 }, fast = { tokensPerSecond: 300 };
      const speed = step === steps[0] ? {} : step % 2 ? slow : fast;
      summary.add({ kind: "step", step, ...speed } as TrainEvent);
    }
    for (const name of warnings) summary.add({ kind: "warning", name } as TrainEvent);
    clock = 125_000;
    const end = { kind: "end", path: "c/000004", best } as TrainEvent & { kind: "end" };
    return (await summary.text(end, LOG)).replaceAll(directory, "");
  } finally {
    performance.now = now;
  }
}

const evaluation = (step: number, loss: number | null) => ({ kind: "evaluation", step, loss });

Deno.test("TrainSummary says what the training did, and which losses the run has", async () => {
  const lines = [evaluation(0, 0.1), evaluation(2, 1.5), evaluation(4, 2)];
  assert.equal(
    await summaryOf("higher", [1, 2, 3, 4, 5], lines, "c/000002"),
    "trained 5 steps in 2m05s; the steps alone: 150 tokens per second\n" +
      "validation loss 2.000 at step 4, lowest 1.500 at step 2; the best checkpoint is 000002 (--checkpoint best)\n" +
      "/higher has metrics.jsonl, loss.svg and the checkpoints",
  );
  assert.equal(
    await summaryOf("lowest", [4], [...lines, evaluation(6, 1), evaluation(8, null)], "c/000004"),
    "trained 1 step in 2m05s\n" +
      "validation loss 1.000 at step 6, the lowest\n" +
      "/lowest has metrics.jsonl, loss.svg and the checkpoints",
  );
  assert.equal(await summaryOf("idle", [], lines, "c/000004"), "");
});

Deno.test("TrainSummary names diagnose when there was a warning", async () => {
  const lines = await summaryOf("sick", [1], [evaluation(1, 2)], "c/000004", {
    warnings: ["overfitting"],
  });
  assert.match(lines, /\nwarnings were printed; for all checks: deno task diagnose \S*sick$/);
});

Deno.test("TrainSummary says which part of their time several ranks exchanged", async () => {
  // two steps of 10 ms per token, of which 4 ms are the exchange, and two of 3.3 ms without one
  assert.match(
    await summaryOf("ranks", [1, 2, 3, 4, 5], [], "c/000004", { ranks: 2 }),
    /; the steps alone: 150 tokens per second on 2 ranks, 30 % exchanging\n/,
  );
});
