import assert from "node:assert/strict";
import { muon, type MuonMatrix } from "../../kernels/muon/muon.ts";
import * as reference from "../../kernels/muon/reference.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { Program } from "../../kernels/program.ts";
import { download, upload } from "../../kernels/tensor.ts";
import { parseSafetensors, toFloat32 } from "../../model/files/safetensors.ts";
import {
  assertClose,
  device,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";
import { devicesWithMatrices } from "./matrix_emulation.ts";

/** The parameters of a block as it stores them: q and v alike, k narrower, a wide and a tall matrix, odd sizes. */
const STORED = [
  { inputs: 12, columns: [12, 8, 12] },
  { inputs: 12, columns: [40] },
  { inputs: 40, columns: [12] },
  { inputs: 40, columns: [3, 12] }, // the second is as the one before, but not in vectors
  { inputs: 16, columns: [40, 40] }, // three that are computed together, as their sizes are multiples of 128
  { inputs: 40, columns: [16] },
  { inputs: 4, columns: [32] }, // its size is such a multiple, but not that of its product with itself
  { inputs: 32, columns: [4] },
  { inputs: 7, columns: [1301] }, // nine workgroups sum its squares
];

/** Where the matrices of such a block lie, each parameter at a multiple of 128 elements. */
function layoutOf(stored: typeof STORED): { S: number; matrices: MuonMatrix[] } {
  let S = 0;
  const matrices = stored.flatMap(({ inputs, columns }) => {
    const width = columns.reduce((sum, n) => sum + n, 0);
    let start = S;
    S += Math.ceil(inputs * width / 128) * 128;
    return columns.map((outputs) => {
      const matrix = { start, columns: width, inputs, outputs };
      start += outputs;
      return matrix;
    });
  });
  return { S, matrices };
}

/** The bits of u32 [5] that `prepareStep()` gives. */
function updateOf({ factor = 1, rate = 0.02, skipped = false } = {}): Uint32Array {
  const [f, r] = new Uint32Array(Float32Array.of(factor, rate).buffer);
  return Uint32Array.of(0, f!, 1, Number(skipped), r!);
}

/** Elements of a matrix of block l, in the order of its rows. */
function elementsOf({ start, columns, inputs, outputs }: MuonMatrix, l: number, S: number) {
  return Array.from(
    { length: inputs * outputs },
    (_, i) => l * S + start + Math.floor(i / outputs) * columns + i % outputs,
  );
}

// as on a CPU, as on a GPU, and with bindings in which two blocks fit, or hardly the largest matrix
const plain = { ...device, matrixShapes: [] }; // on tensor cores rounds are computed in f16
const DEVICES = {
  "on a CPU": plain,
  "without subgroups": { ...plain, subgroupSize: undefined },
  "as on a GPU": { ...plain, isCpu: false, subgroupSize: undefined },
  "over two bindings": { ...plain, maxBindingBytes: 8 * layoutOf(STORED).S },
  "over a binding per matrix": { ...plain, maxBindingBytes: 4 * 9216 },
};

for (const [where, on] of Object.entries(DEVICES)) {
  Deno.test(
    `muon() matches the reference ${where}, and a skipped step changes nothing`,
    withRandom(async (random) => {
      const L = 3, { S, matrices } = layoutOf(STORED), scaled = 1024;
      const hasCopy = REAL_TYPES.includes("f16");
      const start = randomValues(random, L * S);
      const t = tensors({
        gradient: [[L, S], "f32", 0],
        update: [[5], "u32"],
        parameter: [[L, S], "f32", start],
        momentum: [[L, S], "f32", 0],
        ...(hasCopy ? { copy: [[L, S], "f16", start] } as const : {}),
      });
      const expected = {
        parameter: Float64Array.from(start),
        momentum: new Float64Array(L * S),
      };
      const options = { momentum: 0.9, weightDecay: 0.1 };
      using program = new Program(on);
      muon(program, t, t, matrices, options);
      for (const skipped of [false, true, false]) {
        const gradient = randomValues(random, L * S);
        upload(device, t.gradient, gradient.map((g) => skipped ? NaN : g * scaled));
        upload(device, t.update, updateOf({ factor: 1 / scaled, skipped }));
        program.run();
        if (skipped) continue;
        for (const [matrix, l] of matrices.flatMap((m) => [0, 1, 2].map((l) => [m, l] as const))) {
          const at = elementsOf(matrix, l, S), of = (x: ArrayLike<number>) => at.map((i) => x[i]!);
          const own = {
            parameter: Float64Array.from(of(expected.parameter)),
            momentum: Float64Array.from(of(expected.momentum)),
          };
          const { inputs: rows, outputs: columns } = matrix;
          const scale = Math.sqrt(Math.max(1, columns / rows));
          reference.muon(
            { gradient: of(gradient), learningRate: Math.fround(0.02) },
            own,
            { rows, columns, scale },
            options,
          );
          at.forEach((i, k) => {
            expected.parameter[i] = own.parameter[k]!;
            expected.momentum[i] = own.momentum[k]!;
          });
        }
      }
      const [parameter, momentum] = await download(device, t.parameter, t.momentum);
      assertClose(momentum!, expected.momentum, 1e-6, "momentum");
      // the rounds multiply the rounding of x in its smallest singular values by up to 3.4445 ** 5
      assertClose(parameter!, expected.parameter, 2e-6, "parameter");
      if (!hasCopy) return;
      const [copy] = await download(device, t.copy!);
      assert.deepEqual([...copy!], [...new Float16Array(parameter!)]);
    }),
  );
}

/** ‖a − b‖ / ‖b − start‖: the error of a step as a share of it. */
function errorOf(a: ArrayLike<number>, b: Float32Array, start: Float32Array): number {
  let error = 0, moved = 0;
  b.forEach((value, i) => {
    error += (a[i]! - value) ** 2;
    moved += (value - start[i]!) ** 2;
  });
  return Math.sqrt(error / moved);
}

for (const { on, how } of devicesWithMatrices(device)) {
  Deno.test({
    name: `muon() computes the rounds of a model in f16 on tensor cores with ${how}`,
    ignore: !REAL_TYPES.includes("f16"),
    fn: withRandom(async (random) => {
      const wide = { start: 0, columns: 40, inputs: 16, outputs: 40 }, rate = 0.02;
      const tall = { start: 640, columns: 16, inputs: 40, outputs: 16 }, S = 1280;
      const start = randomValues(random, S), gradient = randomValues(random, S);
      const t = tensors({
        gradient: [[1, S], "f32", gradient],
        update: [[5], "u32", updateOf({ rate })],
        parameter: [[1, S], "f32", start],
        momentum: [[1, S], "f32", 0],
        copy: [[1, S], "f16"],
      });
      const options = { momentum: 0.95, weightDecay: 0 };
      using dry = new Program(dryDevice(on));
      muon(dry, t, t, [wide, tall], options);
      for (const key of dry.tunables.keys()) {
        assert.match(key, / f16,f16,f16 /);
        on.choices.set(key, "matrix 32x32x32/1"); // which compiles the fastest
      }
      assert.ok([...dry.tunables.keys()].some((key) => key.includes(" 2 times [16,16]x[16,16]")));
      const [parameter, copy] = await runProgram(
        (program) => muon(program, t, t, [wide, tall], options),
        [t.parameter, t.copy],
        { on },
      );
      assert.deepEqual([...copy!], [...new Float16Array(parameter!)]);
      for (const { start: first, inputs: rows, outputs: columns } of [wide, tall]) {
        const of = (x: ArrayLike<number>) => Array.from(x).slice(first, first + rows * columns);
        const expected = {
          parameter: Float64Array.from(of(start)),
          momentum: new Float64Array(640),
        };
        reference.muon(
          { gradient: of(gradient), learningRate: Math.fround(rate) },
          expected,
          { rows, columns, scale: Math.sqrt(Math.max(1, columns / rows)) },
          options,
        );
        const moved = Float32Array.from(expected.parameter);
        // f16 rounds x, A and P of each round to 11 bits: 1.2e-3 to 1.6e-3 in twelve cases
        const error = errorOf(of(parameter!), moved, Float32Array.from(of(start)));
        assert.ok(error < 5e-3, `the error is ${error} of the step`);
        assert.ok(error > 1e-5, `the rounds are not in f16: the error is ${error} of the step`);
      }
    }),
  });
}

// results of tests/golden/make_muon.py
const bytes = await Deno.readFile(new URL("../golden/muon.safetensors", import.meta.url));
const { tensors: entries } = parseSafetensors(bytes, "muon.safetensors");
const golden = (name: string) => toFloat32(entries.get(name)!);

for (const [name, inputs, outputs] of [["wide", 12, 28], ["tall", 28, 12]] as const) {
  Deno.test(`muon() gives after ten steps of a ${name} matrix its formula in f64, and torch.optim.Muon's`, async () => {
    const N = inputs * outputs, S = 384;
    const padded = (
      values: ArrayLike<number>,
    ) => [...Array.from(values), ...new Array(S - N).fill(0)];
    const start = golden(`${name}.start`), gradients = golden(`${name}.gradients`);
    const t = tensors({
      gradient: [[1, S], "f32", 0],
      update: [[5], "u32", updateOf()],
      parameter: [[1, S], "f32", padded(start)],
      momentum: [[1, S], "f32", 0],
    });
    using program = new Program(device);
    const matrix = { start: 0, columns: outputs, inputs, outputs };
    muon(program, t, t, [matrix], { momentum: 0.95, weightDecay: 0.1 });
    for (let step = 0; step < 10; step++) {
      upload(device, t.gradient, padded(gradients.subarray(step * N, (step + 1) * N)));
      program.run();
    }
    const [parameter, momentum] = (await download(device, t.parameter, t.momentum))
      .map((values) => values.subarray(0, N));
    const zero = new Float32Array(N);
    assert.ok(errorOf(momentum!, golden(`${name}.momentum`), zero) < 1e-6, "momentum");
    assert.ok(errorOf(parameter!, golden(`${name}.exact`), start) < 1e-5, "formula");
    assert.ok(errorOf(parameter!, golden(`${name}.torch`), start) < 2e-2, "torch.optim.Muon");
  });
}
