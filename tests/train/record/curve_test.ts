import assert from "node:assert/strict";
import { Curve } from "../../../train/record/curve.ts";

interface Point {
  step: number;
  loss: number;
}

function curveOf(length: number): Point[] {
  const curve = new Curve<Point, "loss">(["loss"]);
  for (let step = 1; step <= length; step++) curve.add({ step, loss: 2 * step });
  return curve.points;
}

Deno.test("Curve keeps every point when it is short", () => {
  const points = curveOf(500);
  assert.deepEqual(
    points,
    Array.from({ length: 500 }, (_, i) => ({ step: i + 1, loss: 2 * i + 2 })),
  );
});

Deno.test("Curve has the means of equally many neighbours when it is long", () => {
  for (const length of [501, 999, 1000, 1001, 12_345, 400_000]) {
    const points = curveOf(length);
    const stride = points[0]!.step;
    assert.ok(points.length > 250 && points.length <= 500, `${points.length} of ${length}`);
    points.forEach(({ step, loss }, i) => {
      const first = i * stride + 1;
      assert.equal(step, Math.min(length, first + stride - 1), `point ${i} of ${length}`);
      assert.equal(loss, first + step, `point ${i} of ${length}`); // twice the mean of first and last
    });
  }
});
