import assert from "node:assert/strict";
import { modelledMs, type StepCost, stepCost } from "../../bench/cost.ts";
import { STEP_OPTIONS } from "../../bench/models.ts";
import { parseReport, recomputations } from "../../bench/report.ts";
import { dryDevice } from "../../kernels/dry_device.ts";
import { type Dispatch, Program } from "../../kernels/program.ts";
import { labelOf } from "../../kernels/shader.ts";
import { tensorBytes } from "../../kernels/tensor.ts";
import { RECOMPUTE_MODES, type RecomputeMode } from "../../model/activations.ts";
import { type GptConfig, PRESETS } from "../../model/config.ts";
import { createGpt } from "../../model/gpt.ts";
import type { Precision } from "../../model/precision.ts";
import { createTrainStep } from "../../train/step.ts";
import { device } from "../kernels/harness.ts";

Deno.test("modelledMs() adds operations, bytes and launches", () => {
  const machine = { flopsPerSecond: 4e13, bytesPerSecond: 2e12, launchMs: 0.008 };
  assert.equal(modelledMs({ flops: 8e10, bytes: 0, launches: 0 }, machine), 2);
  assert.equal(modelledMs({ flops: 8e10, bytes: 6e9, launches: 250 }, machine), 2 + 3 + 2);
});

Deno.test("stepCost() counts the operations of every product, and of causal attention by pairs", () => {
  const T = 256, B = 3, C = 96, V = 500, layers = 5, heads = 4;
  const attentionWindows = [0, 7, 0, 400, 1]; // 0 and 400 let a token attend to all before it
  const windows = [T, 7, T, T, 1];
  const config = { vocabularySize: V, contextLength: T, width: C, layers, heads, attentionWindows };
  let flops = 0;
  const product = (M: number, K: number, N: number) => flops += 2 * M * K * N;
  const threeOf = (M: number, K: number, N: number) => {
    product(M, K, N); // y
    product(M, N, K); // dx
    product(K, M, N); // dweight
  };
  for (let layer = 0; layer < layers; layer++) {
    for (const [from, to] of [[C, 3 * C], [C, C], [C, 4 * C], [4 * C, C]] as const) {
      threeOf(B * T, from, to);
    }
    for (let head = 0; head < heads * B; head++) {
      for (let query = 0; query < T; query++) {
        // scores and y; backward scores, dp, dq, dk, dv: a sum over the head for each key
        const keys = Math.min(query + 1, windows[layer]!);
        for (let i = 0; i < 2 + 5; i++) product(1, C / heads, keys);
      }
    }
  }
  threeOf(B * T, C, V);
  const counted = stepCost({ config, batchSize: B, sequenceLength: T, precision: "f32" }).flops;
  // it takes half of the square at the beginning, without the other half of the diagonal's seven sums
  const diagonals = windows.reduce((sum, window) => sum + window);
  assert.equal(counted, flops - 7 * B * C * diagonals);
});

