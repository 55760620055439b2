import { adamw } from "../kernels/adamw/adamw.ts";
import { attentionBackward, attentionForward } from "../kernels/attention/attention.ts";
import {
  crossEntropyBackward,
  crossEntropyForward,
} from "../kernels/cross_entropy/cross_entropy.ts";
import type { Device } from "../kernels/device.ts";
import { dropoutForward } from "../kernels/dropout/dropout.ts";
import { embeddingBackward, embeddingForward } from "../kernels/embedding/embedding.ts";
import { gradientNorm, gradientNormBlocks } from "../kernels/gradient_norm/gradient_norm.ts";
import { histogram, HISTOGRAM_LENGTH } from "../kernels/histogram/histogram.ts";
import { muon } from "../kernels/muon/muon.ts";
import { layernormBackward, layernormForward } from "../kernels/layernorm/layernorm.ts";
import { linearBackward, linearForward } from "../kernels/linear/linear.ts";
import { type ForwardEpilogue, matmul } from "../kernels/matmul/matmul.ts";
import { outerGradient, outerStep } from "../kernels/outer_step/outer_step.ts";
import { rmsnormBackward, rmsnormForward } from "../kernels/rmsnorm/rmsnorm.ts";
import { ropeBackward, ropeForward } from "../kernels/rope/rope.ts";
import { swigluBackward, swigluForward } from "../kernels/swiglu/swiglu.ts";
import type { DType } from "../kernels/tensor.ts";
import { logitsColumns, logitsRows } from "../model/activations.ts";
import { headLogits, headLossBackward, headSlices } from "../model/head.ts";
import { STATISTICS } from "../model/norm.ts";
import { muonCost } from "./cost.ts";
import { GPT2_VOCABULARY } from "./models.ts";
import {
  bytesOf,
  type KernelBench,
  type Maker,
  matrixTypes,
  squareProduct,
  type Work,
} from "./harness.ts";
import { sampleBatch } from "./text.ts";

/**
 * Benchmarks of every kernel, each with the work that it needs at least: operations, where a multiply-add
 * counts as two, or bytes, where each input is read once and each output written once.
 */
export function kernelBenches(device: Device): KernelBench[] {
  const types = matrixTypes(device), dtype = types[0]!;
  const gpu = !device.isCpu;
  // products have the shapes of training, on a CPU adapter those of nano
  const M = gpu ? 4096 : 512, C = gpu ? 256 : 64, V = gpu ? 50257 : 1048;
  // these tensors are several times larger than a large GPU's L2 cache
  const rows = gpu ? 65536 : 8192, width = gpu ? 768 : 64;
  const tokens = gpu ? 8192 : 512, attentionWidth = gpu ? 768 : 64;
  const lengths = gpu ? [128, 512, 1024, 2048] : [64, 128], headSizes = gpu ? [32, 64, 128] : [32];
  return [
    ...types.flatMap((dtype) =>
      (["NN", "NT", "TN"] as const).map((layout) =>
        squareProduct({ side: gpu ? 4096 : 512, layout, dtype })
      )
    ),
    ...linearBenches({ M, C, N: 3 * C, dtype }),
    ...headBenches(device, { M, C, V, dtype }),
    ...(gpu ? gpt2Products(device, { dtype }) : []),
    ...lengths.flatMap((T) =>
      headSizes.flatMap((HS) =>
        attentionBenches({ B: tokens / T, T, NH: attentionWidth / HS, HS, dtype })
      )
    ),
    ...attentionBenches(
      gpu
        ? { B: tokens / 1024, T: 1024, NH: 12, KH: 4, HS: 64, dtype }
        : { B: tokens / 64, T: 64, NH: 2, KH: 1, HS: 32, dtype },
    ),
    ...normBenches("layernorm", { M: rows, C: width, dtype }),
    ...normBenches("rmsnorm", { M: rows, C: width, dtype }),
    ...ropeBenches(
      gpu
        ? { M: rows, T: 1024, NH: 12, KH: 4, HS: 64, dtype }
        : { M: rows, T: 64, NH: 2, KH: 1, HS: 32, dtype },
    ),
    ...swigluBenches({ M: rows, F: width, dtype }),
    dropoutBench({ M: rows, C: width }),
    biasBench({ M: rows, N: 4 * width, dtype }),
    ...embeddingBenches({ T: gpu ? 1024 : 64, M: gpu ? 32768 : 8192, V, C: width }),
    ...crossEntropyBenches({ M: gpu ? 4096 : 2048, V, dtype }),
    muonBench(gpu ? { layers: 12, C: 768 } : { layers: 2, C: 64 }, { copy: dtype === "f16" }),
    ...optimizerBenches(device, { N: gpu ? 2 ** 26 : 2 ** 20, copy: dtype === "f16" }),
  ];
}

