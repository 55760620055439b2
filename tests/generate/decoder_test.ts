import assert from "node:assert/strict";
import { Random } from "../../data/random.ts";
import { createDecoder } from "../../generate/decoder.ts";
import { batchSlots, mostSequences, windowStart } from "../../generate/slots.ts";
import { DEFAULT_SAMPLER } from "../../generate/request.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { Program } from "../../kernels/program.ts";
import { rankTokens } from "../../kernels/sample/reference.ts";
import { createTensor, download, tensorBytes, upload } from "../../kernels/tensor.ts";
import { createActivations } from "../../model/activations.ts";
import type { GptConfig } from "../../model/config.ts";
import { forward } from "../../model/forward_backward.ts";
import { createGpt, type Gpt, headOf } from "../../model/gpt.ts";
import { headLogits } from "../../model/head.ts";
import type { Precision } from "../../model/precision.ts";
import { initializeParameters } from "../../model/weights.ts";
import { assertClose, device, REAL_TYPES } from "../kernels/harness.ts";
import { devicesWithMatrices } from "../kernels/matrix_emulation.ts";
import { CONFIG, randomModel } from "./models.ts";

const { vocabularySize: V, contextLength: maxT } = CONFIG;

// logits of order ten: f32 sums in another order; f16 activations rounded some ten times on the way
const TOLERANCE: Record<Precision, number> = { f32: 2e-5, f16: 2e-2 };

function randomText(seed: number, length: number): number[] {
  const random = new Random(seed);
  return Array.from({ length }, () => random.below(V));
}

/** Logits after every token of a text within the context, by the forward pass of training. */
async function logitsOf(gpt: Gpt, text: readonly number[]): Promise<Float32Array[]> {
  const batch = { batchSize: 1, sequenceLength: maxT }, { precision } = gpt;
  const activations = createActivations(device, gpt.config, {
    batch,
    precision,
    purpose: "evaluation",
  });
  const tokens = createTensor(device, "tokens", { shape: [maxT], dtype: "u32" });
  const logits = createTensor(device, "logits", { shape: [maxT, V], dtype: "f32" });
  const padded = new Uint32Array(maxT); // what follows a token does not matter to it
  padded.set(text);
  upload(device, tokens, padded);
  const program = new Program(device);
  forward(program, gpt, { tokens }, activations);
  headLogits(program, { x: activations.at("lnf"), weight: headOf(gpt) }, { logits });
  program.run();
  const [values] = await download(device, logits);
  activations.destroy();
  return Array.from(
    { length: maxT },
    (_, t) => (values as Float32Array).subarray(t * V, t * V + V),
  );
}

/** A model with rotary positions and all that is between the projections of q, k and v and attention. */
const LLAMA: Partial<GptConfig> = {
  ...{ family: "llama", heads: 4, keyHeads: 2, headSize: 8, qkNorm: true, rotaryBase: 50 },
  ...{ attentionWindows: [0, 9] },
};
const CASES: [what: string, precision: Precision, change: Partial<GptConfig>][] = [
  ...(REAL_TYPES as Precision[]).map((precision) =>
    ["GPT-2", precision, {}] satisfies [string, Precision, object]
  ),
  ["Llama", "f32", LLAMA],
];

for (const [what, precision, change] of CASES) {
  Deno.test(`createDecoder() of a ${what} predicts what the uncached forward does in ${precision}, past the context too`, async () => {
    const gpt = randomModel(device, precision, change);
    // shorter than the context, as long and longer: their windows move at different times
    const prompts = [1, 6, 17, maxT - 1, maxT, maxT + 1, 3 * maxT + 5].map((length) =>
      randomText(length, length)
    );
    const drawn = 63, chunk = 3; // windows move before each place of a chunk
    const sampler = { ...DEFAULT_SAMPLER, topP: 1 };
    const decoder = createDecoder(gpt, {
      prompts,
      seeds: prompts.map((_, b) => b),
      maxNewTokens: drawn,
      sampler,
    });
    const width = decoder.logits.shape[1]!;
    const predicted: Float32Array[] = []; // the last token of each chunk
    const all = prompts.map((text) => [...text]);
    for (let i = 0; i < drawn; i += chunk) {
      (await decoder.next(chunk)).forEach((tokens, b) => all[b]!.push(...tokens));
      predicted.push((await download(device, decoder.logits))[0] as Float32Array);
    }
    for (const [b, text] of all.entries()) {
      const given = prompts[b]!.length;
      assert.equal(text.length, given + drawn);
      let seen = -1, uncached: Float32Array[] = [];
      for (const [i, rows] of predicted.entries()) {
        const length = given + (i + 1) * chunk - 1, start = windowStart(length, maxT);
        const what = `text ${b} after ${length} tokens`;
        assert.ok(length - start <= maxT && length - start >= Math.min(length, maxT / 2));
        if (start !== seen) uncached = await logitsOf(gpt, text.slice(start, start + maxT));
        seen = start;
        const logits = rows.slice(b * width, b * width + V);
        assertClose(logits, uncached[length - 1 - start]!, TOLERANCE[precision], `logits, ${what}`);
        const history = text.slice(0, length);
        const [best, second] = rankTokens(logits, { ...sampler, history, seed: b });
        if (best!.rank - second!.rank > 1e-4) assert.equal(text[length], best!.id, what);
      }
    }
    decoder.destroy();
    gpt.destroy();
  });
}