for (const [precision, branch, copy] of [["f32", 4, 0], ["f16", 2, 2]] as const) {
  Deno.test(`stepCost() counts the bytes of every op's inputs and outputs once in ${precision}`, () => {
    const B = 3, T = 16, C = 32, V = 70, layers = 5, M = B * T;
    const config = { vocabularySize: V, contextLength: T, width: C, layers, heads: 4 };
    const stream = 4, gradient = 4;
    // of an activation's M · C elements, in the type of the residual stream or of the branches
    const ofStream = (count: number) => count * M * C * stream;
    const ofBranch = (count: number) => count * M * C * branch;
    const linear = (from: number, to: number) =>
      ofBranch(from + to) + ofBranch(to + from) + ofBranch(from + to); // x and y, dy and dx, x and dy
    const biases = ofBranch(3 + 4); // dy of c_attn and c_fc; a norm's backward pass sums that of the others
    const matrix = (elements: number) => 2 * elements * branch + elements * gradient;
    const embedding = ofStream(1 + 1) + ofStream(1 + 2); // rows and x; dx, and rows to add to
    const firstLayernorm = ofStream(1) + ofBranch(1) + // x and y
      ofStream(1 + 2) + ofBranch(1); // x and dx, to which is added, and dy
    const residualAndLayernorm = ofStream(1 + 1) + ofBranch(1 + 1) + // x and sum, z and y
      ofStream(1 + 2) + ofBranch(1 + 1); // sum and dx, to which is added, dy and dz
    const attention = ofBranch(3 + 1) + ofBranch(3 + 1 + 1 + 3); // qkv and y; these, dy and dqkv
    const block = 2 * residualAndLayernorm + attention +
      linear(1, 3) + linear(1, 1) + linear(1, 4) + linear(4, 1) + biases +
      ofBranch(4) + ofBranch(4) + // gelu of hidden, and hidden again for its slope
      matrix(3 * C * C) + matrix(C * C) + matrix(4 * C * C) + matrix(4 * C * C);
    // logits: written, read, their gradient written, read for dx and for dweight
    const head = ofBranch(1 + 1 + 1) + (1 + 1 + 1 + 2) * M * V * branch + matrix(V * C);
    const parameters = V * C + T * C + 2 * C + // embeddings, last layer-norm
      layers * (12 * C * C + 4 * C + 3 * C + C + 4 * C + C);
    const optimizer = parameters * (4 + 4 * 4 + 3 * 4 + copy); // norm; gradient, p, m, v; p, m, v
    const expected = embedding + firstLayernorm + layers * block + head + optimizer;
    const counted = stepCost({ config, batchSize: B, sequenceLength: T, precision });
    assert.equal(counted.bytes, expected);
  });
}

Deno.test("stepCost() counts once more what the backward pass computes again", () => {
  const B = 3, T = 16, C = 32, layers = 5, M = B * T, F32 = 4;
  const config = { vocabularySize: 70, contextLength: T, width: C, layers, heads: 4 };
  const costOf = (recompute: RecomputeMode) =>
    stepCost({ config, batchSize: B, sequenceLength: T, precision: "f16", recompute });
  const [none, mlp, block] = RECOMPUTE_MODES.map(costOf);
  assert.deepEqual(none, stepCost({ config, batchSize: B, sequenceLength: T, precision: "f16" }));
  const again = (cost: StepCost | undefined, name: keyof StepCost) =>
    (cost![name] - none![name]) / (layers - 1); // the last block is still there
  const linear = (from: number, to: number) => 2 * from * to * C * C + 2 * M * C * (from + to);
  const fc = linear(1, 4) + 2 * M * 4 * C; // and its activation
  const norm = M * C * (F32 + 2), sumAndNorm = M * C * (2 * F32 + 2 * 2);
  assert.equal(again(mlp, "flops"), 2 * M * 4 * C * C);
  assert.equal(again(mlp, "bytes"), norm + fc);
  assert.equal(again(block, "flops"), 2 * M * (3 + 1 + 4) * C * C + 4 * B * C * T ** 2 / 2);
  assert.equal(
    again(block, "bytes"),
    norm + linear(1, 3) + 2 * M * (3 + 1) * C + linear(1, 1) + sumAndNorm + fc,
  );
});

