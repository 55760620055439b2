import assert from "node:assert/strict";
import { PRESETS } from "../../../model/config.ts";
import {
  type DepthSizes,
  describePlan,
  excessLoss,
  planForDepth,
  planForSeconds,
  sizesAtDepth,
} from "../../../train/plan/plan.ts";
import { presetDefaults } from "../../../train/resolve.ts";

/** Parameters of a model of some sizes with 1,000 tokens. */
const blockParametersOf = ({ layers, width }: Pick<DepthSizes, "layers" | "width">) =>
  12 * layers * width ** 2 + 1000 * width;

/** A machine that computes 20 GFLOP/s, and measures how often it was asked. */
function machine({ largest = Infinity, flopsPerSecond = 20e9 } = {}) {
  const asked: number[] = [];
  return {
    asked,
    measure(sizes: DepthSizes, depth: number) {
      asked.push(depth);
      const blockParameters = blockParametersOf(sizes);
      const measured = { blockParameters, tokensPerSecond: flopsPerSecond / (6 * blockParameters) };
      return Promise.resolve(depth > largest ? undefined : measured);
    },
  };
}

Deno.test("sizesAtDepth() gives sizes of presets, and heads that divide the width", () => {
  const { nano, mini, small } = PRESETS;
  for (const [depth, preset] of [[2, nano], [4, mini], [8, small]] as const) {
    assert.deepEqual(sizesAtDepth(depth), preset);
  }
  assert.deepEqual(sizesAtDepth(12), { layers: 12, width: 768, heads: 12, contextLength: 384 });
  for (let depth = 1; depth <= 64; depth++) {
    const { width, heads, layers } = sizesAtDepth(depth);
    assert.equal(layers, depth);
    assert.equal(width / heads, depth < 8 ? 32 : 64);
    assert.ok(depth === 1 || width > sizesAtDepth(depth - 1).width);
  }
  assert.deepEqual(sizesAtDepth(3, { width: 100, contextLength: 7 }), {
    ...{ layers: 3, width: 100, heads: 1, contextLength: 7 },
  });
  assert.equal(sizesAtDepth(3, { width: 96 }).heads, 3);
  const contextOf = (depth: number) => sizesAtDepth(depth, { data: "conversations" }).contextLength;
  assert.deepEqual([2, 12].map(contextOf), [320, 384]);
});

Deno.test("planForDepth() reads 20 tokens per parameter, but no text more than 8 times", () => {
  const much = planForDepth(2, { trainingTokens: 1e9, blockParametersOf });
  const blockParameters = blockParametersOf(sizesAtDepth(2));
  assert.equal(much.blockParameters, blockParameters);
  assert.ok(Math.abs(much.tokens / (20 * blockParameters) - 1) < 0.01);
  assert.equal(much.options.dropout, 0);
  const little = planForDepth(4, { trainingTokens: 1e5, blockParametersOf });
  assert.ok(Math.abs(little.epochs - 8) < 0.2 && little.options.dropout === 0.1);
  const five = planForDepth(4, { given: { epochs: 5 }, trainingTokens: 1e5, blockParametersOf });
  assert.ok(Math.abs(five.epochs - 5) < 0.2 && five.options.dropout === 0.05);
  const { batchSize, contextLength, steps } = little.options;
  assert.equal(little.tokens, batchSize! * contextLength! * steps!);
});

Deno.test("planForDepth() comes near the presets", () => {
  const near = (value: number, other: number, factor: number) =>
    assert.ok(value < factor * other && other < factor * value, `${value} and ${other}`);
  for (const [depth, name] of [[2, "nano"], [4, "mini"], [8, "small"]] as const) {
    const { options } = planForDepth(depth, { trainingTokens: 1.2e6, blockParametersOf });
    const preset = presetDefaults(name);
    near(options.learningRate!, preset.learningRate, 1.4);
    near(options.batchSize!, preset.batchSize, 4.1);
    near(options.steps!, preset.steps, 5);
  }
  const ofBlocks = ({ layers, width }: DepthSizes) => 12 * layers * width ** 2;
  const { options } = planForDepth(2, { trainingTokens: 1.2e6, blockParametersOf: ofBlocks });
  const { batchSize, learningRate } = presetDefaults("nano");
  assert.deepEqual([options.batchSize, options.learningRate], [batchSize, learningRate]);
  near(options.steps!, 2000, 1.1);
  near(options.weightDecay!, 0.1, 1.1);
});

Deno.test("planForDepth() lets given options win, and others follow from them", () => {
  const given = { width: 128, batchSize: 3, learningRate: 1e-3, dropout: 0.3 };
  const { options, tokens } = planForDepth(2, { given, trainingTokens: 1e6, blockParametersOf });
  assert.deepEqual({ ...options, ...given }, options);
  assert.equal(options.heads, 4);
  assert.equal(options.weightDecay, Number(Math.min(1, 1e3 / options.steps!).toPrecision(2)));
  assert.equal(tokens, 3 * 64 * options.steps!);
  const { steps } = planForDepth(2, {
    ...{ given: { steps: 7, gradientAccumulation: 2 }, trainingTokens: 1e6, blockParametersOf },
  }).options;
  assert.equal(steps, 7);
});