for (const { on, how } of devicesWithMatrices(device)) {
  for (
    const [what, change] of [["GPT-2", {}], ["Llama", {
      ...LLAMA,
      norm: "rmsnorm",
      gatedMlp: true,
    }]] as const
  ) {
    Deno.test({
      name:
        `createDecoder() of a ${what} predicts for 17 texts what the uncached forward does, with ${how}`,
      ignore: !REAL_TYPES.includes("f16"),
      fn: async () => {
        const gpt = randomModel(on, "f16", change);
        const prompts = randomText(1, 17).map((token) => [token]);
        const decoder = createDecoder(gpt, {
          prompts,
          seeds: prompts.map((_, b) => b),
          maxNewTokens: 4,
          sampler: { ...DEFAULT_SAMPLER, topP: 1 },
        });
        const drawn = await decoder.next(4), width = decoder.logits.shape[1]!;
        assert.ok(decoder.pass.labels.includes("kernels/matmul/matrix_rows.wgsl"));
        assert.ok(!decoder.pass.labels.includes("kernels/matmul/vector.wgsl"));
        const [logits] = await download(on, decoder.logits) as Float32Array[];
        for (const [b, tokens] of drawn.entries()) {
          const text = [...prompts[b]!, ...tokens].slice(0, -1);
          const expected = (await logitsOf(gpt, text))[text.length - 1]!;
          assertClose(
            logits!.slice(b * width, b * width + V),
            expected,
            TOLERANCE.f16,
            `text ${b}`,
          );
        }
        decoder.destroy();
        gpt.destroy();
      },
    });
  }
}

Deno.test("createDecoder() draws the same for a prompt alone and in a batch, in chunks or at once", async () => {
  const gpt = randomModel(device, "f32");
  const prompts = [3, 20, 50].map((length) => randomText(length, length)), seeds = [7, 8, 7];
  const drawn = maxT + 9;
  const draw = async (which: number[], chunks: number[]) => {
    const decoder = createDecoder(gpt, {
      prompts: which.map((b) => prompts[b]!),
      seeds: which.map((b) => seeds[b]!),
      maxNewTokens: drawn,
      sampler: { ...DEFAULT_SAMPLER, repetitionPenalty: 1.1 },
    });
    const all = which.map((): number[] => []);
    for (const count of chunks) {
      (await decoder.next(count)).forEach((tokens, i) => all[i]!.push(...tokens));
    }
    decoder.destroy();
    return all;
  };
  const together = await draw([0, 1, 2], [drawn]);
  assert.deepEqual(await draw([0, 1, 2], [1, 5, drawn - 6]), together);
  assert.deepEqual(await draw([2, 0], [drawn]), [together[2], together[0]]);
  for (const b of [0, 1, 2]) assert.deepEqual(await draw([b], [drawn]), [together[b]]);
  const [first, , third] = together;
  assert.notDeepEqual(first, third);
  gpt.destroy();
});

Deno.test("createDecoder() throws on an empty prompt, an unknown token, and too many tokens", async () => {
  const gpt = randomModel(device, "f32");
  const create = (text: number[]) =>
    createDecoder(gpt, {
      prompts: [[1], text],
      seeds: [0, 0],
      maxNewTokens: 2,
      sampler: DEFAULT_SAMPLER,
    });
  assert.throws(() => create([]), {
    name: "RangeError",
    message: /one or more ids .* prompt is empty/,
  });
  assert.throws(() => create([V]), { name: "RangeError", message: /below 257: current id is 257/ });
  const decoder = create([2, 3]);
  await assert.rejects(decoder.next(3), {
    name: "RangeError",
    message:
      "Cannot draw 3 tokens as no sequence may have more than 4 in all: current lengths are 1,2",
  });
  decoder.destroy();
  gpt.destroy();
});

const LORA = { rank: 4, alpha: 8, targets: ["c_attn", "c_proj", "c_fc"] };
const LLAMA_LORA = { rank: 4, alpha: 8, targets: ["q_proj", "v_proj", "gate_proj", "down_proj"] };
const CHANGES: Readonly<Record<string, Partial<GptConfig>>> = {
  "": {},
  " with adapters": { lora: LORA },
  " of a Llama with adapters": { ...LLAMA, lora: LLAMA_LORA },
};