/** A benchmark. */
function bench(name: string, work: Work, record: KernelBench["record"]): KernelBench {
  return { name, work, record };
}

const F32 = 4;

function linearBenches(
  { M, C, N, dtype }: { M: number; C: number; N: number; dtype: DType },
): KernelBench[] {
  const work = { flops: 2 * M * C * N };
  const forward = (
    stored: "" | "and gelu " | "and swiglu ",
    epilogue: (make: Maker) => ForwardEpilogue | undefined,
  ): KernelBench => ({
    name: `linear forward ${stored}${dtype} [${M},${C}]x[${C},${N}]`,
    work,
    record(program, make) {
      linearForward(
        program,
        {
          x: make.noise([M, C], dtype),
          weight: make.noise([C, N], dtype),
          bias: make.noise([N], "f32"),
        },
        { y: make.zeros([M, N], dtype) },
        { epilogue: epilogue(make) },
      );
    },
  });
  return [
    forward("", () => undefined),
    forward("and gelu ", (make) => ({
      kind: "forward",
      activation: "gelu_new",
      activated: make.zeros([M, N], dtype),
    })),
    forward("and swiglu ", (make) => ({
      kind: "gatedForward",
      activation: "silu",
      gate: make.noise([M, N], dtype),
      activated: make.zeros([M, N], dtype),
    })),
    bench(`linear dx ${dtype} [${M},${N}]x[${N},${C}]`, work, (program, make) => {
      const dy = make.noise([M, N], dtype), weight = make.noise([C, N], dtype);
      const dx = make.zeros([M, C], dtype);
      matmul(program, { a: dy, b: weight }, { y: dx }, { transposeB: true });
    }),
    bench(`linear dx of swiglu ${dtype} [${M},${N}]x[${N},${C}]`, work, (program, make) => {
      const dy = make.noise([M, N], dtype), weight = make.noise([C, N], dtype);
      const [gate, up] = [make.noise([M, C], dtype), make.noise([M, C], dtype)];
      const [dup, dgate] = [make.zeros([M, C], dtype), make.zeros([M, C], dtype)];
      matmul(program, { a: dy, b: weight }, { y: dup }, {
        transposeB: true,
        epilogue: { kind: "gatedBackward", activation: "silu", gate, up, dgate },
      });
    }),
    bench(`linear dweight ${dtype} [${C},${M}]x[${M},${N}]`, work, (program, make) => {
      const x = make.noise([M, C], dtype), dy = make.noise([M, N], dtype);
      const dweight = make.zeros([C, N], "f32");
      matmul(program, { a: x, b: dy }, { y: dweight }, { transposeA: true });
    }),
  ];
}

/** The products of gpt2 with 8 texts of 1,024 tokens: the smallest and the largest linear layer, and the head. */
function gpt2Products(device: Device, { dtype }: { dtype: DType }): KernelBench[] {
  const M = 8192, C = 768;
  return [
    ...linearBenches({ M, C, N: C, dtype }),
    ...linearBenches({ M, C, N: 4 * C, dtype }),
    ...headBenches(device, { M, C, V: GPT2_VOCABULARY, dtype }),
  ].filter(({ name }) =>
    /^(linear forward f|linear dx f|linear dweight|head (?!and loss))/.test(name)
  );
}

/**
 * The products of the tied head over all rows, and the head with its loss in chunks, as in training.
 */
