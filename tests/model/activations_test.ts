import assert from "node:assert/strict";
import { createActivations, logitsColumns, logitsRows } from "../../model/activations.ts";
import { device } from "../kernels/harness.ts";

Deno.test("logitsColumns() fills up whole cache lines", () => {
  const of = (vocabularySize: number) => logitsColumns({ vocabularySize });
  assert.deepEqual([1, 64, 65, 1048, 50257].map(of), [64, 64, 128, 1088, 50304]);
});

Deno.test("logitsRows() takes as many rows as half a GiB and a binding show, in steps of 128 or 32", () => {
  const config = { vocabularySize: 50257, contextLength: 8, width: 8, layers: 1, heads: 1 };
  const of = (megabytes: number, rows: number, dtype: "f16" | "f32") =>
    logitsRows({ ...device, maxBindingBytes: megabytes * 2 ** 20 }, config, { rows, dtype });
  assert.equal(of(2048, 1e6, "f16"), 5248); // 50304 · 2 bytes each: 5336 fit into half a GiB
  assert.equal(of(2048, 1e6, "f32"), 2560);
  assert.equal(of(128, 1e6, "f32"), 640); // 667 fit into a binding
  assert.equal(of(16, 1e6, "f32"), 64); // 83 fit
  assert.equal(of(1, 1e6, "f32"), 32); // the least
  assert.equal(of(128, 77, "f32"), 77); // all there are
});

Deno.test("createActivations() keeps what a backward pass reads of each layer that has one, and two sets of the others", () => {
  const config = { vocabularySize: 64, contextLength: 8, width: 8, layers: 5, heads: 1 };
  const setsOf = (training: boolean, firstLayer = 0) => {
    const activations = createActivations(device, config, {
      ...{ batch: { batchSize: 1, sequenceLength: 8 }, precision: "f32", training, firstLayer },
    });
    const tensors = [0, 1, 2, 3, 4].map((layer) => activations.at("hidden", layer));
    const sets = tensors.map((tensor) => tensors.indexOf(tensor));
    activations.destroy();
    return sets;
  };
  assert.deepEqual(setsOf(true), [0, 1, 2, 3, 4]);
  assert.deepEqual(setsOf(true, 3), [0, 1, 0, 3, 4]);
  assert.deepEqual(setsOf(false), [0, 1, 0, 1, 0]);
});
