import assert from "node:assert/strict";
import { decodeBenches } from "../../bench/generate.ts";
import { checkDistinct, rooflineBenches, type Work } from "../../bench/harness.ts";
import { kernelBenches } from "../../bench/kernels.ts";
import { sampleBatch } from "../../bench/text.ts";
import type { Device } from "../../kernels/device.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { Program } from "../../kernels/program.ts";
import { labelOf } from "../../kernels/shader.ts";
import { createTensor, type DType } from "../../kernels/tensor.ts";
import { device } from "../kernels/harness.ts";

const gpu: Device = {
  ...device,
  isCpu: false,
  features: new Set(["shader-f16"]),
  maxBindingBytes: 2 ** 31,
};
const cpu: Device = { ...device, isCpu: true };

Deno.test("benchmarks of a device have different names", () => {
  for (const device of [gpu, cpu]) {
    const benches = [
      ...rooflineBenches(device),
      ...kernelBenches(device),
      ...decodeBenches(device),
    ];
    checkDistinct(benches.map(({ name }) => name));
  }
  assert.throws(() => checkDistinct(["a", "b", "a"]), /must have its own name: several are a$/);
});

/** Operations of benchmarks: 2 for a product and a sum. Bytes: each input read, each output written. */
const WORK: readonly [on: Device, name: string, work: Work][] = [
  [gpu, "matmul NN f16 [4096,4096]x[4096,4096]", { flops: 137_438_953_472 }], // 2 · 4096³
  [gpu, "matmul TN f32 [4096,4096]x[4096,4096]", { flops: 137_438_953_472 }],
  // 2 · 4096 · 256 · 768, whichever of the three products
  [gpu, "linear forward f16 [4096,256]x[256,768]", { flops: 1_610_612_736 }],
  [gpu, "linear forward and gelu f16 [4096,256]x[256,768]", { flops: 1_610_612_736 }],
  [gpu, "linear dx f16 [4096,768]x[768,256]", { flops: 1_610_612_736 }],
  [gpu, "linear dweight f16 [256,4096]x[4096,768]", { flops: 1_610_612_736 }],
  // 2 · 8192 · 768 · 3072, and 2 · 8192 · 768 · 50257
  [gpu, "linear dx f16 [8192,3072]x[3072,768]", { flops: 38_654_705_664 }],
  [gpu, "head dweight f16 [50257,8192]x[8192,768]", { flops: 632_379_408_384 }],
  // 2 · 4096 · 256 · 50257, and three of these
  [gpu, "head forward f16 [4096,256]x[256,50257]", { flops: 105_396_568_064 }],
  [gpu, "head dx f16 [4096,50257]x[50257,256]", { flops: 105_396_568_064 }],
  [gpu, "head dweight f16 [50257,4096]x[4096,256]", { flops: 105_396_568_064 }],
  [
    gpu,
    "head and loss, forward and backward, f16 [4096,256]x[256,50257] in 1",
    { flops: 316_189_704_192 },
  ],
  // 2 products of 2 · T² / 2 · 32 for 64 rows of 24 heads; 5 products backward
  [gpu, "attention forward f16 [8192,2304] T 128 HS 32", { flops: 1_610_612_736 }],
  [gpu, "attention backward f16 [8192,2304] T 128 HS 32", { flops: 4_026_531_840 }],
  [gpu, "attention forward f16 [8192,2304] T 2048 HS 128", { flops: 25_769_803_776 }],
  [gpu, "attention backward f16 [8192,2304] T 2048 HS 128", { flops: 64_424_509_440 }],
  // 2 · 2 · 1024² / 2 · 64 for 8 rows of 12 heads
  [gpu, "attention forward f16 [8192,1280] T 1024 HS 64 KH 4", { flops: 12_884_901_888 }],
  [gpu, "attention backward f16 [8192,1280] T 1024 HS 64 KH 4", { flops: 32_212_254_720 }],
  // 65536 · 768 elements: x and sum of 4 bytes, z and y of 2; sum, dx twice, dy and dz
  [gpu, "residual and layernorm forward f16 [65536,768]", { bytes: 603_979_776 }],
  [gpu, "residual and layernorm backward f16 [65536,768]", { bytes: 805_306_368 }],
  [gpu, "residual and rmsnorm forward f16 [65536,768]", { bytes: 603_979_776 }],
  [gpu, "residual and rmsnorm backward f16 [65536,768]", { bytes: 805_306_368 }],
  // 65536 · 16 · 64 elements of q and k are read and written, with a norm also kept or read
  [gpu, "rope forward f16 [65536,1280] HS 64", { bytes: 268_435_456 }],
  [gpu, "rope backward f16 [65536,1280] HS 64", { bytes: 268_435_456 }],
  [gpu, "rope and norm forward f16 [65536,1280] HS 64", { bytes: 402_653_184 }],
  [gpu, "rope and norm backward f16 [65536,1280] HS 64", { bytes: 402_653_184 }],
  // three and five tensors of 2 bytes
  [gpu, "swiglu forward f16 [65536,768]", { bytes: 301_989_888 }],
  [gpu, "swiglu backward f16 [65536,768]", { bytes: 503_316_480 }],
  [gpu, "dropout f32 [65536,768]", { bytes: 402_653_184 }],
  [gpu, "linear dbias f16 [65536,3072]", { bytes: 402_653_184 }],
  // 4096 · 50257 logits of 2 bytes, and their gradient
  [gpu, "cross-entropy forward f16 [4096,50257]", { bytes: 411_705_344 }],
  [gpu, "cross-entropy backward f16 [4096,50257]", { bytes: 823_410_688 }],
  [gpu, "gradient norm f32 [67108864]", { bytes: 268_435_456 }],
  [gpu, "adamw f32 and f16 copy [67108864]", { bytes: 2_013_265_920 }], // 30 bytes each
  [cpu, "adamw f32 [1048576]", { bytes: 29_360_128 }], // 28 bytes each
  [gpu, "outer gradient f32 [67108864]", { bytes: 805_306_368 }], // 12 bytes each
  [gpu, "outer step f32 and f16 copy [67108864]", { bytes: 1_744_830_464 }], // 26 bytes each
  [cpu, "outer step f32 [1048576]", { bytes: 25_165_824 }], // 24 bytes each
  // of 12 blocks, 4 matrices with 5 · 6 · 768³, and 2 with 5 · (4 · 768² · 3072 + 2 · 768³)
  [gpu, "muon f32 and f16 copy [12,7077888]", { flops: 1_630_745_395_200 }],
  [cpu, "muon f32 [2,49152]", { flops: 157_286_400 }],
  [cpu, "linear forward f32 [512,64]x[64,192]", { flops: 12_582_912 }],
  [cpu, "attention backward f32 [512,192] T 64 HS 32", { flops: 10_485_760 }],
  // one row reads a matrix; decoding reads keys and values, the sampler logits
  [gpu, "one row NN f16 [1,256]x[256,768]", { bytes: 393_216 }],
  [gpu, "one row, gate and up f16 [1,256]x[256,2·768]", { bytes: 786_432 }],
  [gpu, "one row NT f16 [1,256]x[256,50257]", { bytes: 25_731_584 }],
  [gpu, "attention decode f16 [64,8,512,32]", { bytes: 33_554_432 }],
  [gpu, "attention decode with norm and rope f16 [64,2,512,32] NH 8", { bytes: 8_388_608 }],
  [gpu, "sample top-p f32 [64,50257]", { bytes: 12_865_792 }],
];

