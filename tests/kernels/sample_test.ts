import type { Device } from "../../kernels/device.ts";
import assert from "node:assert/strict";
import { Program } from "../../kernels/program.ts";
import { pcgHash } from "../../kernels/dropout/reference.ts";
import {
  type Candidate,
  penalize,
  rankTokens,
  samplerStages,
} from "../../kernels/sample/reference.ts";
import {
  checkSample,
  hasPenalties,
  sample,
  type SamplerOptions,
  samplerSettings,
  SETTINGS_LENGTH,
  validateSampler,
} from "../../kernels/sample/sample.ts";
import type { DType } from "../../kernels/tensor.ts";
import { device, randomValues, REAL_TYPES, runProgram, tensors, withRandom } from "./harness.ts";

const PLAIN: SamplerOptions = {
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  repetitionWindow: 0,
  presencePenalty: 0,
  frequencyPenalty: 0,
};

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

/** Probabilities if only some ids may be drawn. */
function only(p: number[], allowed: (id: number) => boolean): number[] {
  const total = p.reduce((sum, v, id) => sum + (allowed(id) ? v : 0), 0);
  return p.map((v, id) => allowed(id) ? v / total : 0);
}

function assertSame(actual: number[], expected: number[], what: string): void {
  actual.forEach((p, id) => {
    assert.ok(Math.abs(p - expected[id]!) < 1e-6, `${what}: p(${id}) is ${p}, not ${expected[id]}`);
  });
}

Deno.test(
  "reference samplerStages() keep the tokens that temperature, top-k, top-p and min-p define",
  withRandom((random) => {
    const V = 50;
    for (let round = 0; round < 50; round++) {
      const logits = randomValues(random, V, { scale: 3 });
      const p = softmax(logits);
      const rank = [...p.keys()].sort((a, b) => p[b]! - p[a]!);
      const what = `round ${round}`;
      const temperature = 0.3 + 2 * random();
      const k = 1 + Math.floor(random() * V), share = 1e-3 + 0.998 * random();
      const filter = (options: Partial<SamplerOptions>) =>
        byId(samplerStages(logits, { ...PLAIN, ...options, history: [] }).minP, V);

      assertSame(filter({ temperature }), softmax(logits, temperature), `temperature, ${what}`);
      assertSame(filter({ topK: k }), only(p, (id) => rank.indexOf(id) < k), `top-k, ${what}`);
      const massBefore = (id: number) =>
        rank.slice(0, rank.indexOf(id)).reduce((sum, other) => sum + p[other]!, 0);
      assertSame(
        filter({ topP: share }),
        only(p, (id) => massBefore(id) < share),
        `top-p, ${what}`,
      );
      const least = share * Math.max(...p);
      assertSame(filter({ minP: share }), only(p, (id) => p[id]! >= least), `min-p, ${what}`);
    }
  }),
);

Deno.test("reference penalize() divides positive and multiplies negative logits in the window, once each", () => {
  const logits = Float32Array.of(2, -2, 4, 0, 6, -8);
  const options = { ...PLAIN, repetitionPenalty: 2, repetitionWindow: 4 };
  const penalized = penalize(logits, { ...options, history: [4, 5, 2, 1, 0, 0] });
  assert.deepEqual([...penalized], [1, -4, 2, 0, 6, -8]);
  const all = penalize(logits, { ...options, repetitionWindow: 0, history: [4, 5, 2, 1, 0, 0] });
  assert.deepEqual([...all], [1, -4, 2, 0, 3, -16]);
  const counts = { ...PLAIN, presencePenalty: 0.5, frequencyPenalty: 2, firstDrawn: 1 };
  const counted = penalize(logits, { ...counts, history: [0, 1, 2, 2, 5] });
  assert.deepEqual([...counted], [2, -4.5, -0.5, 0, 6, -10.5]);
  assert.deepEqual([...logits], [2, -2, 4, 0, 6, -8]);
});

/** A text to continue. */
interface Text {
  logits: Float32Array;
  history: number[];
  seed: number;
  /** Index of the first token that was drawn; by default none was. */
  firstDrawn?: number;
  /** By default those of the call. */
  options?: SamplerOptions;
  endIds?: number[];
  /** Whether nothing is to be drawn. */
  hasEnded?: boolean;
}