for (
  const [precision, what, change] of (REAL_TYPES as Precision[]).flatMap((precision) =>
    Object.entries(CHANGES)
      .filter(([, { family }]) => !family || precision === REAL_TYPES.at(-1)) // it has many kernels to compile
      .map(([what, change]) => [precision, what, change] as const)
  )
) {
  Deno.test(`createDecoder() of one text${what} predicts the same with norms as part of products in ${precision}`, async () => {
    const options = {
      prompts: [randomText(9, 7)],
      seeds: [3],
      maxNewTokens: 3,
      sampler: { ...DEFAULT_SAMPLER, temperature: 0 },
    };
    const told = [];
    for (const isCpu of [true, false]) {
      const on = { ...device, isCpu, subgroupSize: undefined, choices: new Map() };
      const gpt = randomModel(on, precision, change);
      const decoder = createDecoder(gpt, options);
      const tokens = await decoder.next(3);
      const [logits] = await download(device, decoder.logits);
      told.push({ tokens, logits: (logits as Float32Array).subarray(0, V) });
      assert.equal(decoder.pass.labels.some((label) => /(layer|rms)norm\/f/.test(label)), isCpu);
      decoder.destroy();
      gpt.destroy();
    }
    const [apart, within] = told;
    assert.deepEqual(within!.tokens, apart!.tokens);
    assertClose(within!.logits, apart!.logits, 2 * TOLERANCE[precision], "logits");
  });
}

Deno.test("createDecoder() continues one prompt when the width of the MLP is no multiple of four", async () => {
  const config = { ...CONFIG, innerWidth: 30 }, prompts = [randomText(4, 5)];
  const drawn = [];
  for (const isCpu of [true, false]) {
    const on = { ...device, isCpu, subgroupSize: undefined, choices: new Map() };
    const gpt = createGpt(on, config, { precision: "f32" });
    initializeParameters(gpt, { seed: 5 });
    const sampler = { ...DEFAULT_SAMPLER, temperature: 0 };
    const decoder = createDecoder(gpt, { prompts, seeds: [0], maxNewTokens: 4, sampler });
    drawn.push(await decoder.next(4));
    for (const { destroy } of [decoder, gpt]) destroy();
  }
  assert.deepEqual(drawn[0], drawn[1]);
});

Deno.test("mostSequences() keeps caches and logits within one binding each", () => {
  const { width, layers } = CONFIG, cacheBytes = 2 * layers * maxT * width * 4;
  const cpu = { ...device, isCpu: true }; // which reads prompts in pieces smaller than caches
  const gpt = randomModel({ ...cpu, maxBindingBytes: 5 * cacheBytes + 1 }, "f32");
  assert.equal(mostSequences(gpt, 10 * maxT), 5);
  assert.equal(mostSequences(gpt, maxT / 2), 10);
  const large = randomModel({ ...cpu, maxBindingBytes: 2 ** 31 }, "f32");
  const least = randomModel({ ...cpu, maxBindingBytes: cacheBytes - 1 }, "f32");
  assert.equal(mostSequences(least, 10 * maxT), 1); // there is always one
  least.destroy();
  assert.equal(mostSequences(large, 10 * maxT), 256); // beyond, a large GPU is busy anyway
  large.destroy();
  gpt.destroy();
});

Deno.test("batchSlots() puts the keys and values of all layers into as few buffers as hold them", () => {
  const { width, layers } = CONFIG, slots = 64, bytes = slots * maxT * width * 4;
  const buffersOf = (maxBufferSize: number) => {
    const limits = new Proxy(device.gpu.limits, {
      get: (limits, key) => key === "maxBufferSize" ? maxBufferSize : Reflect.get(limits, key),
    });
    const dry = dryDevice({ ...device, gpu: { limits } as GPUDevice });
    const gpt = createGpt(dry, CONFIG, { precision: "f32" });
    batchSlots(gpt, { slots, maxTokens: 100, sampler: DEFAULT_SAMPLER, readsPrompts: false });
    return [...dry.tensors].filter(({ name }) => name === "cache").map(tensorBytes);
  };
  assert.deepEqual(buffersOf(2 * layers * bytes), [2 * layers * bytes]);
  assert.deepEqual(buffersOf(4 * bytes - 1), [3 * bytes, bytes]);
  assert.deepEqual(buffersOf(bytes), [bytes, bytes, bytes, bytes]);
  assert.throws(() => buffersOf(bytes - 1), { name: "LimitError" });
});

Deno.test("windowStart() moves by half a context", () => {
  const starts = [1, 8, 9, 12, 13, 16, 17].map((length) => windowStart(length, 8));
  assert.deepEqual(starts, [0, 0, 4, 4, 8, 8, 12]);
  assert.deepEqual([1, 2, 3].map((length) => windowStart(length, 1)), [0, 1, 2]);
});
