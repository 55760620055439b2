import assert from "node:assert/strict";
import type { ActivationFunction } from "../../kernels/activation.ts";
import { linearBackward, linearForward } from "../../kernels/linear/linear.ts";
import { type Epilogue, type ForwardEpilogue, matmul } from "../../kernels/matmul/matmul.ts";
import { Program } from "../../kernels/program.ts";
import * as reference from "../../kernels/swiglu/reference.ts";
import { swigluBackward, swigluForward } from "../../kernels/swiglu/swiglu.ts";
import type { Tensor } from "../../kernels/tensor.ts";
import {
  assertClose,
  assertComputes,
  assertGradient,
  device,
  poisoned,
  randomValues,
  REAL_TYPES,
  runProgram,
  tensors,
  withRandom,
} from "./harness.ts";

// f32: exp differs by a few ulp between drivers; f16: half an ulp of the result
const TOLERANCE = { f32: 3e-6, f16: 1e-3 } as Record<string, number>;

const ACTIVATIONS: readonly ActivationFunction[] = ["gelu_new", "gelu", "relu", "relu2", "silu"];

Deno.test("swigluForward() refuses an activation function that does not exist", async () => {
  const { activated, ...inputs } = tensors({
    gate: [[1, 4], "f32", 1],
    up: [[1, 4], "f32", 1],
    activated: [[1, 4], "f32"],
  });
  const activation = "tanh" as ActivationFunction;
  await assert.rejects(
    runProgram((program) => swigluForward(program, inputs, { activated }, { activation }), []),
    {
      name: "TypeError",
      message:
        "Cannot compute an activation as it must be gelu_new or gelu or relu or relu2 or silu: " +
        'current value is "tanh"',
    },
  );
});

Deno.test("reference swigluForward() multiplies up by the activation function of gate", () => {
  const gate = Float32Array.of(-1, 2), up = Float32Array.of(3, -0.5);
  const { activated } = reference.swigluForward({ gate, up }, "silu");
  assertClose(activated, [-0.268941421 * 3, 1.761594156 * -0.5], 1e-6, "activated");
});

Deno.test(
  "reference swigluBackward() matches central differences",
  withRandom((random) => {
    const [gate, up, dactivated] = [1, 2, 3].map(() => randomValues(random, 32));
    const inputs = { gate: gate!, up: up!, dactivated: dactivated! };
    const { dgate, dup } = reference.swigluBackward(inputs, "silu");
    const activated = (changed: Partial<typeof inputs>) =>
      reference.swigluForward({ ...inputs, ...changed }, "silu").activated;
    assertGradient((gate) => activated({ gate }), gate!, dactivated!, dgate, { what: "dgate" });
    assertGradient((up) => activated({ up }), up!, dactivated!, dup, { what: "dup" });
  }),
);

for (const dtype of REAL_TYPES) {
  for (
    const { activation, M, F } of [
      ...ACTIVATIONS.map((activation) => ({ activation, M: 3, F: 124 })),
      ...[[1, 4], [129, 8]].map(([M, F]) => ({ activation: "silu" as const, M: M!, F: F! })),
    ]
  ) {
    Deno.test(
      `swiglu of ${activation} matches the reference in ${dtype} at [${M},${F}]`,
      withRandom(async (random) => {
        const values = () => randomValues(random, M * F, { dtype, scale: 2 });
        const inputs = { gate: values(), up: values(), dactivated: values() };
        const shape = [M, F];
        const t = tensors({
          gate: [shape, dtype, inputs.gate],
          up: [shape, dtype, inputs.up],
          dactivated: [shape, dtype, inputs.dactivated],
          activated: [shape, dtype],
          dgate: [shape, dtype],
          dup: [shape, dtype],
        });
        const { activated } = reference.swigluForward(inputs, activation);
        const { dgate, dup } = reference.swigluBackward(inputs, activation);
        const tolerance = TOLERANCE[dtype]!;
        await assertComputes((program) => {
          swigluForward(program, t, t, { activation });
          swigluBackward(program, t, t, { activation });
        }, [
          [t.activated, activated, tolerance],
          [t.dgate, dgate, 4 * tolerance], // where the derivative is 0, its error counts
          [t.dup, dup, tolerance],
        ]);
      }),
    );
  }
}

