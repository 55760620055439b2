import assert from "node:assert/strict";
import { Program } from "../../kernels/program.ts";
import { createTensor, size } from "../../kernels/tensor.ts";
import { createGpt } from "../../model/gpt.ts";
import { createOptimizer, createTrainedArena, OPTIMIZERS } from "../../train/optimizer.ts";
import { device } from "../kernels/harness.ts";

const CONFIG = { vocabularySize: 9, contextLength: 4, width: 8, layers: 1, heads: 1 };
const OPTIONS = { weightDecay: 0.5, beta1: 0.9, beta2: 0.99 };

Deno.test("createOptimizer() allocates the state that the optimizer's row names, only for trained parameters", () => {
  using gpt = createGpt(device, CONFIG, { precision: "f32", freeze: "embeddings" });
  using optimizer = createOptimizer(gpt, OPTIMIZERS.adamw, OPTIONS);
  const trained = gpt.table.filter((parameter) => parameter.trained);
  assert.ok(trained.length > 0 && trained.length < gpt.table.length);
  assert.deepEqual([...optimizer.state.keys()], ["m", "v"]);
  for (const { tensors } of optimizer.state.values()) {
    assert.deepEqual(
      Array.from(tensors, ([name, { shape }]) => ({ name, shape })),
      trained.map(({ name, shape }) => ({ name, shape })),
    );
  }
});

Deno.test("an optimizer is a row: its state, its constants, and a kernel for each group of parameters", () => {
  const precision = device.features.has("shader-f16") ? "f16" : "f32";
  using gpt = createGpt(device, CONFIG, { precision });
  const groups: { weightDecay: number; copied: boolean; offsets: number[]; names: string[] }[] = [];
  using optimizer = createOptimizer(gpt, {
    state: ["momentum"],
    constants: () => ({ table: Float32Array.of(1, 2, 3, 4) }),
    record(_, { gradient, table }, { parameter, momentum, copy }, { weightDecay }) {
      assert.deepEqual(table.shape, [2, 2]);
      const tensors = [gradient, parameter, momentum, ...(copy ? [copy] : [])];
      for (const { shape } of tensors) assert.deepEqual(shape, gradient.shape);
      const offsets = tensors.map(({ offsetBytes, dtype }) =>
        offsetBytes / (dtype === "f16" ? 2 : 4)
      );
      const names = [...gpt.parameters.tensors].filter(([, { offsetBytes }]) =>
        offsetBytes >= parameter.offsetBytes &&
        offsetBytes < parameter.offsetBytes + 4 * size(parameter.shape)
      ).map(([name]) => name);
      groups.push({ weightDecay, copied: copy !== undefined, offsets, names });
    },
  }, OPTIONS);
  const gradients = createTrainedArena(gpt, "gradients");
  const update = createTensor(device, "update", { shape: [4], dtype: "u32" });
  using program = new Program(device);
  optimizer.record(program, { gradients, update });
  const namesOf = (decayed: boolean) =>
    gpt.table.filter((parameter) => parameter.decayed === decayed).map(({ name }) => name);
  assert.deepEqual(groups.map(({ offsets: _, ...group }) => group), [
    { weightDecay: 0.5, copied: precision === "f16", names: namesOf(true) },
    { weightDecay: 0, copied: false, names: namesOf(false) },
  ]);
  for (const { offsets } of groups) assert.equal(new Set(offsets).size, 1, `${offsets}`);
  // gradients alone are not its own
  const { bytes } = optimizer;
  assert.equal(bytes, gradients.flat.buffer.size + 16);
});
