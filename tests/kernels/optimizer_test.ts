import assert from "node:assert/strict";
import { adamw, adamwCorrections } from "../../kernels/adamw/adamw.ts";
import * as adamwReference from "../../kernels/adamw/reference.ts";
import { gradientNorm, gradientNormBlocks } from "../../kernels/gradient_norm/gradient_norm.ts";
import * as normReference from "../../kernels/gradient_norm/reference.ts";
import { prepareStep } from "../../kernels/prepare_step/prepare_step.ts";
import { updateScaler } from "../../kernels/prepare_step/reference.ts";
import { Program } from "../../kernels/program.ts";
import { download, upload } from "../../kernels/tensor.ts";
import { assertClose, device, randomValues, REAL_TYPES, tensors, withRandom } from "./harness.ts";

/** Reads the bits of integers as floating-point numbers. */
const floatsOf = (values: ArrayLike<number>) => new Float32Array(Uint32Array.from(values).buffer);

/** The optimizer of one parameter of N elements, as a training step records it. */
function optimizer(
  N: number,
  { gradientClip = Infinity, growthInterval = 2000, weightDecay = 0, copy = false, on = device } =
    {},
) {
  const table = adamwCorrections(0.9, 0.95);
  const t = {
    ...tensors({
      gradient: [[N], "f32", 0],
      parameter: [[N], "f32", 0],
      m: [[N], "f32", 0],
      v: [[N], "f32", 0],
      partials: [[gradientNormBlocks(on, N), 2], "f32"],
      stepInputs: [[3], "f32", [1e-3, 1, 0.02]],
      lossSums: [[3], "f32", [0.5, 1.25, 0.75]],
      corrections: [[table.length / 2, 2], "f32", table],
      lossScale: [[1], "f32", 65536],
      counters: [[5], "u32", 0],
      update: [[5], "u32"],
      reports: [[4, 8], "u32"],
    }),
    ...(copy ? tensors({ copy: [[N], "f16"] }) : {}),
  };
  const program = new Program(on);
  gradientNorm(program, t, t);
  prepareStep(program, t, t, { gradientClip, growthInterval });
  adamw(program, t, t, { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay });
  return { t, step: () => program.run() };
}

Deno.test("prepareStep() follows torch.amp.GradScaler", async () => {
  const { t, step } = optimizer(64, { growthInterval: 3 });
  const known = [
    [32768, 0],
    [16384, 0],
    [16384, 1],
    [16384, 2],
    [32768, 0],
    [32768, 1],
    [32768, 2],
    [16384, 0],
    [16384, 1],
    [16384, 2],
    [32768, 0],
  ];
  const found = [1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0];
  let expected = { scale: 65536, growthTracker: 0 }, skips = 0, inARow = 0;
  for (const [i, bad] of found.entries()) {
    upload(device, t.gradient, new Float32Array(64).fill(bad ? Infinity : 65536));
    const used = (await download(device, t.lossScale))[0]![0]!;
    step();
    const [scale, counters, reports] = await download(device, t.lossScale, t.counters, t.reports);
    assert.deepEqual([scale![0], counters![0]], known[i], `step ${i}`);
    const update = (await download(device, t.update))[0]!;
    assert.equal(floatsOf(update)[4], bad ? 0 : Math.fround(0.02), "Muon's learning rate");
    expected = updateScaler(expected, { finite: !bad, growthInterval: 3 });
    assert.deepEqual([expected.scale, expected.growthTracker], known[i], `reference, step ${i}`);
    skips += bad;
    inARow = bad ? inARow + 1 : 0;
    assert.deepEqual([...counters!.slice(1)], [i + 1 - skips, skips, inARow, i + 1]);
    const report = reports!.slice(i % 4 * 8, i % 4 * 8 + 8);
    const [loss, , reportedScale] = floatsOf(report);
    assert.deepEqual([loss, reportedScale, ...report.slice(3)], [
      2.5,
      used,
      bad,
      known[i]![1],
      inARow,
      skips,
      0,
    ]);
  }
});

Deno.test("prepareStep() does not grow the scale beyond f32", async () => {
  const { t, step } = optimizer(64, { growthInterval: 1 });
  upload(device, t.lossScale, [2 ** 127]);
  step();
  assert.equal((await download(device, t.lossScale))[0]![0], 2 ** 127);
  assert.deepEqual(
    updateScaler({ scale: 2 ** 127, growthTracker: 0 }, { finite: true, growthInterval: 1 }),
    {
      scale: 2 ** 127,
      growthTracker: 0,
    },
  );
});