/** Columns of logits beyond the vocabulary, and elements of tokens beyond the longest text. */
const PADDING = 3;

/**
 * Draws a token of each text on the device, and checks that only it and its cursor change. The texts are in slots in
 * reverse order.
 */
async function draw(
  texts: readonly Text[],
  options: SamplerOptions,
  { dtype = "f32" as DType, on = device } = {},
): Promise<number[]> {
  const B = texts.length, V = texts[0]!.logits.length, W = 4 * Math.ceil((V + PADDING) / 4);
  const N = Math.max(...texts.map(({ history }) => history.length)) + PADDING;
  const rows = new Float32Array(B * W).fill(NaN); // columns beyond V must not be read
  const before = new Uint32Array(B * N).fill(0xabcdef);
  texts.forEach(({ logits, history }, b) => {
    rows.set(logits, b * W);
    before.set(history, (B - 1 - b) * N);
  });
  const penalties = [options, ...texts.map(({ options: own = options }) => own)].some(hasPenalties);
  const cursorsOf = (drawn: number, endOf: (text: Text, b: number) => number) =>
    texts.flatMap((text, b) => {
      const { history: { length }, hasEnded } = text;
      return [
        length - 1 + (hasEnded ? 0 : drawn),
        77,
        B - 1 - b,
        hasEnded ? length - 1 : endOf(text, b),
      ];
    });
  const t = tensors({
    logits: [[B, W], dtype, rows],
    settings: [
      [B, SETTINGS_LENGTH],
      "u32",
      texts.toReversed().flatMap(({ options: own = options, seed, history, ...text }) => {
        const { firstDrawn = history.length, endIds } = text;
        return [...samplerSettings({ sampler: own, seed, firstDrawn, endIds })];
      }),
    ],
    tokens: [[B, N], "u32", before],
    cursors: [[B, 4], "u32", cursorsOf(0, () => 999)],
  });
  const [tokens, cursors] = await runProgram(
    (program) => sample(program, t, t, { vocabularySize: V, penalties }),
    [t.tokens, t.cursors],
    { on },
  );
  const placeOf = (b: number) => (B - 1 - b) * N + texts[b]!.history.length;
  const ends = ({ endIds = [] }: Text, b: number) => {
    const drawn = tokens![placeOf(b)]!;
    return drawn >= V || endIds.includes(drawn) ? 0 : 999;
  };
  assert.deepEqual([...cursors!], cursorsOf(1, ends));
  const drawn = texts.map((_, b) => tokens![placeOf(b)]!);
  for (const b of texts.keys()) tokens![placeOf(b)] = before[placeOf(b)]!;
  assert.deepEqual(tokens, before);
  return drawn;
}

/** What the reference draws, and what it would draw with sums and ranks that are off by rounding errors of f32. */
function expectedOf({ logits, ...text }: Text, options: SamplerOptions): number[] {
  options = text.options ?? options;
  const drawn = [1, 1 - 1e-5, 1 + 1e-5].flatMap((error) => {
    const topP = options.topP === 1 ? 1 : Math.min(1, error * options.topP);
    const minP = Math.min(1, error * options.minP);
    const ranked = rankTokens(logits, { ...options, ...text, topP, minP });
    return ranked.filter(({ rank }) => ranked[0]!.rank - rank < 1e-4).map(({ id }) => id);
  });
  return [...new Set(drawn)];
}

/** Kinds of logits: all different, many equal, all equal, and some impossible. */
const LOGITS: ((random: () => number, V: number, dtype: DType) => Float32Array)[] = [
  (random, V, dtype) => randomValues(random, V, { scale: 3, dtype }),
  (random, V) => randomValues(random, V, { scale: 2 }).map(Math.round),
  (_, V) => new Float32Array(V).fill(-2),
  (random, V, dtype) =>
    randomValues(random, V, { dtype }).map((v) => random() < 0.5 ? -Infinity : 8 * v),
];