Deno.test("stepCost() counts shared keys, rotated and normalised heads, and gated MLPs", () => {
  const B = 3, T = 16, C = 32, V = 70, F = 40, NH = 4, KH = 2, HS = 12, layers = 5, M = B * T;
  const F32 = 4, F16 = 2;
  const config: GptConfig = {
    ...{ vocabularySize: V, contextLength: T, width: C, layers, heads: NH, family: "llama" },
    ...{ keyHeads: KH, headSize: HS, innerWidth: F, qkNorm: true },
  };
  const [none, mlp, block] = RECOMPUTE_MODES.map((recompute) =>
    stepCost({ config, batchSize: B, sequenceLength: T, precision: "f16", recompute })
  );
  const qkv = (NH + 2 * KH) * HS, qk = (NH + KH) * HS, y = NH * HS;
  const linears = [[C, qkv], [y, C], [C, F], [C, F], [F, C]] as const;
  const weights = linears.reduce((sum, [from, to]) => sum + from * to, 0);
  // of each token, in the type of the residual stream or of the branches
  const ofStream = (count: number) => count * M * F32,
    ofBranch = (count: number) => count * M * F16;
  const linear = linears.map(([from, to]) => ofBranch(3 * (from + to))); // x and y; dy and dx; x and dy
  const gated = ofBranch(F + F) + // gate is read, and activated written
    ofBranch(F + F + F) + // gate and hidden are read, and the gradient of gate written
    ofBranch(C); // the second of the two products adds to dx
  const rotation = ofBranch(2 * qk + qk) + // q and k are read and written in place, and kept
    ofBranch(2 * qk + qk); // so are their gradients; what was kept is read
  const attention = ofBranch(qkv + y) + ofBranch(qkv + y + y + qkv); // these, dy and dqkv
  const norm = ofStream(C + 3 * C) + ofBranch(2 * C);
  const sumAndNorm = ofStream(2 * C + 3 * C) + ofBranch(2 * C + 2 * C);
  const head = ofBranch(3 * C + 5 * V), embedding = ofStream(2 * C + 3 * C);
  const parameters = V * C + (2 * layers + 1) * C + layers * (weights + 2 * HS);
  const matrices = (2 * F16 + F32) * (V * C + layers * weights);
  const inBlock = linear.reduce((sum, bytes) => sum + bytes) + gated + rotation + attention;
  assert.equal(
    none!.bytes,
    embedding + norm + 2 * layers * sumAndNorm + layers * inBlock + head + matrices +
      parameters * (F32 + 7 * F32 + F16),
  );
  // again in all blocks but the last: products of x and a matrix, whose results are written
  const again = ([from, to]: readonly [number, number]) => F16 * from * to + ofBranch(from + to);
  const inMlp = ofStream(C) + ofBranch(C) + 2 * again([C, F]) + ofBranch(F + F);
  const inAttention = again([C, qkv]) + ofBranch(2 * qk + qk) + ofBranch(qkv + y) + again([y, C]);
  // the second norm is that of a sum: x, z, sum and y
  const inNorms = ofStream(C) + ofBranch(C) + ofStream(C) + ofBranch(C);
  assert.equal(mlp!.bytes - none!.bytes, (layers - 1) * inMlp);
  assert.equal(block!.bytes - none!.bytes, (layers - 1) * (inMlp + inAttention + inNorms));
  assert.equal(mlp!.flops - none!.flops, (layers - 1) * 2 * M * 2 * C * F);
  const pairs = NH * HS * B * T ** 2 / 2; // components of the products of a query and a key
  assert.equal(
    block!.flops - mlp!.flops,
    (layers - 1) * (2 * M * (C * qkv + y * C) + 2 * 2 * pairs),
  );
});