Deno.test("gradientNorm() finds NaN and infinities wherever they are", async () => {
  const block = 16384, N = block * 2 + 64;
  const { t, step } = optimizer(N);
  for (const value of [NaN, Infinity, -Infinity]) {
    for (const at of [0, 1, block - 1, block, 2 * block + 2, N - 1]) {
      const gradient = new Float32Array(N).fill(1);
      gradient[at] = value;
      upload(device, t.gradient, gradient);
      upload(device, t.parameter, new Float32Array(N).fill(5));
      step();
      const [update, parameter] = await download(device, t.update, t.parameter);
      assert.equal(update![3], 1, `${value} at ${at}`);
      assert.ok(parameter!.every((v) => v === 5), `${value} at ${at} changed the parameter`);
    }
  }
  upload(device, t.gradient, new Float32Array(N).fill(3e38)); // finite, but its square is not
  upload(device, t.lossScale, [1e38]);
  step();
  assert.equal((await download(device, t.update))[0]![3], 0);
});

for (
  const [where, on] of [["", device], [" over several bindings", {
    ...device,
    maxBindingBytes: 16384,
  }]] as const
) {
  for (const N of [64, 16384, 16384 * 4 + 64]) {
    Deno.test(
      `gradient norm and clipping match the reference at N = ${N}${where}`,
      withRandom(async (random) => {
        const { t, step } = optimizer(N, { gradientClip: 0.5, on });
        const gradient = randomValues(random, N, { scale: 65536 });
        upload(device, t.gradient, gradient);
        step();
        const [update, reports] = await download(device, t.update, t.reports);
        const { norm, finite } = normReference.gradientNorm({ gradient, lossScale: 65536 });
        assert.equal(finite, true);
        assertClose([floatsOf(reports!)[1]!], [norm], 1e-5, "norm");
        assertClose([floatsOf(update!)[1]! * 65536], [0.5 / (norm + 1e-6)], 1e-5, "clipping");
      }),
    );
  }
}

Deno.test("prepareStep() does not clip a gradient whose norm is below the clip, nor any without a clip", async () => {
  for (const gradientClip of [8.1, Infinity]) {
    const { t, step } = optimizer(64, { gradientClip });
    upload(device, t.gradient, new Float32Array(64).fill(-65536)); // its norm is 8
    step();
    const [update, reports] = await download(device, t.update, t.reports);
    // a GPU's square root and division may be off by a few bits; clipping would be off by a hundredth
    assertClose(
      [floatsOf(update!)[1]! * 65536, floatsOf(reports!)[1]!],
      [1, 8],
      1e-6,
      `clip ${gradientClip}`,
    );
  }
});

Deno.test("gradientNormBlocks() returns no more blocks than one workgroup can add", () => {
  for (const N of [4, 16384, 2 ** 24, 2 ** 24 + 4, 124_475_904, 2 ** 31]) {
    assert.ok(gradientNormBlocks(device, N) <= 1024, `${N} elements`);
  }
  assert.equal(gradientNormBlocks(device, 2 ** 26), 1024);
});

Deno.test("gradientNorm() throws on a gradient that is no multiple of four", () => {
  const t = tensors({
    gradient: [[6], "f32"],
    lossScale: [[1], "f32"],
    partials: [[1, 2], "f32"],
  });
  assert.throws(() => gradientNorm(new Program(device), t, t), {
    name: "RangeError",
    message:
      'Cannot run gradientNorm as rows of gradient must have a multiple of four elements: current shape of "gradient" is [6]',
  });
});

Deno.test("prepareStep() counts skipped steps beyond what an f32 counts", async () => {
  const { t, step } = optimizer(64);
  upload(device, t.gradient, new Float32Array(64).fill(NaN));
  upload(device, t.counters, [0, 7, 2 ** 24, 2 ** 24 + 2, 0]);
  step();
  const [reports] = await download(device, t.reports);
  assert.deepEqual([...reports!.slice(5, 7)], [2 ** 24 + 3, 2 ** 24 + 1]);
});

Deno.test("prepareStep() sums the losses of thousands of micro-batches", async () => {
  const { t } = optimizer(64), N = 4096, program = new Program(device);
  const { lossSums } = tensors({ lossSums: [[N], "f32", [...new Array(N).keys()]] });
  prepareStep(program, { ...t, lossSums }, t, { gradientClip: 1 });
  upload(device, t.partials, new Float32Array(t.partials.shape[0]! * 2));
  program.run();
  const [reports] = await download(device, t.reports);
  assert.equal(floatsOf(reports!)[0], N * (N - 1) / 2);
});

Deno.test("adamw() corrects a slow second moment after millions of steps", async () => {
  const beta1 = 0.9, beta2 = 0.999999; // the slowest that --beta2 allows
  const table = adamwCorrections(beta1, beta2);
  const { corrections } = tensors({ corrections: [[table.length / 2, 2], "f32", table] });
  const { t } = optimizer(64), program = new Program(device);
  adamw(program, { ...t, corrections }, t, { beta1, beta2, epsilon: 0, weightDecay: 0 });
  const bits = new Uint32Array(Float32Array.of(1, 1).buffer); // learning rate and gradient factor
  for (const step of [1, 999_999, 1_000_000, 1_000_001, 1_000_518, 5_000_001, 2 ** 32 - 1]) {
    for (const tensor of [t.gradient, t.m, t.v]) {
      upload(device, tensor, new Float32Array(64).fill(1));
    }
    upload(device, t.parameter, new Float32Array(64));
    upload(device, t.update, [...bits, step, 0, 0]);
    program.run();
    const [parameter] = await download(device, t.parameter);
    // moments of a gradient that is always 1 stay 1; they, their root, products and quotient are rounded
    const expected = -Math.sqrt(1 - beta2 ** step) / (1 - beta1 ** step);
    assertClose([parameter![0]! / expected], [1], 5e-7, `step ${step}`);
  }
});