const OPTIONS: readonly Partial<SamplerOptions>[] = [
  { temperature: 0 },
  { temperature: 0, repetitionPenalty: 4, repetitionWindow: 3, topK: 2, topP: 0.1 },
  { temperature: 0.7 },
  { topK: 1 },
  { topK: 40, temperature: 1.5 },
  { topK: 2000 },
  { topP: 0.9 },
  { topP: 1e-6 },
  { topP: 0.9999999 },
  { topP: 0.6, topK: 30 },
  { minP: 0.1 },
  { minP: 1 },
  { topK: 200, topP: 0.8, minP: 0.02, repetitionPenalty: 2, temperature: 0.8 },
  { topP: 0.95, repetitionPenalty: 0.5, repetitionWindow: 5 },
  { temperature: 0, presencePenalty: 1.5 },
  { frequencyPenalty: -0.7, topK: 300 },
  { presencePenalty: -2, frequencyPenalty: 2, repetitionPenalty: 1.2, repetitionWindow: 9 },
];

for (const dtype of REAL_TYPES) {
  for (const V of [1, 1003]) {
    Deno.test(
      `sample() draws what the reference draws from ${V} tokens in ${dtype}`,
      withRandom(async (random) => {
        for (const given of OPTIONS) {
          const options = { ...PLAIN, ...given };
          const of = [...LOGITS, ...LOGITS, ...LOGITS].map((logits): Text => {
            const history = Array.from(
              { length: 1 + Math.floor(30 * random()) },
              () => Math.floor(random() ** 2 * V), // some occur more than once
            );
            const values = logits(random, V, dtype);
            values[0] = 1; // at least one is possible
            const firstDrawn = Math.floor(random() * history.length);
            return { logits: values, history, firstDrawn, seed: Math.floor(random() * 2 ** 32) };
          });
          const drawn = await draw(of, options, { dtype });
          for (const [b, text] of of.entries()) {
            const expected = expectedOf(text, options);
            const what = `${JSON.stringify(given)}, text ${b}`;
            assert.ok(expected.includes(drawn[b]!), `${what}: ${drawn[b]}, not ${expected}`);
          }
        }
      }),
    );
  }
}

Deno.test(
  "sample() draws for each row as its settings say, and nothing for a row that has ended",
  withRandom(async (random) => {
    const V = 300;
    const texts = [...OPTIONS, ...OPTIONS].map((given, b): Text => ({
      // all negative: if a barrier is missing, the 0 that stands in the place of one is the highest
      logits: randomValues(random, V, { scale: 3 }).map((v) => v - 20),
      history: Array.from({ length: 9 }, () => Math.floor(random() * V)),
      ...{ firstDrawn: 3, seed: b, options: { ...PLAIN, ...given }, hasEnded: b % 5 === 3 },
    }));
    const drawn = await draw(texts, PLAIN);
    for (const [b, text] of texts.entries()) {
      const expected = text.hasEnded ? [0xabcdef] : expectedOf(text, PLAIN);
      assert.ok(expected.includes(drawn[b]!), `text ${b}: ${drawn[b]}, not ${expected}`);
    }
    const ending = texts.map((text, b) => ({ ...text, endIds: b % 2 ? [1, drawn[b]!] : [V] }));
    assert.deepEqual(await draw(ending, PLAIN), drawn); // which checks that the ends become 0
  }),
);

