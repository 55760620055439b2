import assert from "node:assert/strict";
import { tokenDataset } from "../../data/tokens/token_dataset.ts";
import type { Tokenizer } from "../../data/tokenizer/tokenizer.ts";
import { Program } from "../../kernels/program.ts";
import { createTensor, download, upload } from "../../kernels/tensor.ts";
import { createGpt } from "../../model/gpt.ts";
import { initializeParameters } from "../../model/weights.ts";
import { createEvaluator, RunningSum } from "../../train/evaluate.ts";
import { withLiveBuffers } from "../bench/live_buffers.ts";
import { inProcess } from "../distributed/in_process.ts";
import { assertClose, device } from "../kernels/harness.ts";
import { lossSum } from "../model/reference.ts";

Deno.test("RunningSum keeps what one f32 sum would lose, over more runs than the device stores sums", async () => {
  const runs = 2500, loss = 10.82, M = 4, before = 2 ** 33; // as after a billion tokens
  const x = createTensor(device, "losses", { shape: [M], dtype: "f32" });
  const program = new Program(device), sum = new RunningSum(program, x);
  const sumOnce = async () => {
    sum.reset();
    upload(device, x, [before, 0, 0, 0]);
    await sum.run();
    upload(device, x, new Array(M).fill(loss));
    for (let i = 0; i < runs; i++) await sum.run();
    return await sum.total();
  };
  const expected = before + runs * M * loss;
  let f32 = Math.fround(before);
  for (let i = 0; i < runs; i++) f32 = Math.fround(f32 + M * loss);
  assert.ok(Math.abs(f32 / expected - 1) > 1e-6, `one f32 would do: ${f32}`);
  for (let i = 0; i < 2; i++) {
    const total = await sumOnce();
    assert.ok(Math.abs(total / expected - 1) < 1e-9, `${total} of ${expected}`);
  }
  assert.equal(await sum.total(), await sum.total()); // nothing is added twice
  sum.destroy();
  program.destroy();
});

/** Of losses in f32, as in gpt_test.ts. */
const LOSS = 2e-6;

/** A text of documents whose tokens are these, and the bytes of each token. */
const TEXT = tokenDataset(Uint32Array.of(5, 1, 7, 3, 9, 2, 6, 0, 4, 9), [0, 5]);
const BYTES = [1, 4, 2, 1, 3, 1, 2, 5, 1, 0];
const tokenizer = { endOfText: 9, byteLength: (id: number) => BYTES[id]! } as Tokenizer;
const config = { vocabularySize: 10, contextLength: 4, width: 8, layers: 1, heads: 2 };
const cut = { batchSize: 2, sequenceLength: 4 };

Deno.test("createEvaluator() gives ln V when all tokens are equally likely, and log2 V bits per token in bits per byte", async () => {
  const gpt = createGpt(device, config, { precision: "f32" }); // all parameters are 0
  const evaluator = createEvaluator(gpt, tokenizer, TEXT, cut);
  const { loss, perplexity, bitsPerByte, tokens } = await evaluator.run();
  assert.equal(tokens, 10);
  assertClose([loss], [2.302585093], LOSS, "loss");
  assert.equal(perplexity, Math.exp(loss));
  // ten tokens of 3.3219 bits each, of 1 + 4 + 5 + 1 + 0 + 2 + 2 + 1 + 3 + 0 = 19 bytes
  assertClose([bitsPerByte], [1.748383305], LOSS, "bits per byte");
  evaluator.destroy();
  gpt.destroy();
});

Deno.test("createEvaluator() predicts every token from those before it in its document, without dropout", async () => {
  const gpt = createGpt(device, config, { precision: "f32" });
  initializeParameters(gpt, { seed: 3 });
  const text = tokenDataset(TEXT.read(0, 10), [0, 3, 6]);
  const evaluator = createEvaluator(gpt, tokenizer, text, cut);
  const { loss } = await evaluator.run();
  assert.equal((await evaluator.run()).loss, loss);
  const values = await download(device, ...gpt.parameters.tensors.values());
  const parameters = new Map(
    [...gpt.parameters.tensors.keys()].map((name, i) => [name, values[i]!]),
  );
  let sum = 0;
  for (const document of [[5, 1, 7], [3, 9, 2], [6, 0, 4, 9]]) {
    const targets = document, T = targets.length, inputs = [9, ...document.slice(0, -1)];
    sum += lossSum(parameters, { inputs, targets }, { B: 1, T, config: gpt.config });
  }
  assertClose([loss], [sum / 10], LOSS, "loss");
  const { left } = await withLiveBuffers(async () => {
    const some = createEvaluator(gpt, tokenizer, text, { ...cut, maxTokens: 5 });
    assert.equal((await some.run()).tokens, 6); // whole batches of two documents
    some.destroy();
  });
  assert.deepEqual(left, []);
  for (const { destroy } of [evaluator, gpt]) destroy();
});

Deno.test("createEvaluator() predicts the answers of conversations, each of which sees only itself", async () => {
  const gpt = createGpt(device, config, { precision: "f32" });
  initializeParameters(gpt, { seed: 3 });
  // two share a row; in the third the last token is the answer
  const chats = tokenDataset(Uint32Array.of(5, 1, 7, 3, 9, 2, 6), [0, 2, 4], [1, 2, 3, 4, 6, 7]);
  const evaluator = createEvaluator(gpt, tokenizer, chats, cut);
  const { loss, tokens } = await evaluator.run();
  const values = await download(device, ...gpt.parameters.tensors.values());
  const parameters = new Map(
    [...gpt.parameters.tensors.keys()].map((name, i) => [name, values[i]!]),
  );
  const sumOf = (inputs: number[], targets: number[]) =>
    lossSum(parameters, { inputs, targets }, { B: 1, T: inputs.length, config: gpt.config });
  const sum = sumOf([5], [1]) + sumOf([7], [3]) + sumOf([9, 2], [2, 6]) - sumOf([9], [2]);
  assert.equal(tokens, 3);
  assertClose([loss], [sum / 3], LOSS, "loss");
  for (const { destroy } of [evaluator, gpt]) destroy();
});

Deno.test("createEvaluator() ends on all ranks when the signal of rank 0 aborts", async () => {
  const gpt = createGpt(device, config, { precision: "f32" });
  const text = tokenDataset(Uint32Array.from({ length: 2000 }, (_, i) => i % 9));
  const stop = new AbortController();
  const ends = await inProcess(2, async (transport) => {
    const evaluator = createEvaluator(gpt, tokenizer, text, { ...cut, transport });
    const running = evaluator.run(transport.rank === 0 ? { signal: stop.signal } : {});
    stop.abort(new Error("Ctrl-C"));
    const end = await running.then(({ tokens }) => tokens, ({ message }: Error) => message);
    evaluator.destroy();
    return end;
  });
  assert.equal(ends[0], "Ctrl-C");
  assert.ok(ends[1] as number < 1000, `${ends[1]} tokens`);
  gpt.destroy();
});
