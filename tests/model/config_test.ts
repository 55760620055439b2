import assert from "node:assert/strict";
import {
  areHeadsAllowed,
  attentionOf,
  type Family,
  type GptConfig,
  headsOf,
  innerWidthOf,
  validateConfig,
  withDefaults,
  withoutDefaults,
} from "../../model/config.ts";
import type { RotaryScaling } from "../../kernels/rope/rotation.ts";

const BASE: GptConfig = { vocabularySize: 9, contextLength: 8, width: 24, layers: 2, heads: 2 };
const LLAMA: GptConfig = { ...BASE, family: "llama" };

Deno.test("withDefaults() gives every field the value of its family, and withoutDefaults() takes it away", () => {
  const ofFamily = (family: Family) => {
    const { norm, positions, activation, gatedMlp, qkvBias, projectionBias, mlpBias } =
      withDefaults(
        { ...BASE, family },
      );
    return [norm, positions, activation, gatedMlp, qkvBias, projectionBias, mlpBias];
  };
  const gpt2 = ["layernorm", "learned", "gelu_new", false, true, true, true];
  assert.deepEqual(ofFamily("gpt2"), gpt2);
  assert.deepEqual(ofFamily("gpt_neo"), gpt2.with(4, false));
  assert.deepEqual(ofFamily("llama"), ["rmsnorm", "rotary", "silu", true, false, false, false]);
  for (const family of ["gpt2", "gpt_neo", "llama"] as const) {
    const { family: _, ...gpt2 } = BASE;
    const expected = family === "gpt2" ? gpt2 : { ...BASE, family };
    assert.deepEqual(withoutDefaults(withDefaults({ ...BASE, family })), expected);
  }
  const other = { ...LLAMA, qkvBias: true, headSize: 8, attentionWindows: [0, 4] };
  assert.deepEqual(withoutDefaults(withDefaults(other)), other);
});

Deno.test("the defaults of dimensions follow from the other fields", () => {
  assert.deepEqual(headsOf(BASE), { heads: 2, keyHeads: 2, headSize: 12 });
  assert.deepEqual(headsOf({ ...BASE, keyHeads: 1, headSize: 20 }), {
    ...{ heads: 2, keyHeads: 1, headSize: 20 },
  });
  assert.equal(innerWidthOf(BASE), 96);
  assert.equal(innerWidthOf(LLAMA), 64); // 8/3 of 24
  assert.equal(innerWidthOf({ ...LLAMA, width: 768 }), 2048);
  assert.equal(innerWidthOf({ ...LLAMA, width: 772 }), 2080); // in whole 32s
  assert.equal(innerWidthOf({ ...LLAMA, gatedMlp: false }), 96);
  assert.equal(withDefaults({ ...BASE, headSize: 4 }).attentionScale, 0.5);
  const byLayer = { ...BASE, headSize: 4, attentionScaleByLayer: true };
  assert.deepEqual(attentionOf(byLayer, 1), { scale: 0.25 });
});

Deno.test("validateConfig() accepts what the kernels compute", () => {
  for (
    const config of [
      BASE,
      { ...LLAMA, width: 20, heads: 3, headSize: 8, keyHeads: 3 }, // the heads do not divide the width
      { ...BASE, qkNorm: true, gatedMlp: true, norm: "rmsnorm" },
      { ...LLAMA, rotaryScaling: { type: "linear", factor: 1 } },
    ] as GptConfig[]
  ) validateConfig(config);
  assert.ok(areHeadsAllowed({ width: 512, heads: 2 }));
  assert.ok(!areHeadsAllowed({ width: 520, heads: 2 })); // 260 components
  assert.ok(!areHeadsAllowed({ width: 22, heads: 2, headSize: 8 }));
});

const LLAMA3: RotaryScaling = {
  type: "llama3",
  factor: 8,
  lowFrequencyFactor: 1,
  highFrequencyFactor: 4,
  originalContextLength: 8192,
};

for (
  const [change, reason] of [
    [{ layers: 1e300 }, "layers must be an integer from 1 to 512: current value is 1e+300"],
    [{ innerWidth: 0 }, "innerWidth must be an integer from 1 to 65536: current value is 0"],
    [{ keyHeads: 1.5 }, "keyHeads must be an integer from 1 to 512: current value is 1.5"],
    [{ heads: 4, keyHeads: 3, headSize: 8 }, "keyHeads must divide heads, 4: current value is 3"],
    [
      { headSize: 6 },
      "width and headSize must be multiples of 4, and headSize at most 256: " +
      "current values are width 24, headSize 6",
    ],
    [
      { heads: 3, width: 20 },
      "width must be a multiple of 4 · heads, and at most 256 · heads: " +
      "current values are width 20, heads 3",
    ],
    [
      { family: "bert" },
      'family must be gpt2 or gpt_neo or gpt_neox or llama: current value is "bert"',
    ],
    [{ norm: "batch" }, 'norm must be layernorm or rmsnorm: current value is "batch"'],
    [
      { activation: "tanh" },
      'activation must be gelu_new or gelu or relu or relu2 or silu: current value is "tanh"',
    ],
    [{ heads: 1.5 }, "heads must be an integer from 1 to 512: current value is 1.5"],
    [{ positions: "none" }, 'positions must be learned or rotary: current value is "none"'],
    [{ normEpsilon: 0 }, "normEpsilon must be a number above 0 and at most 1: current value is 0"],
    [
      { attentionScale: 0 }, // with which kernels for GPUs attend to later tokens
      "attentionScale must be a number from 0.000001 to 1000000: current value is 0",
    ],
    [
      { attentionScale: 1e-6, attentionScaleByLayer: true },
      "attentionScale must be a number from 0.000002 to 1000000: current value is 0.000001",
    ],
    [{ rotaryBase: 1 }, "rotaryBase must be a number above 1: current value is 1"],
    [
      { attentionWindows: [1] },
      "attentionWindows must be a whole number for each of 2 layers: current value is [1]",
    ],
    [
      { family: "gpt2", rotaryScaling: { type: "linear", factor: 2 } },
      'rotaryScaling needs rotary positions: current value is {"type":"linear","factor":2}',
    ],
    [
      { rotaryScaling: { type: "yarn", factor: 2 } },
      'the type of rotaryScaling must be linear or llama3: current value is "yarn"',
    ],
    [
      { rotaryScaling: { type: "linear", factor: 0.5 } },
      "the factor of rotaryScaling must be a number of at least 1: current value is 0.5",
    ],
    [
      { rotaryScaling: { ...LLAMA3, originalContextLength: 0 } },
      "originalContextLength of rotaryScaling must be a positive integer: current value is 0",
    ],
  ] as [object, string][]
) {
  Deno.test(`validateConfig() refuses ${JSON.stringify(change)}`, () => {
    assert.throws(() => validateConfig({ ...LLAMA, ...change }, "load x"), {
      name: "UserError",
      message: `Cannot load x as ${reason}`,
    });
  });
}

Deno.test("validateConfig() refuses frequencies of rotaryScaling in the wrong order", () => {
  const rotaryScaling = { ...LLAMA3, lowFrequencyFactor: 4 };
  assert.throws(() => validateConfig({ ...LLAMA, rotaryScaling }), {
    message:
      /highFrequencyFactor of rotaryScaling must be above lowFrequencyFactor, and that above 0: /,
  });
});