function headBenches(
  device: Device,
  { M, C, V, dtype }: { M: number; C: number; V: number; dtype: DType },
): KernelBench[] {
  const work = { flops: 2 * M * C * V };
  const config = { vocabularySize: V, contextLength: 1, width: C, layers: 1, heads: 1 };
  const chunk = logitsRows(device, config, { rows: M, dtype }), columns = logitsColumns(config);
  return [
    bench(`head forward ${dtype} [${M},${C}]x[${C},${V}]`, work, (program, make) => {
      const x = make.noise([M, C], dtype), wte = make.noise([V, C], dtype);
      headLogits(program, { x, weight: wte }, { logits: make.zeros([M, columns], dtype) });
    }),
    bench(`head dx ${dtype} [${M},${V}]x[${V},${C}]`, work, (program, make) => {
      const dlogits = make.noise([M, columns], dtype), wte = make.noise([V, C], dtype);
      const dx = make.zeros([M, C], dtype);
      for (const slice of headSlices(device, wte)) {
        matmul(program, { a: dlogits, b: slice.view }, { y: dx }, {
          columnsOfA: { start: slice.first, count: slice.rows },
          accumulate: slice.first > 0,
        });
      }
    }),
    bench(`head dweight ${dtype} [${V},${M}]x[${M},${C}]`, work, (program, make) => {
      const dlogits = make.noise([M, columns], dtype), x = make.noise([M, C], dtype);
      const dwte = make.zeros([V, C], "f32");
      for (const { first, rows, view } of headSlices(device, dwte)) {
        matmul(program, { a: dlogits, b: x }, { y: view }, {
          columnsOfA: { start: first, count: rows },
          transposeA: true,
        });
      }
    }),
    {
      name: `head and loss, forward and backward, ${dtype} [${M},${C}]x[${C},${V}] in ${
        Math.ceil(M / chunk)
      }`,
      work: { flops: 3 * work.flops },
      record(program, make) {
        const { targets } = sampleBatch({ batchSize: 1, sequenceLength: M, vocabularySize: V });
        headLossBackward(program, {
          x: make.noise([M, C], dtype),
          weight: make.noise([V, C], dtype),
          targets: make.of([M], "u32", targets),
          stepInputs: make.of([3], "f32", [1e-4, 1 / M, 0]),
          lossScale: make.of([1], "f32", [1]),
        }, {
          logits: make.zeros([chunk, columns], dtype),
          losses: make.zeros([M], "f32"),
          dx: make.zeros([M, C], dtype),
          dweight: make.zeros([V, C], "f32"),
        });
      },
    },
  ];
}

/**
 * Causal attention computes half of the scores: 2 · T² · HS operations per head of q, however many heads of k there
 * are, and 2.5 times as many backward.
 */
function attentionBenches(
  { B, T, NH, KH = NH, HS, dtype }: {
    B: number;
    T: number;
    NH: number;
    KH?: number;
    HS: number;
    dtype: DType;
  },
): KernelBench[] {
  const M = B * T, C = NH * HS, row = (NH + 2 * KH) * HS;
  const shape = `${dtype} [${M},${row}] T ${T} HS ${HS}${KH === NH ? "" : ` KH ${KH}`}`;
  const options = { T, heads: NH, ...(KH === NH ? {} : { keyHeads: KH }) };
  const flops = 2 * T * T * HS * NH * B;
  return [
    bench(`attention forward ${shape}`, { flops }, (program, make) => {
      attentionForward(program, { qkv: make.noise([M, row], dtype) }, {
        y: make.zeros([M, C], dtype),
        logSumExp: make.zeros([B, NH, T], "f32"),
      }, options);
    }),
    bench(`attention backward ${shape}`, { flops: 2.5 * flops }, (program, make) => {
      attentionBackward(program, {
        qkv: make.noise([M, row], dtype),
        y: make.noise([M, C], dtype),
        dy: make.noise([M, C], dtype),
        logSumExp: make.noise([B, NH, T], "f32"),
      }, {
        dqkv: make.zeros([M, row], dtype),
        delta: make.zeros([B, NH, T], "f32"),
      }, options);
    }),
  ];
}