Deno.test("excessLoss() falls with parameters and tokens, and less beyond those that suit the text", () => {
  const of = (blockParameters: number, tokens: number, trainingTokens = 1e9) =>
    excessLoss({ blockParameters, tokens, trainingTokens });
  assert.ok(of(2e4, 1e6) < of(1e4, 1e6) && of(1e4, 2e6) < of(1e4, 1e6));
  assert.equal(of(5e4, 1e6), 406.4 / 5e4 ** 0.34 + 410.7 / 1e6 ** 0.28); // each token new
  assert.ok(of(1e4, 4e6, 1e6) > of(1e4, 4e6) && of(1e4, 4e6, 1e6) < of(1e4, 3e6));
  assert.ok(of(1e4, 1e8, 1e6) - of(1e4, 1e9, 1e6) < 0.02); // a hundredth pass is worth nothing
  const double = 5e5 * (1 + 5.31 * (1 - Math.exp(-1 / 5.31)));
  const twice = 406.4 / double ** 0.34 + 410.7 / 1e6 ** 0.28;
  assert.ok(Math.abs(of(1e6, 1e6, 1e6) - twice) < 1e-12);
  assert.ok(of(1e8, 1e6, 1e6) - of(1e9, 1e6, 1e6) < 1e-6);
});

Deno.test("planForSeconds() measures as long as the expected loss falls, and chooses the last that lowers it", async () => {
  const { asked, measure } = machine();
  const plan = await planForSeconds(300, { trainingTokens: 1e6, measure });
  const losses = plan.candidates!.map(({ excessLoss }) => excessLoss);
  for (const [i, loss] of losses.slice(1, -1).entries()) assert.ok(loss < 0.99 * losses[i]!);
  assert.deepEqual(asked, plan.candidates!.map(({ depth }) => depth));
  assert.ok(losses.at(-1)! > 0.99 * losses.at(-2)! && asked.at(-2) === plan.depth);
  assert.equal(plan.options.schedule, "wsd");
  const { tokens } = plan.candidates!.find(({ depth }) => depth === plan.depth)!;
  assert.ok(plan.tokens <= tokens && plan.tokens > 0.99 * tokens);
  // the same measurements give the same plan
  assert.deepEqual(await planForSeconds(300, { trainingTokens: 1e6, measure }), plan);
});

Deno.test("describePlan() says why no deeper model was chosen, and what ends the training", async () => {
  const { measure } = machine();
  const reasons = async (seconds: number, trainingTokens: number) => {
    const plan = await planForSeconds(seconds, { trainingTokens, measure });
    const lines = describePlan(plan).split("\n");
    return [plan.candidates!.at(-1)!.depth, lines.slice(1 + plan.candidates!.length)] as const;
  };
  const [next, short] = await reasons(300, 1e9);
  assert.deepEqual(short, [`depth ${next} is not expected to predict better by 1 %`]);
  const [, read] = await reasons(1e5, 1e4);
  assert.equal(read.at(-1), "the text ends the training, as more than 8 epochs add little");
  const byDepth = planForDepth(2, { trainingTokens: 1e6, blockParametersOf });
  assert.equal(describePlan(byDepth).split("\n").length, 1);
});

Deno.test("planForSeconds() chooses a deeper model for more time or a faster machine", async () => {
  const depthOf = async (seconds: number, flopsPerSecond: number) => {
    const { measure } = machine({ flopsPerSecond });
    return (await planForSeconds(seconds, { trainingTokens: 1e10, measure })).depth!;
  };
  const [minute, hour, fast] = [
    await depthOf(60, 20e9),
    await depthOf(3600, 20e9),
    await depthOf(3600, 2e13),
  ];
  assert.ok(minute < hour && hour < fast, `${[minute, hour, fast]}`);
});

Deno.test("planForSeconds() plans one step when the time is over", async () => {
  for (const seconds of [0, -3]) {
    const { asked, measure } = machine();
    const { options, tokens } = await planForSeconds(seconds, { trainingTokens: 1e6, measure });
    assert.deepEqual([asked, options.steps, options.batchSize, tokens], [[1], 1, 16, 1024]);
  }
});

Deno.test("planForSeconds() keeps to the depths that fit and to the one that is given", async () => {
  const fitting = machine({ largest: 2, flopsPerSecond: 1e15 });
  const text = { trainingTokens: 1e10 };
  assert.equal((await planForSeconds(300, { ...text, measure: fitting.measure })).depth, 2);
  assert.deepEqual(fitting.asked, [1, 2, 3]);
  const one = machine();
  const given = { schedule: "cosine", width: 96 } as const;
  const plan = await planForSeconds(300, { ...text, depths: [5], given, measure: one.measure });
  assert.deepEqual([one.asked, plan.depth, plan.options.width], [[5], 5, 96]);
  assert.equal(plan.options.schedule, "cosine");
  await assert.rejects(
    planForSeconds(300, { ...text, measure: machine({ largest: 0 }).measure }),
    {
      name: "UserError",
      message:
        "Cannot plan a training as the model of the least depth must fit: current depth is 1",
    },
  );
});