Deno.test("benchmarks of kernels state the work that is counted by hand", () => {
  const benches = new Map([gpu, cpu].map((on) => [
    on,
    new Map([...kernelBenches(on), ...decodeBenches(on)].map(({ name, work }) => [name, work])),
  ]));
  for (const [on, name, work] of WORK) assert.deepEqual(benches.get(on)!.get(name), work, name);
  // 8192 tokens of 64 components in contexts of 64: rows of wte that occur, wpe, y; backward also the order, and dwte twice
  const { inputs } = sampleBatch({ batchSize: 128, sequenceLength: 64, vocabularySize: 1048 });
  const rows = new Set(inputs).size, work = benches.get(cpu)!;
  assert.deepEqual(work.get("embedding forward f32 [8192,64]"), {
    bytes: 4 * (8192 + 64 * (rows + 64 + 8192)),
  });
  assert.deepEqual(work.get("embedding backward f32 [8192,64]"), {
    bytes: 4 * (2 * 8192 + 64 * (2 * rows + 64 + 8192)),
  });
});

/**
 * The ops, or files that several ops share, whose kernels a benchmark launches, by the beginning of its name; sums of
 * split products apart.
 */
const LAUNCHES: readonly [start: string, ops: RegExp][] = [
  ["matmul", /^matmul$/],
  ["one row", /^matmul$/],
  ["linear dbias", /^matmul matmul( linear)+$/],
  ["linear", /^matmul$/],
  ["head and loss", /^matmul cross_entropy matmul matmul$/],
  ["head", /^matmul$/],
  ["attention backward", /^attention( attention)+$/],
  ["attention", /^attention$/],
  ["residual and layernorm backward", /^layernorm parameters_backward$/],
  ["residual and rmsnorm backward", /^rmsnorm parameters_backward$/],
  ["residual and rmsnorm", /^rmsnorm$/],
  ["rope and norm backward", /^rope parameters_backward$/],
  ["rope", /^rope$/],
  ["residual and layernorm", /^layernorm$/],
  ["swiglu", /^swiglu$/],
  ["dropout", /^dropout$/],
  ["embedding backward", /^embedding embedding$/],
  ["embedding", /^embedding$/],
  ["cross-entropy", /^cross_entropy$/],
  ["gradient norm", /^gradient_norm$/],
  ["histogram", /^histogram$/],
  ["outer", /^outer_step$/],
  ["adamw", /^adamw$/],
  ["muon", /^(muon (muon )+((matmul ){15}|(matmul ){25})(muon ?)+)+$/], // 25 of wide and tall matrices
  ["sample", /^sample( sample)?$/],
];