Deno.test("prepareStep() reads every block", async () => {
  const blocks = 1000;
  const t = tensors({
    partials: [[blocks, 2], "f32", 0],
    stepInputs: [[3], "f32", [1e-3, 1, 0.02]],
    lossSums: [[1], "f32", 0],
    lossScale: [[1], "f32", 1],
    counters: [[5], "u32", 0],
    update: [[5], "u32"],
    reports: [[1, 8], "u32"],
  });
  const program = new Program(device);
  prepareStep(program, t, t, { gradientClip: Infinity });
  for (const [bad, expected] of [[-1, 0], [0, 1], [255, 1], [256, 1], [blocks - 1, 1]] as const) {
    // squares 0, 1, 2, …: their sum is 999 · 500
    upload(
      device,
      t.partials,
      Array.from({ length: 2 * blocks }, (_, i) => i % 2 === 0 ? i / 2 : Number(i === 2 * bad + 1)),
    );
    program.run();
    const [report] = await download(device, t.reports);
    assertClose([floatsOf(report!)[1]!], [Math.sqrt(999 * 500)], 1e-6, "norm");
    assert.equal(report![3], expected, `block ${bad} not finite`);
  }
});

Deno.test("adamw() gives PyTorch's numbers after five steps", async () => {
  const { t, step } = optimizer(64, { weightDecay: 0.1 });
  const start = [1, -2, 3, 0.5], slope = [0.1, -0.2, 0.3, 0];
  const padded = (values: number[]) => [...values, ...new Array(60).fill(0)];
  upload(device, t.parameter, padded(start));
  for (let i = 1; i <= 5; i++) {
    upload(device, t.gradient, padded(slope.map((g) => i * g * 65536)));
    step();
  }
  const [parameter, m, v] = await download(device, t.parameter, t.m, t.v);
  const first = (values: ArrayLike<number>) => Array.from(values).slice(0, 4);
  assertClose(first(parameter!), [0.994716048, -1.99421608, 2.99371624, 0.499750018], 1e-7, "p");
  assertClose(first(m!), [0.131440997, -0.262881994, 0.394322991, 0], 1e-7, "m");
  assertClose(first(v!), [0.0262832548, 0.105133019, 0.236549288, 0], 1e-7, "v");
});

Deno.test("adamw() adds its epsilon beside the root of the corrected second moment", async () => {
  const { t, step } = optimizer(64);
  const gradient = [1e-8, -3e-8, 1, 0];
  upload(device, t.gradient, [...gradient.map((g) => g * 65536), ...new Array(60).fill(0)]);
  step();
  const [parameter] = await download(device, t.parameter);
  // after one step both corrected moments are the gradient's: lr · g / (|g| + 1e-8)
  assertClose(Array.from(parameter!).slice(0, 4), [-5e-4, 7.5e-4, -1e-3, 0], 1e-8, "parameter");
});

for (const copy of REAL_TYPES.includes("f16") ? [false, true] : [false]) {
  for (const on of [device, { ...device, maxBindingBytes: 1024 * 16 }]) {
    const name = `${copy ? " with an f16 copy" : ""}${
      on === device ? "" : " over several bindings"
    }`;
    Deno.test(
      `adamw() matches the reference${name}, without skipped steps`,
      withRandom(async (random) => {
        const N = 64 * 129, options = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };
        const { t, step } = optimizer(N, { weightDecay: 0.1, copy, on });
        const start = randomValues(random, N);
        upload(device, t.parameter, start);
        const state = {
          parameter: Float64Array.from(start),
          m: new Float64Array(N),
          v: new Float64Array(N),
        };
        let applied = 0, scale = 65536;
        for (const bad of [false, true, false, false]) {
          const gradient = randomValues(random, N);
          upload(device, t.gradient, gradient.map((g, i) => bad && i === 77 ? NaN : g * scale));
          step();
          if (bad) {
            scale /= 2;
            continue;
          }
          adamwReference.adamw({ gradient, learningRate: 1e-3, t: ++applied }, state, options);
        }
        const [parameter, m] = await download(device, t.parameter, t.m);
        assertClose(parameter!, state.parameter, 1e-6, "parameter");
        assertClose(m!, state.m, 1e-6, "m");
        if (!t.copy) return;
        const [copied] = await download(device, t.copy);
        assert.deepEqual([...copied!], [...new Float16Array(parameter!)]);
      }),
    );
  }
}