/** Norms together with the residual addition before them, as in training; those of both kinds move the same bytes. */
function normBenches(
  kind: keyof typeof STATISTICS,
  { M, C, dtype }: { M: number; C: number; dtype: DType },
): KernelBench[] {
  const stream = bytesOf(M * C, "f32"),
    branch = bytesOf(M * C, dtype),
    hasBias = kind === "layernorm";
  return [
    // x and z are read, their sum and y are written
    bench(
      `residual and ${kind} forward ${dtype} [${M},${C}]`,
      { bytes: 2 * stream + 2 * branch },
      (program, make) => {
        const x = make.noise([M, C], "f32"), z = make.noise([M, C], dtype);
        const weight = make.noise([C], "f32"), bias = make.noise([C], "f32");
        const outputs = {
          sum: make.zeros([M, C], "f32"),
          y: make.zeros([M, C], dtype),
          statistics: make.zeros([M, STATISTICS[kind]], "f32"),
        };
        if (hasBias) layernormForward(program, { x, z, weight, bias }, outputs);
        else rmsnormForward(program, { x, z, weight }, outputs);
      },
    ),
    // x and dy are read, dx is read and written, dz is written
    bench(
      `residual and ${kind} backward ${dtype} [${M},${C}]`,
      { bytes: 3 * stream + 2 * branch },
      (program, make) => {
        const inputs = {
          x: make.noise([M, C], "f32"),
          weight: make.noise([C], "f32"),
          statistics: make.noise([M, STATISTICS[kind]], "f32"),
          dy: make.noise([M, C], dtype),
        };
        const dx = make.zeros([M, C], "f32"), dz = make.zeros([M, C], dtype);
        const dweight = make.zeros([C], "f32"), options = { accumulateDx: true };
        if (!hasBias) rmsnormBackward(program, inputs, { dx, dz, dweight }, options);
        else {
          const dbias = make.zeros([C], "f32");
          layernormBackward(program, inputs, { dx, dz, dweight, dbias }, options);
        }
      },
    ),
  ];
}

/**
 * Rotary positions, alone and with a norm of the heads. They are bound by memory: q and k are read and written, with
 * the norm forward written twice and backward read beside their gradients. The table stays in the cache.
 */
function ropeBenches(
  { M, T, NH, KH, HS, dtype }: {
    M: number;
    T: number;
    NH: number;
    KH: number;
    HS: number;
    dtype: DType;
  },
): KernelBench[] {
  const qkBytes = bytesOf(M * (NH + KH) * HS, dtype), options = { T, heads: NH, keyHeads: KH };
  return [false, true].flatMap((withNorm): KernelBench[] => {
    const what = withNorm ? "rope and norm" : "rope";
    const shape = `${dtype} [${M},${(NH + 2 * KH) * HS}] HS ${HS}`;
    const work = { bytes: (withNorm ? 3 : 2) * qkBytes };
    const inputsOf = (make: Maker) => ({
      rotation: make.noise([T, HS / 2, 2], "f32"),
      norm: withNorm
        ? { qWeight: make.noise([HS], "f32"), kWeight: make.noise([HS], "f32"), epsilon: 1e-6 }
        : undefined,
    });
    return [
      bench(`${what} forward ${shape}`, work, (program, make) => {
        const qkv = make.noise([M, (NH + 2 * KH) * HS], dtype);
        const qk = withNorm ? make.zeros([M, (NH + KH) * HS], dtype) : undefined;
        ropeForward(program, inputsOf(make), { qkv, qk }, options);
      }),
      bench(`${what} backward ${shape}`, work, (program, make) => {
        const qk = withNorm ? make.noise([M, (NH + KH) * HS], dtype) : undefined;
        ropeBackward(program, { ...inputsOf(make), qk }, {
          dqkv: make.noise([M, (NH + 2 * KH) * HS], dtype),
          dqWeight: make.zeros([HS], "f32"),
          dkWeight: make.zeros([HS], "f32"),
        }, options);
      }),
    ];
  });
}

/** The plain path of a gated MLP; training stores the same in the epilogues of products. */
function swigluBenches({ M, F, dtype }: { M: number; F: number; dtype: DType }): KernelBench[] {
  const bytes = bytesOf(M * F, dtype), activation = "silu";
  return [
    // gate and up are read, activated is written
    bench(`swiglu forward ${dtype} [${M},${F}]`, { bytes: 3 * bytes }, (program, make) => {
      const [gate, up] = [make.noise([M, F], dtype), make.noise([M, F], dtype)];
      swigluForward(program, { gate, up }, { activated: make.zeros([M, F], dtype) }, {
        activation,
      });
    }),
    // gate, up and dactivated are read, dgate and dup are written
    bench(`swiglu backward ${dtype} [${M},${F}]`, { bytes: 5 * bytes }, (program, make) => {
      const [gate, up] = [make.noise([M, F], dtype), make.noise([M, F], dtype)];
      const dactivated = make.noise([M, F], dtype);
      const [dgate, dup] = [make.zeros([M, F], dtype), make.zeros([M, F], dtype)];
      swigluBackward(program, { gate, up, dactivated }, { dgate, dup }, { activation });
    }),
  ];
}

