import assert from "node:assert/strict";
import {
  createActivations,
  logitsColumns,
  logitsRows,
  type Purpose,
  type RecomputeMode,
} from "../../model/activations.ts";
import { device } from "../kernels/harness.ts";

Deno.test("logitsColumns() rounds up to whole cache lines", () => {
  const of = (vocabularySize: number) => logitsColumns({ vocabularySize });
  assert.deepEqual([1, 64, 65, 1048, 50257].map(of), [64, 64, 128, 1088, 50304]);
});

Deno.test("logitsRows() returns the rows that half a GiB and a binding hold, a multiple of 128 or 32", () => {
  const config = { vocabularySize: 50257, contextLength: 8, width: 8, layers: 1, heads: 1 };
  const of = (megabytes: number, rows: number, dtype: "f16" | "f32") =>
    logitsRows({ ...device, maxBindingBytes: megabytes * 2 ** 20 }, config, { rows, dtype });
  assert.equal(of(2048, 1e6, "f16"), 5248); // 50304 · 2 bytes each: 5336 fit into half a GiB
  assert.equal(of(2048, 1e6, "f32"), 2560);
  assert.equal(of(128, 1e6, "f32"), 640); // 667 fit into a binding
  assert.equal(of(16, 1e6, "f32"), 64); // 83 fit
  assert.equal(of(1, 1e6, "f32"), 32); // the least
  assert.equal(of(128, 77, "f32"), 77); // no more than there are
});

const CONFIG = { vocabularySize: 64, contextLength: 8, width: 8, layers: 5, heads: 1 };

function activationsFor(purpose: Purpose, firstLayer = 0) {
  const batch = { batchSize: 1, sequenceLength: 8 };
  return createActivations(device, CONFIG, { batch, precision: "f32", purpose, firstLayer });
}

Deno.test("createActivations() keeps the activations of every layer with a backward pass", () => {
  const setsOf = (purpose: Purpose, firstLayer?: number) => {
    using activations = activationsFor(purpose, firstLayer);
    const tensors = [0, 1, 2, 3, 4].map((layer) => activations.at("hidden", layer));
    return tensors.map((tensor) => tensors.indexOf(tensor));
  };
  assert.deepEqual(setsOf("training"), [0, 1, 2, 3, 4]);
  assert.deepEqual(setsOf("training", 3), [0, 1, 0, 3, 4]); // one set is read while the other is written
  assert.deepEqual(setsOf("evaluation"), [0, 0, 0, 0, 0]);
  assert.deepEqual(setsOf("generation"), [0, 0, 0, 0, 0]);
});

Deno.test("createActivations() has one buffer for all layers of what the backward pass computes again", () => {
  const batch = { batchSize: 1, sequenceLength: 8 }, purpose = "training";
  const shared = (recompute: RecomputeMode) => {
    const options = { batch, precision: "f32", purpose, firstLayer: 1, recompute } as const;
    using activations = createActivations(device, CONFIG, options);
    assert.equal(activations.recompute, recompute);
    const { at } = activations;
    assert.equal(new Set([0, 1, 2, 3, 4].map((layer) => at("out", layer))).size, 5);
    return ["ln1", "qkv", "attention", "middle", "ln2", "hidden", "activated"]
      .filter((name) => at(name, 1) === at(name, 4) && at(name, 0) === at(name, 1)).join();
  };
  assert.equal(shared("none"), "");
  assert.equal(shared("mlp"), "ln2,hidden,activated");
  assert.equal(shared("block"), "ln1,qkv,attention,middle,ln2,hidden,activated");
});

Deno.test("createActivations() shares buffers and leaves out activations that the purpose does not need", () => {
  using generation = activationsFor("generation");
  const { at } = generation;
  assert.equal(at("out", 3), at("x"));
  assert.notEqual(at("middle", 3), at("x"));
  assert.equal(at("lnf"), at("ln1", 1));
  assert.equal(at("ln2.statistics", 2), at("lnf.statistics"));
  // x, middle, ln, projected, attention; qkv; hidden, gelu; statistics: f32
  assert.equal(generation.bytes, 4 * 8 * (5 * 8 + 3 * 8 + 2 * 4 * 8 + 2));
  assert.throws(() => at("losses"), {
    name: "RangeError",
    message: 'Cannot find the activation "losses" of layer 0 for generation',
  });
  using evaluation = activationsFor("evaluation");
  assert.ok(evaluation.at("losses") && evaluation.at("attention.logSumExp", 1));
  assert.throws(() => evaluation.at("dx"), RangeError);
  const batch = { batchSize: 1, sequenceLength: 8 }, withNorm = { ...CONFIG, qkNorm: true };
  for (const purpose of ["training", "evaluation"] as const) {
    using ofHeads = createActivations(device, withNorm, { batch, precision: "f32", purpose });
    if (purpose === "training") assert.ok(ofHeads.at("qk"));
    else assert.throws(() => ofHeads.at("qk"), RangeError);
  }
  using training = activationsFor("training");
  assert.notEqual(training.at("lnf"), training.at("ln1", 1));
});

Deno.test("createActivations() copies the embeddings and their gradients only for dropout", () => {
  const batch = { batchSize: 1, sequenceLength: 8 };
  const bytes = [false, true].map((hasDropout) => {
    const how = { batch, precision: "f32", purpose: "training", hasDropout } as const;
    using activations = createActivations(device, CONFIG, how);
    const copy = () => [activations.at("embedded"), activations.at("dembedded")];
    if (hasDropout) assert.ok(copy());
    else assert.throws(copy, RangeError);
    return activations.bytes;
  });
  assert.equal(bytes[1], bytes[0]! + 2 * 4 * 8 * 8);
});