Deno.test(
  "sample() stores the logprobs of the drawn and the likeliest tokens, whatever the sampler does",
  withRandom(async (random) => {
    const V = 203, W = 204, P = 4, TOP = 6, N = 9;
    for (const isCpu of [true, false]) {
      const wanted = [5, undefined, 0, 3], B = wanted.length;
      const logits = [0, 1, 2, 3].map((b) => {
        const values = randomValues(random, V, { scale: 4 });
        return b === 3 ? values.map(Math.round) : values; // equal ones come by their numbers
      });
      const sampler = { ...PLAIN, temperature: 0, presencePenalty: 2, repetitionPenalty: 3 };
      const t = tensors({
        logits: [[B, W], "f32", logits.flatMap((values) => [...values, NaN])],
        settings: [
          [B, SETTINGS_LENGTH],
          "u32",
          wanted.flatMap((logprobs, seed) => [
            ...samplerSettings({ sampler, seed, firstDrawn: 1, logprobs }),
          ]),
        ],
        tokens: [[B, N], "u32", new Uint32Array(B * N).fill(7)],
        cursors: [[B, 4], "u32", [0, 1, 2, 3].flatMap((b) => [4 + b, 0, b, 99])],
        logprobs: [[B, P, TOP, 2], "u32", new Uint32Array(B * P * TOP * 2).fill(9)],
      });
      const [tokens, stored] = await runProgram(
        (program) => sample(program, t, t, { vocabularySize: V, penalties: true }),
        [t.tokens, t.logprobs],
        { on: { ...device, isCpu } },
      );
      const reals = new Float32Array((stored as Uint32Array<ArrayBuffer>).buffer);
      for (const [b, count] of wanted.entries()) {
        const p = softmax(logits[b]!), place = (b * P + (5 + b) % P) * TOP;
        const drawn = tokens![b * N + 5 + b]!;
        const ranked = [...p.keys()].sort((a, c) => p[c]! - p[a]! || a - c);
        const expected = count === undefined ? [] : [drawn, ...ranked.slice(0, count)];
        for (let i = 0; i < P * TOP; i++) {
          const at = b * P * TOP + i, id = expected[at - place];
          if (at < place || id === undefined) assert.equal(stored![2 * at], 9, `${b}, ${i}`);
          else {
            assert.equal(stored![2 * at], id);
            assert.ok(Math.abs(reals[2 * at + 1]! - Math.log(p[id]!)) < 1e-5);
          }
        }
      }
    }
  }),
);

Deno.test("samplerSettings() takes at most sixteen tokens that end a text", () => {
  const text = { sampler: PLAIN, seed: 1, firstDrawn: 2 };
  assert.throws(() => samplerSettings({ ...text, endIds: new Array(17).fill(1) }), {
    name: "UserError",
    message: "Cannot sample as at most 16 tokens can end a text: current number is 17",
  });
});

Deno.test(
  "sample() draws what the reference draws from GPT-2's vocabulary",
  withRandom(async (random) => {
    const options = { ...PLAIN, topK: 5000, topP: 0.9, repetitionPenalty: 2 };
    const texts = [3, 300].map((length): Text => ({
      logits: randomValues(random, 50257, { scale: 2 }),
      history: Array.from({ length }, () => Math.floor(random() * 50257)),
      seed: length,
    }));
    for (const isCpu of [true, false]) { // workgroups of 64 and of 1024
      const drawn = await draw(texts, options, { on: { ...device, isCpu } });
      for (const [b, text] of texts.entries()) {
        const expected = expectedOf(text, options);
        assert.ok(expected.includes(drawn[b]!), `${drawn[b]}, not ${expected}`);
      }
    }
  }),
);

/** A GPU whose workgroups are so small that their memory has room for the notes of races. */
function smallGpu(): Device {
  const { limits } = device.gpu;
  const maxComputeInvocationsPerWorkgroup = Math.min(512, limits.maxComputeInvocationsPerWorkgroup);
  const smaller = readsOf(limits, { maxComputeInvocationsPerWorkgroup });
  return { ...device, isCpu: false, gpu: readsOf(device.gpu, { limits: smaller }) };
}

