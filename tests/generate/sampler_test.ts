import assert from "node:assert/strict";
import { Random } from "../../data/random.ts";
import {
  type Candidate,
  DEFAULT_SAMPLER,
  filterTokens,
  penalize,
  type SamplerOptions,
  sampleToken,
  validateSampler,
} from "../../generate/sampler.ts";
import { freshSeed } from "../seeds.ts";

const PLAIN: SamplerOptions = { ...DEFAULT_SAMPLER, temperature: 1, topP: 1 };

function randomLogits(random: Random, V: number): Float32Array {
  return Float32Array.from({ length: V }, () => 3 * random.normal());
}

/** Softmax of logits over a temperature, by definition. */
function softmax(logits: Float32Array, temperature = 1): number[] {
  const weights = Array.from(logits, (logit) => Math.exp(logit / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / total);
}

/** Probabilities by id, 0 for those that are filtered out. */
function byId(candidates: Candidate[], V: number): number[] {
  const p = new Array(V).fill(0);
  for (const candidate of candidates) p[candidate.id] = candidate.p;
  return p;
}

/** What stays of p when only some ids may be drawn. */
function only(p: number[], allowed: (id: number) => boolean): number[] {
  const total = p.reduce((sum, v, id) => sum + (allowed(id) ? v : 0), 0);
  return p.map((v, id) => allowed(id) ? v / total : 0);
}

function assertSame(actual: number[], expected: number[], what: string): void {
  actual.forEach((p, id) => {
    assert.ok(Math.abs(p - expected[id]!) < 1e-6, `${what}: p(${id}) is ${p}, not ${expected[id]}`);
  });
}

Deno.test("filterTokens() keeps what temperature, top-k, top-p and min-p are defined to keep", () => {
  const seed = freshSeed(), random = new Random(seed), V = 50;
  for (let round = 0; round < 50; round++) {
    const logits = randomLogits(random, V);
    const p = softmax(logits);
    const rank = [...p.keys()].sort((a, b) => p[b]! - p[a]!);
    const what = `seed ${seed}, round ${round}`;
    const temperature = 0.3 + 2 * random.uniform();
    const k = 1 + random.below(V), share = random.uniform();
    const filter = (options: Partial<SamplerOptions>) =>
      byId(filterTokens(logits, { ...PLAIN, ...options }), V);

    assertSame(filter({ temperature }), softmax(logits, temperature), `temperature, ${what}`);
    assertSame(filter({ topK: k }), only(p, (id) => rank.indexOf(id) < k), `top-k, ${what}`);
    const massBefore = (id: number) =>
      rank.slice(0, rank.indexOf(id)).reduce((sum, other) => sum + p[other]!, 0);
    assertSame(filter({ topP: share }), only(p, (id) => massBefore(id) < share), `top-p, ${what}`);
    const least = share * Math.max(...p);
    assertSame(filter({ minP: share }), only(p, (id) => p[id]! >= least), `min-p, ${what}`);
  }
});

Deno.test("sampleToken() draws each token as often as its probability says", () => {
  const seed = freshSeed(), random = new Random(seed), V = 12, draws = 40_000;
  for (const options of [{}, { topK: 4 }, { topP: 0.7 }, { minP: 0.2 }, { temperature: 0.5 }]) {
    const logits = randomLogits(random, V);
    const settings = { ...PLAIN, ...options };
    const p = byId(filterTokens(logits, settings), V);
    const counts = new Array(V).fill(0);
    for (let i = 0; i < draws; i++) {
      counts[sampleToken(logits, { ...settings, history: [], random: () => random.uniform() })]++;
    }
    p.forEach((probability, id) => {
      // binomial: six standard deviations, one false alarm in 500 million
      const deviation = Math.sqrt(draws * probability * (1 - probability));
      const what = `seed ${seed}, ${JSON.stringify(options)}: token ${id}`;
      assert.ok(Math.abs(counts[id] - draws * probability) <= 6 * deviation + 1e-6, what);
    });
  }
});

Deno.test("penalize() divides positive and multiplies negative logits in the window, once each", () => {
  const logits = Float32Array.of(2, -2, 4, 0, 6, -8);
  const options = { ...PLAIN, repetitionPenalty: 2, repetitionWindow: 4 };
  const penalized = penalize(logits, { ...options, history: [4, 5, 2, 1, 0, 0] });
  assert.deepEqual([...penalized], [1, -4, 2, 0, 6, -8]);
  const all = penalize(logits, { ...options, repetitionWindow: 0, history: [4, 5, 2, 1, 0, 0] });
  assert.deepEqual([...all], [1, -4, 2, 0, 3, -16]);
  assert.deepEqual([...logits], [2, -2, 4, 0, 6, -8]);
});

Deno.test("sampleToken() takes the likeliest token at temperature 0, the lower id among equals", () => {
  const options = { ...PLAIN, temperature: 0, history: [], random: () => 0.99 };
  assert.equal(sampleToken(Float32Array.of(1, 5, 5, 2), options), 1);
});

Deno.test("sampleToken() never draws a logit of -Infinity", () => {
  const logits = Float32Array.of(-Infinity, 0, -Infinity);
  for (const draw of [0, 0.5, 1 - 2 ** -53]) {
    assert.equal(sampleToken(logits, { ...PLAIN, history: [], random: () => draw }), 1);
  }
});

Deno.test("sampleToken() throws on NaN and when nothing is finite", () => {
  const options = { ...PLAIN, history: [], random: () => 0 };
  assert.throws(() => sampleToken(Float32Array.of(1, NaN), options), /logits are NaN/);
  assert.throws(() => sampleToken(Float32Array.of(-Infinity), options), /must be finite/);
});

Deno.test("validateSampler() names the option and its value", () => {
  const cases: [Partial<SamplerOptions>, string][] = [
    [
      { temperature: -1 },
      "Cannot sample as temperature must be a number not below 0: current value is -1",
    ],
    [{ topP: 0 }, "Cannot sample as topP must be above 0 and at most 1: current value is 0"],
    [{ topK: 1.5 }, "Cannot sample as topK must be a non-negative integer: current value is 1.5"],
    [
      { repetitionPenalty: 0 },
      "Cannot sample as repetitionPenalty must be a number above 0: current value is 0",
    ],
  ];
  for (const [options, message] of cases) {
    assert.throws(() => validateSampler({ ...PLAIN, ...options }), { name: "RangeError", message });
  }
});