Deno.test("stepCost() counts adapters, beside which all else is frozen", () => {
  const B = 3, T = 16, C = 32, V = 70, r = 4, layers = 5, M = B * T, F32 = 4, F16 = 2;
  const sizes = { batchSize: B, sequenceLength: T, precision: "f16" } as const;
  const plain = { vocabularySize: V, contextLength: T, width: C, layers, heads: 4 };
  const lora = { rank: r, alpha: 8, targets: ["attn.c_attn", "mlp.c_proj"] };
  const costOf = (config: GptConfig, recompute: RecomputeMode = "none") =>
    stepCost({ config, ...sizes, recompute });
  const adapted = costOf({ ...plain, lora }), other = costOf(plain);
  const linears = [[C, 3 * C], [C, C], [C, 4 * C], [4 * C, C]] as const;
  const ofBranch = (count: number) => count * M * F16;
  // what no longer has a gradient: dweight of x and dy, dbias of dy of two; dweight of the head, of x and of dlogits
  let flops = 2 * M * V * C, bytes = ofBranch(C + V) + F32 * V * C;
  for (const [from, to] of linears) {
    flops += layers * 2 * M * from * to;
    bytes += layers * (ofBranch(from + to) + F32 * from * to);
  }
  bytes += layers * ofBranch(3 * C + 4 * C);
  bytes += 3 * C * M * F32; // the embedding's: dx, and rows to add to
  const parameters = V * C + T * C + 2 * C +
    layers * (12 * C * C + 4 * C + 3 * C + C + 4 * C + C);
  const ofOptimizer = F32 + 7 * F32 + F16;
  bytes += ofOptimizer * parameters;
  // what adapters add: h of x, and y of h, which is added to; dh of dy, dx of dh, which is added to; both gradients
  const adapters = [[C, 3 * C], [4 * C, C]] as const;
  for (const [from, to] of adapters) {
    const elements = r * (from + to);
    flops -= layers * 3 * 2 * M * elements;
    bytes -= layers * (
      ofBranch(from + r + (r + 2 * to)) + ofBranch(to + r + (r + 2 * from)) +
      ofBranch(from + r + (r + to)) + (2 * F16 + F32 + ofOptimizer) * elements
    );
  }
  assert.deepEqual([other.flops - adapted.flops, other.bytes - adapted.bytes], [flops, bytes]);

  // what a block computes again is that of c_attn, as the last product of a block is not needed
  const again = (config: GptConfig, name: keyof StepCost) =>
    (costOf(config, "block")[name] - costOf(config)[name]) / (layers - 1);
  assert.equal(
    again({ ...plain, lora }, "flops") - again(plain, "flops"),
    2 * M * r * (C + 3 * C),
  );
  assert.equal(
    again({ ...plain, lora }, "bytes") - again(plain, "bytes"),
    ofBranch(C + r + (r + 2 * 3 * C)) + F16 * r * (C + 3 * C),
  );
  const muon = stepCost({ config: { ...plain, lora }, ...sizes, optimizer: "muon" });
  assert.deepEqual(muon, adapted); // updates no adapter
});

Deno.test("docs/inspect.md says how long a step of gpt2 takes in each mode of recomputing, about as the model has it", () => {
  const config = { vocabularySize: 50257, ...PRESETS.gpt2 };
  const sizes = { batchSize: 8, sequenceLength: 1024 }, precision = "f16" as const;
  const on = dryDevice({ ...device, isCpu: false, subgroupSize: undefined });
  const read = (path: string) => Deno.readTextFileSync(new URL(`../../${path}`, import.meta.url));
  const { results } = parseReport(read("bench/results/h200.json"), "h200.json");
  const measured = recomputations(results).map(({ ratios: [ms] }) => ms),
    page = read("docs/inspect.md");
  for (const [i, mode] of RECOMPUTE_MODES.entries()) {
    const share = i === 0 ? "1" : measured[i - 1]!.toFixed(2);
    assert.match(page, new RegExp(`^\\| \`${mode}\` .* ${share} \\|$`, "m"));
  }
  // an H200 by its own interface, and with tensor cores
  for (const flopsPerSecond of [3.8e13, 2.8e14]) {
    const machine = { flopsPerSecond, bytesPerSecond: 4.3e12, launchMs: 0.008 };
    const times = RECOMPUTE_MODES.map((recompute) => {
      const gpt = createGpt(on, config, { precision });
      const { program } = createTrainStep(gpt, { ...STEP_OPTIONS, ...sizes, recompute });
      const cost = stepCost({ config, ...sizes, precision, recompute });
      return modelledMs({ ...cost, launches: program.length }, machine);
    });
    const [mlp, block] = times.slice(1).map((ms) => ms / times[0]!);
    assert.ok(Math.abs(mlp! - measured[0]!) < 0.02, `${mlp} and ${measured[0]}`);
    assert.ok(Math.abs(block! - measured[1]!) < 0.02, `${block} and ${measured[1]}`);
  }
});

