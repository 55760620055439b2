import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  fillWithCopies,
  Harness,
  type KernelBench,
  type Maker,
  rooflineBenches,
} from "../../bench/harness.ts";
import { matmul } from "../../kernels/matmul/matmul.ts";
import { Program } from "../../kernels/program.ts";
import { sumForward } from "../../kernels/sum/sum.ts";
import {
  createTensor,
  download,
  type DType,
  type HostArray,
  size,
  type Tensor,
  upload,
} from "../../kernels/tensor.ts";
import { clockOf, median, timePasses } from "../../kernels/timing.ts";
import { device } from "../kernels/harness.ts";
import { withLiveBuffers } from "./live_buffers.ts";
import { withStandingClock } from "./standing_clock.ts";

const sumOf = (N: number): KernelBench => ({
  name: `sum ${N}`,
  work: { bytes: 4 * N },
  record: (program, make) =>
    sumForward(program, { x: make.noise([N], "f32") }, { y: make.zeros([1], "f32") }),
});

Deno.test("the copies that set the roofline copy all of a tensor", async () => {
  const copies = rooflineBenches(device).filter(({ name }) => /^copy /.test(name));
  assert.equal(copies.length, 2);
  for (const { record } of copies) {
    using program = new Program(device);
    const made: Tensor[] = [];
    const make = (shape: readonly number[], dtype: DType) => {
      made.push(createTensor(device, "copied", { shape, dtype }));
      return made.at(-1)!;
    };
    record(program, { noise: make, zeros: make } as Maker);
    const [x, y] = made as [Tensor, Tensor];
    const values = Float32Array.from({ length: size(x.shape) }, (_, i) => i);
    upload(device, x, values);
    program.run();
    const [copied] = await download(device, y);
    assert.equal(Buffer.compare(Buffer.from(copied!.buffer), Buffer.from(values.buffer)), 0);
    for (const { buffer } of made) buffer.destroy();
  }
});

Deno.test("Harness.measure() returns a longer time for more work", async () => {
  const harness = new Harness(device);
  const small = await harness.measure(sumOf(2 ** 14)),
    large = await harness.measure(sumOf(2 ** 21));
  assert.ok(small.ms > 0 && large.ms > 4 * small.ms, `${small.ms} and ${large.ms} ms`);
  assert.ok(large.rangeMs![0] <= large.ms && large.ms <= large.rangeMs![1]);
  assert.equal(large.share, undefined); // nobody measured the roofline
  harness.destroy();
});

Deno.test("Harness.measure() repeats a kernel in each of nine samples, so that the clock's resolution suffices", async () => {
  const untimed = { ...device, isCpu: true, features: new Set<string>() };
  const harness = new Harness(untimed);
  // of a submission for each pass, 10 ms and 0.1 µs more each time
  const { result: { ms, rangeMs }, left } = await withLiveBuffers(() =>
    withStandingClock((n) => 10 + n / 1e4, () => harness.measure(sumOf(64)))
      .finally(() => harness.destroy())
  );
  assert.deepEqual(left, []);
  const repeats = 50 * 40 / 10; // by the wall clock 50 times of 40 ms
  assert.equal((repeats * ms).toFixed(2), "10.00");
  const range = rangeMs!.map((end) => (1e4 * repeats * (end - ms)).toFixed(3));
  assert.deepEqual(range, ["-4.000", "4.000"]);
});

Deno.test("Harness.measure() fills tensors with noise to their ends", async () => {
  const harness = new Harness(device);
  const N = 2 ** 20 + 66; // more than one block of noise
  const made = new Set<Tensor>();
  let seen: Promise<HostArray[]> | undefined;
  await harness.measure({
    name: "noise",
    work: { bytes: 1 },
    record(program, make) {
      const noise = make.noise([N], "f32");
      made.add(noise);
      seen ??= download(device, noise);
      sumForward(program, { x: noise }, { y: make.zeros([1], "f32") });
    },
  });
  const [values] = await seen!;
  assert.equal(made.size, 1, "recorded again, a benchmark gets the same tensors");
  assert.ok(values!.every((value) => Math.abs(value) < 1));
  assert.ok(new Set(values!.subarray(-66)).size > 50);
  harness.destroy();
});

Deno.test("fillWithCopies() repeats a block up to the end of a tensor, and writes nothing beside it", async () => {
  const make = (values: number[]) => {
    const tensor = createTensor(device, "x", { shape: [values.length], dtype: "f32" });
    upload(device, tensor, values);
    return tensor;
  };
  const all = make(new Array(200).fill(-1)), block = make([9, 9, 9, 1, 2, 3, 4]);
  const at = (tensor: Tensor, first: number, length: number): Tensor => ({
    ...{ ...tensor, shape: [length] },
    offsetBytes: 4 * first,
  });
  fillWithCopies(device, at(all, 64, 10), at(block, 3, 4));
  const [values] = await download(device, all);
  assert.deepEqual([...values!], [
    ...new Array(64).fill(-1),
    ...[1, 2, 3, 4, 1, 2, 3, 4, 1, 2],
    ...new Array(200 - 74).fill(-1),
  ]);
});

Deno.test("Harness.measure() times only the launches that `only` names", async () => {
  const harness = new Harness(device);
  const side = device.isCpu ? 384 : 2048; // a GPU's launch of the sum takes as long as a small product
  const both = (only?: string): KernelBench => ({
    name: "both",
    work: { flops: 1 },
    ...(only ? { only } : {}),
    record(program, make) {
      const square = () => make.noise([side, side], "f32");
      matmul(program, { a: square(), b: square() }, { y: square() });
      sumForward(program, { x: make.noise([64], "f32") }, { y: make.zeros([1], "f32") });
    },
  });
  const all = await harness.measure(both()),
    sum = await harness.measure(both("kernels/sum/forward.wgsl"));
  assert.ok(sum.ms < all.ms / 4, `${sum.ms} and ${all.ms} ms`);
  harness.destroy();
});

Deno.test("Harness.measure() tunes a product that writes scratch memory", async () => {
  const harness = new Harness({ ...device, choices: new Map() }), shape = [8, 8];
  const { ms, choices } = await harness.measure({
    name: "product",
    work: { flops: 2 * 8 ** 3 },
    record(program, make) {
      const square = () => make.noise(shape, "f32");
      matmul(program, { a: square(), b: square() }, { y: program.scratch(shape) });
    },
  });
  assert.ok(ms > 0);
  assert.equal(choices !== undefined, clockOf(device) === "timestamps"); // the wall clock is too coarse
  harness.destroy();
});

Deno.test("median() returns the middle value, or the upper of the two middle values", () => {
  assert.equal(median([7]), 7);
  assert.equal(median([9, 1, 5]), 5);
  assert.equal(median([100, 3, 1, 2]), 3);
});

Deno.test("timePasses() returns one time per program and round, even if they need several query sets", async () => {
  const program = new Program(device);
  const x = createTensor(device, "x", { shape: [64], dtype: "f32" });
  sumForward(program, { x }, { y: createTensor(device, "y", { shape: [1], dtype: "f32" }) });
  const run = { program, repeats: 1 };
  const rounds = await timePasses(device, [run, run, run], { rounds: 900 });
  assert.equal(rounds.length, 900);
  assert.ok(rounds.every((round) => round.length === 3 && round.every((ms) => ms > 0)));
  const features = new Set<string>();
  const [[ms] = []] = await timePasses({ ...device, features }, [run]);
  assert.ok(ms! > 0, "by the wall clock where there are no timestamps");
  program.destroy();
});