/** Operations of the products and of attention whose sizes a benchmark's name has; undefined if it has none. */
function flopsOf(name: string): number | undefined {
  const sizes = /\[(\d+),(\d+)\]x\[(\d+),(\d+)\]/.exec(name);
  if (sizes) {
    const [M, K, rows, N] = sizes.slice(1).map(Number) as [number, number, number, number];
    assert.equal(K, rows, name);
    return (name.startsWith("head and loss") ? 3 : 1) * 2 * M * K * N;
  }
  const attention = /^attention \w+ f\d+ \[(\d+),(\d+)\] T (\d+) HS (\d+)(?: KH (\d+))?/.exec(name);
  if (!attention) return undefined;
  const [M, row, T, HS, KH] = attention.slice(1).map(Number) as [number, ...number[]];
  const width = KH! > 0 ? row! - 2 * KH! * HS! : row! / 3; // of y
  // scores and y, backward also dp, dq, dk: half of the pairs of M queries and T keys
  return (name.startsWith("attention backward") ? 5 : 2) * 2 * M * T! * width / 2;
}

Deno.test("benchmarks of kernels launch the kernels and the products that their names say", () => {
  const { dispatch } = Program.prototype;
  let products = 0;
  Program.prototype.dispatch = function (launch) {
    const { M, N, K } = launch.uniforms ?? {};
    const [, kernel] = /^kernels\/matmul\/(\w+)/.exec(labelOf(launch.shader)) ?? [];
    if (kernel && kernel !== "reduce") products += 2 * Number(M) * Number(N) * Number(K);
    dispatch.call(this, launch);
  };
  try {
    for (const on of [gpu, cpu]) {
      const dry = dryDevice(on), unused = new Set(LAUNCHES);
      const tensor = (shape: readonly number[], dtype: DType) =>
        createTensor(dry, "x", { shape, dtype });
      for (const { name, only, work, record } of [...kernelBenches(dry), ...decodeBenches(dry)]) {
        const program = new Program(dry);
        products = 0;
        record(program, { noise: tensor, zeros: tensor, of: tensor });
        if ("flops" in work && !name.startsWith("muon")) {
          assert.equal(work.flops, flopsOf(name), name);
          if (!name.startsWith("attention")) assert.equal(products, work.flops, name);
        }
        const launches = program.labels.filter((label) => label !== "kernels/matmul/reduce.wgsl");
        const expected = LAUNCHES.find(([start]) => name.startsWith(start))!;
        assert.match(launches.map((label) => label.split(/\W/)[1]).join(" "), expected[1], name);
        assert.ok(only === undefined || launches.includes(only), name);
        unused.delete(expected);
        const [, layout] = /^matmul (..) /.exec(name) ?? [];
        const [key = ""] = program.tunables.keys();
        assert.ok(layout === undefined || key.includes(` ${layout} `), `${key} of ${name}`);
      }
      assert.deepEqual([...unused], []);
    }
  } finally {
    Program.prototype.dispatch = dispatch;
  }
});