// every kernel of products, with columns in fours, as the plain path needs them; those that compile slowly in one pass
const PRODUCTS = [
  { variant: "any", types: ["f32"], passes: ["backward"], M: 5, K: 3, N: 8 },
  { variant: "vector", types: REAL_TYPES, passes: ["forward", "backward"], M: 1, K: 8, N: 12 },
  ...(device.subgroupSize
    ? [{ variant: "lanes", types: ["f16"], passes: ["forward"], M: 37, K: 8, N: 44 }]
    : []),
  { variant: "64x64/1", types: ["f16"], passes: ["backward"], M: 67, K: 20, N: 72 },
  { variant: "64x64/2", types: REAL_TYPES, passes: ["forward", "backward"], M: 5, K: 128, N: 12 },
];

for (const dtype of REAL_TYPES) {
  const cases = PRODUCTS.filter(({ types }) => types.includes(dtype)).flatMap((product) =>
    ACTIVATIONS.filter((activation) => activation === "silu" || product.variant === "vector")
      .flatMap((activation) => product.passes.map((pass) => ({ activation, pass, ...product })))
  );
  for (const { activation, pass, variant, M, K, N } of cases) {
    const values = pass === "forward" ? "activated" : "dgate and dup";
    Deno.test(
      `products store ${values} of a gated MLP of ${activation} as swiglu does in ${dtype} by ${variant} [${M},${N}]`,
      withRandom(async (random) => {
        const shape = [M, N], gateValues = randomValues(random, M * N, { dtype, scale: 2 });
        const t = tensors({
          a: [[M, K], dtype, randomValues(random, M * K, { dtype })],
          b: [[K, N], dtype, randomValues(random, K * N, { dtype })],
          gate: [shape, dtype, gateValues],
          up: [shape, dtype, randomValues(random, M * N, { dtype })],
          product: [shape, dtype], // up, or the gradient of activated
        });
        const outputs = () => [1, 2].map(() => poisoned("output", { shape, dtype }));
        const { gate, up, product } = t, plain = outputs(), fused = outputs();
        const record = {
          forward(program: Program) {
            swigluForward(program, { gate, up: product }, { activated: plain[1]! }, { activation });
            matmul(program, t, { y: fused[0]! }, {
              variant,
              epilogue: { kind: "gatedForward", activation, gate, activated: fused[1]! },
            });
          },
          backward(program: Program) {
            const [dup, dgate] = plain as [Tensor, Tensor];
            swigluBackward(program, { gate, up, dactivated: product }, { dgate, dup }, {
              activation,
            });
            matmul(program, t, { y: fused[0]! }, {
              variant,
              epilogue: { kind: "gatedBackward", activation, gate, up, dgate: fused[1]! },
            });
          },
        }[pass]!;
        const results = await runProgram((program) => {
          matmul(program, t, { y: product }, { variant });
          record(program);
        }, [pass === "forward" ? product : plain[0]!, plain[1]!, ...fused]);
        const tolerance = TOLERANCE[dtype]!;
        if (pass === "forward") assert.deepEqual(results[2], results[0], "up");
        else assertClose(results[2]!, results[0]!, 4 * tolerance, "dup"); // product is rounded
        assertClose(results[3]!, results[1]!, 4 * tolerance, values);
      }),
    );
  }
}

for (const dtype of REAL_TYPES) {
  for (const [isCpu, transposeB] of [[true, false], [false, false], [false, true]] as const) {
    const layout = transposeB ? "NT" : "NN", where = isCpu ? "CPU" : "GPU";
    Deno.test(
      `a product ${layout} of one row for a ${where} computes gate and up as two products do in ${dtype}`,
      withRandom(async (random) => {
        const [K, N] = [516, 76], activation = "silu", shape = transposeB ? [N, K] : [K, N];
        const values = () => randomValues(random, K * N, { dtype, scale: 0.1 });
        const t = tensors({
          a: [[1, K], dtype, randomValues(random, K, { dtype })],
          b: [shape, dtype, values()],
          gateWeight: [shape, dtype, values()],
          weight: [[K], "f32", randomValues(random, K)],
          gate: [[1, N], dtype],
        });
        const outputs = () => tensors({ y: [[1, N], dtype], activated: [[1, N], dtype] });
        const { a, b, gateWeight, gate } = t, two = outputs(), one = outputs();
        const options = { transposeB, normalize: { weight: t.weight } };
        const [y, activated, ...paired] = await runProgram(
          (program) => {
            matmul(program, { a, b: gateWeight }, { y: gate }, options);
            matmul(program, { a, b }, two, {
              ...options,
              epilogue: { kind: "gatedForward", activation, gate, activated: two.activated },
            });
            matmul(program, { a, b }, one, {
              ...options,
              epilogue: { kind: "pairedForward", activation, gateWeight, activated: one.activated },
            });
          },
          [two.y, two.activated, one.y, one.activated],
          { on: { ...device, isCpu } },
        );
        const tolerance = TOLERANCE[dtype]!;
        assertClose(paired[0]!, y!, tolerance, "y");
        assertClose(paired[1]!, activated!, 4 * tolerance, "activated");
      }),
    );
  }
}