function dropoutBench({ M, C }: { M: number; C: number }): KernelBench {
  return bench(`dropout f32 [${M},${C}]`, { bytes: 2 * bytesOf(M * C, "f32") }, (program, make) => {
    const x = make.noise([M, C], "f32"), random = make.of([2], "u32", [1, 2]);
    const dropout = { random, rate: 0.1, site: 0 };
    dropoutForward(program, { x }, { y: make.zeros([M, C], "f32") }, dropout);
  });
}

/** The column sums of dy; the products of `linearBackward()` are small here and are not timed. */
function biasBench({ M, N, dtype }: { M: number; N: number; dtype: DType }): KernelBench {
  const C = 4;
  return {
    name: `linear dbias ${dtype} [${M},${N}]`,
    work: { bytes: bytesOf(M * N, dtype) },
    only: "kernels/linear/bias_backward.wgsl",
    record(program, make) {
      linearBackward(program, {
        x: make.noise([M, C], dtype),
        weight: make.noise([C, N], dtype),
        dy: make.noise([M, N], dtype),
      }, {
        dx: make.zeros([M, C], dtype),
        dweight: make.zeros([C, N], "f32"),
        dbias: make.zeros([N], "f32"),
      });
    },
  };
}

/** A token's row of wte counts once, however often the token occurs. */
function embeddingBenches(
  { T, M, V, C }: { T: number; M: number; V: number; C: number },
): KernelBench[] {
  const batch = sampleBatch({ batchSize: M / T, sequenceLength: T, vocabularySize: V });
  const distinct = new Set(batch.inputs).size;
  const tables = bytesOf((distinct + T) * C, "f32"), stream = bytesOf(M * C, "f32");
  return [
    bench(
      `embedding forward f32 [${M},${C}]`,
      { bytes: M * F32 + tables + stream },
      (program, make) => {
        embeddingForward(
          program,
          {
            tokens: make.of([M], "u32", batch.inputs),
            wte: make.noise([V, C], "f32"),
            wpe: make.noise([T, C], "f32"),
          },
          { y: make.zeros([M, C], "f32") },
          { T },
        );
      },
    ),
    // dwte is added to
    bench(`embedding backward f32 [${M},${C}]`, {
      bytes: 2 * M * F32 + stream + tables + bytesOf(distinct * C, "f32"),
    }, (program, make) => {
      embeddingBackward(program, {
        tokens: make.of([M], "u32", batch.inputs),
        order: make.of([M], "u32", batch.order),
        dy: make.noise([M, C], "f32"),
      }, {
        dwte: make.zeros([V, C], "f32"),
        dwpe: make.zeros([T, C], "f32"),
      }, { T });
    }),
  ];
}

function crossEntropyBenches(
  { M, V, dtype }: { M: number; V: number; dtype: DType },
): KernelBench[] {
  const { targets } = sampleBatch({ batchSize: 1, sequenceLength: M, vocabularySize: V });
  const logitsBytes = bytesOf(M * V, dtype);
  const columns = logitsColumns({ vocabularySize: V });
  return [
    bench(`cross-entropy forward ${dtype} [${M},${V}]`, { bytes: logitsBytes }, (program, make) => {
      crossEntropyForward(
        program,
        {
          logits: make.noise([M, columns], dtype),
          targets: make.of([M], "u32", targets),
        },
        { losses: make.zeros([M], "f32") },
        { vocabularySize: V },
      );
    }),
    bench(
      `cross-entropy backward ${dtype} [${M},${V}]`,
      { bytes: 2 * logitsBytes },
      (program, make) => {
        crossEntropyBackward(
          program,
          {
            targets: make.of([M], "u32", targets),
            stepInputs: make.of([3], "f32", [1e-4, 1 / M, 0]),
            lossScale: make.of([1], "f32", [1]),
          },
          { losses: make.zeros([M], "f32"), dlogits: make.noise([M, columns], dtype) },
          {
            vocabularySize: V,
          },
        );
      },
    ),
  ];
}