/** An object with other properties. */
function readsOf<T extends object>(target: T, changed: Readonly<Record<string, unknown>>): T {
  return new Proxy(target, {
    get(_, name) {
      if (Object.hasOwn(changed, name)) return changed[name as string];
      const value = target[name as keyof T];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

Deno.test(
  "sample() draws on a GPU what the reference draws from several blocks of tokens",
  withRandom(async (random) => {
    const V = 3050; // the last block is almost whole: all invocations of summarize.wgsl have tokens of it
    const dtype = REAL_TYPES.at(-1)!, on = smallGpu();
    const texts = OPTIONS.flatMap((own, i) =>
      LOGITS.map((logitsOf, j): Text => {
        const logits = logitsOf(random, V, dtype);
        if (j === 0) logits.fill(-Infinity, 0, 1024); // a whole block
        const history = Array.from({ length: 9 }, () => Math.floor(random() * V));
        return { logits, history, seed: 7 * i + j, firstDrawn: 4, options: { ...PLAIN, ...own } };
      })
    );
    const drawn = await draw(texts, PLAIN, { dtype, on });
    for (const [b, text] of texts.entries()) {
      const expected = expectedOf(text, PLAIN), how = JSON.stringify(text.options);
      assert.ok(expected.includes(drawn[b]!), `${drawn[b]}, not ${expected}, ${how}`);
    }
    const alone = await draw(texts.slice(24, 25), PLAIN, { dtype, on });
    assert.equal(alone[0], drawn[24]);
  }),
);

Deno.test("sample() distinguishes the smallest random numbers", async () => {
  // draws of two tokens whose noisy scores differ by a hundredth, where the noise of one is extreme
  const V = 1000, seeds = 1000;
  const bitsOf = (seed: number, id: number) => pcgHash(id + pcgHash(1 + pcgHash(seed)));
  const draws = Array.from({ length: seeds }, (_, seed) => {
    const bits = Array.from({ length: V }, (_, id) => bitsOf(seed, id));
    const id = bits.indexOf(bits.reduce((a, b) => Math.min(a, b)));
    return { seed, id, bits: bits[id]! };
  });
  const smallest = draws.sort((a, b) => a.bits - b.bits).slice(0, 20);
  assert.ok(smallest[5]!.bits < 2 ** 15, "1 − u would have no digit left");
  const logExponential = (bits: number) => Math.log(-Math.log1p(-(bits + 0.5) / 2 ** 32));
  for (const lead of [-0.01, 0.01]) {
    const texts = smallest.map(({ seed, id, bits }): Text => {
      const other = (id + 1) % V, logits = new Float32Array(V).fill(-Infinity);
      logits[id] = 0;
      logits[other] = logExponential(bitsOf(seed, other)) - logExponential(bits) - lead;
      return { logits, history: [0], seed };
    });
    const drawn = await draw(texts, PLAIN);
    assert.deepEqual(drawn, smallest.map(({ id }) => lead > 0 ? id : (id + 1) % V));
  }
});

Deno.test("sample() keeps the first of equal tokens if top-k or top-p keep only some", async () => {
  const V = 1003, logits = new Float32Array(V).fill(1.5).fill(2, 500, 600).fill(-1, 700);
  for (const [isCpu, length] of [[true, 300], [false, 60]] as const) {
    const texts = Array.from({ length }, (_, seed): Text => ({ logits, history: [0], seed }));
    for (const options of [{ topK: 3 }, { topP: 3 / 1000, temperature: 1e-2 }, { topK: 103 }]) {
      const drawn = new Set(
        await draw(texts, { ...PLAIN, ...options }, { on: { ...device, isCpu } }),
      );
      const { minP } = samplerStages(logits, { ...PLAIN, ...options, history: [] });
      const allowed = minP.map(({ id }) => id);
      assert.ok([...drawn].every((id) => allowed.includes(id)), `${[...drawn]} of ${allowed}`);
      if (allowed.length === 3) assert.equal(drawn.size, 3);
    }
  }
});

Deno.test("sample() draws each token as often as its probability says", async () => {
  // consecutive seeds and several tokens of each text, as in generation
  const p = [0.5, 0.25, 0.1, 0.08, 0.05, 0.015, 0.004, 0.001], temperature = 0.5;
  const logits = Float32Array.from(p, (v) => temperature * Math.log(v) + 3);
  const counts = p.map(() => 0);
  for (let length = 1; length <= 8; length++) {
    const history = new Array<number>(length).fill(0);
    const texts = Array.from({ length: 4096 }, (_, seed): Text => ({ logits, history, seed }));
    for (const id of await draw(texts, { ...PLAIN, temperature })) counts[id]!++;
  }
  const draws = 8 * 4096;
  const chiSquare = p.reduce((sum, v, id) => sum + (counts[id]! - v * draws) ** 2 / (v * draws), 0);
  assert.ok(chiSquare < 24.3, `chi-square is ${chiSquare}, above 24.3 in 0.1 %: ${counts}`);
});

Deno.test("sample() accepts temperatures beyond f32, and the least and largest penalty", async () => {
  const logits = Float32Array.of(1, -Infinity, 3, 0, 3 - 2 ** -20);
  const texts = Array.from({ length: 40 }, (_, seed): Text => ({ logits, history: [0], seed }));
  /** The same on a CPU and on a GPU. */
  const drawnWith = async (options: Partial<SamplerOptions>) => {
    const sets: number[][] = [];
    for (const isCpu of [true, false]) {
      const drawn = await draw(texts, { ...PLAIN, ...options }, { on: { ...device, isCpu } });
      sets.push([...new Set(drawn)].sort());
    }
    assert.deepEqual(sets[1], sets[0]);
    return sets[0]!;
  };
  for (const topP of [1, 0.9]) {
    assert.deepEqual(await drawnWith({ temperature: 5e-324, topP }), [2]);
    assert.deepEqual(await drawnWith({ temperature: 1e-39, topP }), [2]);
    assert.deepEqual(await drawnWith({ temperature: 1.7e308, topP }), [0, 2, 3, 4]);
  }
  // the only token of the history becomes the likeliest, or as unlikely as 0
  assert.deepEqual(await drawnWith({ repetitionPenalty: 1e-6 }), [0]);
  assert.ok(!(await drawnWith({ temperature: 0.05, repetitionPenalty: 1e6 })).includes(0));
  const taken = { temperature: 0, topK: Number.MAX_SAFE_INTEGER, repetitionWindow: 2 ** 53 - 1 };
  assert.deepEqual(await drawnWith({ ...taken, topP: 1e-300, minP: 1e-300 }), [2]);
});

Deno.test("sample() appends no token if a logit is NaN or the highest is not finite, and checkSample() throws", async () => {
  const negativeNan = new Float32Array(new Uint32Array([0xffc00000]).buffer)[0]!;
  const rows = [[1, NaN, 2], [negativeNan, 0, 0], [-Infinity, -Infinity, -Infinity], [
    0,
    Infinity,
    0,
  ], [-Infinity, -1, -Infinity]];
  const texts = rows.map((row): Text => ({
    logits: Float32Array.from(row),
    history: [0],
    seed: 5,
  }));
  const samplers = [{}, { temperature: 0 }, { topK: 2, topP: 0.5 }, { topP: 0.5 }, { topK: 2 }];
  for (
    const [isCpu, sampler] of [true, false].flatMap((on) => samplers.map((s) => [on, s] as const))
  ) {
    const drawn = await draw(texts, { ...PLAIN, ...sampler }, { on: { ...device, isCpu } });
    assert.throws(() => checkSample(drawn[0]!, 3), { message: /the model's logits are NaN/ });
    assert.throws(() => checkSample(drawn[1]!, 3), { message: /the model's logits are NaN/ });
    assert.throws(() => checkSample(drawn[2]!, 3), { message: /must be finite/ });
    assert.throws(() => checkSample(drawn[3]!, 3), { message: /must be finite/ });
    checkSample(drawn[4]!, 3);
    assert.equal(drawn[4], 1);
  }
});

Deno.test("sample() throws on a vocabulary wider than the logits", () => {
  const t = tensors({
    logits: [[2, 8], "f32"],
    settings: [[2, SETTINGS_LENGTH], "u32"],
    tokens: [[2, 5], "u32"],
    cursors: [[2, 4], "u32"],
  });
  assert.throws(() => sample(new Program(device), t, t, { vocabularySize: 9, penalties: false }), {
    name: "RangeError",
    message: "Cannot sample as vocabularySize must be 1 to 8: current value is 9",
  });
});

Deno.test("validateSampler() names the flag and its value", () => {
  const cases: [Partial<SamplerOptions>, string][] = [
    [
      { temperature: -1 },
      "Cannot sample as temperature must be a number not below 0: current value is -1",
    ],
    [{ topP: 0 }, "Cannot sample as topP must be above 0 and at most 1: current value is 0"],
    [
      { topK: 1.5 },
      "Cannot sample as topK must be a non-negative integer: current value is 1.5",
    ],
    [
      { repetitionPenalty: 0 },
      "Cannot sample as repetitionPenalty must be from 0.000001 to 1000000: current value is 0",
    ],
  ];
  for (const [options, message] of cases) {
    assert.throws(() => validateSampler({ ...PLAIN, ...options }), { name: "UserError", message });
  }
});
