import assert from "node:assert/strict";
import {
  type GenerateBench,
  generateBenches,
  generateName,
  measureGenerate,
} from "../../bench/generate.ts";
import { profile } from "../../bench/train_step.ts";
import { matmul } from "../../kernels/matmul/matmul.ts";
import { Program } from "../../kernels/program.ts";
import { sumForward } from "../../kernels/sum/sum.ts";
import { createTensor } from "../../kernels/tensor.ts";
import { clockOf } from "../../kernels/timing.ts";
import { device } from "../kernels/harness.ts";
import { withLiveBuffers } from "./live_buffers.ts";

Deno.test("measureGenerate() returns the tokens per second of all streams", async () => {
  const config = { vocabularySize: 64, contextLength: 8, width: 8, layers: 1, heads: 1 };
  const bench: GenerateBench = {
    ...{ model: "tiny", config, streams: 3, tokens: 5, precision: "f32", quantize: "int8" },
  };
  const since = performance.now();
  const { result, left } = await withLiveBuffers(() =>
    measureGenerate(device, bench, { wallMs: 0 })
  );
  const elapsedMs = performance.now() - since;
  assert.deepEqual(left, []);
  const { name, ms, rangeMs, tokensPerSecond, gpuMs, idleShare, launches } = result;
  assert.equal(name, "generate int8 tiny 3 streams x 5 V 64");
  assert.equal(name, generateName(bench));
  assert.equal(tokensPerSecond, 3 * 5 / ms * 1e3);
  const [least, most] = rangeMs!;
  assert.ok(0 < least && least <= ms && ms <= most);
  assert.ok(2 * least + 2 * ms + most < elapsedMs, "five samples take a part of the time");
  assert.ok(launches! > 5);
  assert.equal(gpuMs !== undefined, clockOf(device) === "timestamps");
  if (gpuMs !== undefined) assert.equal(idleShare, 1 - gpuMs / ms);
});

Deno.test("profile() adds the launches of each kernel, and sorts kernels by their share", async () => {
  const program = new Program(device);
  const make = (...shape: number[]) => createTensor(device, "x", { shape, dtype: "f32" });
  matmul(program, { a: make(4, 4), b: make(4, 4) }, { y: make(4, 4) });
  for (const length of [64, 2 ** 18]) sumForward(program, { x: make(length) }, { y: make(1) });
  const rows = await profile(program, { warmUpMs: 0 });
  const [first, second] = rows; // on a busy machine either may be the longer one
  assert.equal(rows.length, 2);
  const sum = rows.find(({ label }) => label === "kernels/sum/forward.wgsl")!;
  const product = rows.find(({ label }) => label.startsWith("kernels/matmul/"))!;
  assert.deepEqual([sum.launches, product.launches], [2, 1]);
  assert.ok(first!.ms >= second!.ms && second!.ms > 0);
  const total = first!.ms + second!.ms;
  assert.deepEqual(rows.map(({ share }) => share), rows.map(({ ms }) => ms / total));
  program.destroy();
});

Deno.test("generateBenches() keeps the names by which reports are compared", () => {
  const names = (isCpu: boolean, precision: "f16" | "f32") =>
    generateBenches({ ...device, isCpu }, precision).map((bench) => {
      assert.equal(bench.config.contextLength, isCpu ? 64 : 512);
      return generateName(bench);
    });
  assert.deepEqual(names(true, "f32"), [
    "generate f32 nano 1 stream x 64 V 1048",
    "generate f32 nano 8 streams x 64 V 1048",
  ]);
  assert.deepEqual(names(false, "f16"), [
    "generate f16 mini 1 stream x 256 V 50257",
    "generate f16 mini 64 streams x 256 V 50257",
    "generate f16 smollm2-135m 1 stream x 256 V 49152",
    "generate f16 gpt2 1 stream x 256 V 50257",
    "generate f16 gpt2 64 streams x 256 V 50257",
    "generate int8 gpt2 1 stream x 256 V 50257",
    "generate int8 gpt2-xl 1 stream x 256 V 50257",
  ]);
});
