import assert from "node:assert/strict";
import { DEFAULT_OPTIONS, type TrainOptions } from "../../../train/options.ts";
import { presetDefaults, typedNames } from "../../../train/resolve.ts";
import { allowedDepths } from "../../../train/plan/size.ts";

Deno.test("allowedDepths() has the depths whose sizes allow what is typed", () => {
  const of = (typed: Partial<TrainOptions>) =>
    allowedDepths({ ...DEFAULT_OPTIONS, ...typed }, typedNames(typed), presetDefaults("nano"));
  const all = of({});
  assert.deepEqual([all[0], all.at(-1)], [1, 32]);
  assert.deepEqual(of({ windows: "0,4" }), all.slice(1));
  assert.deepEqual(of({ windows: "0,4,8" }), all.slice(2));
  assert.deepEqual(of({ windows: "0,4", layers: 2 }), all);
  assert.deepEqual(of({ windows: "0,4", layers: 1 }), []);
  assert.deepEqual(of({ heads: 5 }), [3, 5, 10, 20]);
  assert.deepEqual(of({ heads: 5, width: 40 }), all);
});