Deno.test(
  "linear layers of a gated MLP give the gradients of the plain path, also if a second product adds to them",
  withRandom(async (random) => {
    const [M, C, F] = [1, 8, 12], activation = "silu"; // kernels for one row compile fast
    const t = tensors({
      x: [[M, C], "f32", randomValues(random, M * C)],
      weight: [[C, F], "f32", randomValues(random, C * F)],
      down: [[F, C], "f32", randomValues(random, F * C)],
      low: [[M, 4], "f32", randomValues(random, M * 4)],
      high: [[4, F], "f32", randomValues(random, 4 * F)],
      dy: [[M, C], "f32", randomValues(random, M * C)],
      gate: [[M, F], "f32", randomValues(random, M * F)],
    });
    const shape = [M, F];
    const outputs = () =>
      tensors({
        up: [shape, "f32"],
        activated: [shape, "f32"],
        dgate: [shape, "f32"],
        dup: [shape, "f32"],
      });
    const plain = outputs(), fused = outputs(), { gate } = t;
    const dactivated = poisoned("dactivated", { shape, dtype: "f32" });
    const results = await runProgram((program) => {
      const low = { a: t.low, b: t.high }; // as the last adapter of a layer
      linearForward(program, t, { y: plain.up });
      matmul(program, low, { y: plain.up }, { accumulate: true });
      swigluForward(program, { gate, up: plain.up }, plain, { activation });
      linearBackward(program, { x: plain.activated, weight: t.down, dy: t.dy }, { dx: dactivated });
      matmul(program, low, { y: dactivated }, { accumulate: true });
      swigluBackward(program, { gate, up: plain.up, dactivated }, plain, { activation });

      const forward = {
        kind: "gatedForward",
        activation,
        gate,
        activated: fused.activated,
      } as const;
      linearForward(program, t, { y: fused.up });
      matmul(program, low, { y: fused.up }, { accumulate: true, epilogue: forward });
      const { up, dgate, dup, activated } = fused;
      linearBackward(program, { x: activated, weight: t.down, dy: t.dy }, { dx: dup });
      matmul(program, low, { y: dup }, {
        accumulate: true,
        epilogue: { kind: "gatedBackward", activation, gate, up, dgate },
      });
    }, [...Object.values(plain), ...Object.values(fused)]);
    Object.keys(plain).forEach((name, i) =>
      assertClose(results[4 + i]!, results[i]!, TOLERANCE.f32!, name)
    );
  }),
);

Deno.test("swigluForward() throws when gate and up differ in type, or have rows that are no vectors", () => {
  const like = (shape: number[], dtype: "f32" | "f16") => poisoned("t", { shape, dtype });
  const run = (gate: "f32" | "f16", F: number) => {
    const t = { gate: like([2, F], gate), up: like([2, F], "f32"), activated: like([2, F], "f32") };
    swigluForward(new Program(device), t, t, { activation: "silu" });
  };
  assert.throws(() => run("f16", 4), { name: "TypeError", message: / up must be f16/ });
  assert.throws(() => run("f32", 6), { name: "RangeError", message: / multiple of four / });
});

Deno.test("products have no type for an epilogue of both passes, nor for a gate without what it stores", () => {
  const tensor = poisoned("t", { shape: [1, 1], dtype: "f32" }), activation = "silu";
  // @ts-expect-error: a gate without activated
  const open: Epilogue = { kind: "gatedForward", activation, gate: tensor };
  // @ts-expect-error: the gradient of up alone
  const half: Epilogue = { kind: "gatedBackward", activation, gate: tensor, up: tensor };
  // @ts-expect-error: a layer's forward pass has no epilogue of the backward pass
  const wrong: ForwardEpilogue = { kind: "backward", activation, hidden: tensor };
  assert.equal(new Set([open, half, wrong]).size, 3);
});
