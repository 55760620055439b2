import assert from "node:assert/strict";
import { modelledMs, stepCost } from "../../bench/cost.ts";
import {
  AXES,
  measureLaunchMs,
  measureScaling,
  type ScalingPoint,
  type ScalingStep,
  scalingSteps,
} from "../../bench/scaling.ts";
import { drawScaling } from "../../bench/scaling_plot.ts";
import { validateConfig } from "../../model/config.ts";
import { device } from "../kernels/harness.ts";
import { point } from "./fixtures.ts";

for (const isCpu of [false, true]) {
  Deno.test(`scalingSteps() changes one dimension at a time, isCpu ${isCpu}`, () => {
    const steps = scalingSteps({ ...device, isCpu }, "f32");
    const of = ({ bench: { config, batchSize, sequenceLength } }: ScalingStep) => ({
      batch: batchSize,
      context: sequenceLength,
      width: config.width,
      layers: config.layers,
    });
    const text = (step: ScalingStep) => JSON.stringify(step.bench);
    const shared = steps.filter((step) => steps.filter((s) => text(s) === text(step)).length === 4);
    assert.deepEqual(shared.map(({ axis }) => axis), AXES, "one step lies on every axis");
    const base = of(shared[0]!);
    for (const step of steps) {
      validateConfig(step.bench.config);
      const { axis, value, bench: { config, sequenceLength } } = step;
      const batch = axis === "context" ? base.batch * base.context / value : base.batch;
      assert.deepEqual(of(step), { ...base, batch, [axis]: value });
      assert.equal(config.contextLength, sequenceLength);
      assert.equal(config.width / config.heads, 32);
    }
    for (const axis of AXES) assert.ok(steps.filter((step) => step.axis === axis).length >= 3);
  });
}

Deno.test("measureLaunchMs() returns a time far below that of a step", async () => {
  const ms = await measureLaunchMs(device);
  assert.ok(ms > 0 && ms < 0.5, `${ms} ms`); // 200 together take more than a millisecond
});

Deno.test("measureScaling() times equal steps once, untuned, and continues after a failure", async () => {
  const bench: ScalingStep["bench"] = {
    model: "tiny",
    config: { vocabularySize: 64, contextLength: 8, width: 32, layers: 1, heads: 1 },
    batchSize: 2,
    sequenceLength: 8,
    precision: "f32",
  };
  const impossible = { ...bench, config: { ...bench.config, width: 31 } };
  const steps: ScalingStep[] = [
    { axis: "batch", value: 2, bench },
    { axis: "width", value: 31, bench: impossible },
    { axis: "width", value: 32, bench },
  ];
  const roofline = { bytesPerSecond: 1e9, flopsPerSecond: 1e10 };
  const failed: string[] = [], heard: ScalingPoint[] = [];
  const choices = new Map<string, string>();
  const { launchMs, points } = await measureScaling({ ...device, choices }, steps, {
    roofline,
    async guarded(name, measure) {
      await measure().catch(() => failed.push(name));
    },
    onPoint: (point) => heard.push(point),
  });
  assert.deepEqual(failed, ["scaling width 31"]);
  assert.deepEqual(points.map(({ name }) => name), ["scaling batch 2", "scaling width 32"]);
  assert.deepEqual(heard, points);
  assert.equal(choices.size, 0);
  const [first, second] = points;
  assert.equal(first!.ms, second!.ms);
  assert.ok(first!.launches > 20 && first!.ms > 0);
  assert.equal(first!.tokensPerSecond, 2 * 8 / first!.ms * 1e3);
  if (first!.gpuMs !== undefined) assert.equal(first!.idleShare, 1 - first!.gpuMs / first!.ms);
  const cost = { ...stepCost(bench), launches: first!.launches };
  assert.equal(first!.modelMs, modelledMs(cost, { ...roofline, launchMs }));
});

Deno.test("drawScaling() draws one panel per axis with points", async () => {
  const values = [8, 16, 32, 64, 128, 256];
  const points = values.map((value) => ({ ...point, value, ms: value / 10 }));
  const svg = await drawScaling([...points, { ...point, axis: "layers", value: 4 }], {
    title: "a <b>",
  });
  const count = (pattern: RegExp) => [...svg.matchAll(pattern)].length;
  assert.equal(count(/aria-label="frame"/g), 2);
  assert.equal(count(/<circle/g), 2 * 7, "on the device and by the wall clock");
  for (const text of ["width (log)", "layers (log)", "ms per step (log)", ...values.map(String)]) {
    assert.ok(svg.includes(`${text}<`), text);
  }
  assert.doesNotMatch(svg, /<b>|NaN|undefined/);
});
