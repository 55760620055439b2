import { IGNORED } from "../../files/ignored.ts";
import type { GptConfig } from "../../model/config.ts";

/** Parameters by the names of `parameterTable()`. */
export type Parameters = ReadonlyMap<string, ArrayLike<number>>;

/** Sizes of a batch, and the model. */
export interface ModelShape {
  B: number;
  T: number;
  config: GptConfig;
}

/**
 * Factor of dropout for an element of a site; in attention `row` is that of [B,NH,T] and `index` the key.
 */
export type Mask = (site: number, index: number, row?: number) => number;

/** Activation functions by their names in `GptConfig`; these are all that the tests use. */
const ACTIVATIONS: Readonly<Record<string, (x: number) => number>> = {
  gelu_new: (x) => x / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  silu: (x) => x / (1 + Math.exp(-x)),
  relu2: (x) => Math.max(x, 0) ** 2,
};

/**
 * The loss of a GPT-2 or a Llama in f64, summed over the targets that are not ignored. It is written in plain loops
 * and shares no code with the model under test.
 *
 * @param batch inputs, targets: [B·T]
 * @param mask of dropout, whose sites are 0 after the embedding, then in each layer 3 · layer + 1 in
 * attention, + 2 after its projection and + 3 after the MLP.
 */
export function lossSum(
  parameters: Parameters,
  { inputs, targets }: { inputs: ArrayLike<number>; targets: ArrayLike<number> },
  { B, T, config }: ModelShape,
  mask: Mask = () => 1,
): number {
  const { vocabularySize: V, width: C, layers, heads: NH, keyHeads: KH = NH } = config;
  const { headSize: HS = C / NH, attentionScale = 1 / Math.sqrt(HS), normEpsilon = 1e-5 } = config;
  const { rotaryBase = 10_000, attentionWindows = [] } = config;
  const isLlama = config.family === "llama";
  const { norm = isLlama ? "rmsnorm" : "layernorm", gatedMlp = isLlama } = config;
  const { positions = isLlama ? "rotary" : "learned" } = config;
  const activation = ACTIVATIONS[config.activation ?? (isLlama ? "silu" : "gelu_new")]!;
  const M = B * T, QKV = (NH + 2 * KH) * HS;
  const p = (name: string) => parameters.get(name)!;
  const make = (rows: number, columns: number, f: (row: number, column: number) => number) => {
    const y = new Float64Array(rows * columns);
    for (let i = 0; i < y.length; i++) y[i] = f(Math.floor(i / columns), i % columns);
    return y;
  };
  const linear = (x: Float64Array, name: string) => {
    const weight = p(`${name}.weight`), bias = parameters.get(`${name}.bias`);
    const inputs = x.length / M, outputs = weight.length / inputs;
    return make(M, outputs, (m, n) => {
      let sum = bias?.[n] ?? 0;
      for (let k = 0; k < inputs; k++) sum += x[m * inputs + k]! * weight[k * outputs + n]!;
      return sum;
    });
  };
  /** x divided by the root of its mean square, after its mean is subtracted if it is a layer-norm. */
  const normalized = (x: Float64Array, kind = norm) => {
    const mean = kind === "rmsnorm" ? 0 : x.reduce((a, b) => a + b) / x.length;
    const square = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length;
    return x.map((v) => (v - mean) / Math.sqrt(square + normEpsilon));
  };
  const normalize = (x: Float64Array, name: string) => {
    const weight = p(`${name}.weight`), bias = parameters.get(`${name}.bias`);
    const rows = Array.from({ length: M }, (_, m) => normalized(x.subarray(m * C, (m + 1) * C)));
    return make(M, C, (m, c) => rows[m]![c]! * weight[c]! + (bias?.[c] ?? 0));
  };
  /** A head of q or k, normalised and rotated. */
  const prepared = (head: Float64Array, position: number, name: string) => {
    const weight = parameters.get(`${name}.weight`);
    const x = weight ? normalized(head, "rmsnorm").map((v, i) => v * weight[i]!) : head;
    if (positions !== "rotary") return x;
    return x.map((v, i) => {
      const pair = i % (HS / 2), angle = position * rotaryBase ** (-2 * pair / HS);
      const other = i < HS / 2 ? -x[i + HS / 2]! : x[pair]!;
      return v * Math.cos(angle) + other * Math.sin(angle);
    });
  };

  const wte = p("wte.weight"), wpe = positions === "learned" ? p("wpe.weight") : undefined;
  let x = make(
    M,
    C,
    (m, c) => (wte[inputs[m]! * C + c]! + (wpe?.[m % T * C + c] ?? 0)) * mask(0, m * C + c),
  );
  for (let layer = 0; layer < layers; layer++) {
    const add = (branch: Float64Array, site: number) =>
      x = x.map((v, i) => v + branch[i]! * mask(3 * layer + site, i));
    const block = `h.${layer}`;
    const qkv = linear(normalize(x, `${block}.ln_1`), `${block}.attn.c_attn`);
    const all = Array.from({ length: M * (NH + 2 * KH) }, (_, i) => {
      const row = Math.floor(i / (NH + 2 * KH)), head = i % (NH + 2 * KH);
      const values = qkv.subarray(row * QKV + head * HS, row * QKV + (head + 1) * HS);
      if (head >= NH + KH) return values;
      return prepared(values, row % T, `${block}.attn.${head < NH ? "q" : "k"}_norm`);
    });
    const headOf = (row: number, head: number) => all[row * (NH + 2 * KH) + head]!;
    const attended = new Float64Array(M * NH * HS);
    for (let row = 0; row < B * NH * T; row++) { // of [B,NH,T]
      const t = row % T, head = Math.floor(row / T) % NH, b = Math.floor(row / T / NH);
      const keyHead = Math.floor(head / (NH / KH));
      const first = attentionWindows[layer] ? Math.max(0, t + 1 - attentionWindows[layer]!) : 0;
      const scores = Array.from({ length: t + 1 }, (_, s) => {
        if (s < first) return 0;
        const q = headOf(b * T + t, head), k = headOf(b * T + s, NH + keyHead);
        return Math.exp(attentionScale * q.reduce((sum, v, i) => sum + v * k[i]!, 0));
      });
      const total = scores.reduce((a, b) => a + b);
      for (let i = 0; i < HS; i++) {
        attended[(b * T + t) * NH * HS + head * HS + i] = scores.reduce((sum, score, s) => {
          const v = headOf(b * T + s, NH + KH + keyHead)[i]!;
          return sum + score / total * mask(3 * layer + 1, s, row) * v;
        }, 0);
      }
    }
    add(linear(attended, `${block}.attn.c_proj`), 2);
    const ln = normalize(x, `${block}.ln_2`), hidden = linear(ln, `${block}.mlp.c_fc`);
    const gate = gatedMlp ? linear(ln, `${block}.mlp.c_gate`) : undefined;
    const activated = hidden.map((v, i) => gate ? activation(gate[i]!) * v : activation(v));
    add(linear(activated, `${block}.mlp.c_proj`), 3);
  }
  const last = normalize(x, "ln_f"), head = config.ownHead ? p("lm_head.weight") : wte;
  let loss = 0;
  for (let m = 0; m < M; m++) {
    if (targets[m] === IGNORED) continue;
    const logits = Array.from({ length: V }, (_, v) => {
      let logit = 0;
      for (let c = 0; c < C; c++) logit += last[m * C + c]! * head[v * C + c]!;
      return logit;
    });
    loss += Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0)) -
      logits[targets[m]!]!;
  }
  return loss;
}
