import type { PyTorchReport } from "../../bench/markdown.ts";
import type { Report } from "../../bench/report.ts";
import type { ScalingPoint } from "../../bench/scaling.ts";

/** A point of a scaling run. */
export const point: ScalingPoint = {
  name: "scaling width 512",
  axis: "width",
  value: 512,
  model: "mini",
  config: { vocabularySize: 4096, contextLength: 128, width: 512, layers: 4, heads: 16 },
  batchSize: 32,
  sequenceLength: 128,
  precision: "f16",
  ms: 20,
  gpuMs: 16,
  idleShare: 0.2,
  modelMs: 8,
  steps: 20,
  tokensPerSecond: 204800,
  launches: 226,
  peakBytes: 1e9,
  planned: { activations: 4e8, step: 9e8 },
  flops: 3.6e11,
  bytes: 2.5e9,
  loss: 8,
};

/** A report with a result of every kind. */
export const report: Report = {
  command: "deno task bench --scaling",
  date: "2026-11-25",
  deno: "2.9.6",
  device: { provider: "native", name: "A GPU", backend: "Vulkan", isCpu: false },
  clock: "timestamps",
  roofline: { bytesPerSecond: 3e12, flopsPerSecond: 40e12 },
  results: [
    { name: "copy f32 1024 MiB, 1 vector each", ms: 1, work: { bytes: 2e9 }, share: 0.67 },
    { name: "copy f32 1024 MiB, 4 vectors each", ms: 1, work: { bytes: 3e9 }, share: 1 },
    { name: "matmul NN f16 [4096,4096]x[4096,4096]", ms: 5, work: { flops: 1e11 }, share: 0.5 },
    { name: "matmul NN f16 [4096,4096]x[4096,4096]", ms: 4, work: { flops: 1e11 }, share: 0.625 },
    { name: "matmul NN f16 [4096,4096]x[4096,4096] as 64x64/1", ms: 9, share: 0.1 },
    {
      name: "attention forward f16 [8192,2304] T 128 HS 32",
      ms: 1,
      work: { flops: 18e8 },
      share: 0.046,
      choices: { "attention/forward f16 [1536,128,32]": "32x32 of 64" },
    },
    {
      name: "attention forward f16 [8192,2304] T 512 HS 32",
      ms: 1,
      work: { flops: 13e9 },
      share: 0.33,
      choices: { "attention/forward f16 [384,512,32]": "64x64 of 128" },
    },
    { name: "attention backward f16 [8192,2304] T 512 HS 32", ms: 1, share: 0.12 },
    {
      name: "head and loss, forward and backward, f16 [4096,256]x[256,50257] in 7",
      ms: 1,
      share: 0.3,
    },
    { name: "residual and layernorm forward f16 [65536,768]", ms: 1, share: 0.8 },
    { name: "adamw f32 and f16 copy [67108864]", ms: 1, share: 0.985 },
    {
      name: "train step f16 mini 32x128 V 50257",
      ms: 10,
      tokensPerSecond: 409600,
      idleShare: 0.02,
      peakBytes: 5e8,
      launches: 226,
    },
    {
      name: "train step f16 gpt2 8x1024 V 50257",
      ms: 150,
      planned: { activations: 4e9, step: 6e9 },
    },
    {
      name: "train step f16 gpt2 8x1024 V 50257 recompute block",
      ms: 180,
      planned: { activations: 1e9, step: 3e9 },
    },
    {
      name: "train step f16 smollm2-135m 8x512 V 49152 muon",
      ms: 120,
      muon: { ms: 39, floorMs: 30 },
    },
    { name: "train step f16 smollm2-135m 8x512 V 49152", ms: 80 },
    { name: "generate f16 mini 64 streams", ms: 100, tokensPerSecond: 15000 },
    {
      name: "cold start to first step f16 mini 32x128 V 50257",
      ms: 4200,
      parts: { compilation: 900 },
    },
  ],
  scaling: { launchMs: 0.008, points: [point] },
};

/** A report of the same device with Dawn. */
export const dawn: Report = {
  ...report,
  command: "deno task bench:ffi --gpu dawn",
  device: { provider: "dawn", name: "A GPU", backend: "Dawn on Vulkan", isCpu: false },
  roofline: { bytesPerSecond: 3e12, flopsPerSecond: 300e12 },
  results: [
    {
      name: "matmul NN f16 [4096,4096]x[4096,4096]",
      ms: 0.5,
      work: { flops: 1e11 },
      share: 0.67,
      choices: { "matmul NN f16,f16,f16 [4096,4096]x[4096,4096]": "128x128 matrices/1" },
    },
    { name: "train step f16 mini 32x128 V 50257", ms: 4, tokensPerSecond: 1024000 },
  ],
};

/** What PyTorch reached on the same device. */
export const pytorch: PyTorchReport = {
  command: "python3 bench/pytorch_baseline.py --no-compile",
  date: "2026-11-26",
  torch: "2.11.0",
  cuda: "13.0",
  device: { name: "A GPU" },
  results: [
    { name: "cublas fp32 NN 4096", ms: 2, flopsPerSecond: 50e12 },
    { name: "cublas fp32 NT 4096", ms: 2, flopsPerSecond: 50e12 },
    { name: "cublas fp16 NN 4096", ms: 0.2, flopsPerSecond: 500e12 },
    { name: "copy f32 1024 MiB", ms: 0.5, bytesPerSecond: 4e12 },
    { name: "generate mini 1 stream", ms: 1, tokensPerSecond: 100 },
    { name: "generate mini 64 streams", ms: 1, tokensPerSecond: 12000 },
    { name: "train step smollm2-135m 8x512, transformers fp16 autocast", ms: 60 },
    { name: "train step mini 32x128, eager fp16 autocast", ms: 15, peakBytes: 1.5e9 },
    { name: "train step mini 32x128, compile bf16", ms: 5, peakBytes: 1e9 },
    { name: "train step gpt2 8x1024, eager fp32", ms: 165, peakBytes: 1e10 },
  ],
};
