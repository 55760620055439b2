import assert from "node:assert/strict";
import { MOST_POINTS, type Point, ThinnedCurve } from "../../serve/thinned_curve.ts";

/** A curve of steps from 1 on. */
function curveOf(values: readonly (number | null)[]): ThinnedCurve {
  const curve = new ThinnedCurve();
  values.forEach((value, i) =>
    curve.add({ step: i + 1, seconds: i / 2, tokens: 8 * (i + 1), value })
  );
  return curve;
}

Deno.test("ThinnedCurve keeps every point while there are few", () => {
  const values = Array.from({ length: 900 }, (_, i) => Math.sin(i));
  const { step, seconds, value, mean } = curveOf(values).columns();
  assert.deepEqual(value, values);
  assert.deepEqual(mean, values);
  assert.deepEqual(step.slice(0, 3), [1, 2, 3]);
  assert.deepEqual(seconds.slice(0, 3), [0, 0.5, 1]);
});

Deno.test("ThinnedCurve keeps peaks and the last of any number of points, each as it was added", () => {
  for (const length of [1995, 1996, 1997, 100_003]) {
    const values = Array.from({ length }, (_, i) => Math.cos(i) / (i + 1));
    values[length >> 1] = 7;
    values[length >> 2] = -7;
    const { step, value } = curveOf(values).columns();
    assert.ok(step.length <= MOST_POINTS && step.length > 900, `${step.length} of ${length}`);
    assert.ok(value.includes(7) && value.includes(-7));
    assert.equal(step.at(-1), length);
    step.forEach((step, i) => assert.equal(value[i], values[step - 1]));
    assert.deepEqual(step, [...new Set(step)].sort((a, b) => a - b));
  }
});

Deno.test("ThinnedCurve has the mean of the neighbours for which a point stands", () => {
  const values = Array.from({ length: 3992 }, (_, i) => i % 4);
  const { mean } = curveOf(values).columns();
  assert.deepEqual(mean.slice(0, 4), [1.5, 1.5, 1.5, 1.5]);
});

Deno.test("ThinnedCurve has null where a value is not finite", () => {
  assert.deepEqual(curveOf([1, null, 3]).columns().value, [1, null, 3]);
  const long = curveOf(Array.from({ length: 10_000 }, (_, i) => i < 5000 ? i : null)).columns();
  assert.equal(long.value.at(-1), null);
  assert.equal(Math.max(...long.value.map((value) => value ?? 0)), 4999);
});

Deno.test("ThinnedCurve.columns() has only the points after a step", () => {
  assert.deepEqual(curveOf([5, 6, 7, 8]).columns(2).value, [7, 8]);
});

Deno.test("ThinnedCurve.goBack() removes what a resumed training repeats", () => {
  const curve = curveOf([1, 2, 3, 4]),
    point: Point = { step: 3, seconds: NaN, tokens: NaN, value: 30 };
  curve.goBack(2);
  assert.deepEqual(curve.columns().value, [1, 2]);
  curve.add(point);
  assert.deepEqual(curve.columns(), {
    step: [1, 2, 3],
    seconds: [0, 0.5, null],
    tokens: [8, 16, null],
    value: [1, 2, 30],
    mean: [1, 2, 30],
  });
  const long = curveOf(Array.from({ length: 50_000 }, (_, i) => i));
  long.goBack(20_000);
  const { step } = long.columns();
  assert.ok(step.every((step) => step <= 20_000) && step.at(-1)! > 19_900, `${step.at(-1)}`);
  const grouped = curveOf(Array.from({ length: 3992 }, (_, i) => i)); // four by four
  grouped.goBack(6);
  const { value, mean } = grouped.columns(); // of a group that is cut, the mean of what is left
  assert.deepEqual([value, mean], [[0, 3, 4], [1.5, 1.5, 4]]);
});

Deno.test("ThinnedCurve leaves out a point of a step that it has", () => {
  const curve = curveOf([1, 2]);
  curve.add({ step: 2, seconds: 0, tokens: 0, value: 9 });
  assert.deepEqual(curve.columns().value, [1, 2]);
});