function optimizerBenches(
  device: Device,
  { N, copy }: { N: number; copy: boolean },
): KernelBench[] {
  const blocks = gradientNormBlocks(device, N);
  return [
    bench(`gradient norm f32 [${N}]`, { bytes: F32 * N }, (program, make) => {
      const gradient = make.noise([N], "f32"), lossScale = make.of([1], "f32", [1]);
      gradientNorm(program, { gradient, lossScale }, {
        partials: make.zeros([blocks, 2], "f32"),
      });
    }),
    bench(`histogram f32 [${N}]`, { bytes: F32 * N }, (program, make) => {
      const x = make.noise([N], "f32");
      histogram(program, { x }, { counts: make.zeros([HISTOGRAM_LENGTH], "u32") });
    }),
    bench(`outer gradient f32 [${N}]`, { bytes: 3 * F32 * N }, (program, make) => {
      const start = make.noise([N], "f32"), weights = make.noise([N], "f32");
      outerGradient(program, { start }, { weights });
    }),
    // weights, start and momentum are read and written
    bench(`outer step f32${copy ? " and f16 copy" : ""} [${N}]`, {
      bytes: 6 * F32 * N + (copy ? 2 * N : 0),
    }, (program, make) => {
      outerStep(program, {
        weights: make.noise([N], "f32"),
        start: make.noise([N], "f32"),
        momentum: make.zeros([N], "f32"),
        ...(copy ? { copy: make.zeros([N], "f16") } : {}),
      }, { ranks: 2, outerLearningRate: 0.7, outerMomentum: 0.9 });
    }),
    // gradient, parameter, m and v are read, all but the gradient written
    bench(`adamw f32${copy ? " and f16 copy" : ""} [${N}]`, {
      bytes: 7 * F32 * N + (copy ? 2 * N : 0),
    }, (program, make) => {
      adamw(program, {
        gradient: make.noise([N], "f32"),
        // learning rate and gradient factor as bits, the first step, not skipped
        update: make.of([5], "u32", [
          ...new Uint32Array(Float32Array.of(1e-4, 1).buffer),
          1,
          0,
          0,
        ]),
        corrections: make.of([1, 2], "f32", [1, 1]),
      }, {
        parameter: make.noise([N], "f32"),
        m: make.zeros([N], "f32"),
        v: make.zeros([N], "f32"),
        ...(copy ? { copy: make.zeros([N], "f16") } : {}),
      }, { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 });
    }),
  ];
}

/** Muon for the matrices of GPT-2's blocks: q, k, v and the projection of C × C, and those of the MLP. */
export function muonBench(
  { layers: L, C }: { layers: number; C: number },
  { copy }: { copy: boolean },
): KernelBench {
  const square = { inputs: C, outputs: C };
  const matrices = [
    ...[0, C, 2 * C].map((start) => ({ ...square, start, columns: 3 * C })),
    { ...square, start: 3 * C * C, columns: C },
    { start: 4 * C * C, columns: 4 * C, inputs: C, outputs: 4 * C },
    { start: 8 * C * C, columns: C, inputs: 4 * C, outputs: C },
  ];
  const shape = [L, 12 * C * C];
  return bench(`muon f32${copy ? " and f16 copy" : ""} [${shape}]`, {
    flops: L * matrices.reduce((sum, matrix) => sum + muonCost(matrix).flops, 0),
  }, (program, make) => {
    const [factor, rate] = new Uint32Array(Float32Array.of(1, 1e-4).buffer);
    muon(
      program,
      {
        gradient: make.noise(shape, "f32"),
        update: make.of([5], "u32", [0, factor!, 1, 0, rate!]), // a step that is not skipped
      },
      {
        parameter: make.noise(shape, "f32"),
        momentum: make.zeros(shape, "f32"),
        ...(copy ? { copy: make.zeros(shape, "f16") } : {}),
      },
      matrices,
      { momentum: 0.95, weightDecay: 0.01 },
    );
  });
}
