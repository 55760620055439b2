import assert from "node:assert/strict";
import { hasCurve } from "../../bench/browser.ts";
import { writeRun } from "../../bench/dashboard.ts";

type Pixel = readonly [red: number, green: number, blue: number, alpha: number];

/** Whether the chart has a curve if its canvas has these pixels; without any there is no canvas. */
function hasCurveIn(
  pixels: readonly Pixel[] | undefined,
  { width = pixels?.length ?? 0, height = 1, hasContext = true } = {},
): boolean {
  const asked: (string | number)[] = [];
  const context = {
    getImageData: (...area: number[]) => {
      asked.push(...area);
      return { data: Uint8ClampedArray.from(pixels!.flat()) };
    },
  };
  const getContext = (kind: string) => hasContext && kind === "2d" ? context : null;
  const querySelector = (selector: string) => {
    assert.equal(selector, "#chart-loss canvas");
    return pixels === undefined ? null : { width, height, getContext };
  };
  const globals = globalThis as { document?: unknown };
  globals.document = { querySelector };
  try {
    const found = hasCurve();
    if (asked.length > 0) assert.deepEqual(asked, [0, 0, width, height]);
    return found;
  } finally {
    delete globals.document;
  }
}

Deno.test("hasCurve() returns whether a pixel has a colour and is not transparent", () => {
  const grey: Pixel = [120, 120, 120, 255], none: Pixel = [0, 0, 0, 0];
  const red: Pixel = [161, 100, 100, 101], blue: Pixel = [100, 100, 161, 255];
  assert.ok(hasCurveIn([grey, none, red]));
  assert.ok(hasCurveIn([blue, grey, none], { width: 1, height: 3 }));
  const unlike: Pixel[] = [grey, none, [160, 100, 100, 255], [161, 100, 100, 100]];
  assert.ok(!hasCurveIn([...unlike, [100, 255, 100, 255]]), "a curve is red or blue");
  assert.ok(!hasCurveIn(undefined));
  assert.ok(!hasCurveIn([red], { hasContext: false }));
  assert.ok(!hasCurveIn([red], { width: 0 }));
  assert.ok(!hasCurveIn([red], { height: 0 }));
});

Deno.test("writeRun() of bench:dashboard writes every step, and an evaluation after each tenth of them", async () => {
  const folder = await Deno.makeTempDir(), steps = 12_000;
  writeRun(`${folder}/a/run`, steps);
  const text = await Deno.readTextFile(`${folder}/a/run/metrics.jsonl`);
  await Deno.remove(folder, { recursive: true });
  assert.ok(text.endsWith("}\n"));
  const [start, ...lines] = text.trimEnd().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual([start.kind, start.step, start.options.steps], ["start", 0, steps]);
  const expected = Array.from({ length: steps }, (_, i) => i + 1)
    .flatMap((step) =>
      step % 1200 === 0 ? [`step ${step}`, `evaluation ${step}`] : [`step ${step}`]
    );
  assert.deepEqual(lines.map(({ kind, step }) => `${kind} ${step}`), expected);
  // falls from 7 to 1 by a factor of e⁻⁸, with waves of 0.1
  for (const { step, loss } of lines) {
    const wave = loss - 1 - 6 * Math.E ** (-8 * step / steps);
    assert.ok(Math.abs(wave) <= 0.1 + 1e-3, `${loss} after ${step} steps`);
  }
});
