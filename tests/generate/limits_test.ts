import assert from "node:assert/strict";
import { generateBatch } from "../../generate/generate.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import type { SamplerOptions } from "../../kernels/sample/sample.ts";
import { sequencesAtOnce } from "../../generate/limits.ts";
import { loadSource } from "../../generate/load.ts";
import type { ModelSource } from "../../generate/source.ts";
import { device, freshSeed, testRandom } from "../kernels/harness.ts";
import { byteTokenizer, CONFIG, randomModel } from "./models.ts";

const CPU = { ...device, name: "a CPU", isCpu: true, maxBindingBytes: 2 ** 27 };
const PLAN = { promptTokens: 3, maxNewTokens: 100, completions: 4, sampler: DEFAULT_SAMPLER };
const model = (on = CPU) => ({ device: on, config: CONFIG, precision: "f32" as const });

Deno.test("sequencesAtOnce() returns the sequences that fit, and names the greatest length when none does", () => {
  assert.equal(sequencesAtOnce(model(), PLAN), 4);
  const long = { ...PLAN, maxNewTokens: 4_000_000 };
  assert.equal(sequencesAtOnce(model(), { ...long, completions: 50 }), 8); // 2²⁷ / (4 · 4,000,003)
  // with penalties over all of a text, too, whose loops a CPU's workgroup shares
  const sampler = { ...DEFAULT_SAMPLER, repetitionPenalty: 1.1, repetitionWindow: 0 };
  assert.equal(sequencesAtOnce(model(), { ...long, sampler, completions: 1 }), 1);
  const message = "Cannot generate as maxNewTokens must be at most 33554429 after a prompt of 3 " +
    "tokens on a CPU: current value is 40000000 (a kernel can bind at most 134 MB of a tensor, which " +
    "would have 160 MB)";
  assert.throws(() => sequencesAtOnce(model(), { ...PLAN, maxNewTokens: 4e7 }), {
    name: "UserError",
    message,
  });
});

Deno.test("sequencesAtOnce() halves the sequences until they fit the free memory", () => {
  const plan = { ...PLAN, completions: 5 }, found = new Set<number>();
  const atOnce = (freeBytes: number) => {
    try {
      return sequencesAtOnce(model(), { ...plan, freeBytes });
    } catch {
      return 0;
    }
  };
  for (let bytes = 5e4; !found.has(5) && bytes < 1e7; bytes *= 1.15) found.add(atOnce(bytes));
  assert.deepEqual([...found], [0, 1, 2, 5]);
});

Deno.test("sequencesAtOnce() names the prompt or the model when no further token fits", () => {
  assert.throws(() => sequencesAtOnce(model(), { ...PLAN, promptTokens: 2 ** 25 + 1 }), {
    name: "UserError",
    message:
      /^Cannot generate as the prompt must have fewer than 33554432 tokens on a CPU: current number is 33554433 \(/,
  });
  const small = { ...CPU, maxBindingBytes: 512 };
  assert.throws(() => sequencesAtOnce(model(small), PLAN), {
    name: "UserError",
    message: /^Cannot generate as the model must be smaller on a CPU: it has \d+ parameters \(/,
  });
  assert.throws(() => sequencesAtOnce(model(), { ...PLAN, freeBytes: 1000 }), {
    message: /smaller on a CPU: .* \(1.00 kB of memory are free, and this would need [\d.]+ kB\)$/,
  });
});

Deno.test("loadSource() throws before it reads a model that is too large for the device", () => {
  const config = { ...CONFIG, width: 16384, heads: 64, layers: 100 };
  const source = { spec: "a model", directory: "nowhere", config } as ModelSource;
  assert.throws(() => loadSource(device, source, { precision: "f32" }), {
    name: "UserError",
    message:
      /^Cannot load a model as the model must be smaller on .*: it has \d+ parameters \(a buffer holds at most .*, and this would need 1\.29 TB\)$/,
  });
});

/** Values that the flags of `generate` take: the edges of their ranges, and beyond what an f32 holds. */
const EDGES: { readonly [name in keyof SamplerOptions]: readonly number[] } = {
  temperature: [0, 5e-324, 1e-39, 1, 1e39, 1.7e308],
  topK: [0, 1, 257, 2 ** 32, Number.MAX_SAFE_INTEGER],
  topP: [5e-324, 1e-9, 0.5, 1],
  minP: [0, 5e-324, 1e-39, 1],
  repetitionPenalty: [1e-6, 1, 1e6],
  presencePenalty: [-2, 0, 2],
  frequencyPenalty: [-2, 0, 2],
  repetitionWindow: [0, 1, 2 ** 32, Number.MAX_SAFE_INTEGER],
};

Deno.test("generateBatch() draws tokens at every edge of every option", async () => {
  const seed = freshSeed(), random = testRandom(seed);
  const gpt = randomModel(device, "f32"), tokenizer = byteTokenizer();
  const names = Object.keys(EDGES) as (keyof SamplerOptions)[];
  const order = new Map(names.map((name) => {
    const values = EDGES[name].map((value) => ({ value, at: random() }));
    return [name, values.sort((a, b) => a.at - b.at)];
  }));
  const seeds = [0, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER];
  for (let i = 0; i < 6; i++) {
    const sampler = Object.fromEntries(
      [...order].map(([name, values]) => [name, values[i % values.length]!.value]),
    );
    const maxNewTokens = [0, 1, 2 * CONFIG.contextLength][i % 3]!;
    const what = `seed ${seed}: ${JSON.stringify(sampler)}`;
    const requests = seeds.map((seed, b) => ({ prompt: "abc".repeat(b), seed }));
    let ended = 0;
    for await (
      const { result } of generateBatch({ gpt, tokenizer }, { requests, maxNewTokens, sampler })
    ) {
      if (!result) continue;
      ended++;
      const { reason, tokens } = result;
      assert.ok(tokens === maxNewTokens || tokens < maxNewTokens && reason === "end-of-text", what);
    }
    assert.equal(ended, requests.length, what);
  }
  gpt.destroy();
});