Deno.test("stepCost() counts the rounds of Muon for every matrix of a block that is trained", () => {
  const C = 32, layers = 5;
  const config = { vocabularySize: 70, contextLength: 16, width: C, layers, heads: 4 };
  const sizes = { config, batchSize: 3, sequenceLength: 16, precision: "f32" } as const;
  const adamw = stepCost(sizes), muon = stepCost({ ...sizes, optimizer: "muon" });
  const product = (M: number, K: number, N: number) => 2 * M * K * N;
  const square = product(C, C, C) + product(C, C, C) + product(C, C, C);
  const wide = product(C, 4 * C, C) + product(C, C, C) + product(C, C, 4 * C);
  assert.equal(muon.flops - adamw.flops, layers * 5 * (4 * square + 2 * wide));
  // in C · C elements: x and A; A and B; B, x, the next x
  const squareRound = 2 + 2 + 3, wideRound = (4 + 1) + 2 + (1 + 4 + 4);
  const rounds = 5 * (4 * squareRound + 2 * wideRound);
  // gradient and momentum, momentum and x; x twice; x and the parameter, the parameter
  const others = 12 * (4 + 2 + 3);
  const before = 12 * 7; // gradient, parameter, m and v; the last three
  assert.equal(muon.bytes - adamw.bytes, layers * 4 * C * C * (rounds + others - before));

  // on tensor cores the rounds are f16, and x before and after them
  const matrixShapes = [{ rows: 16, columns: 16, depth: 16, input: "f16", result: "f32" }] as const;
  const f16 = { ...sizes, precision: "f16", optimizer: "muon" } as const;
  const saved = stepCost(f16).bytes - stepCost(f16, { matrixShapes }).bytes;
  assert.equal(saved, layers * 2 * C * C * (rounds + 12 * (1 + 1)));
  assert.equal(stepCost({ ...f16, precision: "f32" }, { matrixShapes }).bytes, muon.bytes);
});

/** Bytes of the tensors that the launches of a recorded step bind, each tensor once a launch. */
function boundBytes(
  { B, T, C, layers, V, precision, recompute = "none" }:
    & Record<"B" | "T" | "C" | "layers" | "V", number>
    & {
      precision: Precision;
      recompute?: RecomputeMode;
    },
): { bound: number; counted: number } {
  const config = { vocabularySize: V, contextLength: T, width: C, layers, heads: C / 32 };
  const sizes = { batchSize: B, sequenceLength: T };
  // a CPU's kernels: what a GPU's leave to be added up stays in its cache
  const gpt = createGpt({ ...device, isCpu: true }, config, { precision });
  const dispatch = Program.prototype.dispatch;
  let bound = 0;
  Program.prototype.dispatch = function (launch: Dispatch) {
    dispatch.call(this, launch);
    if (this.device !== gpt.device) return; // a step is also recorded without a device, for its scratch tensors
    const tensors = Object.values(launch.tensors).filter((tensor) => tensor !== undefined);
    for (const tensor of new Set(tensors)) bound += tensorBytes(tensor);
    // parameter, m and v, each as large as the gradient, are read and written
    if (labelOf(launch.shader).includes("adamw")) bound += 3 * tensorBytes(tensors[0]!);
  };
  try {
    createTrainStep(gpt, { ...STEP_OPTIONS, ...sizes, recompute }).destroy();
  } finally {
    Program.prototype.dispatch = dispatch;
    gpt.destroy();
  }
  const counted = stepCost({ config, ...sizes, precision, recompute }).bytes;
  return { bound, counted };
}

// kernels bind statistics, tables and partial sums that the model leaves out, and some read a tensor that they
// also write: this finds an op that the model forgets, the test before it holds the count to the byte
Deno.test("stepCost() counts about the bytes that the launches of a step bind", () => {
  // activations, logits, and parameters outweigh the rest in turn
  for (
    const shape of [
      { B: 8, T: 128, C: 64, layers: 4, V: 64, precision: "f16" },
      { B: 8, T: 128, C: 64, layers: 4, V: 64, precision: "f16", recompute: "block" },
      { B: 4, T: 64, C: 32, layers: 1, V: 4096, precision: "f32" },
      { B: 1, T: 16, C: 128, layers: 6, V: 64, precision: "f16" },
    ] as const
  ) {
    const { bound, counted } = boundBytes(shape);
    const ratio = counted / bound;
    assert.ok(ratio > 0.8 && ratio < 1.2, `${ratio} with ${JSON.stringify(shape)}`);
  }
});
